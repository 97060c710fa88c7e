"""The walk from the file to a packet: area by area, and what one of them meets does not stop the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tsstack.doctor.arrival import ArrivalFacts, PeerFacts, check_arrival, check_peer, unproven
from tsstack.doctor.certificates import check_certificates
from tsstack.doctor.engines import check_engines
from tsstack.doctor.file import check_file
from tsstack.doctor.finding import Finding, Level, worst
from tsstack.doctor.foreign import check_foreign
from tsstack.doctor.forwarding import check_forwarding
from tsstack.doctor.gathering.file import FileRead, read_file
from tsstack.doctor.generations import check_generation
from tsstack.doctor.listeners import check_listeners
from tsstack.doctor.machine import check_clock, check_disks, check_units
from tsstack.doctor.names import check_names
from tsstack.doctor.needs import Needs, needs_of, plan_of
from tsstack.doctor.remarks import check_remarks
from tsstack.doctor.rights import check_rights
from tsstack.errors import TsstackError
from tsstack.model.facts import Facts
from tsstack.parts.part import Tree
from tsstack.parts.proxy.plan import Plan
from tsstack.status.forwarding import SWITCHES, own_switch, switched_off
from tsstack.status.gather import Sources, gather
from tsstack.status.shape import Status
from tsstack.switch.site import Site

_T = TypeVar("_T")
_R = TypeVar("_R")

Report = Callable[[str], None]
"""Takes the name of what is being asked."""

_HIDDEN = (
    "what differs from the live generation",
    "the packet filter",
    "other firewalls",
    "whose the sockets are",
    "certificates",
    "features of the kernel",
)

# Longer than a screen would: what was not tried is told as what may be, and the fix is for what was alone.
_OTHERS_S = 20.0

_THOROUGH = ("what the parts remark", "what the engines say of the live generation")


@dataclass(frozen=True, slots=True)
class Section:
    """One area of the walk and what was found there."""

    area: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        return worst(self.findings)


@dataclass(frozen=True, slots=True)
class Examination:
    """All of it, in the order of the chain."""

    host: str
    generation: int
    sections: tuple[Section, ...]
    unproven: tuple[str, ...] = ()
    """What could not be shown from here, a sentence each."""
    left_out: tuple[str, ...] = ()
    """What `quick` did not ask."""
    duration_s: float = 0.0

    @property
    def level(self) -> Level:
        return max((each.level for each in self.sections), key=("ok", "warning", "error").index, default="ok")

    @property
    def findings(self) -> Iterator[tuple[str, Finding]]:
        """(area, finding), in order."""
        for section in self.sections:
            for finding in section.findings:
                yield section.area, finding


@dataclass(frozen=True)
class Request:
    """What is asked of the doctor."""

    file: Path
    named: bool = False
    """Whether somebody named the file, so that its absence is a fault."""
    peer: str = ""
    """The peer whose way to this host is of interest; empty: none."""
    quick: bool = False


@dataclass
class _Scene:
    """What several areas look at; each is looked at once, by whoever comes first."""

    site: Site
    request: Request
    facts: Facts
    arrival: ArrivalFacts = field(default_factory=ArrivalFacts)
    peer: PeerFacts | None = None
    remarked: set[str] = field(default_factory=set)

    @cached_property
    def status(self) -> Status:
        paths = self.site.paths
        return gather(
            Sources(
                state=str(paths.state),
                run=str(paths.run),
                tailscaled=str(paths.tailscale_socket),
                monitor=str(paths.run / "monitor.sock"),
            )
        )

    @cached_property
    def live(self) -> int:
        return self.site.store.current()

    @cached_property
    def live_tree(self) -> Tree:
        return self.site.store.known(self.live) or {}  # TS833, TS754 where it is not whole

    @cached_property
    def file(self) -> FileRead:
        request = self.request
        return read_file(request.file, asked=request.named, site=self.site, facts=self.facts, live=self.live)

    @cached_property
    def needs(self) -> Needs:
        """Of the file where it is sound, else of what is live."""
        tree = self.file.tree
        if tree is None:
            tree = self.live_tree if self.live else None
        return _sound(needs_of, tree)

    @cached_property
    def plan(self) -> Plan | None:
        """What nginx ought to serve now."""
        return _sound(plan_of, self.live_tree)

    @property
    def shut(self) -> str:
        """Why nobody gets to any service, as another finding tells; empty: nothing is known against it."""
        if self.status["proxy"]["running"] is False:
            return "nginx does not answer"
        lost = [each["unreached"] for each in self.status["services"]]
        return lost[0] if lost and all(lost) else ""

    @property
    def own_name(self) -> str:
        return self.facts.tailscale.dns_name.lower() if self.facts.tailscale else ""


def examine(site: Site, request: Request, report: Report) -> Examination:
    """Ask everything; changes nothing. Raises CheckFailed where this machine cannot be looked at at all."""
    began_s = time.monotonic()
    scene = _Scene(site, request, site.facts())
    sections = []
    left_out = []
    for area, needed, checks in _AREAS:
        findings: list[Finding] = []
        for name, slow, check in checks:
            if slow and request.quick:
                left_out.append(name)
                continue
            report(name)
            findings += map(_with_fix, _guarded(name, needed, check, scene))
        if findings:
            sections.append(Section(area, tuple(findings)))
    return Examination(
        host=os.uname().nodename,
        generation=site.store.current(),
        sections=tuple(sections),
        unproven=_unproven(scene),
        left_out=(*left_out, *(_THOROUGH if request.quick else ())),
        duration_s=time.monotonic() - began_s,
    )


def _with_fix(finding: Finding) -> Finding:
    """An engine's own words come without a hint: then it is said where more of it stands."""
    bare = finding.level != "ok" and not finding.fix
    return replace(finding, fix=f"tsstack explain {finding.code}") if bare else finding


def _guarded(
    name: str,
    needed: Callable[[_Scene], bool],
    check: Callable[[_Scene], Iterable[Finding]],
    scene: _Scene,
) -> list[Finding]:
    """A check that cannot be made is a finding, and no reason not to make the others."""
    try:
        return list(check(scene)) if needed(scene) else []
    except (TsstackError, OSError) as error:
        hint = getattr(error, "hint", "")
        return [Finding("TS805", "warning", name, f"this could not be asked: {error}", hint)]
    except (ValueError, LookupError, TypeError) as error:  # what was read is not what it should be
        said = f"what was read makes no sense: {type(error).__name__}: {error}"
        return [Finding("TS805", "warning", name, said, "tsstack generations; tsstack switch")]


def _sound(read: Callable[[_T], _R], tree: _T) -> _R:
    try:
        return read(tree)
    except (ValueError, KeyError, TypeError) as error:
        raise TsstackError(
            f"the live generation is damaged: {error}",
            hint="tsstack rollback    # or, after a change of the file: tsstack switch",
        ) from error


def _unproven(scene: _Scene) -> tuple[str, ...]:
    if scene.shut:
        return (f"that new connections to the services arrive: not asked, since {scene.shut}",)
    if not scene.arrival.sockets or scene.plan is None:
        return ()
    urls = sorted(scene.plan.urls.values(), key=lambda url: url.startswith("tcp://"))
    url = next(iter(urls), "")
    return tuple(unproven(scene.arrival.sockets, scene.peer, url))


# --- the areas: each looks, then judges ---


def _file(scene: _Scene) -> Iterable[Finding]:
    return check_file(scene.file.facts)


def _rights(_: _Scene) -> Iterable[Finding]:
    return check_rights(is_root=os.geteuid() == 0, hidden=_HIDDEN)


def _engines(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.engines import look_at_engines

    return check_engines(look_at_engines(scene.needs, scene.facts))


def _disks(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.machine import look_at_disks

    paths = scene.site.paths
    return check_disks(look_at_disks(paths.state, paths.run, paths.log))


def _clock(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.machine import look_at_clock

    tailscale = scene.facts.tailscale
    return check_clock(
        look_at_clock(tailscale.control_url if tailscale else "", scene.facts.default_interface)
    )


def _units(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.machine import look_at_units

    return check_units(look_at_units(scene.facts))


def _generation(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.generations import look_at_generation

    hung = not scene.status["exit"]["known"]
    facts = look_at_generation(scene.site, scene.facts, thorough=not scene.request.quick, hung=hung)
    firewall = scene.status["firewall"]
    told = ["firewall"] if firewall["loaded"] is False or firewall["changed"] else []
    remarked = {each["code"] for each in scene.status["warnings"]}
    told += ["proxy"] if "TS725" in remarked else []
    told += ["tailscale"] if scene.status["tailnet"]["state"] != "Running" else []
    dead = [each["about"] for each in scene.status["warnings"] if each["code"] in {"TS721", "TS727"}]
    for each in check_remarks(scene.status, "generation"):
        if not (facts.drift and each.code == "TS755"):  # compared more closely below, part by part
            yield each
    moved = {"TS707", "TS709", "TS710", "TS711"}
    exit_is_told = scene.status["monitor"]["running"] and any(
        each["code"] in moved for each in scene.status["warnings"]
    )
    silent = _has_tailnet(scene) and any(each["code"] == "TS701" for each in scene.status["warnings"])
    pending = scene.status["generation"]["pending"]
    yield from check_generation(
        facts,
        told=told,
        dead=dead,
        exit_is_told=exit_is_told,
        silent=silent,
        pending=pending,
        parameters=(
            *dict(switched_off(scene.status)),
            *map(own_switch, scene.status["forwarding_off"]),
            *_told_routes(scene.status),
            *(("identity daemon",) if "TS720" in remarked else ()),
        ),
    )


def _told_routes(status: Status) -> Iterator[str]:
    """The key of the routes, where a remark tells of all that differs in them: a monitor withdrew it."""
    drift = any("AdvertiseRoutes" in line for line in status["generation"]["drift"])
    if not drift and any(each["code"] == "TS713" for each in status["warnings"]):
        yield "tailscale.advertise.routes"


def _remarks(area: str) -> Callable[[_Scene], Iterable[Finding]]:
    def check(scene: _Scene) -> Iterable[Finding]:
        return check_remarks(scene.status, area)

    return check


def _names(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.names import look_up_names

    return check_names(look_up_names(scene.plan, scene.facts, scene.own_name))


def _certificates(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.certificates import look_at_certificates

    found = look_at_certificates(scene.plan, scene.facts)
    return check_certificates(found, scene.status["at"])


def _forwarding(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.forwarding import look_at_forwarding

    live = _sound(needs_of, scene.live_tree)
    facts = look_at_forwarding(live, scene.facts, scene.status)
    told: dict[str, str] = dict(switched_off(scene.status))
    ipv4, ipv6 = (name in told for _, name in SWITCHES)
    facts = replace(facts, ipv4=None if ipv4 else facts.ipv4, ipv6=None if ipv6 else facts.ipv6)
    is_told = bool(told or scene.status["forwarding_off"])
    yield from (each for each in check_forwarding(facts) if not (is_told and each.level == "ok"))


def _foreign(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.foreign import look_at_others

    asked = os.geteuid() == 0 and scene.status["firewall"]["enabled"]
    if not asked:
        return check_foreign(None)
    return check_foreign(look_at_others(scene.site, scene.facts, longest_s=_OTHERS_S))


def _listeners(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.listeners import look_at_listeners

    return check_listeners(look_at_listeners(scene.plan, scene.facts, scene.status))


def _arrival(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.arrival import connect_to_self

    # One cause, one finding: what depends on it is not asked.
    scene.arrival = connect_to_self(None if scene.shut else scene.plan, scene.facts)
    return check_arrival(scene.arrival)


def _peer(scene: _Scene) -> Iterable[Finding]:
    from tsstack.doctor.gathering.arrival import ask_peer

    scene.peer = ask_peer(scene.request.peer, scene.plan, scene.facts, scene.file.loaded)
    return check_peer(scene.peer)


def _services(scene: _Scene) -> Iterable[Finding]:
    """Where a remark tells that nginx is silent, or serves something else, that is not told twice."""
    remarks = list(check_remarks(scene.status, "services"))
    told = any(each.code in {"TS725", "TS726"} for each in remarks)
    yield from (each for each in _listeners(scene) if not (told and each.code == "TS866"))
    yield from remarks


def _always(_: _Scene) -> bool:
    return True


def _has_proxy(scene: _Scene) -> bool:
    return "nginx/plan.json" in scene.live_tree


def _has_names(scene: _Scene) -> bool:
    """The tailnet's resolver is tailscaled: it is asked where that is up."""
    return _has_proxy(scene) and scene.status["tailnet"]["state"] == "Running"


def _has_tailnet(scene: _Scene) -> bool:
    """A host whose file speaks of no tailnet, and that has none, misses none."""
    return scene.needs.tailnet or scene.facts.tailscale is not None


def _has_forwarding(scene: _Scene) -> bool:
    return _has_tailnet(scene) or any(switched_off(scene.status))


_Check = tuple[str, bool, Callable[[_Scene], Iterable[Finding]]]
"""What is asked, whether that may take seconds, and how."""

_AREAS: tuple[tuple[str, Callable[[_Scene], bool], tuple[_Check, ...]], ...] = (
    ("file", _always, (("the file", False, _file),)),
    ("rights", _always, (("rights", False, _rights),)),
    ("engines", _always, (("engines and kernel", False, _engines),)),
    (
        "machine",
        _always,
        (("disks", False, _disks), ("the clock", True, _clock), ("units", False, _units)),
    ),
    ("generation", _always, (("the live generation", False, _generation),)),
    ("monitor", _always, (("the monitor", False, _remarks("monitor")),)),
    ("tailnet", _has_tailnet, (("tailscaled", False, _remarks("tailnet")),)),
    (
        "forwarding",
        _has_forwarding,
        (("what is switched off", False, _remarks("forwarding")), ("forwarding", False, _forwarding)),
    ),
    (
        "firewall",
        _always,
        (("the packet filter", False, _remarks("firewall")), ("other firewalls", True, _foreign)),
    ),
    ("names", _has_names, (("names", True, _names),)),
    (
        "certificates",
        _has_proxy,
        (
            ("certificates' ends", False, _remarks("certificates")),
            ("certificates", False, _certificates),
        ),
    ),
    (
        "services",
        _has_proxy,
        (("sockets and services", False, _services),),
    ),
    ("arrival", _always, (("new connections", True, _arrival),)),
    ("peer", lambda scene: bool(scene.request.peer), (("the peer", False, _peer),)),
)
