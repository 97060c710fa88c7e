"""One moment as the dashboard shows it, and how it follows from the moment before. Pure.

A frame is made by the worker and never changed after that: the screen reads it from another thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import localtime, strftime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from tsstack.tui.cells import LOST

if TYPE_CHECKING:
    from tsstack.status.logged import Logged
    from tsstack.status.shape import Counter, Status

KEPT = 240
"""Values of each series, one a second."""
_SERIES_PACE_S = 0.95
_RATE_OVER_S = 0.95
_NONE: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NONE


class Away(NamedTuple):
    """Someone who does not answer."""

    why: str
    since: float
    """Since when that is seen, seconds since 1970."""


class Rate(NamedTuple):
    """What a counter sees in a second."""

    packets: float
    bytes: float


class Generation(NamedTuple):
    """What the host was, or is."""

    number: int
    made: float
    source: str
    summary: tuple[str, ...]
    fault: str = ""
    """Why nothing more is known of it; empty where all is."""


class Permissions(NamedTuple):
    """What this user may do. Whoever refuses has the last word; this is what is said beforehand."""

    steer: bool
    """Choose the exit node, hold the monitor: root and the monitor's own user."""
    switch: bool
    """Go to another generation: root."""


NOTHING = Permissions(steer=False, switch=False)


@dataclass(frozen=True, slots=True)
class Frame:
    """All that is shown."""

    status: Status
    """With the last words of those who do not answer now, as far as nothing newer is known."""
    permissions: Permissions = NOTHING
    away: Mapping[str, Away] = field(default_factory=_nothing)
    """`tailscaled` and `monitor`, while they do not answer."""
    rtts: Mapping[str, tuple[float | None, ...]] = field(default_factory=_nothing)
    """Of each path by its key: one a second, `LOST` for a probe without an answer, None for no news."""
    rates: Mapping[str, Rate] = field(default_factory=_nothing)
    """By counter, as `counters` names them."""
    drops: Mapping[str, tuple[float | None, ...]] = field(default_factory=_nothing)
    """Packets refused in a second, by counter, one a second."""
    logged: Logged | None = None
    """What the kernel has logged of it lately; None: not read yet."""
    generations: tuple[Generation, ...] | None = None
    """The newest first; None: not read yet."""
    generations_fault: str = ""
    """Why they cannot be listed; empty: they can."""
    remembered: Mapping[str, Mapping[str, Any]] = field(default_factory=_nothing)
    """By service: what the monitor said of it last, where nothing newer is known."""
    _heard: Mapping[str, Mapping[str, Any]] = field(default_factory=_nothing, repr=False)
    _marks: tuple[tuple[float, Mapping[str, Counter]], ...] = field(default=(), repr=False)
    _stepped: float = field(default=0.0, repr=False)

    @property
    def old_exit(self) -> bool:
        """Whether the way out in use is the one of before: tailscaled runs and does not say."""
        return "tailscaled" in self.away and not self.status["exit"]["known"]

    def as_of(self, name: str) -> str:
        """`, as of 08:01:30` where the figures of `tailscaled` or `monitor` are old; else empty."""
        away = self.away.get(name)
        return f", as of {strftime('%H:%M:%S', localtime(away.since))}" if away else ""


def counters(status: Status) -> dict[str, Counter]:
    """The firewall's counters: `ZONE/accepted`, `/forwarded`, `/refused`, and those of no zone by name."""
    firewall = status["firewall"]
    found = dict(firewall["dropped"])
    for zone in firewall["zones"]:
        for name in ("accepted", "forwarded", "refused"):
            counter = zone[name]
            if counter is not None:
                found[f"{zone['name']}/{name}"] = counter
    return found


def next_frame(
    before: Frame | None,
    status: Status,
    permissions: Permissions,
    generations: tuple[Generation, ...] | None = None,
    generations_fault: str = "",
) -> Frame:
    """The frame of `status`, with what `before` remembers."""
    now = status["at"]
    told = counters(status)
    marks = (before._marks if before else ()) + ((now, told),)
    marks = _recent(marks, now)
    remembered = _remembered(before, status)
    frame = Frame(
        status=_with_the_old(before, status, remembered),
        permissions=permissions,
        away=_away(before, status),
        rtts=before.rtts if before else _NONE,
        rates=_rates(marks),
        drops=before.drops if before else _NONE,
        generations=generations,
        generations_fault=generations_fault,
        remembered=remembered,
        _heard=_heard(before, status),
        _marks=marks,
        _stepped=before._stepped if before else 0.0,
    )
    if now - frame._stepped < _SERIES_PACE_S:
        return frame
    return replace(frame, rtts=_stepped_rtts(frame.rtts, status), drops=_stepped_drops(frame), _stepped=now)


def _tells(status: Status) -> bool:
    """Whether the monitor says how things are: one may run and refuse to."""
    return status["monitor"]["running"] and status["monitor"]["state"] is not None


def _away(before: Frame | None, status: Status) -> Mapping[str, Away]:
    known = before.away if before else _NONE
    found: dict[str, Away] = {}
    monitor = status["monitor"]
    seen = before is not None and before.status["monitor"]["state"] is not None
    for name, why in (
        ("tailscaled", status["tailnet"]["error"]),
        ("monitor", monitor["error"] if not _tells(status) and (monitor["wanted"] or seen) else ""),
    ):
        if why:
            found[name] = Away(why, known[name].since if name in known else status["at"])
    return MappingProxyType(found)


def _with_the_old(
    before: Frame | None, status: Status, remembered: Mapping[str, Mapping[str, Any]]
) -> Status:
    """The status with the last words of those who do not answer, where nothing newer is known."""
    if before is None:
        return status
    old = before.status
    if status["tailnet"]["error"] and old["tailnet"]["state"]:
        tailnet: Any = {**old["tailnet"], "error": status["tailnet"]["error"]}
        status = {**status, "tailnet": tailnet, "peers": old["peers"]}
        if not status["exit"]["known"]:  # of a tailscaled that does not run it is: no exit node is in use
            way: Any = {**status["exit"], **{name: old["exit"][name] for name in ("using", "online")}}
            status = {**status, "exit": way}
    monitor = status["monitor"]
    if not _tells(status) and old["monitor"]["state"] is not None:
        services: Any = [
            each if each["unreached"] else {**each, **remembered.get(each["name"], _NONE)}
            for each in status["services"]
        ]
        kept: Any = {**monitor, "state": old["monitor"]["state"]}
        status = {**status, "monitor": kept, "services": services}
    return status


def _remembered(before: Frame | None, status: Status) -> Mapping[str, Mapping[str, Any]]:
    """What the monitor said last of each service. Without one: of those of which nothing else is known.

    What nginx tells by its silence is known without a monitor, and is no word of the monitor's.
    """
    known = before._heard if before else _NONE
    return MappingProxyType(
        {
            each["name"]: known[each["name"]]
            for each in status["services"]
            if each["level"] == "unknown" and each["name"] in known and not _tells(status)
        }
    )


def _heard(before: Frame | None, status: Status) -> Mapping[str, Mapping[str, Any]]:
    """What a monitor has said of the services, by name."""
    if not _tells(status) or status["proxy"]["running"] is False:
        return before._heard if before else _NONE
    return MappingProxyType(
        {
            each["name"]: {key: each[key] for key in ("level", "rtt_s", "error")}
            for each in status["services"]
            if not each["unreached"]
        }
    )


def _recent(
    marks: tuple[tuple[float, Mapping[str, Counter]], ...], now: float
) -> tuple[tuple[float, Mapping[str, Counter]], ...]:
    """The newest mark that is old enough to count from, and those after it."""
    old = [at for at, (when, _) in enumerate(marks) if now - when >= _RATE_OVER_S]
    return marks[old[-1] :] if old else marks


def _rates(marks: tuple[tuple[float, Mapping[str, Counter]], ...]) -> Mapping[str, Rate]:
    """None of a counter that began anew in between: the table was loaded again."""
    (start, first), (end, last) = marks[0], marks[-1]
    found = {}
    if end - start >= _RATE_OVER_S:
        for name, counter in last.items():
            if name in first and counter["packets"] >= first[name]["packets"]:
                found[name] = Rate(
                    (counter["packets"] - first[name]["packets"]) / (end - start),
                    max(0, counter["bytes"] - first[name]["bytes"]) / (end - start),
                )
    return MappingProxyType(found)


def _stepped_rtts(
    series: Mapping[str, tuple[float | None, ...]], status: Status
) -> Mapping[str, tuple[float | None, ...]]:
    monitor = status["monitor"]
    if not monitor["running"] or monitor["state"] is None:
        return MappingProxyType({key: (*values, None)[-KEPT:] for key, values in series.items()})
    found = {}
    for path in monitor["state"]["paths"]:
        value = path["rtt_s"]
        if path["error"]:  # what says nothing of the path is no loss: the windows know nothing of it either
            value = LOST if path.get("counted", True) else None
        found[path["key"]] = (*series.get(path["key"], ()), value)[-KEPT:]
    return MappingProxyType(found)


def _stepped_drops(frame: Frame) -> Mapping[str, tuple[float | None, ...]]:
    names = [name for name in frame._marks[-1][1] if "/" not in name or name.endswith("/refused")]
    found = {}
    for name in names:
        rate = frame.rates.get(name)
        found[name] = (*frame.drops.get(name, ()), rate.packets if rate else None)[-KEPT:]
    return MappingProxyType(found)
