"""Names for a shell to complete: zones, paths, peers, generations; none where this host cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click

from tsstack.errors import TsstackError
from tsstack.model.facts import Paths

Complete = Callable[[click.Context, click.Parameter, str], list[str]]

_WAIT_S = 1.0


def _completing(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    def complete(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
        try:
            known = sorted(set(names(context)))
        except (TsstackError, OSError, ValueError, KeyError, TypeError):
            return []  # a shell that completes has no place for an error
        return [name for name in known if name.startswith(begun)]

    return complete


def _zones(context: click.Context) -> Iterable[str]:
    from tsstack.status.firewall import read_firewall, standing_folder

    state = Path(context.params.get("state") or Paths().state)
    found = read_firewall(
        standing_folder(str(state))[0], str(context.params.get("run_folder") or Paths().run)
    )
    return (zone["name"] for zone in found["zones"])


def _paths(context: click.Context) -> Iterable[str]:
    """The kinds, and the names without them: a colon would end a word in bash."""
    from tsstack.monitor.client import DEFAULT_PATH, Client

    state = Client(Path(context.params.get("socket") or DEFAULT_PATH), timeout_s=_WAIT_S).ask("state")
    for each in state["paths"]:
        kind, _, name = str(each["key"]).partition(":")
        yield from (kind, name)


def _peers(context: click.Context) -> Iterable[str]:
    from tsstack.bench.peers import peers_of
    from tsstack.system.localapi import LocalApi

    daemon = Path(context.params.get("daemon") or Paths().tailscale_socket)
    return (peer.name for peer in peers_of(LocalApi(daemon, timeout_s=_WAIT_S).status()))


def _exits(context: click.Context) -> Iterable[str]:
    """The file's candidates, and the bare uplink."""
    from tsstack.monitor.client import DEFAULT_PATH, Client

    way = Client(Path(context.params.get("socket_path") or DEFAULT_PATH), timeout_s=_WAIT_S).ask("state")[
        "exit"
    ]
    return (*(str(each["name"]) for each in way["candidates"]), "direct")


def _generations(_: click.Context) -> Iterable[str]:
    folder = Path(Paths().state) / "generations"
    return (each.name for each in folder.iterdir() if each.name.isdigit())


def _themes(_: click.Context) -> Iterable[str]:
    from tsstack.tui import look

    return look.THEMES


def _routes(context: click.Context) -> Iterable[str]:
    from tsstack.monitor.client import DEFAULT_PATH, Client

    state = Client(Path(context.params.get("socket_path") or DEFAULT_PATH), timeout_s=_WAIT_S).ask("state")
    return (str(each["network"]) for each in state["routes"] if each["withdrawn"])


complete_route = _completing(_routes)
complete_zone = _completing(_zones)
complete_path = _completing(_paths)
complete_peer = _completing(_peers)
complete_exit = _completing(_exits)
complete_generation = _completing(_generations)
complete_theme = _completing(_themes)
