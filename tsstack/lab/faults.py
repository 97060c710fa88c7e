"""Faults by name: each hurts one node in one known way, can be measured, and can be healed.

Packets are hurt in `world`, beyond the node's own link: the node's ruleset, routes and interfaces stay as
they are, and it must find out by itself. World's table is written whole from the list of active faults,
so healing one cannot leave a part of another.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tsstack.errors import TsstackError, UsageError
from tsstack.lab import processes
from tsstack.lab.machine import Machine
from tsstack.lab.record import ActiveFault, Folder
from tsstack.lab.topology import LAB_NETWORK, LAB_NETWORK6, Node, Topology

TABLE = "lab_faults"
_RELAY_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; `amount` is its default strength, in `unit`."""

    name: str
    effect: str
    hurts: Literal["link", "daemon"]
    amount: int = 0
    unit: str = ""
    target: str = "exit-b"
    """The node it hurts when none is named."""


CATALOGUE = {
    fault.name: fault
    for fault in (
        Fault("cut", "nothing passes to or from the node; its interface stays up", "link"),
        Fault("unplug", "the node's interface loses its carrier", "link"),
        Fault("uplink", "the internet is gone for the node; Headscale and its peers stay in reach", "link"),
        Fault("loss", "packets to the node get lost at random", "link", 30, "percent"),
        Fault("delay", "packets to the node arrive late", "link", 80, "ms"),
        Fault("kill", "SIGKILL for its daemon", "daemon"),
        Fault("stop", "SIGTERM for its daemon", "daemon"),
        Fault("start", "its daemon runs again; ends kill and stop", "daemon"),
        Fault("restart-headscale", "Headscale goes away and comes back", "daemon", target="hs"),
    )
}


def put(
    folder: Folder,
    node: Callable[[str], Machine],
    topology: Topology,
    *,
    name: str,
    target: str,
    amount: int,
) -> str:
    """Put the fault in force and remember it; the caller holds the lab's lock. Returns the node hurt.

    Raises UsageError when there is no such fault, or not for that node.
    """
    kind = CATALOGUE.get(name)
    if kind is None:
        raise UsageError(f"no such fault: {name!r}", hint=f"faults: {', '.join(CATALOGUE)}, heal")
    plan = topology.node(target or kind.target)
    _refuse_impossible(kind, plan, topology, amount)
    fault = ActiveFault(name, plan.name, amount or kind.amount)
    if name in {"start", "restart-headscale"}:
        machine = node(plan.name)
        if name == "restart-headscale":
            machine.stop_daemon()
        machine.start_daemon()
        machine.await_tailnet()
        _forget(folder, lambda active: active.target == plan.name and active.name in {"kill", "stop"})
        return plan.name
    record = folder.update()
    kept = tuple(a for a in record.faults if (a.name, a.target) != (fault.name, fault.target))
    # Remembered before it is made: a crash in between is healed as well.
    record = folder.update(faults=(*kept, fault))
    if kind.hurts == "daemon":
        node(plan.name).stop_daemon(signal.SIGKILL if name == "kill" else signal.SIGTERM)
    else:
        _apply_links(node, record.faults)
    return plan.name


def _refuse_impossible(kind: Fault, plan: Node, topology: Topology, amount: int) -> None:
    if kind.hurts == "link" and plan not in topology.behind_world:
        names = ", ".join(node.name for node in topology.behind_world)
        raise UsageError(
            f"{plan.name} has no link to world that {kind.name} could hurt", hint=f"nodes: {names}"
        )
    if kind.hurts == "daemon" and not plan.daemon:
        raise UsageError(f"{plan.name} runs no daemon", hint="nodes with one run tailscaled or headscale")
    if kind.name == "restart-headscale" and plan.daemon != "headscale":
        raise UsageError("restart-headscale takes no node but hs")
    if amount and not kind.unit:
        raise UsageError(f"{kind.name} has no amount", hint="loss takes percent, delay takes milliseconds")
    if kind.unit and not 0 <= amount <= (100 if kind.unit == "percent" else 10_000):
        raise UsageError(f"{kind.name} takes 1 to {100 if kind.unit == 'percent' else 10_000} {kind.unit}")


def heal(folder: Folder, node: Callable[[str], Machine], target: str) -> tuple[ActiveFault, ...]:
    """End the faults of `target`, or all when it is empty; returns them. The caller holds the lock."""
    record = folder.update()
    ended = tuple(fault for fault in record.faults if not target or fault.target == target)
    kept = tuple(fault for fault in record.faults if fault not in ended)
    _apply_links(node, kept, healed=ended)
    for name in {fault.target for fault in ended if CATALOGUE[fault.name].hurts == "daemon"}:
        node(name).start_daemon()
        node(name).await_tailnet()
    folder.update(faults=kept)
    return ended


def _forget(folder: Folder, ended: Callable[[ActiveFault], bool]) -> None:
    record = folder.update()
    folder.update(faults=tuple(fault for fault in record.faults if not ended(fault)))


def _apply_links(
    node: Callable[[str], Machine], active: tuple[ActiveFault, ...], healed: tuple[ActiveFault, ...] = ()
) -> None:
    """Make world as `active` says."""
    world = node("world")
    world.run(["nft", "-f", "-"], stdin=ruleset(active))
    for fault in healed:
        if fault.name == "unplug":
            world.configure_links(f"link set to-{fault.target} up\n")
        if fault.name == "delay":
            _end_delay(world, node(fault.target))
    for fault in active:
        if fault.name == "unplug":
            world.configure_links(f"link set to-{fault.target} down\n")
        if fault.name == "delay":
            _end_delay(world, node(fault.target))
            _begin_delay(world, node(fault.target), fault.amount)


def ruleset(active: tuple[ActiveFault, ...]) -> str:
    """World's table for these faults, as nft text that replaces the one before in one transaction."""
    inbound: list[str] = []
    outbound: list[str] = []
    for fault in active:
        link = f'"to-{fault.target}"'
        if fault.name == "cut":
            inbound.append(f"iifname {link} drop")
            outbound.append(f"oifname {link} drop")
        elif fault.name == "uplink":
            inbound.append(f"iifname {link} ip daddr != {{ {LAB_NETWORK}, 224.0.0.0/4 }} drop")
            inbound.append(f"iifname {link} ip6 daddr != {{ {LAB_NETWORK6}, fe80::/10, ff00::/8 }} drop")
        elif fault.name == "loss":
            # nft refuses a comparison that is always true.
            chance = f"numgen random mod 100 < {fault.amount} " if fault.amount < 100 else ""
            outbound.append(f"oifname {link} {chance}drop")
    rules = {"in": ("prerouting", -300, inbound), "out": ("postrouting", 300, outbound)}
    chains = "".join(
        f"  chain {name} {{\n    type filter hook {hook} priority {priority}; policy accept;\n"
        + "".join(f"    {rule}\n" for rule in lines)
        + "  }\n"
        for name, (hook, priority, lines) in rules.items()
    )
    return f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{chains}}}\n"


def _routes_of(node: Node) -> tuple[tuple[Literal["-4", "-6"], str], ...]:
    return ("-4", f"{node.address}/32"), ("-6", f"{node.address6}/128")


def _begin_delay(world: Machine, node: Machine, delay_ms: int) -> None:
    """Lead what goes to the node through a relay that keeps each packet for a while.

    A tun device takes the packets by a route of its own table, the relay writes them back after the
    delay, and what comes out of the device goes on by the main table. netem would do, but many kernels
    of containers and small machines lack it.
    """
    device, number = _delay_device(node.plan)
    pid = world.start([sys.executable, "-P", "-m", "tsstack.lab.relay", device, str(delay_ms)])
    deadline = time.monotonic() + _RELAY_LIMIT_S
    # The relay brings the device up when it is ready to carry packets.
    while not _is_up(world, device):
        if not processes.start_ticks(pid) or time.monotonic() > deadline:
            raise TsstackError(f"the delay relay does not come up; see {world.log}")
        time.sleep(0.01)
    for family, prefix in _routes_of(node.plan):
        world.configure_links(
            f"route replace default dev {device} table {number}\n"
            f"rule add to {prefix} iif {device} lookup main pref {number}\n"
            f"rule add to {prefix} lookup {number} pref {number + 1000}\n",
            family=family,
        )


def _end_delay(world: Machine, node: Machine) -> None:
    device, number = _delay_device(node.plan)
    for family, _ in _routes_of(node.plan):
        for pref in (number, number + 1000):
            world.run(["ip", family, "rule", "del", "pref", str(pref)], check=False)
    relays = [pid for pid in processes.within(world.pid) if processes.words(pid)[-2:-1] == [device]]
    # The device is the relay's own and goes with it.
    processes.end(relays, world.token, signal.SIGKILL)


def _delay_device(node: Node) -> tuple[str, int]:
    """The tun device and the number of its routing table: one per node, by its place on the map."""
    number = int(node.gateway.split(".")[2])
    return f"delay{number}", 1000 + number


def _is_up(world: Machine, device: str) -> bool:
    try:
        flags = world.path(f"/sys/class/net/{device}/flags").read_text()
    except FileNotFoundError:
        return False
    return bool(int(flags, 16) & 1)
