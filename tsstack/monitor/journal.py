"""The event log as a whole: what the history has, and what the running monitor knows beyond it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from tsstack.errors import CheckFailed, TsstackError
from tsstack.monitor.archive import Archive
from tsstack.monitor.client import Client, NotRunning
from tsstack.monitor.database import EVENTS_MOST
from tsstack.monitor.episodes import Episodes, Told, standing
from tsstack.monitor.events import SEVERITIES
from tsstack.monitor.snapshot import EXIT_NODE, Event, Severity

_LATEST = 1000
_AGAIN_S = 1.0
_KEYS = tuple(each.name for each in fields(Event))
_WORDS = (EXIT_NODE, "monitor", "file", "history", "alerts", "tailscaled")
"""What events are about beside paths, whether any was told yet or not."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Every event that is kept, and what stands now."""

    episodes: Episodes
    stands: tuple[Told, ...]
    live: bool
    """Whether a monitor answered: else `stands` is what stood when the last one wrote."""
    names: tuple[str, ...]
    """All that events can be about here, as far as is known."""
    silent: bool = False
    """A monitor runs and does not answer: what stands now is not known."""
    notes: tuple[str, ...] = ()
    """What is missing, as sentences for people."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted."""

    since: float = 0.0
    about: str = ""
    """The very thing, or else a part of its name; empty: all."""
    least: Severity = "info"

    def wants(self, told: Told) -> bool:
        """Whether this one is. An end is wanted when its beginning was."""
        worst = told.worst if told.event.over else told.event.severity
        return (
            told.event.at >= self.since
            and (not self.about or self.about.lower() in told.event.about.lower())
            and SEVERITIES.index(worst) >= SEVERITIES.index(self.least)
        )

    def concerns(self, told: Told) -> bool:
        """Whether something that stands is of what was asked about, whenever it began."""
        return (not self.about or self.about.lower() in told.event.about.lower()) and SEVERITIES.index(
            told.worst
        ) >= SEVERITIES.index(self.least)


def read(client: Client, archive: Archive) -> Journal:
    """All that is known. Raises NotRunning when there is neither a monitor nor a history."""
    state: Mapping[str, Any] | None = None
    latest: list[Event] = []
    notes: list[str] = []
    absent: NotRunning | None = None
    try:
        state = client.ask("state")
        latest = [event_of(each) for each in client.ask("events", count=_LATEST)]
    except NotRunning as error:
        state, absent = None, error
    try:
        kept = archive.events(limit=EVENTS_MOST)
        names = archive.paths()
    except TsstackError as error:
        if absent is not None:
            raise NotRunning(f"{absent.message}, and {error.message}", hint=absent.hint) from error
        kept, names = [], []
        notes.append(f"only what the running monitor remembers: {error.message}")
    if absent is not None:
        notes.append(f"{absent.message}: this is from the history")
    episodes = Episodes(merged(kept, latest))
    paths = [each["key"] for each in state["paths"]] if state is not None else []
    abouts = dict.fromkeys([*(each.event.about for each in episodes.told), *paths, *names, *_WORDS])
    stands = tuple(standing(episodes.told, state))
    episodes.keep({each.event.about for each in stands})
    silent = absent is not None and absent.silent
    return Journal(episodes, stands, absent is None, tuple(abouts), silent, tuple(notes))


def merged(kept: Iterable[Event], latest: Iterable[Event]) -> list[Event]:
    """The history's events and the newest ones, which it may not have written yet; each once, in order."""
    events = list(kept)
    there = {identity(each) for each in events}
    events += [each for each in latest if identity(each) not in there]
    return sorted(events, key=lambda each: each.at)  # stable: what happened at once stays in its order


def identity(event: Event) -> tuple[float, str, str, bool]:
    """What tells one event from another."""
    return round(event.at, 6), event.code, event.about, event.over


def event_of(told: Mapping[str, Any]) -> Event:
    """An event as the socket tells it; what a newer monitor says beside it is left out."""
    return Event(**{name: told[name] for name in _KEYS})


def named(about: str, names: Sequence[str]) -> str:
    """What `--about` means: the very name, or a part of one. CheckFailed for no name at all."""
    exact = next((each for each in names if each.lower() == about.lower()), None)
    if exact is not None or any(about.lower() in each.lower() for each in names):
        return exact or about
    parts = {each.lower(): each for each in names} | {
        part: each for each in names for part in each.split(":")
    }
    near = dict.fromkeys(parts[each] for each in get_close_matches(about.lower(), parts, n=3, cutoff=0.5))
    hint = f"the nearest: {', '.join(near)}" if near else f"there are {', '.join(names[:6])}"
    raise CheckFailed(f"no event is about {about!r}", hint=hint)


def follow(
    client: Client,
    seen: Iterable[Event],
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Event]:
    """What happens from now on, for ever: none twice, none left out, also when the monitor is restarted.

    `say` is told once when no monitor answers, and once when one does again.
    """
    past = {identity(each) for each in seen}
    away = False
    while True:
        try:
            for line in client.follow(begun=True):
                if away:
                    say("the monitor answers again")
                    away = False
                for event in _of_line(client, line):
                    if identity(event) not in past:
                        past.add(identity(event))
                        yield event
        except NotRunning as error:
            if not away:
                say(f"{error.message}: waiting for it")
                away = True
        except ConnectionError:
            pass  # it ended while it was read from
        sleep(_AGAIN_S)


def _of_line(client: Client, line: Mapping[str, Any]) -> list[Event]:
    """The events of a line that a subscriber gets; when it has just begun, what happened before it had."""
    if "event" in line:
        return [event_of(line["event"])]
    return [event_of(each) for each in client.ask("events", count=_LATEST)] if "subscribed" in line else []
