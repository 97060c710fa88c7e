"""What the file asks of the monitor, as one value of plain parts: reloading replaces it whole.

`reading` makes it from the file. The daemon itself never loads the model, which takes as much memory as all
of its watching.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.monitor.choice import DIRECT, Policy
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.sample import Path as MonitoredPath
from tsstack.monitor.verdict import Limits

if TYPE_CHECKING:
    from tsstack.errors import Finding

TUNNEL = "tailscale0"
_WITNESSES_MOST = 3


@dataclass(frozen=True, slots=True)
class Standby:
    """A service with a backup upstream: its name, and the keys of the paths to both."""

    service: str
    first: str
    backup: str


@dataclass(frozen=True, slots=True)
class Settings:
    """A file as the monitor needs it."""

    host: str
    limits: Limits
    policy: Policy | None
    """None when the file names no exit node to use."""
    planned: tuple[Probe, ...]
    """All probes; those that judge a way out are bound to TUNNEL here."""
    uplink: str
    """The interface that leads out without an exit node; empty: as the routes say."""
    uplink_is_named: bool = False
    """Whether the file names it; else it is that of the default route."""
    on_tailnet: bool = False
    """Whether the file says anything of tailscaled."""
    routes: tuple[str, ...] = ()
    """The networks that the file advertises."""
    standbys: tuple[Standby, ...] = ()
    failover: bool = True
    """Act on a bad path, or only report it."""
    alerts: tuple[str | tuple[str, ...], ...] = ()
    """Whom to tell: an address, or the words of a command."""
    metrics: str | None = None
    """`address:port` of the endpoint for Prometheus."""
    default_targets: bool = False
    """Whether the file names no target that shows if a way out works, so that ours are asked."""
    findings: tuple[Finding, ...] = ()
    """Warnings of the file."""
    rests: bool = False
    """Whether nothing is changed because the host is without tsstack, whatever the file says."""

    @property
    def why_idle(self) -> str:
        """Why the monitor changes nothing; empty where it may."""
        if self.rests:
            return "generation 0 is live, the host without tsstack: after the next `tsstack switch`"
        return "" if self.failover else "the file says `failover: false`: the monitor changes nothing"

    def way(self, at: str) -> str:
        """The interface that leads out by what is in use; empty: as the routes say."""
        if self.policy is None:
            return ""
        return TUNNEL if at != DIRECT else self.uplink

    def probes(self, at: str) -> tuple[Probe, ...]:
        """All probes while `at` is in use, and the targets by the bare uplink where the file allows to go
        there (their keys begin with `direct:` instead of `target:`).
        """
        planned = self._bound(self.way(at))
        policy = self.policy
        if policy is None or policy.otherwise != "direct" or at == DIRECT or not self.uplink:
            return planned
        direct = [_by_uplink(each, self.uplink) for each in planned if judges_way(each)]
        return (*planned, *direct)

    def witnesses(self, at: str) -> tuple[str, ...]:
        """The keys of the few targets that are asked at the quick pace whether the way in use works.

        Pages last: they cost their server most.
        """
        ordered = sorted(self.judging(at), key=lambda each: each.kind == "https")
        light = [each for each in ordered if each.kind != "https"]
        return tuple(each.path.key for each in (light or ordered)[:_WITNESSES_MOST])

    def judging(self, at: str) -> tuple[Probe, ...]:
        """The probes of all targets whose answers show that the way out of `at` works."""
        way = self.way(at)
        return tuple(_bound(each, way) for each in self.planned if judges_way(each))

    def _bound(self, way: str) -> tuple[Probe, ...]:
        """The probes, with `way` as the way out."""
        return tuple(_bound(each, way) if judges_way(each) else each for each in self.planned)


def judges_way(planned: Probe) -> bool:
    """Whether the answers of a planned probe come by the way out: those of neighbours do not."""
    return planned.path.key.startswith("target:") and planned.path.interface == TUNNEL


def _bound(probe: Probe, way: str) -> Probe:
    return probe if way == TUNNEL else replace(probe, path=replace(probe.path, interface=way))


def _by_uplink(probe: Probe, uplink: str) -> Probe:
    key = "direct:" + probe.path.key.removeprefix("target:")
    return replace(probe, path=MonitoredPath(key, probe.path.source, uplink))


def at_rest(settings: Settings) -> Settings:
    """The same, only measured: nothing of the host is changed."""
    policy = settings.policy and replace(settings.policy, failover=False, repair_drift=False)
    return replace(settings, failover=False, policy=policy, rests=True)


def default_interface(
    route: Path = Path("/proc/net/route"), ipv6_route: Path = Path("/proc/net/ipv6_route")
) -> str:
    """The interface of the default route in the main table (proc(5)); empty when there is none."""
    rows = [line.split() for line in _lines(route)[1:]]
    found = [(int(row[6]), row[0]) for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
    if not found:
        rows6 = [line.split() for line in _lines(ipv6_route)]
        # RTF_UP, and neither of the kernel's own reject routes nor of the tunnel.
        found = [
            (int(row[5], 16), row[9])
            for row in rows6
            if len(row) > 9 and row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo"
        ]
    outside = [each for each in found if each[1] != TUNNEL]
    return min(outside)[1] if outside else ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
