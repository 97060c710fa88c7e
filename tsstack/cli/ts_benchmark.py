"""`ts-benchmark`: how good the way to a peer of the tailnet is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.bench import wire
from tsstack.cli.ending import leave
from tsstack.cli.glyphs import UNCUT, clean, redraws, screen_rows, terminal
from tsstack.cli.known_names import complete_peer
from tsstack.cli.options import json_option
from tsstack.cli.output import chatter, result, result_json
from tsstack.cli.script import EXIT_CODE, run_script, watch, watch_option
from tsstack.errors import TsstackError, UsageError

if TYPE_CHECKING:
    from tsstack.bench.figures import Report
    from tsstack.bench.fitness import Fitness
    from tsstack.bench.grades import Change
    from tsstack.bench.kept import Kept
    from tsstack.bench.measure import Plan
    from tsstack.system.localapi import LocalApi


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("peer", default="", shell_complete=complete_peer)
@json_option
@watch_option
@click.option(
    "--seconds",
    "span_s",
    type=click.IntRange(1, int(wire.MOST_S)),
    default=5,
    show_default=True,
    help="Load the way for so long, each way, and no longer.",
)
@click.option("--quick", is_flag=True, help="No load: latency, way and MTU alone, in some seconds.")
@click.option("--direct", is_flag=True, help="Load the way past the tailnet as well (needs iperf3 -s there).")
@click.option("--history", is_flag=True, help="List the runs of the past, of PEER where one is named.")
@click.option("--serve", is_flag=True, help="Be the other end: let peers of this tailnet measure to here.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=wire.PORT,
    show_default=True,
    help="TCP port of --serve, at both ends.",
)
@click.option(
    "--for",
    "serve_s",
    type=click.IntRange(1, 86400),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="With --serve: end after so long.",
)
@click.option(
    "--tailscaled",
    "daemon",
    type=click.Path(path_type=Path),
    default="/var/run/tailscale/tailscaled.sock",
    show_default=True,
    help="tailscaled's socket.",
)
@click.option(
    "--state", type=click.Path(path_type=Path), default=None, help="Keep and find runs here instead."
)
def command(  # noqa: PLR0917  click passes them by name
    peer: str,
    as_json: bool,
    every_s: float | None,
    span_s: int,
    quick: bool,
    direct: bool,
    history: bool,
    serve: bool,
    port: int,
    serve_s: int,
    daemon: Path,
    state: Path | None,
) -> int:
    """How good the way to PEER is: a name or a tailnet address; without one, the exit node in use.

    Latency idle and under load, throughput both ways, direct or relayed, the same without the tailnet, MTU,
    offloads, and what is worse than in the last run. Nothing is sent through an exit node, and
    with --watch nothing is loaded.

    Throughput needs the other end's help: `iperf3 -s` there, or `ts-benchmark --serve`, which none but peers
    of the tailnet can reach.

    \b
    Examples:
      ts-benchmark                     the way to the exit node in use
      ts-benchmark nas --quick         without any load
      ts-benchmark nas --seconds 10    10 s of load each way
      ts-benchmark --serve             on the other end, for an hour
      ts-benchmark --history nas

    \b
    Exit codes: 0 measured; 1 relayed, no UDP gets out, more than 5 % lost, grade D or F, an MTU that
    is too small, or notably worse than the last run; 2 half of it is lost, or the peer does not answer;
    3 it cannot be told.
    """
    from tsstack.bench.kept import usual_folder
    from tsstack.bench.measure import Plan

    folder = state or usual_folder(os.environ, root=os.geteuid() == 0)
    if serve:
        if peer or history or as_json or every_s is not None:
            raise UsageError("--serve goes with --port and --for alone")
        return _serve(daemon, port, float(serve_s))
    if history:
        return _history(folder, peer, as_json=as_json)
    if quick and direct:
        raise UsageError("--quick loads nothing, --direct does: take one of them")
    plan = Plan(
        span_s=span_s, quick=quick or every_s is not None, direct=direct and every_s is None, port=port
    )
    if every_s is not None:
        level = watch(lambda: _screen(daemon, plan, peer, folder, as_json=as_json), every_s, as_json=as_json)
        return EXIT_CODE[level]
    text, level = _screen(daemon, plan, peer, folder, as_json=as_json, keep=True)
    result(text)
    return EXIT_CODE[level]


def _screen(
    daemon: Path, plan: Plan, peer: str, folder: Path, *, as_json: bool, keep: bool = False
) -> tuple[str, str]:
    """Measure once; the text and its level. An unreachable peer is critical, and said as any error."""
    from tsstack.bench.fitness import fitness
    from tsstack.bench.grades import changes, predecessor
    from tsstack.bench.measure import Benchmark, Unreachable

    line = _Progress()
    indent = 2 if keep else None  # a line for each when they follow each other
    try:
        report = Benchmark(daemon, plan, line.tell, line.announce).run(peer)
    except Unreachable as error:
        line.clear()
        return _unreachable(error, as_json=as_json, indent=indent), "critical"
    finally:
        line.clear()
    before = predecessor(_runs(folder, report.peer), report.as_json())
    found = changes(before, report.as_json()) if before else ()
    judged = fitness(report, found)
    if keep:
        _keep(folder, report)
    return _text(
        report, found, str((before or {}).get("at", "")), judged, as_json=as_json, indent=indent
    ), judged.level


def _text(
    report: Report,
    found: tuple[Change, ...],
    before: str,
    judged: Fitness,
    *,
    as_json: bool,
    indent: int | None,
) -> str:
    import json
    from dataclasses import asdict

    from tsstack.cli.benchmark_lines import report_lines

    rows = screen_rows() if indent is None else None  # a screen that is drawn again and again
    if not as_json:
        return "\n".join(report_lines(report, found, before, terminal(piped=UNCUT), judged, limit=rows))
    value = {
        "level": judged.level,
        "why": list(judged.why),
        "report": report.as_json(),
        "ratio": report.ratio,
        "last_run": before or None,
        "changes": [asdict(each) for each in found],
    }
    return json.dumps(value, indent=indent)


def _unreachable(error: TsstackError, *, as_json: bool, indent: int | None) -> str:
    import json

    if as_json:
        return json.dumps({"level": "critical", "error": error.message, "hint": error.hint}, indent=indent)
    shown = terminal()
    return f"{shown.sign('critical')} {clean(error.message)}\n  {clean(error.hint)}"


def _runs(folder: Path, peer: str) -> tuple[dict[str, Any], ...]:
    """The runs to this peer that are kept; that they cannot be read hinders nothing."""
    from tsstack.bench.kept import load

    try:
        kept = load(folder, peer)
    except OSError as error:
        chatter(f"the runs of the past cannot be read: {error}")
        return ()
    _tell_damaged(kept)
    return kept.runs


def _keep(folder: Path, report: Report) -> None:
    from tsstack.bench.kept import save

    try:
        save(folder, report.as_json())
    except OSError as error:
        chatter(f"this run could not be kept: {error}")


def _tell_damaged(kept: Kept) -> None:
    for path in kept.damaged:
        chatter(f"{path} holds no run: it is left out")


def _history(folder: Path, peer: str, *, as_json: bool) -> int:
    from tsstack.bench.kept import load
    from tsstack.cli.benchmark_lines import history_lines

    kept = load(folder, peer)
    _tell_damaged(kept)
    if as_json:
        result_json({"runs": list(kept.runs)})
        return 0
    if not kept.runs:
        chatter(f"no runs are kept in {folder}" + (f" of {clean(peer)}" if peer else ""))
        return 0
    result("\n".join(history_lines(kept.runs, terminal(piped=UNCUT))))
    return 0


def _serve(daemon: Path, port: int, serve_s: float) -> int:
    from tsstack.bench.offloads import networks
    from tsstack.bench.server import Server
    from tsstack.system.localapi import LocalApi

    api = LocalApi(daemon, timeout_s=3.0)
    status = api.status(peers=False)
    addresses = [str(each) for each in (status.get("Self") or {}).get("TailscaleIPs") or ()]
    if status.get("BackendState") != "Running" or not addresses:
        raise TsstackError(
            "this host is not on the tailnet",
            hint="tsstack switch, or `tailscale up` after a `tailscale down`",
        )
    tunnel = next((name for name, each in networks() if each.partition("/")[0] in addresses), "")
    if not tunnel:
        raise TsstackError(
            "no interface has this host's tailnet address: tailscaled runs in userspace mode",
            hint="take `iperf3 -s` and `tailscale serve --tcp` instead",
        )

    def tell(words: str) -> None:
        chatter(f"{time.strftime('%H:%M:%S')} {clean(words)}")

    server = Server(addresses, lambda caller: _who(api, caller), tell, port=port, interface=tunnel)
    try:
        chatter(
            f"serving peers of this tailnet at {', '.join(addresses)} port {port} for {serve_s:.0f} s; "
            f"one at a time, {wire.MOST_S:.0f} s a test at most. Ctrl-C ends it."
        )
        server.serve(time.monotonic() + serve_s)
    except KeyboardInterrupt:
        chatter("")
    finally:
        server.close()
    return 0


def _who(api: LocalApi, caller: str) -> str | None:
    """The node behind an address, by tailscaled; None for a stranger."""
    answer = api.whois(caller)
    node = (answer or {}).get("Node") or {}
    name = str(node.get("Name") or node.get("ComputedName") or "").partition(".")[0]
    return name or ("a node" if node else None)


class _Progress:
    """One line on stderr that replaces itself, on a terminal only; announcements are always said."""

    def __init__(self) -> None:
        self._shown = redraws(sys.stderr)
        self._drawn = False

    def tell(self, words: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\033[K{clean(words)[: terminal().width - 1]}")
            sys.stderr.flush()
            self._drawn = True

    def announce(self, words: str) -> None:
        self.clear()
        chatter(clean(words))

    def clear(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._drawn = False


def main() -> None:
    """The console script."""
    leave(run_script(command, "ts-benchmark"))


if __name__ == "__main__":
    main()
