"""Which event began something and which one ended it, how long it lasted, and what still stands. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from tsstack.monitor.events import SEVERITIES
from tsstack.monitor.snapshot import EXIT_NODE, Event, Severity

_LEVELS: Mapping[str, Severity] = {"suspect": "warning", "poor": "warning", "dead": "critical"}
_BEGINS = frozenset({"moved", "returned", "blocked", "direct", "fought", "withdrawn", "backup"})
"""Codes that begin something that lasts, beside those of paths and troubles. Other warnings pass by
themselves (`repaired`), or what they come of stands by its own name (the path behind `nothing-better`)."""
_REPLACED_BY: Mapping[str, frozenset[str]] = {
    "blocked": frozenset({"proven", "manual"}),
    "moved": frozenset({"manual"}),
    "returned": frozenset({"manual"}),
    "direct": frozenset({"manual"}),
    "fought": frozenset({"manual", "repaired"}),
}
"""What ends these without an event that says `over`."""
_KEPT = (EXIT_NODE, "offer:", "upstream:")
"""What a monitor that starts takes up from the one before; all else it finds and tells anew."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and what became of it."""

    event: Event
    lasted_s: float | None = None
    """How long this lasted until the next of the same thing. For an end (`over`): the whole of it, since the
    first that was not well. None: it lasts still, or it is nothing that lasts."""
    stands: bool = False
    """It has not ended, as far as these events say."""
    worst: Severity = "info"
    """The worst of the whole that this is a part of."""

    def as_json(self) -> dict[str, Any]:
        """The event's own keys with these beside them."""
        return {**asdict(self.event), "lasted_s": self.lasted_s, "stands": self.stands}


@dataclass(slots=True)
class _Open:
    """What has begun of one thing and is not over."""

    began: float
    places: list[int]
    """Of its events in `told`; the last is the one that holds."""
    worst: Severity


class Episodes:
    """Takes in events as they happened, oldest first, and knows of each what became of it."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.told: list[Told] = []
        self._open: dict[str, _Open] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> Told:
        """One more event; what it ends or goes on with is marked in `told`."""
        holds = self._open.get(event.about)
        now = Told(event, worst=event.severity)
        if event.over:
            ended = self._close(event.about, event.at)
            if ended is not None:
                now = replace(now, lasted_s=max(0.0, event.at - ended.began), worst=ended.worst)
        elif _begins(event) or (holds is not None and event.code.startswith("path-")):
            now = replace(now, stands=True)
            self._go_on(event, holds)
        elif holds is not None and event.code in self._ends_of(holds):
            self._close(event.about, event.at)
        if event.code == "started":
            for about in [each for each in self._open if not each.startswith(_KEPT)]:
                self._close(about, event.at)
        self.told.append(now)
        return now

    def keep(self, abouts: Collection[str]) -> None:
        """Of what seems to stand only these do: the rest ended without a word, as when the file changed."""
        for about in [each for each in self._open if each not in abouts]:
            last = self._open.pop(about).places[-1]
            self.told[last] = replace(self.told[last], stands=False)

    def _go_on(self, event: Event, holds: _Open | None) -> None:
        if holds is None:
            holds = self._open[event.about] = _Open(event.at, [], event.severity)
        else:
            self._pass(holds, event.at)
        holds.places.append(len(self.told))
        holds.worst = max(holds.worst, event.severity, key=SEVERITIES.index)

    def _close(self, about: str, at: float) -> _Open | None:
        each = self._open.pop(about, None)
        if each is not None:
            self._pass(each, at)
        return each

    def _pass(self, holds: _Open, at: float) -> None:
        """What held until `at` holds no longer."""
        last = self.told[holds.places[-1]]
        self.told[holds.places[-1]] = replace(last, lasted_s=max(0.0, at - last.event.at), stands=False)

    def _ends_of(self, holds: _Open) -> frozenset[str]:
        return _REPLACED_BY.get(self.told[holds.places[-1]].event.code, frozenset())


def standing(told: Iterable[Told], state: Mapping[str, Any] | None) -> list[Told]:
    """What still stands, the worst first, the oldest of these first; `worst` is how bad it is now.

    With the running monitor's state (docs/monitor-socket.md) only what that confirms, and also what it knows
    and the events do not: those that are long past are dropped from the log.
    """
    stands = {each.event.about: each for each in told if each.stands}
    if state is None:
        now = [replace(each, worst=_severity_of(each.event)) for each in stands.values()]
    else:
        now = []
        for about, event in _of_state(state, stands).items():
            before = stands.get(about)
            same = before is not None and before.event.code == event.code
            now.append(Told(before.event if before and same else event, stands=True, worst=event.severity))
    return sorted(now, key=lambda each: (-SEVERITIES.index(each.worst), each.event.at))


def others_serve(key: str, paths: Iterable[Mapping[str, Any]]) -> bool:
    """Whether `key` is an upstream (`service:wiki#0`), and another one of its service is not dead.

    `paths` are those of the monitor's state (docs/monitor-socket.md).
    """
    service, numbered, _ = key.rpartition("#")
    return bool(numbered) and any(
        each["key"] != key and each["key"].rpartition("#")[0] == service and each["level"] != "dead"
        for each in paths
    )


def _begins(event: Event) -> bool:
    if event.severity == "info":
        return False
    if event.code.startswith("path-"):
        return True
    # A trouble that lasts comes from the list of those that stand, and says its message apart.
    return event.code in _BEGINS or (event.code == "trouble" and "message" in event.data)


def _severity_of(event: Event) -> Severity:
    """How bad what the event told is while it lasts: a dead path that answers again is poor, told as news."""
    level = event.code.removeprefix("path-")
    return _LEVELS.get(level, event.severity) if level != event.code else event.severity


def _of_state(state: Mapping[str, Any], stands: Mapping[str, Told]) -> dict[str, Event]:
    """What stands by the monitor's own word, as events that could have told it."""
    now = state["at"]
    found: dict[str, Event] = {}
    for each in state["paths"]:
        severity = _LEVELS.get(each["level"])
        if severity is not None:
            if others_serve(each["key"], state["paths"]):
                severity = "warning"
            text = "; ".join([f"is {each['level']}", *(cause["text"] for cause in each["causes"])])
            found[each["key"]] = Event(
                each["since"], f"path-{each['level']}", severity, each["key"], text, {}
            )
    for each in state["troubles"]:
        found[each["about"]] = Event(now, "trouble", "warning", each["about"], each["message"], {})
    for each in state["routes"]:
        about = f"offer:{each['network']}"
        if each["withdrawn"]:
            why = "for a while yet" if each["level"] == "good" else "its side is dead"
            found[about] = Event(now, "withdrawn", "warning", about, f"is withdrawn, {why}", {})
    way = _of_exit(state.get("exit"), now, stands.get(EXIT_NODE))
    if way is not None:
        found[EXIT_NODE] = way
    # The state says nothing of the proxy's upstreams: what the events say holds.
    found.update((about, each.event) for about, each in stands.items() if about.startswith("upstream:"))
    return found


def _of_exit(way: Mapping[str, Any] | None, now: float, before: Told | None) -> Event | None:
    """What is not as the file wishes of the way out; None when all is, or somebody chose it by hand."""
    if way is None:
        return None
    said = before.event.code if before is not None else ""
    first = next((each["name"] for each in way["candidates"]), way["at"])
    drifts = way["actual"] is not None and way["actual"] != way["at"] and not way["moving"]
    why = "; ".join(way["why"])
    if way["blocked"]:
        return Event(now, "blocked", "critical", EXIT_NODE, why or "no candidate works: blocked", {})
    if drifts:
        code, severity = ("fought", "critical") if said == "fought" else ("drift", "warning")
    elif way["manual"] is not None or way["at"] == first:
        return None
    elif way["at"]:
        code, severity = ("returned" if said == "returned" else "moved"), "warning"
    else:
        code, severity = "direct", "critical"
    text = why or f"is at {way['at'] or 'the bare uplink'}"
    return Event(now, code, cast("Severity", severity), EXIT_NODE, text, {})
