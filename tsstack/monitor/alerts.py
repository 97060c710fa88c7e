"""Telling people: events pass a gate, and each channel sends them from a thread of its own.

A channel that fails or hangs holds up nobody: its alerts wait, bounded, are tried again at growing distances
and then given up, which is said with the next one that arrives. That a channel fails is a trouble, told once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Condition, Thread
from typing import Any

from tsstack.monitor.alert_channel import Alert, Channel, Outcome, channels_of
from tsstack.monitor.alert_gate import Gate, still_open
from tsstack.monitor.sample import Sample
from tsstack.monitor.snapshot import Event, Snapshot, Trouble
from tsstack.monitor.troubles import Troubles
from tsstack.system.clock import Clock, SystemClock

RETRY_S = (10.0, 30.0, 120.0, 600.0, 1800.0)
"""The waits between the attempts at one alert; then it is given up."""
WAITING_MOST = 50
"""Alerts that wait for one channel; the oldest go first."""
TEST = "This is a test: alerts of the monitor arrive here."


@dataclass(slots=True)
class Count:
    """What one channel did since the start."""

    sent: int = 0
    failed: int = 0
    """Attempts that failed."""
    lost: int = 0
    """Alerts that were given up."""


class _Post:
    """One channel with its thread and what waits for it."""

    def __init__(
        self, channel: Channel, troubles: Troubles, retry_s: Sequence[float], told: set[str], count: Count
    ) -> None:
        self.channel = channel
        self.count = count
        self.told = told
        """What a beginning arrived for: a recovery is sent if and only if it did."""
        self._troubles = troubles
        self._retry_s = retry_s
        self._wake = Condition()
        self._waiting: deque[Alert] = deque()
        self._ending = self._dropped = False
        self._lost = 0
        self._thread = Thread(target=self._run, name=channel.source, daemon=True)
        self._thread.start()

    def put(self, alert: Alert) -> None:
        """Have it sent; returns at once."""
        with self._wake:
            self._waiting.append(alert)
            if len(self._waiting) > WAITING_MOST:
                self._waiting.popleft()
                self._give_up()
            self._wake.notify()

    def waiting(self) -> int:
        """How many are not sent yet."""
        with self._wake:
            return len(self._waiting)

    def told_of(self) -> list[str]:
        """What a beginning arrived for that is not over."""
        with self._wake:
            return sorted(self.told)

    def end(self, *, dropped: bool = False) -> None:
        """Stop trying; what is being sent is sent. `dropped`: the file has it no longer, so it is silent."""
        with self._wake:
            self._ending = True
            self._wake.notify()
            if dropped:
                self._dropped = True
                self._troubles.end(self.channel.source)

    def join(self, wait_s: float) -> None:
        """Wait until the thread has ended, so long at most."""
        self._thread.join(wait_s)

    def _run(self) -> None:
        checked = self.channel.check()
        if not checked.ok:
            self._tell(checked)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._ending or bool(self._waiting))
                if not self._waiting:
                    return
                alert = self._waiting[0]
                ending = self._ending
            done = self._send(alert, 1 if ending else len(self._retry_s) + 1)
            with self._wake:
                if self._waiting and self._waiting[0] is alert:
                    self._waiting.popleft()
                    if not done:
                        self._give_up()

    def _send(self, alert: Alert, attempts: int) -> bool:
        """Try until it is sent or given up; what needs no sending is done too."""
        about = alert.event.about
        if alert.event.over and about not in self.told:
            return True
        for attempt in range(attempts):
            if attempt and not self._pause(self._retry_s[attempt - 1], alert):
                return False
            lost = self._lost
            note = f"({lost} earlier could not be sent)" if lost else ""
            outcome = self.channel.send(replace(alert, note=note))
            if outcome.ok:
                self._arrived(alert, lost)
                return True
            self.count.failed += 1
            self._tell(outcome)
            if outcome.final:
                return False
        return False

    def _arrived(self, alert: Alert, lost: int) -> None:
        self.count.sent += 1
        with self._wake:
            self._lost -= lost
            if alert.event.over:
                self.told.discard(alert.event.about)
            else:
                self.told.update(still_open(alert.event))
            if not self._dropped:
                self._troubles.end(self.channel.source)

    def _pause(self, wait_s: float, alert: Alert) -> bool:
        """Wait for the next attempt; False when it is not to be made."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._ending or not self._waiting or self._waiting[0] is not alert, timeout=wait_s
            )
            return not self._ending and bool(self._waiting) and self._waiting[0] is alert

    def _give_up(self) -> None:
        self._lost += 1
        self.count.lost += 1

    def _tell(self, outcome: Outcome) -> None:
        hint = f"{outcome.hint}; then try `tsstack monitor test-alert`"
        words = f"alerts by {outcome.to} are not sent: {outcome.error}"
        with self._wake:
            if not self._dropped:
                self._troubles.begin(self.channel.source, words, hint)


class Alerts:
    """All channels of a file; a `Voice`. Everything but `test` and `close` returns at once."""

    def __init__(
        self,
        alerts: Sequence[Any],
        host: str,
        *,
        clock: Clock | None = None,
        retry_s: Sequence[float] = RETRY_S,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        """`alerts` is `monitor.alerts`. `saved`: what `export` gave, so that recoveries outlive a restart."""
        self._host = host
        self._clock = clock or SystemClock()
        self._retry_s = retry_s
        self._gate = Gate()
        self._troubles = Troubles()
        self._posts: dict[str, _Post] = {}
        self._counts: dict[str, Count] = {}
        self._saved = _told_by(saved)
        self._gate.open.update(*self._saved.values())
        self.follow(alerts, host)

    def follow(self, alerts: Sequence[Any], host: str) -> None:
        """Take up a reloaded file: channels that stay keep what waits for them."""
        self._host = host
        channels = {each.id: each for each in channels_of(alerts)}
        for id_, post in list(self._posts.items()):
            if channels.get(id_) != post.channel:
                post.end(dropped=True)
                self._saved[id_] = set(post.told_of())
                del self._posts[id_]
        for id_, channel in channels.items():
            if id_ not in self._posts:
                count = self._counts.setdefault(channel.to, Count())
                told = set(self._saved.get(id_, ()))
                self._posts[id_] = _Post(channel, self._troubles, self._retry_s, told, count)

    def on_sample(self, sample: Sample) -> None:
        """Samples alert nobody."""

    def on_event(self, event: Event) -> None:
        """Have it sent, unless it is no news for people or there is too much of it."""
        if self._gate.offer(event, self._clock.now_s()):
            self._put(event)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Sum up what was held back, when it is time."""
        summary = self._gate.summary(self._clock.now_s())
        if summary is not None:
            self._put(summary)

    def troubles(self) -> tuple[Trouble, ...]:
        """The channels that fail now."""
        return self._troubles.standing()

    def counts(self) -> dict[str, Count]:
        """What each channel did since the start, by its shown name."""
        return {post.channel.to: post.count for post in list(self._posts.values())}

    @property
    def held(self) -> int:
        """How many alerts were held back since the start."""
        return self._gate.held_total

    def waiting(self) -> int:
        """How many alerts are not sent yet."""
        return sum(post.waiting() for post in list(self._posts.values()))

    def export(self) -> dict[str, Any]:
        """What beginnings were told to whom, JSON values; addresses only as hashes."""
        return {"told": {id_: told for id_, post in self._posts.items() if (told := post.told_of())}}

    def test(self) -> list[dict[str, Any]]:
        """Send a test by every channel, now and once, and wait: `{"to", "ok", "error", "hint"}` for each."""
        return [
            {"to": each.to, "ok": each.ok, "error": each.error, "hint": each.hint}
            for each in send_test([post.channel for post in self._posts.values()], self._host, self._clock)
        ]

    def close(self, *, wait_s: float = 3.0) -> None:
        """Try what waits once more, for so long at most."""
        for post in self._posts.values():
            post.end()
        until_s = self._clock.now_s() + wait_s
        for post in self._posts.values():
            post.join(max(0.0, until_s - self._clock.now_s()))

    def _put(self, event: Event) -> None:
        for post in self._posts.values():
            # A channel is not asked to tell of its own failure.
            if event.about != post.channel.source:
                post.put(Alert(self._host, event))


def send_test(channels: Sequence[Channel], host: str, clock: Clock | None = None) -> list[Outcome]:
    """What became of a test alert by each channel, in their order. Blocks until the slowest is done."""
    if not channels:
        return []
    at = (clock or SystemClock()).unix_s()
    alert = Alert(host, Event(at, "test", "info", "test", TEST, {}))
    with ThreadPoolExecutor(len(channels)) as pool:
        return list(pool.map(lambda channel: channel.send(alert), channels))


def _told_by(saved: Mapping[str, Any] | None) -> dict[str, set[str]]:
    """What `export` gave, as far as it can be that."""
    told = (saved or {}).get("told")
    if not isinstance(told, Mapping):
        return {}
    return {
        str(id_): {str(each) for each in abouts} for id_, abouts in told.items() if isinstance(abouts, list)
    }
