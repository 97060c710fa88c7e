"""One run: the steps in their order, each with what it may cost the way.

Nothing goes through an exit node: the tailnet is measured to the peer's tailnet address, and what is measured
past it is bound to an interface that is not the tunnel, or left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tsstack.bench import iperf, kernels, offloads, peers, wire
from tsstack.bench.datagrams import find_mtu
from tsstack.bench.echoes import Asker, Beside, DaemonPings, Echoes, Tell, measure
from tsstack.bench.figures import (
    Direction,
    Host,
    Latency,
    Load,
    Mtu,
    Relays,
    Report,
    Throughput,
    Underlay,
    Way,
)
from tsstack.bench.grades import added_s, grade
from tsstack.bench.netcheck import ask_netcheck
from tsstack.bench.transfer import NobodyThere, TransferFailed, transfer
from tsstack.errors import CommandFailed, TsstackError
from tsstack.system.command import run, which
from tsstack.system.inventory import default_interface
from tsstack.system.localapi import LocalApi, LocalApiError, LocalApiTimeout

if TYPE_CHECKING:
    from pathlib import Path

    from tsstack.bench.peers import Peer

_EVERY_S = 0.1
_COUNT, _QUICK_COUNT = 20, 10
# Wakes an idle session; and that all of them get lost on a way that answers at all is rare.
_WARM_UP = 4
_DISCO_TRIES, _DISCO_EVERY_S = 6, 0.5
_IPERF_GRACE_S = 10.0
_DIRECTIONS: tuple[Direction, ...] = ("up", "down")


class Unreachable(TsstackError):
    """The peer answers to nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    span_s: int = 5
    """Seconds of load, each way."""
    quick: bool = False
    """No load at all, and fewer probes."""
    direct: bool = False
    """Load the way past the tailnet too."""
    port: int = wire.PORT
    """Of the other end's `ts-benchmark --serve`."""

    @property
    def most_load_s(self) -> int:
        """All seconds of load together, at most."""
        return 0 if self.quick else self.span_s * len(_DIRECTIONS) * (2 if self.direct else 1)


@dataclass
class Benchmark:
    """One run from this host to a peer. `announce` hears, before any load, what is loaded and how long."""

    daemon: Path
    plan: Plan
    tell: Tell = lambda _: None
    announce: Callable[[str], None] = lambda _: None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._api = LocalApi(self.daemon, timeout_s=5.0)
        self._engines: list[str] = ["iperf3", "own"] if which("iperf3") else ["own"]

    def run(self, wanted: str = "") -> Report:
        """Measure the way to a peer (see `peers.choose`); blocks for seconds.

        Raises UsageError for a peer that is none, Unreachable, LocalApiError when tailscaled cannot be asked,
        and TsstackError when it is not on the tailnet.
        """
        at = time.time()
        status = self._api.status()
        if status.get("BackendState") != "Running":
            state = status.get("BackendState") or "unknown"
            raise TsstackError(
                f"this host is not on the tailnet: tailscaled is in the state {state}",
                hint="tsstack switch, or `tailscale up` after a `tailscale down`",
            )
        peer = peers.choose(status, wanted)
        own = tuple(str(each) for each in (status.get("Self") or {}).get("TailscaleIPs") or ())
        networks = offloads.networks()
        way = self._find_way(peer)
        asker, idle = self._idle(peer, way)
        tunnel = next((name for name, each in networks if each.partition("/")[0] in own), "")
        mtu = self._mtu(peer.address, tunnel, idle)
        underlay = self._underlay(way, peer, networks, own)
        loads = self._loads(peer, asker, idle)
        way = self._way_after(peer, way) if loads else way
        if underlay and self.plan.direct and not self.plan.quick:
            underlay = replace(underlay, loads=self._direct_loads(underlay))
        self.tell("this host")
        return Report(
            at=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z",
            peer=peer.name,
            address=peer.address,
            way=way,
            idle=idle,
            loads=loads,
            underlay=underlay,
            mtu=mtu,
            relays=self._relays(status, peer),
            host=self._host(status, tunnel),
            notes=tuple(self.notes),
        )

    def _find_way(self, peer: Peer) -> Way:
        """How tailscaled reaches the peer. A direct way is often found only with packets: asked for 3 s."""
        answer: dict[str, Any] = {}
        for left in reversed(range(_DISCO_TRIES)):
            self.tell("the way")
            try:
                answer = self._api.ping(peer.address, "disco", timeout_s=2.0)
            except LocalApiError as error:
                if error.status == 0 and not isinstance(error, LocalApiTimeout):
                    raise  # it is tailscaled that is gone, not the peer
                if left < _DISCO_TRIES - 2:
                    break
                continue
            if peers.way_of(answer).via == "direct":
                break
            if left:
                time.sleep(_DISCO_EVERY_S)
        tsmp_s, icmp_s = self._ping_s(peer, "TSMP"), self._ping_s(peer, "ICMP")
        return peers.way_of(answer, tsmp_s=tsmp_s, icmp_s=icmp_s)

    def _ping_s(self, peer: Peer, kind: Any) -> float | None:
        try:
            taken = self._api.ping(peer.address, kind, timeout_s=2.0).get("LatencySeconds")
        except LocalApiError:
            return None  # a figure that is not there; whether the peer is there is judged by all of them
        return float(taken) if isinstance(taken, int | float) else None

    def _way_after(self, peer: Peer, before: Way) -> Way:
        """A relayed way may have become a direct one under load, or the other way round."""
        try:
            after = peers.way_of(self._api.ping(peer.address, "disco", timeout_s=2.0))
        except LocalApiError:
            self.notes.append("after the load tailscaled got no answer to its ping")
            return before
        if after.via not in {before.via, "unknown"}:
            self.notes.append(f"the way was {before.via} when the run began, and is {after.via} now")
            return replace(after, disco_s=before.disco_s, tsmp_s=before.tsmp_s, icmp_s=before.icmp_s)
        return before

    def _idle(self, peer: Peer, way: Way) -> tuple[Asker, Latency]:
        """Latency before any load, by the first of the methods that gets answers."""
        count = _QUICK_COUNT if self.plan.quick else _COUNT
        echoes = Echoes(peer.address)
        found = measure(echoes, _WARM_UP, _EVERY_S, self.tell)
        if found.p50_s is not None:
            return echoes, measure(echoes, count, _EVERY_S, self.tell)
        pings = DaemonPings(self._api, peer.address, "TSMP" if way.tsmp_s is not None else "disco")
        if way.tsmp_s is None and way.disco_s is None and way.icmp_s is None:
            offline = "" if peer.online else ": it is not connected to the control server either"
            raise Unreachable(
                f"{peer.name} ({peer.address}) answers neither tailscaled's pings nor an echo{offline}",
                hint=f"tailscale ping {peer.address}",
            )
        self.notes.append(
            f"echoes get no answer ({echoes.error or 'timeout'}): latency is tailscaled's {pings.method} ping"
        )
        return pings, measure(pings, count, _EVERY_S, self.tell)

    def _mtu(self, address: str, interface: str, idle: Latency, *, bind: str = "") -> Mtu:
        """The largest packet to an address, by echoes; `interface` is where they leave."""
        own = offloads.mtu(interface)
        if idle.method != "icmp":
            return Mtu(None, own, "echoes get no answer")
        patience_s = min(2.0, max(0.3, 4 * (idle.p95_s or 0.5)))
        try:
            found = find_mtu(
                address, own or 1500, interface=bind, timeout_s=patience_s,
                sent=idle.sent, lost=idle.lost, tell=self.tell,
            )  # fmt: skip
        except OSError as error:
            return Mtu(None, own, str(error.strerror or error).lower())
        why = "" if found.size_bytes else "no echo of any size came back"
        return Mtu(found.size_bytes, own, why, found.certain)

    def _underlay(
        self, way: Way, peer: Peer, networks: tuple[tuple[str, str], ...], own: tuple[str, ...]
    ) -> Underlay | None:
        """The peer without the tailnet, at the first of its addresses that answers."""
        addresses = peers.underlay_addresses(way, peer, networks, own)
        for address in addresses[:4]:
            source = offloads.source_for(address)
            bind = peers.binding(address, source, networks, own, default_interface())
            if bind is None:
                continue
            echoes = Echoes(address, interface=bind, timeout_s=1.0)
            if measure(echoes, _WARM_UP, _EVERY_S, self.tell).p50_s is None:
                continue
            count = _QUICK_COUNT if self.plan.quick else _COUNT
            latency = measure(echoes, count, _EVERY_S, self.tell)
            leaves = bind or next((name for name, each in networks if each.partition("/")[0] == source), "")
            return Underlay(address, bind, latency, self._mtu(address, leaves, latency, bind=bind))
        if addresses:
            self.notes.append(f"past the tailnet {', '.join(addresses[:4])} gives no answer to echoes")
        return None

    def _loads(self, peer: Peer, asker: Asker, idle: Latency) -> tuple[Load, ...]:
        """Both directions, one after the other, by the first engine that works."""
        if self.plan.quick:
            return ()
        more = f", then the way past the tailnet as long (--direct): {self.plan.most_load_s} s in all"
        self.announce(
            f"loading the way to {peer.name}: at most {self.plan.span_s} s up and {self.plan.span_s} s down"
            + (more if self.plan.direct else "")
        )
        found = []
        for direction in _DIRECTIONS:
            load = self._load(peer.address, direction, asker, idle)
            if load is None:
                break
            found.append(load)
        return tuple(found)

    def _load(self, address: str, direction: Direction, asker: Asker, idle: Latency) -> Load | None:
        while self._engines:
            beside = Beside(asker, _EVERY_S, lambda said: self.tell(f"load {direction}: {said}"))
            try:
                with beside:
                    through = self._transfer(address, direction, self._engines[0])
            except (TransferFailed, iperf.IperfError) as error:
                self._give_up(self._engines.pop(0), error)
                continue
            grown_s = added_s(idle, beside.latency)
            return Load(through, beside.latency, grown_s, grade(idle, beside.latency))
        self.notes.append(
            f"no throughput: start `ts-benchmark --serve` or `iperf3 -s` on the peer (TCP {self.plan.port} "
            f"or {iperf.PORT} must be open to the tailnet there)"
        )
        return None

    def _give_up(self, engine: str, error: Exception) -> None:
        """That nobody listens is no news while another engine is left; other words are."""
        if isinstance(error, NobodyThere) or "unable to connect" in str(error):
            return
        self.notes.append(f"{'iperf3' if engine == 'iperf3' else 'own test'}: {error}")

    def _transfer(self, address: str, direction: Direction, engine: str, interface: str = "") -> Throughput:
        if engine == "own":
            return transfer(address, direction, float(self.plan.span_s), port=self.plan.port)
        words = iperf.argv(address, direction, self.plan.span_s, interface=interface)
        try:
            said = run(words, timeout_s=self.plan.span_s + _IPERF_GRACE_S, check=False)
        except CommandFailed as error:
            raise iperf.IperfError(error.message) from error
        if not said.stdout.strip():
            raise iperf.IperfError((said.stderr.strip() or "iperf3 said nothing").splitlines()[0][:200])
        return iperf.read_result(said.stdout, direction)

    def _direct_loads(self, underlay: Underlay) -> tuple[Throughput, ...]:
        """Throughput past the tailnet; only iperf3 listens there, our own server does not by design."""
        found = []
        try:
            for direction in _DIRECTIONS:
                self.tell(f"load {direction} past the tailnet")
                found.append(self._transfer(underlay.address, direction, "iperf3", underlay.interface))
        except iperf.IperfError as error:
            self.notes.append(f"no throughput past the tailnet ({underlay.address}): iperf3: {error}")
        return tuple(found)

    def _relays(self, status: dict[str, Any], peer: Peer) -> Relays:
        home = str((status.get("Self") or {}).get("Relay") or "")
        if self.plan.quick:
            return Relays(home, peer.relay)
        self.tell("netcheck")
        try:
            asked = ask_netcheck(self.daemon)
        except CommandFailed as error:  # beside the point of the run
            self.notes.append(f"netcheck tells nothing of NAT and UDP: {error.message}")
            return Relays(home, peer.relay)
        return replace(asked, home=home, peer_home=peer.relay)

    def _host(self, status: dict[str, Any], tunnel: str) -> Host:
        release = os.uname().release
        shown = [name for name in (default_interface(), tunnel) if name]
        try:
            warning = self._api.udp_gro_warning()
        except LocalApiError as error:
            warning = ""
            self.notes.append(f"tailscaled does not tell of UDP GRO: {error.message}")
        return Host(
            kernel=release,
            troubles=kernels.troubles(release, str(status.get("Version") or ""), offloads.link_kinds()),
            offloads={name: offloads.features(name) for name in shown},
            udp_gro_warning=warning,
        )
