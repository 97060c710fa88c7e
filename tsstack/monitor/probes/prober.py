"""The prober: asks every probe at its pace and hands each outcome on as a Sample.

One timer of the event loop drives everything, ten times a second at most: answers are taken, what waited too
long is ended, what is due is sent. No task and no thread belongs to a probe (names alone are looked up in
two threads), so hundreds of them cost little, and closing leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable
from math import floor
from pathlib import Path

from tsstack.monitor.probes import dns, tailnet, tcp
from tsstack.monitor.probes.alternatives import Round
from tsstack.monitor.probes.attempt import Attempt, Calls
from tsstack.monitor.probes.bound import normal
from tsstack.monitor.probes.dns import Resolvers
from tsstack.monitor.probes.https import Pages
from tsstack.monitor.probes.icmp import Pings
from tsstack.monitor.probes.names import Lookup, Names, look_up
from tsstack.monitor.probes.nearby import is_nearby
from tsstack.monitor.probes.notices import NEARBY, Notices, Tell, host_of
from tsstack.monitor.probes.probe import TIMEOUT, Pace, Probe
from tsstack.monitor.probes.stamps import boot_s
from tsstack.monitor.probes.tailnet import Peers
from tsstack.monitor.probes.wheel import SLOT_S, Turn, Wheel
from tsstack.monitor.sample import Sample, Via

DAEMON_SOCKET = Path("/var/run/tailscale/tailscaled.sock")
_URGENT_S = 0.01
_BESIDE_FAST_S = 5.0
"""At least so often is asked whether a path at the fast pace is direct or relayed."""
_TAILNET = frozenset({"disco", "tsmp", "peer-icmp"})


class _Watch:
    """A probe on the wheel, and which of its alternatives is usually asked."""

    __slots__ = ("choices", "finish", "gone", "literal", "probe", "turn", "which")

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.choices = (probe, *probe.others)
        self.which = 0
        self.gone = False
        self.literal = tuple(_literal(each) for each in self.choices)
        self.finish: Callable[[Attempt], None]
        self.turn: Turn[_Watch]


class Prober:
    """Probes of many paths at two paces. Belongs to the running event loop of who makes it.

    `sink` gets every sample, `tell` every notice, both within the loop's thread; they must be quick and not
    raise. A probe that fails is a sample with a cause, never an exception.
    """

    def __init__(
        self,
        sink: Callable[[Sample], None],
        *,
        fast_s: float = 0.5,
        slow_s: float = 30.0,
        tell: Tell = lambda notice: None,
        daemon: Path = DAEMON_SOCKET,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        authorities: str | None = None,
        lookup: Lookup = look_up,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._paces: dict[Pace, float] = {"fast": fast_s, "slow": slow_s}
        self._daemon = daemon
        self._notices = Notices(tell)
        self._calls = Calls()
        self._pings = Pings()
        self._pages = Pages(self._loop, authorities=authorities)
        self._names = Names(self._loop, lookup=lookup)
        self._peers = Peers(self._calls, daemon)
        self._resolvers = Resolvers(resolv_conf)
        self._watches: dict[Probe, _Watch] = {}
        self._pace: dict[str, Pace] = {}
        self._via: dict[str, Via] = {}
        self._asked: set[asyncio.Future[Attempt]] = set()
        self._wheel: Wheel[_Watch] = self._new_wheel()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.behind_s = 0.0
        """How late the latest look was: load of the machine, or of the loop."""

    async def __aenter__(self) -> Prober:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What is probed now."""
        return tuple(self._watches)

    @property
    def overdue_s(self) -> float:
        """For how long something has been due that was not done, seconds; 0 when nothing is."""
        due_s = self._wheel.next_s()
        return 0.0 if due_s is None else max(0.0, self._loop.time() - due_s)

    @property
    def waiting(self) -> int:
        """How many probes wait for an answer."""
        return len(self._pings) + len(self._calls) + len(self._pages)

    def update(self, probes: Iterable[Probe]) -> None:
        """Probe just these from now on. Those that stay keep their rhythm, their answers under way count."""
        wanted = dict.fromkeys(probes)
        for probe in [each for each in self._watches if each not in wanted]:
            self._remove(probe)
        for probe in wanted:
            if probe not in self._watches:
                self._add(probe)
        self._forget_unused()
        self._schedule()

    def add(self, probe: Probe) -> None:
        """Probe this too; nothing happens when it is there already."""
        if probe not in self._watches:
            self._add(probe)
            self._schedule()

    def remove(self, path: str) -> None:
        """Probe the path of this key no longer."""
        for probe in [each for each in self._watches if each.path.key == path]:
            self._remove(probe)
        self._forget_unused()

    def set_pace(self, path: str, pace: Pace) -> None:
        """Promote or demote the path of this key, watched already or later. Slow is where each begins."""
        if self._pace.get(path, "slow") == pace:
            return
        self._pace[path] = pace
        for probe, watch in self._watches.items():
            if probe.path.key == path:
                self._wheel.set_pace(watch.turn, self._pace_s(probe), self._loop.time())
        self._schedule()

    def set_paces(self, *, fast_s: float, slow_s: float) -> None:
        """Other lengths for the two paces; nothing under way is lost."""
        if self._paces == {"fast": fast_s, "slow": slow_s}:
            return
        self._paces = {"fast": fast_s, "slow": slow_s}
        self._wheel = self._new_wheel()
        for probe, watch in self._watches.items():
            watch.turn = self._wheel.add(watch, self._pace_s(probe), self._loop.time())
        self._schedule()

    async def ask(self, probe: Probe) -> Sample:
        """Probe once, now, whether it is watched or not; the sample goes to the caller alone.

        Takes the probe's time limit at most, names included.
        """
        future: asyncio.Future[Attempt] = self._loop.create_future()
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        attempt = None
        deadline_s = self._loop.time() + probe.timeout_s
        try:
            while attempt is None:
                attempt = self._send(probe, _literal(probe), functools.partial(_resolve, future))
                if attempt is None:
                    self._schedule()
                    await asyncio.sleep(_URGENT_S)
                    if self._loop.time() > deadline_s:
                        return Sample(probe.path.key, probe.kind, boot_s(), None, TIMEOUT)
            self._schedule()
            return self._sample(await future)
        finally:
            if attempt is not None:
                attempt.done = True
            future.cancel()

    def close(self) -> None:
        """End everything: no descriptor, timer or attempt is left. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for future in list(self._asked):
            future.cancel()
        self._pings.close()
        self._calls.close()
        self._pages.close()
        self._names.close()

    def _new_wheel(self) -> Wheel[_Watch]:
        return Wheel(self._loop.time(), slot_s=min(SLOT_S, *self._paces.values()))

    def _pace_s(self, probe: Probe) -> float:
        fast = self._pace.get(probe.path.key) == "fast"
        if fast and not probe.judges:
            return max(min(_BESIDE_FAST_S, self._paces["slow"]), self._paces["fast"])
        return self._paces["fast" if fast else "slow"]

    def _add(self, probe: Probe) -> None:
        watch = _Watch(probe)
        watch.finish = functools.partial(self._finished, watch)
        watch.turn = self._wheel.add(watch, self._pace_s(probe), self._loop.time())
        self._watches[probe] = watch

    def _remove(self, probe: Probe) -> None:
        watch = self._watches.pop(probe)
        watch.gone = True
        self._wheel.remove(watch.turn)

    def _forget_unused(self) -> None:
        choices = [each for watch in self._watches.values() for each in watch.choices]
        self._names.keep_only({(host_of(each), each.family) for each in choices})
        kept = {probe.path.key for probe in self._watches}
        self._notices.keep_only(kept)
        for key in self._via.keys() - kept:
            del self._via[key]

    def _schedule(self) -> None:
        """Set the one timer to the next moment that has something to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed:
            return
        now_s = self._loop.time()
        moments = [moment for moment in (self._wheel.next_s(),) if moment is not None]
        slot_s = self._wheel.slot_s
        if len(self._pings) + len(self._calls):
            moments.append((floor(now_s / slot_s) + 1) * slot_s)
            if len(self._pings) > self._pings.capacity // 2:
                moments.append(now_s + slot_s / 4)
        if self._asked:
            moments.append(now_s + _URGENT_S)
        if moments:
            self._timer = self._loop.call_at(max(min(moments), now_s), self._look_after)

    def _look_after(self) -> None:
        if self._timer is not None:
            self.behind_s = max(0.0, self._loop.time() - self._timer.when())
        self._timer = None
        try:
            self._pings.collect()
            self._calls.collect()
            room = max(self._pings.capacity // 2, 1)
            due = self._wheel.due(self._loop.time())
            for first in range(0, len(due), room):
                if first:
                    self._pings.collect()
                self._send_all(due[first : first + room])
        finally:
            self._schedule()

    def _send_all(self, watches: list[_Watch]) -> None:
        """Pings go first and together: they are most probes by far, and none of the others holds them up."""
        pings: list[Attempt] = []
        others: list[_Watch] = []
        for watch in watches:
            probe, literal = watch.choices[watch.which], watch.literal[watch.which]
            if literal and probe.kind == "icmp":
                pings.append(Attempt(probe, literal, watch.finish))
            else:
                others.append(watch)
        self._pings.send(pings)
        for watch in others:
            self._send(watch.choices[watch.which], watch.literal[watch.which], watch.finish)

    def _send(self, probe: Probe, literal: str, finish: Callable[[Attempt], None]) -> Attempt | None:
        """Begin one attempt; None when it is not known yet where to."""
        address, error = self._locate(probe, literal)
        if not address and not error and _needs_address(probe):
            return None
        attempt = Attempt(probe, address, finish)
        if _needs_address(probe) and not address:
            attempt.fail(error)
        elif not literal and address and _asks_for_the_way(probe) and is_nearby(address):
            attempt.fail(NEARBY)
        elif probe.kind == "icmp":
            self._pings.send([attempt])
        elif probe.kind == "tcp":
            tcp.connect(attempt, self._calls)
        elif probe.kind == "https":
            self._pages.visit(attempt)
        elif probe.kind == "dns":
            dns.ask(attempt, self._calls, self._resolvers)
        else:
            tailnet.ping(attempt, self._calls, self._daemon)
        return attempt

    def _locate(self, probe: Probe, literal: str) -> tuple[str, str]:
        """The address to send to, and the cause where there is none; both empty while that is found out."""
        if literal or not _needs_address(probe):
            return literal, ""
        if probe.kind in _TAILNET:
            address = self._peers.find(probe.host, probe.family)
            unknown = tailnet.UNKNOWN if self._peers.known else ""
            return (address, "") if address else ("", self._peers.error or unknown)
        host = host_of(probe)
        return self._names.find(host, probe.family) if host else ("", "no such address")

    def _finished(self, watch: _Watch, attempt: Attempt) -> None:
        if watch.gone:
            return
        self._take_note(attempt)
        if attempt.error and len(watch.choices) > 1:
            # Not here: whoever ends attempts is going through the queues that the others would be put in.
            self._loop.call_soon(self._ask_others, watch, attempt)
        else:
            self._hand_on(attempt)

    def _ask_others(self, watch: _Watch, failed: Attempt) -> None:
        """All alternatives at once; the first that answers is asked from now on."""
        if watch.gone or self._closed:
            return
        asked = Round(failed, len(watch.choices) - 1)
        for number, probe in enumerate(watch.choices):
            if probe is not failed.probe:
                finish = functools.partial(self._finished_other, watch, asked, number)
                if self._send(probe, watch.literal[number], finish) is None:
                    Attempt(probe, "", finish).fail(TIMEOUT)  # its name is being looked up
        self._schedule()

    def _finished_other(self, watch: _Watch, asked: Round, number: int, attempt: Attempt) -> None:
        if watch.gone:
            return
        self._take_note(attempt)
        speaks = asked.end_one(attempt)
        if speaks is attempt and not attempt.error:
            watch.which = number
        if speaks is not None:
            self._hand_on(speaks)

    def _take_note(self, attempt: Attempt) -> None:
        """What is told to people, and known of the tailnet, after an attempt."""
        probe = attempt.probe
        if attempt.error:
            self._notices.failed(probe, attempt.error)
            if probe.kind in _TAILNET:
                self._peers.forget_age()
        else:
            self._notices.worked(probe)
        if probe.kind == "disco":
            self._via[probe.path.key] = attempt.via

    def _hand_on(self, attempt: Attempt) -> None:
        if attempt.probe.judges:
            self._sink(self._sample(attempt))

    def _sample(self, attempt: Attempt) -> Sample:
        probe = attempt.probe
        via = attempt.via
        if via == "unknown" and probe.kind in _TAILNET and not attempt.error:
            via = self._via.get(probe.path.key, "unknown")
        return Sample(
            probe.path.key, probe.kind, attempt.sent_s, attempt.rtt_s, attempt.error, via, attempt.took_s
        )


def _resolve(future: asyncio.Future[Attempt], attempt: Attempt) -> None:
    if not future.done():
        future.set_result(attempt)


def _literal(probe: Probe) -> str:
    """The probe's address where it is written as one, spelled as the kernel does."""
    with contextlib.suppress(OSError, UnicodeError):
        return normal(host_of(probe))
    return ""


def _asks_for_the_way(probe: Probe) -> bool:
    """Whether an answer shows that the way out works: those of targets that are bound to it."""
    return bool(probe.path.interface) and probe.path.key.startswith(("target:", "direct:"))


def _needs_address(probe: Probe) -> bool:
    return not probe.socket and not (probe.kind == "dns" and not probe.host)
