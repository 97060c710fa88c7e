"""A whole tailnet on this machine: bring it up, use it, hurt it, take it down.

    with Lab.up(name="demo") as lab:
        lab.node("laptop").run(["tailscale", "status"])
        lab.fault("cut", "exit-b")

Everything lives in namespaces that end with their processes, and one folder below /run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any

from tsstack.errors import CheckFailed, TsstackError, UsageError
from tsstack.lab import engines, faults, processes, startup, topology
from tsstack.lab.headscale import RECORDS, Address, merge_records, next_addresses
from tsstack.lab.machine import Machine
from tsstack.lab.record import ROOT, ActiveFault, Folder, Record, new_token

Report = Callable[[str], None]


def _silent(_: str) -> None:
    """Take a line of progress and drop it."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node at one moment."""

    name: str
    role: str
    pid: int
    """Its holder; 0 when it is gone."""
    address: str
    daemon: str
    """tailscaled, headscale or nothing."""
    running: bool
    """Whether that daemon runs."""
    state: str
    """tailscaled's BackendState, empty when it cannot be asked."""
    tailnet: tuple[str, ...]
    exit_node: str
    """The name of the exit node in use."""


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab at one moment."""

    name: str
    up: bool
    nodes: tuple[NodeStatus, ...]
    faults: tuple[ActiveFault, ...]


class Lab:
    """A lab that is up. `up` makes or finds one, `attach` only finds it."""

    def __init__(self, folder: Folder, record: Record) -> None:
        self._folder = folder
        self._record = record
        self.name = folder.name
        self.topology = topology.build(record.clients)

    @classmethod
    def up(
        cls,
        *,
        name: str = "lab",
        clients: int = 0,
        directory: Path = ROOT,
        report: Report = _silent,
    ) -> Lab:
        """The lab `name`, brought up with `clients` more nodes unless it is up already.

        What a crash left of it is cleared first. Raises CheckFailed when the machine cannot hold a lab,
        and whatever went wrong on the way, after taking down what was made.
        """
        topology.build(clients)
        folder = Folder(name, directory)
        check_machine()
        with folder.locked():
            record = folder.read()
            if record is not None and _is_whole(record):
                report(f"the lab {name!r} is up")
                return cls(folder, record)
            if record is not None:
                report(f"clearing what is left of the lab {name!r}")
                _clear(folder, record)
            programs = engines.prepare(report)
            record = Record(
                new_token(), clients, programs={engine: str(path) for engine, path in programs.items()}
            )
            folder.write(record)
            try:
                record = startup.bring_up(folder, record, report)
            except BaseException:
                _clear(folder, record)
                raise
        return cls(folder, record)

    @property
    def clients(self) -> int:
        """How many clients it has beside the usual nodes."""
        return self._record.clients

    @classmethod
    def attach(cls, *, name: str = "lab", directory: Path = ROOT) -> Lab:
        """The lab `name` that is up. Raises UsageError when it is not, or not whole any more."""
        folder = Folder(name, directory)
        record = folder.read()
        if record is None or record.phase != "up":
            raise UsageError(f"the lab {name!r} is not up", hint="tsstack lab up")
        if not _is_whole(record):
            raise UsageError(f"nodes of the lab {name!r} are gone", hint="tsstack lab up makes it anew")
        return cls(folder, record)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def down(self) -> None:
        """Take the lab down; see `take_down`."""
        take_down(name=self.name, directory=self._folder.path.parent)

    def node(self, name: str) -> Machine:
        """One node. Raises UsageError that lists the nodes for an unknown name."""
        return startup.machine(self._folder, self._record, self.topology.node(name))

    def nodes(self) -> tuple[Machine, ...]:
        """All nodes."""
        return tuple(self.node(name) for name in self.topology.nodes)

    def fault(self, name: str, target: str = "", *, amount: int = 0) -> str:
        """Put a fault in force; see `faults.CATALOGUE`. Returns the node it hurts.

        Raises UsageError for an unknown fault or a node that it cannot hurt.
        """
        with self._folder.locked():
            return faults.put(self._folder, self.node, self.topology, name=name, target=target, amount=amount)

    def heal(self, target: str = "") -> tuple[ActiveFault, ...]:
        """End the faults of one node, or all of them; returns those that ended."""
        if target:
            self.topology.node(target)
        with self._folder.locked():
            return faults.heal(self._folder, self.node, target)

    def status(self) -> LabStatus:
        """What runs and what is broken now."""
        record = self._folder.read()
        if record is None:
            return LabStatus(self.name, False, (), ())
        with ThreadPoolExecutor(8) as pool:
            nodes = tuple(pool.map(_node_status, self.nodes()))
        return LabStatus(self.name, _is_whole(record), nodes, record.faults)

    def auth_key(self, node: str = "kernelcore", *, tags: Sequence[str] = ("tag:server",)) -> str:
        """A new preauth key, good for a day and many uses: for `tags`, or without any for the user `node`."""
        return startup.create_key(self.node("hs"), node, tags)

    def addresses(self, node: str) -> tuple[Address, ...]:
        """The tailnet addresses of `node`; before it has enrolled, those that the next one will get."""
        own = self.node(node).tailnet_addresses()
        if own:
            return tuple(map(ip_address, own))
        taken = [ip_address(text) for other in self.nodes() for text in other.tailnet_addresses()]
        return next_addresses(taken)

    def publish_services(self, file: Path, *, node: str = "") -> dict[str, tuple[Address, ...]]:
        """Publish the service names of a stack's file for `node` (default: the file's own host).

        Names that are the node's own need no record. Before the node has enrolled, the addresses are those
        that the next node will get. Raises ConfigError for a faulty file, CheckFailed for services without
        a place, UsageError when the lab has no such node.
        """
        from tsstack import assets
        from tsstack.model.loader import load_presets, load_stack
        from tsstack.parts.proxy.naming import place_services

        stack = load_stack(file, load_presets(assets.folder("zones"))).stack
        addresses = self.addresses(node or stack.host.name)
        hosts = {place.host for place in place_services(stack).values()} - {stack.fqdn.lower()}
        names = dict.fromkeys(sorted(hosts), addresses)
        self.publish(names)
        return names

    def publish(self, names: Mapping[str, Sequence[Address | str]]) -> None:
        """Give the tailnet's DNS these names (Headscale's extra records); names from before stay."""
        path = self.node("hs").path(RECORDS)
        with self._folder.locked():
            path.write_text(merge_records(path.read_text(), names))


def take_down(*, name: str = "lab", directory: Path = ROOT) -> bool:
    """End everything that the lab `name` ever made; whether there was one. Idempotent.

    Raises TsstackError when a process does not end.
    """
    folder = Folder(name, directory)
    with folder.locked():
        record = folder.read()
        if record is not None:
            _clear(folder, record)
        else:
            folder.remove()
    return record is not None


def read_status(*, name: str = "lab", directory: Path = ROOT) -> LabStatus:
    """The status of the lab `name`, also when there is none or it is half made."""
    record = Folder(name, directory).read()
    if record is None or record.phase != "up":
        return LabStatus(name, False, (), ())
    return Lab(Folder(name, directory), record).status()


def check_machine() -> None:
    """Raises CheckFailed when this machine or user cannot have a lab."""
    if os.geteuid() != 0:
        raise CheckFailed("the lab makes namespaces and needs root", hint="sudo tsstack lab up")
    if not Path("/dev/net/tun").exists():
        raise CheckFailed(
            "there is no /dev/net/tun, which tailscaled needs",
            hint="modprobe tun; in a container: --device /dev/net/tun --privileged",
        )


def _is_whole(record: Record) -> bool:
    return record.phase == "up" and all(processes.belongs(pid, record.token) for pid in record.pids.values())


def _clear(folder: Folder, record: Record) -> None:
    processes.end_all(record.token)
    folder.remove()


def _node_status(node: Machine) -> NodeStatus:
    alive = processes.belongs(node.pid, node.token)
    answer: dict[str, Any] = {}
    if alive and node.plan.daemon == "tailscaled":
        try:
            answer = node.api.status()
        except TsstackError:
            answer = {}
    exits = [peer for peer in (answer.get("Peer") or {}).values() if peer.get("ExitNode")]
    return NodeStatus(
        name=node.name,
        role=node.plan.role,
        pid=node.pid if alive else 0,
        address=node.plan.address,
        daemon=node.plan.daemon,
        running=alive and node.daemon_pid() != 0,
        state=str(answer.get("BackendState", "")),
        tailnet=tuple(answer.get("TailscaleIPs") or ()),
        exit_node=str(exits[0].get("HostName", "")) if exits else "",
    )
