"""What the rules about kernel parameters need to know of this host, read from /proc and /sys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tsstack.model.facts import Facts
from tsstack.parts.kernel import plan, record
from tsstack.parts.kernel.sysctl import Sysctls
from tsstack.parts.part import Tree
from tsstack.prove.expected import TAILNET_INTERFACE
from tsstack.switch import kernel_ways
from tsstack.switch.kernel_ways import CONCERNED, POOR_BPS, Ground
from tsstack.switch.routes import own_addresses

# linux/if.h; linux/ipv6_route.h
_IFF_NOARP, _RTF_ADDRCONF = 0x80, 0x40000


class Planned(NamedTuple):
    """What a change does to the parameters and limits that a way in may hang on."""

    values: dict[str, str]
    limits: dict[str, int]
    """Bits per second, by interface: of both directions the lower, since a log-in needs both."""
    origins: Mapping[str, str]
    """The key of the file behind each parameter; one that goes back to what it was has none."""
    live: dict[str, str | None]

    def __bool__(self) -> bool:
        return bool(self.values or self.limits)


def planned(tree: Tree, facts: Facts) -> Planned:
    """The kernel part's plan for `tree`, without asking a program of what hangs on nobody's way in."""
    sysctls, kept, wanted = Sysctls(), record.read(facts.paths.state), plan.parse(tree)
    asked = {name: value for name, value in wanted.sysctl.items() if _concerns(name)}
    before = {name: value for name, value in kept.sysctl.items() if _concerns(name)}
    live = {name: sysctls.read(name) for name in {*asked, *before}}
    fixed = tuple(name for name in asked if live[name] is not None and not sysctls.is_writable(name))
    steps = plan.steps(
        plan.Wanted(asked, wanted.origins, {}),
        plan.Live(live, fixed, {}, {}, record.Record(before, {}, {}, kept.skipped)),
    )
    limits: dict[str, int] = {}
    for interface in wanted.links:
        set_now = kept.links.get(interface, {})
        for direction, spec in wanted.limits(interface).items():
            rate_bps = int(spec["rate_bps"])
            if rate_bps < POOR_BPS and set_now.get(direction, {}).get("rate_bps") != spec["rate_bps"]:
                limits[interface] = min(rate_bps, limits.get(interface, rate_bps))
    return Planned({step.subject: str(step.after) for step in steps}, limits, wanted.origins, live)


def _concerns(name: str) -> bool:
    return name.rpartition(".")[2] in CONCERNED


def look_around(facts: Facts, snapshot: Mapping[str, str | None]) -> Ground:
    """The host as it is; `snapshot` has the parameters that are known already."""
    sysctls = Sysctls()

    @cache
    def read(name: str) -> str | None:
        return snapshot[name] if name in snapshot else sysctls.read(name)

    addresses = list(own_addresses())
    return Ground(
        read,
        _resolves,
        {address: interface for address, interface, _ in addresses},
        frozenset(address for address, _, lasting in addresses if not lasting),
        _underlays(facts),
        below,
        frozenset(name for pair in facts.vrf_members for name in pair),
    )


def drops_lopsided(interface: str) -> bool:
    """Whether it drops what would be answered by another: the larger of `all` and its own rp_filter is 1."""
    sysctls = Sysctls()
    names = (f"net.ipv4.conf.{each}.rp_filter" for each in (interface.replace(".", "/"), "all"))
    return max(int(sysctls.read(name) or 0) for name in names) == 1


@cache
def _resolves(interface: str) -> bool:
    try:
        flags = int(Path(f"/sys/class/net/{interface}/flags").read_text(), 16)
    except (FileNotFoundError, ValueError):  # one that is yet to come: most are Ethernet
        return interface not in {"lo", TAILNET_INTERFACE}
    return interface != "lo" and not flags & _IFF_NOARP


def below(interface: str) -> list[str]:
    """Linux, Documentation/ABI/testing/sysfs-class-net: links named `lower_` and the interface."""
    folder = Path(f"/sys/class/net/{interface}")
    return sorted(each.name.removeprefix("lower_") for each in folder.glob("lower_*"))


def _underlays(facts: Facts) -> tuple[kernel_ways.Path, ...]:
    """The default routes of the usual table: tailscaled's own packets never take the tailnet's."""
    found = [kernel_ways.Path(facts.default_interface, 4, gateway=True)] if facts.default_interface else []
    try:
        rows = [line.split() for line in Path("/proc/net/ipv6_route").read_text().splitlines()]
    except FileNotFoundError:  # a kernel without IPv6
        rows = []
    defaults = [row for row in rows if row[1] == "00" and row[9] not in {"lo", TAILNET_INTERFACE}]
    if defaults:
        best = min(defaults, key=lambda row: int(row[5], 16))
        found.append(
            kernel_ways.Path(best[9], 6, gateway=True, learnt=bool(int(best[8], 16) & _RTF_ADDRCONF))
        )
    return tuple(found)
