"""Who asks, off the screen's thread: the status each second, the events as they come.

The newest frame lies in a slot for whoever wants to draw it; drawing slowly loses frames, never time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.errors import TsstackError
from tsstack.status.gather import Heard, Sources, ask_tailscaled, gather
from tsstack.status.judge import worst
from tsstack.tui.frame import Frame, Generation, Permissions, next_frame

if TYPE_CHECKING:
    from tsstack.status.logged import Logged
    from tsstack.status.shape import Status
    from tsstack.switch.generations import Store

TAILSCALED_PACE_S = 0.95
"""tailscaled is asked no more often, however often the rest is: with many peers each answer costs it work."""
_FIRST_ANSWER_S = 0.25
_RETRY_S = 2.0
_EVENTS = 500
LATELY_S = 900.0
"""How far back the kernel's log is read for what was dropped."""
_LOG_PACE_S, _LOG_SHARE = 2.0, 20
"""Seconds between two readings of it; and of how much time reading may take one part."""
_SILENT = Heard({}, {}, "tailscaled has not answered yet", hung=True)


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is. Tests and labs have other places."""

    sources: Sources
    history: Path

    @property
    def monitor(self) -> Path:
        """The monitor's socket."""
        return Path(self.sources.monitor)

    @property
    def state(self) -> Path:
        """Where the generations are."""
        return Path(self.sources.state)


def _not_yet_judged(status: Status) -> Status:
    """Without the remark on a tailscaled that was asked a moment ago: it may well answer."""
    left = [each for each in status["warnings"] if each["code"] != "TS701"]
    return {**status, "warnings": left, "level": worst(left)}


def permissions(sources: Sources) -> Permissions:
    """What this user may do: as the monitor's socket and the host's lock will judge it."""
    user = os.geteuid()
    try:
        steer = user in {0, Path(sources.monitor).stat().st_uid}
    except OSError:
        steer = user == 0
    return Permissions(steer=steer, switch=user == 0)


def _is_there(folder: Path, number: int, manifest: str) -> bool:
    """Whether it has a manifest, be it one that this user may not even look for."""
    try:
        return (folder / str(number) / manifest).exists()
    except OSError:
        return True


def _generation(store: Store, number: int) -> Generation:
    try:
        each = store.manifest(number)
    except TsstackError as error:
        return Generation(number, 0.0, "", (), error.message)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return Generation(number, 0.0, "", (), f"its manifest cannot be read: {why}")
    return Generation(each.number, each.created_unix_s, each.source, each.summary)


class Feed:
    """Asks everyone, again and again, in threads of its own."""

    def __init__(self, places: Places, *, every_s: float = 1.0) -> None:
        self.places = places
        self.every_s = every_s
        self.latest: Frame | None = None
        """The newest frame."""
        self.events: tuple[Mapping[str, Any], ...] = ()
        """What happened, the newest last."""
        self.events_from = ""
        """Why the events are not live; empty: they are."""
        self.failed = ""
        """Why there is no new frame; empty: there is."""
        self.on_news: Callable[[], None] = lambda: None
        """Called in a thread of the feed's after `latest` or `events` are new."""
        self.wants_generations = threading.Event()
        """Set by whoever shows them; before that nobody reads them."""
        self.wants_drops = threading.Event()
        """Set while somebody looks at the firewall: the kernel's log is read for nobody else."""
        self._logged: Logged | None = None
        self._stop = threading.Event()
        self._heard: Heard | None = None
        self._first = threading.Event()
        self._generations: tuple[tuple[object, ...], tuple[Generation, ...]] = ((), ())

    def start(self) -> None:
        """Begin to ask."""
        for work in (self._ask_tailscaled, self._ask_all, self._follow, self._read_log):
            threading.Thread(target=work, daemon=True, name=work.__name__.strip("_")).start()

    def stop(self) -> None:
        """Ask no more. A question that is under way is not waited for."""
        self._stop.set()

    def _ask_tailscaled(self) -> None:
        while not self._stop.is_set():
            self._heard = ask_tailscaled(self.places.sources)
            self._first.set()
            self._stop.wait(max(TAILSCALED_PACE_S, self.every_s))

    def _ask_all(self) -> None:
        self._first.wait(_FIRST_ANSWER_S)
        next_s = time.monotonic()
        while not self._stop.is_set():
            try:
                self.take()
                self.failed = ""
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                # An answer of a shape that nobody has foreseen: told, and asked again.
                self.failed = f"{type(error).__name__}: {error}"
            next_s = max(next_s + self.every_s, time.monotonic())
            self._stop.wait(next_s - time.monotonic())

    def take(self) -> Frame:
        """Ask once, and put the frame into its slot."""
        sources = self.places.sources
        status = gather(sources, self._heard or _SILENT)
        if self._heard is None:
            status = _not_yet_judged(status)
        generations, fault = self._read_generations() if self.wants_generations.is_set() else (None, "")
        frame = next_frame(self.latest, status, permissions(sources), generations, fault)
        frame = replace(frame, logged=self._logged)
        self.latest = frame
        self.on_news()
        return frame

    def _read_generations(self) -> tuple[tuple[Generation, ...], str]:
        """The generations on disk, read again when their folder or a link has changed; or why they cannot be.

        One that is damaged, or not for this user, hides no other.
        """
        from tsstack.switch.generations import MANIFEST, Store

        store = Store(self.places.state)
        try:
            mark: tuple[object, ...] = (store.folder.stat().st_mtime_ns,)
            if mark == self._generations[0]:
                return self._generations[1], ""
            names = [path.name for path in store.folder.iterdir() if path.name.isdigit()]
        except FileNotFoundError:
            return (), ""
        except OSError as error:
            return (), f"{store.folder} cannot be read: {(error.strerror or str(error)).lower()}"
        numbers = sorted(map(int, names), reverse=True)
        found = tuple(_generation(store, each) for each in numbers if _is_there(store.folder, each, MANIFEST))
        # What is damaged now may be mended without its folder telling.
        self._generations = (() if any(each.fault for each in found) else mark, found)
        return found, ""

    def _read_log(self) -> None:
        """In a thread of its own: where the ring is too short the journal is asked, which takes its time."""
        while not self._stop.is_set():
            if not self.wants_drops.wait(_RETRY_S) or self.latest is None:
                self._stop.wait(_FIRST_ANSWER_S)
                continue
            began_s = time.monotonic()
            self._logged = self._look_into_log(self.latest.status)
            self._stop.wait(max(_LOG_PACE_S, _LOG_SHARE * (time.monotonic() - began_s)))

    def _look_into_log(self, status: Status) -> Logged:
        from tsstack.status.firewall import standing_folder
        from tsstack.status.logged import read_logged

        folder, _ = standing_folder(self.places.sources.state)
        return read_logged(status["firewall"], Path(folder), time.time() - LATELY_S)

    def _follow(self) -> None:
        """The monitor's events while it runs, those of its history while it does not."""
        from tsstack.monitor.client import Client
        from tsstack.tui.views.events import merge

        client = Client(self.places.monitor)
        while not self._stop.is_set():
            try:
                self._tell(merge(self.events, client.ask("events", count=_EVENTS)), "")
                missed = True
                for line in client.follow():
                    news = [line["event"]] if "event" in line else []
                    if missed:  # what happened between the two questions
                        news += client.ask("events", count=_EVENTS)
                        missed = False
                    self._tell(merge(self.events, news), "")
                why = "the monitor has ended"
            except (TsstackError, OSError, KeyError, TypeError) as error:
                why = str(error)
            self._recall(why)
            self._stop.wait(_RETRY_S)

    def _recall(self, why: str) -> None:
        """The events of the history, once: without a monitor nothing is added to it."""
        if self.events_from:
            self._tell(self.events, why)
            return
        from dataclasses import asdict

        from tsstack.monitor.archive import Archive
        from tsstack.tui.views.events import merge

        try:
            kept = [asdict(event) for event in Archive(self.places.history).events(limit=_EVENTS)]
        except TsstackError as error:
            kept, why = [], f"{why}; {error.message}"
        self._tell(merge(self.events, kept), why)

    def _tell(self, events: tuple[Mapping[str, Any], ...], why: str) -> None:
        if (events, why) != (self.events, self.events_from):
            self.events, self.events_from = events, why
            self.on_news()
