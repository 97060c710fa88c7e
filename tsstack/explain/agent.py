"""The process that stands in the throwaway network: it sends one packet and writes down what it met.

A copy of the process that asks, forked into an empty network namespace. A line of JSON comes in:

- `interfaces` (names; the first is where packets go that no route leads), `addresses` and `routes` (address
  in hex, prefix length, place of the interface),
- `indexes`: those of the live host's interfaces, by name; none where no host is copied,
- `local`: addresses of this host on no interface in particular (hex); `ipv6`: whether the kernel has any,
- the ruleset: `table` (path of an nft file) or `copy` (`tsstack.explain.kernel_copy.Copy`),
- `frame` (hex), the `number` in it, and `arriving` and `leaving` (places; `leaving` may be null).

A line of JSON goes out: `events` (the kernel's trace messages, hex), `listing` (the ruleset with handles),
`names` (interfaces by their number in the events) and `flags` (`tsstack.prove.agent`); or `error` and `hint`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, BinaryIO

from tsstack.explain import indexes, kernel_copy
from tsstack.explain.netlink import read_events
from tsstack.explain.tracing import TRACER, is_last, is_trace
from tsstack.parts.firewall.library import NftError, Session
from tsstack.prove import netlink
from tsstack.prove.agent import TO_HOST, Wires, build_world

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 270, 1, 33
_NFNLGRP_NFTRACE = 9
_EVENT_BYTES = 8 << 20
_PATIENCE_S = 60
_BY_NAME = (
    "let them ask by name (`iifname`); or `sysctl -w net.core.fb_tunnels_only_for_init_net=1`: it keeps such "
    "devices out of networks made from then on"
)
_LOST_AFTER_S = 0.5
_STEP_S = 0.002


def _build(order: dict[str, Any]) -> Wires:
    """The network with the ruleset in it. Raises OSError, NftError."""
    copy = kernel_copy.Copy.load(order["copy"])
    network = {
        "interfaces": order["interfaces"],
        "indexes": _indexes(order["interfaces"], order["indexes"], copy),
        "local": order["local"],
        "routes": [],
        "detours": [],
        "table": "",
        "ipv6": order["ipv6"],
    }
    wires = build_world(network)
    numbers = [socket.if_nametoindex(name) for name in order["interfaces"]]
    for address, length, at in order["addresses"]:
        with contextlib.suppress(FileExistsError):  # one of `local`, which is on every link
            netlink.give_addresses([(bytes.fromhex(address), length, numbers[at])])
    for address, length, at in order["routes"]:
        with contextlib.suppress(FileExistsError):  # it came with an address
            netlink.apply_messages([netlink.route_message(bytes.fromhex(address), length, numbers[at])])
    session = Session()
    if order["table"]:
        session.load(Path(order["table"]))
    else:
        _load_copy(copy)
    rule = "meta nftrace set 1;"
    session.run(
        f"table inet {TRACER} {{ chain p {{ type filter hook prerouting priority -1000; {rule} }}; }}"
    )
    if order["copy"]:
        device = order["interfaces"][order["arriving"]]
        hook = f'type filter hook ingress device "{device}" priority -1000;'
        session.run(f"table netdev {TRACER} {{ chain i {{ {hook} {rule} }}; }}")
    return wires


def _indexes(names: list[str], live: dict[str, int], copy: kernel_copy.Copy) -> list[int]:
    """The index for each interface; none where any will do. Raises NftError where rules need another."""
    if not live:
        return []
    own = {number: name for number, name in socket.if_nameindex() if name != "lo"}
    chosen = indexes.choose(names, live, own, copy)
    lost = [live[name] for name, index in zip(names, chosen, strict=True) if live.get(name, index) != index]
    if lost and indexes.asks_for(copy, lost):
        name = own[lost[0]]
        told = f"rules ask for interfaces by index, and in every new network {lost[0]} is that of {name}"
        raise NftError(told, hint=_BY_NAME)
    return chosen


def _load_copy(copy: kernel_copy.Copy) -> None:
    try:
        kernel_copy.load_ruleset(copy)
    except OSError as error:
        hint = "a module that the live ruleset uses may be missing, or be root's alone" * (
            error.errno in {errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP}
        )
        raise NftError(f"the copy of the live ruleset: {kernel_copy.strerror(error)}", hint=hint) from error


def _listen() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, kernel_copy.NFNETLINK)
    link.bind((0, 0))
    try:
        link.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _EVENT_BYTES)
    except PermissionError:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_BYTES)
    link.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTRACE)
    return link


def _send(order: dict[str, Any], wires: Wires) -> tuple[list[bytes], int]:
    """Send the packet; the trace and what became of it. A packet that vanishes is waited for a while."""
    events: list[bytes] = []
    seen, leaving = bytearray(1), [TO_HOST if order["leaving"] is None else order["leaving"]]
    with _listen() as link:
        os.write(wires.tuns[order["arriving"]], bytes.fromhex(order["frame"]))
        until_s = time.monotonic() + _LOST_AFTER_S
        ended = False
        while not ended and time.monotonic() < until_s:
            wires.collect(order["number"], leaving, seen)
            events += [body for kind, _, body in read_events(link) if is_trace(kind)]
            ended = bool(seen[0]) or any(map(is_last, events))
            if not ended:
                time.sleep(_STEP_S)
        # The answer of a rule that rejects comes behind its trace.
        wires.collect(order["number"], leaving, seen)
        events += [body for kind, _, body in read_events(link) if is_trace(kind)]
    return events, seen[0]


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    wires = _build(order)
    events, flags = _send(order, wires)
    return {
        "events": [each.hex() for each in events],
        "flags": flags,
        "listing": Session().list_with_handles(),
        "names": {str(number): name for number, name in socket.if_nameindex()},
    }


def serve(source: BinaryIO, answers: BinaryIO) -> None:
    """Answer one question."""
    signal.alarm(_PATIENCE_S)
    with contextlib.suppress(NftError):  # it is loaded while the asker reads the file; told of below
        Session()
    line = source.readline()
    if not line:
        return
    try:
        answer = _answer(json.loads(line))
    except NftError as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        answer = {"error": f"{place}{error.strerror}", "hint": ""}
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
