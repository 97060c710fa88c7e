"""What the file asks of the monitor, as one value: reloading replaces it whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.monitor.choice import DIRECT, Policy
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.probes.targets import plan_probes
from tsstack.monitor.sample import Path as MonitoredPath
from tsstack.monitor.verdict import Limits

if TYPE_CHECKING:
    from tsstack.errors import Finding
    from tsstack.model.sections import Monitor
    from tsstack.model.stack import Stack

TUNNEL = "tailscale0"
DEFAULT_TARGETS = ({"icmp": "1.1.1.1"}, {"icmp": "9.9.9.9"}, {"tcp": "1.1.1.1:443"})
"""Asked when the file names no target beyond this host's own networks: two operators of public resolvers."""
_WITNESSES_MOST = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """A file as the monitor needs it."""

    stack: Stack
    """Its monitor section is there, with targets that can judge a way out where one is used."""
    monitor: Monitor
    limits: Limits
    policy: Policy | None
    """None when the file names no exit node to use."""
    uplink: str
    """The interface that leads out without an exit node; empty: as the routes say."""
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
        return "" if self.monitor.failover else "the file says `failover: false`: the monitor changes nothing"

    def way(self, at: str) -> str:
        """The interface that leads out by what is in use; empty: as the routes say."""
        if self.policy is None:
            return ""
        return TUNNEL if at != DIRECT else self.uplink

    def probes(self, at: str) -> tuple[Probe, ...]:
        """All probes while `at` is in use: what `plan_probes` says, and the targets by the bare uplink where
        the file allows to go there (their keys begin with `direct:` instead of `target:`).
        """
        planned = plan_probes(self.stack, way=self.way(at))
        policy = self.policy
        if policy is None or policy.otherwise != "direct" or at == DIRECT or not self.uplink:
            return planned
        direct = [_by_uplink(each, self.uplink) for each in planned if judges_way(each, TUNNEL)]
        return (*planned, *direct)

    def witnesses(self, at: str) -> tuple[str, ...]:
        """The keys of the few targets that are asked at the quick pace whether the way in use works.

        Pages last: they cost their server most.
        """
        if self.policy is None:
            return ()
        bound = [each for each in plan_probes(self.stack, way=self.way(at)) if judges_way(each, self.way(at))]
        ordered = sorted(bound, key=lambda each: each.kind == "https")
        light = [each for each in ordered if each.kind != "https"]
        return tuple(each.path.key for each in (light or ordered)[:_WITNESSES_MOST])


def judges_way(probe: Probe, way: str) -> bool:
    """Whether this target's answers come by the way out."""
    return probe.path.key.startswith("target:") and probe.path.interface == way


def _by_uplink(probe: Probe, uplink: str) -> Probe:
    key = "direct:" + probe.path.key.removeprefix("target:")
    return replace(probe, path=MonitoredPath(key, probe.path.source, uplink))


def read_settings(file: Path, source: bytes | None = None) -> Settings:
    """Read the file, or `source` as if it were its content.

    Raises ConfigError with every fault and its place.
    """
    from tsstack import assets
    from tsstack.errors import ConfigError
    from tsstack.model.lint import lint
    from tsstack.model.loader import load_presets, load_stack, parse_stack

    presets = load_presets(assets.folder("zones"))
    loaded = load_stack(file, presets) if source is None else parse_stack(source, file, presets)
    findings = lint(loaded, None)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigError(
            f"{file} has {'1 fault' if len(errors) == 1 else f'{len(errors)} faults'}", findings=findings
        )
    warnings = tuple(finding for finding in findings if finding.severity == "warning")
    return replace(settings_of(loaded.stack), findings=warnings)


def settings_of(stack: Stack, *, uplink: str | None = None) -> Settings:
    """The same from a stack that is at hand. `uplink`: default the file's, else that of the default route."""
    from tsstack.model.sections import Monitor

    policy = Policy.of(stack)
    monitor = stack.monitor or Monitor()
    with_monitor = stack.model_copy(update={"monitor": monitor})
    missing = policy is not None and not _any_beyond(with_monitor)
    if missing:
        ours = Monitor.model_validate({"targets": list(DEFAULT_TARGETS)}).targets
        monitor = monitor.model_copy(update={"targets": (*monitor.targets, *ours)})
        with_monitor = stack.model_copy(update={"monitor": monitor})
    if uplink is None:
        uplink = stack.host.uplink or default_interface()
    return Settings(with_monitor, monitor, Limits.of(monitor), policy, uplink, missing)


def at_rest(settings: Settings) -> Settings:
    """The same, only measured: nothing of the host is changed."""
    monitor = settings.monitor.model_copy(update={"failover": False})
    policy = settings.policy and replace(settings.policy, failover=False, repair_drift=False)
    return replace(settings, monitor=monitor, policy=policy, rests=True)


def _any_beyond(stack: Stack) -> bool:
    return any(judges_way(each, TUNNEL) for each in plan_probes(stack, way=TUNNEL))


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
