"""Connections of the way that was left, freed: by this process where it may, else by one that may just that.

The monitor's unit has no power over the network at all. Dropping conntrack entries needs CAP_NET_ADMIN, so it
asks a service that systemd starts for each request (`tsstack-flows.socket`), with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, BinaryIO

from tsstack.monitor.flows import Surroundings, left_by
from tsstack.monitor.tailscaled import Seen
from tsstack.system.conntrack import drop_connections, list_connections

FLOWS_SOCKET = Path("/run/tsstack/flows.sock")
_PATIENCE_S = 10.0
_FREEING_S = 45.0
"""Longer than systemd lets a helper run: on a busy machine it takes its time, and does it all the same."""
_LARGEST_BYTES = 1 << 20
_INSIDE = frozenset({"lo", "tailscale0"})


async def free_flows(left: str, seen: Seen, uplink: str, helper: Path = FLOWS_SOCKET) -> int:
    """Drop the entries of connections that left by `left`, and no others; returns how many.

    Raises OSError: PermissionError where neither this process nor a helper may.
    """
    try:
        return await asyncio.to_thread(lambda: _free(left, surroundings(seen, uplink)))
    except PermissionError:
        if not helper.exists():
            raise
    return await _ask(helper, left, seen, uplink)


def serve_one(
    asked: BinaryIO, answer: BinaryIO, reads: Mapping[str, Callable[[], Any]] | None = None
) -> None:
    """Do what one line asks for, and answer with one line: the helper's whole life.

    `reads` are what `read` may name: what else only who has this power may see. It changes nothing.
    """
    done: dict[str, Any]
    try:
        request = json.loads(asked.readline(_LARGEST_BYTES))
        if "read" in request:
            done = {"read": (reads or {})[request["read"]]()}
        else:
            seen = Seen(
                addresses=_texts(request["addresses"]),
                peer_routes=_texts(request["peer_routes"]),
                advertised=_texts(request["advertised"]),
            )
            done = {"freed": _free(str(request["left"]), surroundings(seen, str(request["uplink"])))}
    except OSError as error:
        done = {"error": error.strerror or str(error)}
    except (ValueError, KeyError, TypeError) as error:
        done = {"error": f"that is no request: {error!r}"}
    answer.write(json.dumps(done).encode() + b"\n")
    answer.flush()


def surroundings(seen: Seen, uplink: str) -> Surroundings:
    """This host's addresses and networks as they are now."""
    import psutil

    own: dict[str, list[tuple[str, str]]] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if each.family in {socket.AF_INET, socket.AF_INET6} and each.netmask:
                own.setdefault(name, []).append((each.address.partition("%")[0], str(each.netmask)))
    attached = [
        ip_network(f"{address}/{_length(mask)}", strict=False)
        for name, pairs in own.items()
        if name not in _INSIDE
        for address, mask in pairs
    ]
    return Surroundings(
        tunnel=frozenset(seen.addresses),
        uplink=frozenset(address for address, _ in own.get(uplink, ())),
        local=frozenset(address for pairs in own.values() for address, _ in pairs),
        attached=tuple(attached),
        peers=tuple(ip_network(each) for each in seen.peer_routes),
        routed=tuple(ip_network(each) for each in seen.advertised or () if not each.endswith("/0")),
    )


def _free(left: str, around: Surroundings) -> int:
    connections = list_connections()
    if not connections:
        return 0
    dropped = drop_connections(left_by(left, connections, around))
    if dropped.refused:
        raise dropped.refused[0][1]
    return dropped.count


async def _ask(helper: Path, left: str, seen: Seen, uplink: str) -> int:
    request = {
        "left": left,
        "uplink": uplink,
        "addresses": seen.addresses,
        "peer_routes": seen.peer_routes,
        "advertised": seen.advertised or (),
    }
    try:
        async with asyncio.timeout(_FREEING_S):
            heard, link = await asyncio.open_unix_connection(str(helper), limit=_LARGEST_BYTES)
            try:
                link.write(_line(request))
                return int(_answer(await heard.readline())["freed"])
            finally:
                link.close()
    except TimeoutError as error:
        raise OSError("its helper comes to no end") from error


def ask_helper(request: Mapping[str, Any], helper: Path = FLOWS_SOCKET) -> dict[str, Any]:
    """What the helper answers. Blocks. Raises OSError with its words."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_PATIENCE_S)
        link.connect(str(helper))
        link.sendall(_line(request))
        with link.makefile("rb") as said:
            return _answer(said.readline(_LARGEST_BYTES))


def _line(request: Mapping[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _answer(line: bytes) -> dict[str, Any]:
    """Raises OSError with the helper's words."""
    try:
        done = dict(json.loads(line))
        if "error" not in done:
            return done
        words = str(done["error"])
    except (ValueError, KeyError, TypeError):
        words = "its helper gave no answer"
    raise OSError(words)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list is wanted")
    return tuple(str(each) for each in value)


def _length(mask: str) -> int:
    return int(ip_address(mask)).bit_count()
