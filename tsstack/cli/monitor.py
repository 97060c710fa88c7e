"""`tsstack monitor`: the daemon, and asking it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.known_names import complete_route
from tsstack.cli.options import (
    DEFAULT_FILE,
    Seconds,
    Shared,
    file_option,
    json_option,
    unused_file_option,
)
from tsstack.cli.output import chatter, result, result_json, style
from tsstack.errors import TsstackError
from tsstack.status.words import COLOUR_OF, clean, padded, width_of

if TYPE_CHECKING:
    from tsstack.monitor.client import Client

_SEVERITIES = {"critical": "red", "warning": "yellow", "info": "blue"}
SOCKET = "/run/tsstack/monitor.sock"


def _socket(context: click.Context, _: click.Parameter, value: Path | None) -> Path:
    """Given at the command, or before it at the group."""
    above = context.parent.params.get("socket_path") if context.parent else None
    return value or above or Path(SOCKET)


socket_option = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    callback=_socket,
    help=f"Where the monitor listens.  [default: {SOCKET}]",
)


def client(path: Path) -> Client:
    """The monitor that runs."""
    from tsstack.monitor.client import Client

    return Client(path)


@click.group(invoke_without_command=True)
@click.option(
    "-c", "--config", "file", type=click.Path(path_type=Path), help=f"The file.  [default: {DEFAULT_FILE}]"
)
@json_option
@socket_option
@click.option(
    "--state", type=click.Path(path_type=Path), default="/var/lib/tsstack", show_default=True, hidden=True
)
@click.pass_context
def monitor(context: click.Context, file: Path | None, as_json: bool, socket_path: Path, state: Path) -> None:
    """Watch what the file names, and act: run as a service, until it is told to end.

    Probes the exit nodes, targets, advertised networks and services of the file. A bad exit node is left for
    the next one of `tailscale.exit_node.use`, the new one is proven, and home is gone to when that is healthy
    again. What is watched is the live generation, as `tsstack switch` made it from the file; without one
    it is the file. SIGHUP (or `reload`) reads that anew.

    \b
    Examples:
      tsstack -c /etc/tsstack/tsstack.yaml monitor     run it (tsstack units install --monitor)
      tsstack monitor status                           what is watched, how it does, and why
      tsstack monitor events -n 20                     what happened
      tsstack monitor maintenance on --for 1h          report only, change nothing
      tsstack monitor offer 192.168.15.0/24            offer again what was withdrawn
      tsstack monitor test-alert                       whether alerts arrive
    """
    shared = context.ensure_object(Shared)
    shared.file = file or shared.file
    if context.invoked_subcommand is not None:
        return
    from tsstack.model.facts import Paths
    from tsstack.monitor.life import Home, run
    from tsstack.status.gather import Sources
    from tsstack.status.metrics import HostMetrics

    paths = Paths(state=state)
    sources = Sources(
        state=str(paths.state),
        run=str(paths.run),
        tailscaled=str(paths.tailscale_socket),
        monitor=str(socket_path),
    )
    run(Home(shared.file or DEFAULT_FILE, paths, socket_path, HostMetrics(sources)))


@monitor.command()
@unused_file_option
@json_option
@socket_option
def status(as_json: bool, socket_path: Path) -> None:
    """Show what is watched, how it does, and why the host is where it is.

    \b
    Examples:
      tsstack monitor status
      tsstack monitor status --json | jq .exit.why
    """
    state = client(socket_path).ask("state")
    if as_json:
        result_json(state)
        return
    for line in status_lines(state):
        result(line)


@monitor.command()
@unused_file_option
@json_option
@socket_option
@click.option("-n", "count", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many.")
@click.option("-f", "--follow", is_flag=True, help="Go on as they happen.")
def events(as_json: bool, socket_path: Path, count: int, follow: bool) -> None:
    """Show what happened, the latest last. Without a monitor: what the last one has written.

    \b
    Examples:
      tsstack monitor events -n 20
      tsstack monitor events --json -f | jq .text     a line for each event
    """
    from tsstack.monitor.client import NotRunning

    asked = client(socket_path)
    try:
        for event in asked.ask("events", count=count):
            _print_event(event, as_json)
    except NotRunning:
        if follow:
            raise
        from dataclasses import asdict

        from tsstack.monitor.archive import Archive

        for kept in Archive().events(limit=count):
            _print_event(asdict(kept), as_json)
    if follow:
        for told in asked.follow():
            _print_event(told["event"], as_json)


@monitor.command()
@unused_file_option
@json_option
@socket_option
@click.argument("network", shell_complete=complete_route)
def offer(as_json: bool, socket_path: Path, network: str) -> None:
    """Offer an advertised network again at once, which the monitor has withdrawn.

    It is withdrawn because nothing behind it answered, and comes back by itself when it was well for a while.
    Where nothing answers yet it is withdrawn again.

    \b
    Example:
      tsstack monitor offer 192.168.15.0/24
    """
    done = client(socket_path).ask("offer", network=network)
    result_json(done) if as_json else result(f"{network} is offered again")


@monitor.command()
@unused_file_option
@json_option
@socket_option
@click.argument("switch", type=click.Choice(["on", "off"]))
@click.option("--for", "for_s", type=Seconds(), metavar="1h", help="End it by itself after this time.")
def maintenance(as_json: bool, socket_path: Path, switch: str, for_s: float | None) -> None:
    """Maintenance: while it is on everything is reported and nothing is changed.

    \b
    Examples:
      tsstack monitor maintenance on --for 1h
      tsstack monitor maintenance off
    """
    asked = {"on": switch == "on"} | ({"for_s": for_s} if for_s is not None else {})
    done = client(socket_path).ask("maintenance", **asked)
    if as_json:
        result_json(done)
        return
    until = f" until {_clock(done['until'])}" if done["until"] else ""
    result(f"maintenance is {switch}{until}")


@monitor.command()
@unused_file_option
@json_option
@socket_option
def reload(as_json: bool, socket_path: Path) -> None:
    """Have what is live read anew, or the file where nothing is; what was measured stays.

    `tsstack switch` brings a changed file into force, and the monitor takes it up by itself.

    \b
    Example:
      tsstack monitor reload
    """
    done = client(socket_path).ask("reload", timeout_s=30.0)
    result_json(done) if as_json else result("the file is in force")


@monitor.command("test-alert")
@file_option
@json_option
@socket_option
def test_alert(file: Path, as_json: bool, socket_path: Path) -> None:
    """Send an alert to everyone whom the file names, and say what became of it.

    The monitor that runs sends it, under the restrictions of its service; without one this command does.

    \b
    Examples:
      tsstack monitor test-alert
      tsstack -c box.yaml monitor test-alert    before a switch to that file
    """
    from tsstack.monitor.client import NotRunning

    try:
        sent = client(socket_path).ask("test-alert", timeout_s=120.0)["sent"]
    except NotRunning as error:
        chatter(f"{error.message}: this command sends")
        sent = _send_test(file)
    if as_json:
        result_json({"sent": sent})
    elif not sent:
        result("the file names nobody to alert: monitor.alerts")
    for each in sent if not as_json else ():
        word = style("sent", fg="green") if each.get("ok") else style("failed", fg="red", bold=True)
        told = clean(f"{each.get('to', '')}  {each.get('error', '')}")
        result(f"{word}  {told}".rstrip())
    if not all(each.get("ok") for each in sent):
        raise click.exceptions.Exit(TsstackError.exit_code)


@monitor.command("free-flows", hidden=True)
@unused_file_option
def free_flows() -> None:
    """Free connections as one line on standard input asks, or read the packet filter's table for the metrics.

    The service behind tsstack-flows.socket.
    """
    import sys

    from tsstack.model.facts import Paths
    from tsstack.monitor.freeing import serve_one
    from tsstack.status.firewall import read_table

    serve_one(sys.stdin.buffer, sys.stdout.buffer, {"firewall": lambda: read_table(str(Paths().run))})


def _send_test(file: Path) -> list[dict[str, Any]]:
    from tsstack.monitor.alerts import Alerts
    from tsstack.monitor.reading import read_settings

    settings = read_settings(file)
    alerts = Alerts(settings.alerts, settings.host)
    try:
        return alerts.test()
    finally:
        alerts.close()


def status_lines(state: dict[str, Any]) -> list[str]:
    """The state as lines for people."""
    lines = []
    way = state["exit"]
    if way is not None:
        at = clean(way["at"]) or "the bare uplink"
        notes = [word for word in ("blocked", "moving", "maintenance") if way[word]]
        notes += [f"{clean(way['manual']) or 'direct'} by hand"] if way["manual"] is not None else []
        lines.append(style(f"exit node: {at}", bold=True) + (f" ({', '.join(notes)})" if notes else ""))
        lines += [f"  {clean(each)}" for each in way["why"]]
    head = ("path", "level", "loss", "p50", "p95", "jitter", "via", "")
    rows = [head, *(path_cells(path) for path in state["paths"])]
    widths = [max(width_of(row[column]) for row in rows) for column in range(len(head))]
    for number, row in enumerate(rows):
        cells = [padded(cell, width) for cell, width in zip(row, widths, strict=True)]
        if number:
            cells[1] = style(cells[1], fg=COLOUR_OF[row[1]])
        lines.append("  ".join(cells).rstrip())
    lines += [
        f"route {route['network']}: {'withdrawn, ' if route['withdrawn'] else ''}{route['level']}"
        for route in state["routes"]
    ]
    for trouble in state["troubles"]:
        hint = f" ({trouble['hint']})" if trouble["hint"] else ""
        lines.append(f"{style('trouble:', fg='red', bold=True)} {clean(trouble['message'] + hint)}")
    return lines


def path_cells(path: dict[str, Any]) -> tuple[str, ...]:
    """One path: the last minute's figures, or the quarter of an hour's where there are none."""
    figures = next((each for each in path["windows"][1:] if each["sent"]), path["windows"][-1])
    loss = "" if figures["loss"] is None else f"{figures['loss'] * 100:.1f} %"
    said = "; ".join(cause["text"] for cause in path["causes"]) or path["error"]
    times = [milliseconds(figures[name]) for name in ("rtt_p50_s", "rtt_p95_s", "jitter_s")]
    via = "" if path["via"] == "unknown" else path["via"]
    return tuple(map(clean, (path["key"], path["level"], loss, *times, via, said)))


def milliseconds(seconds: float | None) -> str:
    """As people read it; empty for what was not measured."""
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def _print_event(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        result(json.dumps(event))  # a line for each, so that they can be followed
        return
    severity = style(f"{event['severity']:8}", fg=_SEVERITIES[event["severity"]])
    result(f"{_clock(event['at'])}  {severity}  {clean(event['about'])}: {clean(event['text'])}")


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
