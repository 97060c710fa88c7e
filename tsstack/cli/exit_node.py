"""`tsstack exit-node`: which exit nodes there are, how good they are, and choosing one by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.known_names import complete_exit
from tsstack.cli.monitor import client, socket_option
from tsstack.cli.options import group_options, json_option, unused_file_option
from tsstack.cli.output import chatter, result, result_json, style
from tsstack.model.facts import Paths
from tsstack.status.figures import WINDOW, way_cells, ways_apart
from tsstack.status.words import COLOUR_OF, clean, padded, width_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tsstack.system.bypass import Bypass

daemon_option: Callable[[Any], Any] = click.option(
    "--tailscaled",
    "daemon",
    type=click.Path(path_type=Path),
    default="/var/run/tailscale/tailscaled.sock",
    show_default=True,
    help="tailscaled's socket.",
)


@click.group("exit-node")
@group_options
def exit_node() -> None:
    """The exit nodes: how each does, and which one this host uses.

    \b
    Examples:
      tsstack exit-node list
      tsstack exit-node use exit-b      stays, good or bad, until:
      tsstack exit-node auto
    """


@exit_node.command("list")
@unused_file_option
@json_option
@socket_option
@daemon_option
def list_nodes(as_json: bool, socket_path: Path, daemon: Path) -> None:
    """Show the exit nodes of this tailnet, with what the monitor has measured of each in the last minute.

    Without a monitor they are listed all the same, without figures.

    \b
    Examples:
      tsstack exit-node list
      tsstack exit-node list --json | jq '.exit_nodes[] | select(.in_use).name'
    """
    from tsstack.monitor.client import NotRunning
    from tsstack.status.gather import wanted_exit
    from tsstack.system.bypass import in_words, way_back

    try:
        state = client(socket_path).ask("state")
    except NotRunning as error:
        state, absent = None, error
    wanted = wanted_exit(str(Paths().current)) if state is None else None
    offered, addresses = _offered(daemon)
    nodes = _merge(offered, state, [str(name) for name in (wanted or {}).get("use") or ()])
    past = _past(nodes, addresses, state)
    if as_json:
        result_json(
            {
                "monitor": state is not None,
                "exit_nodes": nodes,
                "bypassed": [
                    {"version": each.version, "interface": each.interface, "rule": each.rule} for each in past
                ],
            }
        )
        return
    head = ("", "exit node", "level", f"loss {WINDOW}", f"p50 {WINDOW}", f"p95 {WINDOW}", "via", "")
    rows = [head, *(_cells(node) for node in nodes)]
    widths = [max(width_of(row[column]) for row in rows) for column in range(len(head))]
    for number, row in enumerate(rows):
        cells = [padded(cell, width) for cell, width in zip(row, widths, strict=True)]
        if number and row[2] in COLOUR_OF:
            cells[2] = style(cells[2], fg=COLOUR_OF[row[2]])
        result("  ".join(cells).rstrip())
    if past:
        words = f"{in_words(past)}, and not by the exit node (TS718; {way_back(past)})"
        chatter(f"{style('warning:', fg='yellow')} {words}")
    if state is None:
        known = "what it measures is not known" if absent.silent else "nothing is measured"
        chatter(f"{absent.message}: {known}, and nothing fails over ({absent.hint})")
    elif state["exit"] is None:
        chatter("the file names no exit node: the monitor changes nothing here")


@exit_node.command()
@unused_file_option
@json_option
@socket_option
@click.argument("name", shell_complete=complete_exit)
def use(as_json: bool, socket_path: Path, name: str) -> None:
    """Use the exit node NAME from now on, good or bad, until `tsstack exit-node auto`.

    NAME is one of `tailscale.exit_node.use`; `direct` is the bare uplink, where the file allows it.

    \b
    Examples:
      tsstack exit-node use exit-b
      tsstack exit-node use direct
    """
    done = client(socket_path).ask("exit-node", use=name)
    said = f"{name}: {done['note']}" if done.get("note") else f"{name} is used until `tsstack exit-node auto`"
    result_json(done) if as_json else result(said)


@exit_node.command()
@unused_file_option
@json_option
@socket_option
def auto(as_json: bool, socket_path: Path) -> None:
    """End the choice by hand: the monitor chooses again.

    \b
    Example:
      tsstack exit-node auto
    """
    done = client(socket_path).ask("exit-node", auto=True)
    result_json(done) if as_json else result(done.get("note") or "the monitor chooses the exit node")


def _past(nodes: list[dict[str, Any]], addresses: list[str], state: dict[str, Any] | None) -> list[Bypass]:
    """What leaves otherwise than by the node in use; nothing while that changes."""
    from tsstack.system.bypass import read_bypass

    moving = ((state or {}).get("exit") or {}).get("moving")
    if not addresses or moving or not any(node["in_use"] for node in nodes):
        return []
    return read_bypass(addresses)


def _offered(daemon: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What tailscaled itself says, by each name that a node has; nothing when it does not answer.

    `shown`: the node's name where the file names it by none. With this node's addresses, while it is up.
    """
    from tsstack.parts.tailscale.exit_nodes import offered_exits
    from tsstack.status.tailnet import peer_name
    from tsstack.system.localapi import LocalApi, LocalApiError

    try:
        api = LocalApi(daemon, timeout_s=3.0)
        current = str(api.prefs().get("ExitNodeID") or "")
        status = api.status()
    except LocalApiError as error:
        chatter(f"{style('warning:', fg='yellow')} {error.message}")
        return [], []
    up = status.get("BackendState") == "Running"
    addresses = [str(each) for each in (status.get("Self") or {}).get("TailscaleIPs") or ()] if up else []
    shown = {str(peer["ID"]): peer_name(peer).lower() for peer in (status.get("Peer") or {}).values()}
    offered = [
        {
            "name": each["name"],
            "id": each["id"],
            "shown": shown[str(each["id"])] == each["name"],
            "now": {"online": each["online"], "in_use": each["id"] == current},
        }
        for each in offered_exits(status)
    ]
    return offered, addresses


def _merge(
    offered: list[dict[str, Any]], state: dict[str, Any] | None, wanted: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The file's candidates in their order, then whatever else offers an exit.

    `wanted`: the file's names of them, for where no monitor tells of them.
    """
    known = {each["name"]: each for each in offered}
    way: dict[str, Any] = (state or {}).get("exit") or {
        "actual": "",
        "manual": None,
        "candidates": [{"name": name, "offered": name.lower() in known, "level": None} for name in wanted],
    }
    paths = {path["key"]: path for path in (state or {}).get("paths", ())}
    nodes, told = [], set()
    for candidate in way["candidates"]:
        name = candidate["name"]
        here = known.get(name.lower())
        now = here["now"] if here else {"online": None, "in_use": way["actual"] == name}
        told.add(here["id"] if here else None)
        path = paths.get(f"exit:{name.lower()}")
        nodes.append({**now, **candidate, "by_hand": way["manual"] == name, "quality": path})
    rest = [each for each in offered if each["shown"] and each["id"] not in told]
    return nodes + [
        {"name": each["name"], **each["now"], "offered": True, "level": None, "by_hand": False}
        for each in rest
    ]


def _cells(node: dict[str, Any]) -> tuple[str, ...]:
    path = node.get("quality")
    notes = []
    if not node["offered"]:
        notes.append("offers no exit")
    if node["online"] is False:
        notes.append("offline")
    if node["by_hand"]:
        notes.append("by hand")
    if node.get("barred_s"):
        notes.append(f"barred for {node['barred_s']:.0f} s more")
    notes += [cause["text"] for cause in path["causes"]] if path else []
    notes += [apart] if (apart := ways_apart(path, node["level"])) else []
    via = path["via"] if path and path["via"] != "unknown" else ""
    mark = "*" if node["in_use"] else ""
    told = (mark, node["name"], node["level"] or "-", *way_cells(path), via, "; ".join(notes))
    return tuple(map(clean, told))
