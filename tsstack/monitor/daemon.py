"""The monitor: probes, verdicts, decisions and actions put together on one event loop.

What decides is pure and elsewhere (`failover`, `standby`, `verdict`); what acts is `Actuator` and
`Tailscaled`. Here is only who tells whom, and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tsstack import __version__
from tsstack.monitor.actuator import Actuator
from tsstack.monitor.book import Book
from tsstack.monitor.choice import DIRECT, Candidate, Facts, Proof, State
from tsstack.monitor.egress import Egress
from tsstack.monitor.evidence import Evidence
from tsstack.monitor.helm import Helm
from tsstack.monitor.paces import Paces, quick_paths
from tsstack.monitor.past import PastExit
from tsstack.monitor.probes.notices import is_ours
from tsstack.monitor.probes.probe import Notice, Probe
from tsstack.monitor.probes.prober import Prober
from tsstack.monitor.probes.stamps import boot_s
from tsstack.monitor.sample import Sample
from tsstack.monitor.settings import Settings, default_interface
from tsstack.monitor.snapshot import Event, ExitStatus, Snapshot, Trouble
from tsstack.monitor.tailscaled import Seen, Tailscaled
from tsstack.monitor.telling import Standing, event_of_change, event_of_reason
from tsstack.monitor.troubles import Troubles, changes
from tsstack.monitor.withdrawal import Withdrawal
from tsstack.system.localapi import LocalApi

if TYPE_CHECKING:
    from tsstack.monitor.kept import Kept
    from tsstack.monitor.voice import Voice

TURN_S = 0.5
"""At least so often is decided."""
_SNAPSHOT_S = 10.0
_EVENTS_KEPT = 1000
_UNKNOWN_PEERS_S = 10.0  # so long may a tailscaled that just started not know its peers yet
_STEERING = ("exit:", "target:", "direct:")


@dataclass
class Hands:
    """What the monitor reaches the machine by. Tests give others."""

    api: LocalApi
    is_switching: Callable[[], bool] = lambda: False
    prober: Callable[..., Prober] = Prober


@dataclass
class Listeners:
    """Who is told."""

    voices: tuple[Voice, ...] = ()
    subscribers: set[Callable[[Event], None]] = field(default_factory=set)
    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=_EVENTS_KEPT))

    def tell(self, event: Event) -> None:
        """One event to all."""
        self.recent.append(event)
        for voice in self.voices:
            voice.on_event(event)
        for subscriber in list(self.subscribers):
            subscriber(event)


class Monitor:
    """The running monitor. Made within its event loop; `close` ends it and leaves the host as it is."""

    def __init__(self, settings: Settings, hands: Hands, *, kept: Kept | None = None) -> None:
        now_s = boot_s()
        self.settings = settings
        self.listeners = Listeners()
        self.troubles = Troubles()
        self._hands = hands
        self._loop = asyncio.get_running_loop()
        self._began_s, self._began = now_s, time.time()
        self._book = Book(settings.limits)
        self._egress = Egress(settings.limits)
        self._helm = Helm(settings.policy) if settings.policy else None
        self._withdrawal = Withdrawal(settings)
        self._spoken = Standing()
        self._kept = kept
        self._saved: State | None = kept.failover(now_s) if kept else None
        self.maintenance = kept.maintenance() if kept else False
        self.maintenance_until: float | None = kept.maintenance_until() if kept else None
        self._told: tuple[Trouble, ...] = ()
        self._turning = False
        self._past_exit = PastExit(self.troubles)
        self._patching: asyncio.Task[bool] | None = None
        self._running_since_s: float | None = None
        limits = settings.limits
        self.prober = hands.prober(
            self._on_sample,
            fast_s=limits.probe_s,
            slow_s=limits.interval_s,
            tell=self._on_notice,
            daemon=hands.api.path,
        )
        self._paces = Paces(self.prober, self._book)
        names = settings.policy.use if settings.policy else ()
        self._tailscaled = Tailscaled(hands.api, self._on_seen, names=names)
        self._evidence = Evidence(self._tailscaled, self._book)
        self.actuator = Actuator(
            self._tailscaled,
            self.prober,
            self.troubles,
            proven=self._on_proof,
            targets=self._judging,
            uplink=lambda: self.settings.uplink,
        )
        self._watch_paths()
        if kept:
            self._restore(kept, now_s)
        self._timers = [
            self._loop.create_task(self._every(TURN_S, self._turn)),
            self._loop.create_task(self._every(TURN_S, lambda: self._book.refresh(boot_s()))),
            self._loop.create_task(self._every(1.0, self._look_at_routes)),
            self._loop.create_task(self._every(_SNAPSHOT_S, self._show, first_s=1.0)),
        ]

    @property
    def tasks(self) -> tuple[asyncio.Task[Any], ...]:
        """What must never end before `close`: a failure in one of them is the daemon's."""
        return (*self._timers, self.actuator.worker)

    def close(self) -> None:
        """End everything. The exit node stays as it is, and so does what is withdrawn."""
        self.keep()
        for task in self._timers:
            task.cancel()
        self.actuator.close()
        self._tailscaled.close()
        self.prober.close()

    # What others ask for.

    @property
    def paths(self) -> int:
        """How many paths are watched: as many as the snapshot has. Some have more than one probe."""
        return len(self._book.entries)

    def snapshot(self) -> Snapshot:
        """All that is known now."""
        now_s, unix_s = boot_s(), time.time()
        return Snapshot(
            at=unix_s,
            started=self._began,
            host=self.settings.host,
            version=__version__,
            paths=self._book.statuses(now_s, unix_s),
            exit=self.exit_status(),
            routes=self._withdrawal.statuses(
                lambda key: self._book.verdict(key, now_s),
                now_s,
                restore_after_s=self.settings.limits.restore_after_s,
            ),
            troubles=self._standing(),
            probes_sent=self._book.sent,
            probes_lost=self._book.lost,
            samples_behind_s=self.prober.behind_s,
            tailscaled=self._tailscaled.seen.actual is not None if self.settings.on_tailnet else None,
            maintenance=self.maintenance,
        )

    def exit_status(self) -> ExitStatus | None:
        """Which way out is in use; None when the file names no exit node."""
        return self._helm.status(boot_s()) if self._helm else None

    def offer(self, network: str) -> None:
        """Offer a withdrawn route again at once. Raises ValueError with the reason why not."""
        if self.maintenance or self.settings.why_idle:
            raise ValueError(self.settings.why_idle or "maintenance is on: the monitor changes nothing")
        if not self._withdrawal.offer(network):
            raise ValueError(f"{network} is not withdrawn")
        event = Event(time.time(), "restored", "info", f"offer:{network}", "is offered again, by hand", {})
        self.listeners.tell(event)
        self.keep()

    def choose(self, name: str | None) -> str:
        """The exit node by hand; None: automatic again. Returns why nothing is done yet, or nothing.

        Raises ValueError with the reason.
        """
        if self._helm is None:
            raise ValueError("the file names no exit node to use")
        if name is not None and self.settings.why_idle:
            raise ValueError(self.settings.why_idle)
        name = self._spelled(name)
        if name not in {None, DIRECT} and not self._tailscaled.seen.offers(str(name)):
            raise ValueError(f"{name} does not offer an exit on this tailnet")
        self._helm.choose(name)
        self._turn_soon()
        self.keep()
        if self.maintenance:
            return "noted; nothing changes while maintenance is on"
        if self._tailscaled.seen.actual is None:
            return "noted; nothing changes until tailscaled answers"
        if self.actuator.read_only:
            return "noted; nothing changes while tailscaled refuses to be changed"
        return ""

    def _spelled(self, name: str | None) -> str | None:
        """A node's name as the file spells it."""
        use = self.settings.policy.use if self.settings.policy else ()
        return next((each for each in use if name and each.lower() == name.lower()), name)

    def maintain(self, on: bool, until: float | None = None) -> None:
        """Maintenance on (until a time, seconds since 1970) or off."""
        self.maintenance = on
        self.maintenance_until = until if on else None
        self._turn_soon()
        self.keep()

    def follow(self, settings: Settings) -> None:
        """Go on by another file. What was seen of paths that stay is kept."""
        self.settings = settings
        limits = settings.limits
        self.prober.set_paces(fast_s=limits.probe_s, slow_s=limits.interval_s)
        actual = self._tailscaled.seen.actual
        if settings.policy is None:
            self._helm = None
        elif self._helm is None:
            self._helm = Helm(settings.policy)
        else:
            self._helm.adopt(settings.policy, actual)
        self._tailscaled.know(settings.policy.use if settings.policy else ())
        self._withdrawal.update(settings)
        self._paces.put(frozenset(), limits)  # the next decision says anew which are quick
        self._watch_paths()
        for trouble in self.troubles.standing():
            if ":" in trouble.about and trouble.about not in self._book.entries:
                self.troubles.end(trouble.about)  # the file names it no longer
        self.keep()
        self._turn_soon()

    def tell(
        self, code: str, text: str, *, severity: Any = "info", about: str = "monitor", **data: Any
    ) -> None:
        """An event of the daemon itself."""
        self.listeners.tell(Event(time.time(), code, severity, about, text, data))

    def keep(self) -> None:
        """Have what must survive a restart written."""
        if self._kept is not None:
            self._kept.keep(
                failover=self._helm.state if self._helm else None,
                standby=self._withdrawal.export(),
                learnt={"paths": self._book.export(), "egress": self._egress.export()},
                maintenance=self.maintenance,
                maintenance_until=self.maintenance_until,
            )

    # What comes in.

    def _on_sample(self, sample: Sample) -> None:
        if is_ours(sample.error) or self._evidence.is_blind(sample):
            self._book.note(sample)  # nothing of the path
            return
        self._book.observe(sample, judge=self._helm is None or not self._egress.is_late(sample))
        self._egress.observe(sample)
        for voice in self.listeners.voices:
            voice.on_sample(sample)
        if sample.path.startswith(_STEERING):
            self._turn_soon()

    def _on_notice(self, notice: Notice) -> None:
        if notice.about == "tailscaled" and not notice.over:
            self._tailscaled.doubt()
        if notice.about == "tailscaled" or notice.about.startswith("exit:"):
            return  # said below, by who knows more
        if notice.over:
            self.troubles.end(notice.about)
        else:
            self.troubles.begin(notice.about, notice.message, notice.hint)

    def _on_seen(self, seen: Seen) -> None:
        helm = self._helm
        if self._evidence.turned(boot_s()):
            self._egress.renew()
            if helm is not None:
                helm.proof = None  # of a move that is open it is asked for again
        if self._egress.use(seen.actual, boot_s()):
            way = self.settings.way(seen.actual or DIRECT)
            bound = [key for key, each in self._book.entries.items() if each.path.interface == way]
            self._book.renew(key for key in bound if key.startswith("target:"))
        if helm is not None and helm.state is None and seen.actual is not None:
            helm.begin(self._saved, seen.actual)
            self._saved = None
            self._watch_paths()
        self._turn_soon()

    def _on_proof(self, proof: Proof) -> None:
        if self._helm is not None and (proof.ok or self._tailscaled.seen.actual is not None):
            self._helm.proof = proof
            self._turn_soon()

    # What is done about it.

    async def _every(self, pace_s: float, work: Callable[[], None], *, first_s: float | None = None) -> None:
        await asyncio.sleep(first_s or pace_s)
        while True:
            work()
            await asyncio.sleep(pace_s)

    def _turn_soon(self) -> None:
        """Decide once all that has come in at this moment is taken in."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        now_s, unix_s = boot_s(), time.time()
        if self.maintenance_until is not None and unix_s >= self.maintenance_until:
            self.maintain(False)
        for change in self._book.changes(now_s, lambda key: self._evidence.waits(key, now_s)):
            self.listeners.tell(event_of_change(change, unix_s))
        if self._book.held and not self._evidence.answers(now_s):
            self._tailscaled.doubt()  # when it hangs, every node seems dead
        self._look_at_tailscaled(now_s)
        helm = self._helm
        if helm is not None:
            self._steer(helm, now_s, unix_s)
        self._tell_troubles(unix_s)

    def _steer(self, helm: Helm, now_s: float, unix_s: float) -> None:
        helm.maintain(self.maintenance)
        before = helm.state
        facts = self._facts(helm, now_s)
        if before is not None and facts.actual != before.at and self._hands.is_switching():
            return  # what a switch sets is no drift, and where it leads is decided by its file
        decision = helm.turn(facts, now_s, hands_off=self.actuator.read_only)
        if decision is None or before is None:
            return
        if any(reason.code == "asks" for reason in decision.reasons):
            self._tailscaled.doubt()
        self.actuator.do(decision.actions)
        for reason in self._spoken.news(decision.news, now_s):
            if event := event_of_reason(reason, unix_s):
                self.listeners.tell(event)
        state = decision.state
        if (before.at == DIRECT) != (state.at == DIRECT):
            self._watch_paths()
        self._set_paces(decision.fast | decision.confirm, state, now_s)
        if state.as_json() != before.as_json():
            self.keep()

    def _facts(self, helm: Helm, now_s: float) -> Facts:
        seen, egress = self._tailscaled.seen, self._egress
        candidates = tuple(
            Candidate(
                name,
                self._book.verdict(f"exit:{name.lower()}", now_s),
                egress.verdict(name, now_s) if name == seen.actual else None,
                offered=seen.offers(name),
            )
            for name in helm.policy.use
        )
        return Facts(
            candidates,
            seen.actual,
            direct=egress.verdict(DIRECT, now_s),
            answers=self._evidence.answers(now_s),
            settled=self._evidence.is_settled(now_s),
            silent=seen.error,
        )

    def _set_paces(self, nodes: Iterable[str], state: State, now_s: float) -> None:
        calm = not self._egress.call(state.at, now_s)
        quick = quick_paths(
            nodes,
            self._egress.asked,
            self._book.entries,
            calm=calm,
            settled=not state.blocked and state.move is None,
        )
        self._paces.put(quick, self.settings.limits)

    def _watch_paths(self) -> None:
        """Probe what the file names, by the way that is in use."""
        settings, helm = self.settings, self._helm
        state = helm.state if helm else None
        at = state.at if state else settings.policy.use[0] if settings.policy else DIRECT
        probes = settings.probes(at)
        self._book.update(probes, settings.limits, boot_s())
        targets = [each.path.key for each in settings.judging(at)]
        self._egress.update(settings.witnesses(at), targets, settings.limits, boot_s())
        self.prober.update(probes)

    def _follow_uplink(self) -> None:
        """The default route may lead elsewhere than when the file was read."""
        settings = self.settings
        if not settings.uplink_is_named and settings.policy is not None:
            uplink = default_interface()
            if uplink and uplink != settings.uplink:
                self.settings = replace(settings, uplink=uplink)
                self._watch_paths()

    def _judging(self, node: str) -> tuple[Probe, ...]:
        return self.settings.judging(node)

    def _look_at_routes(self) -> None:
        now_s, unix_s = boot_s(), time.time()
        act = not (self.maintenance or self.settings.rests)
        judge = self._book.verdict
        switched, reasons = self._withdrawal.turn(
            lambda key: judge(key, now_s),
            now_s,
            restore_after_s=self.settings.limits.restore_after_s,
            act=act,
            heard=self._tailscaled.seen.actual is not None,
        )
        for each, reason in zip(switched, reasons, strict=True):
            if event := event_of_reason(reason, unix_s, about=each.about):
                self.listeners.tell(event)
        if switched:
            self.keep()
        advertised = self._tailscaled.seen.advertised
        if not act or advertised is None or self._tailscaled.seen.actual is None:
            return
        wanted = self._withdrawal.wanted(advertised)
        if wanted is None or self._hands.is_switching():
            return
        if self._patching is None or self._patching.done():
            self._patching = self._loop.create_task(self.actuator.set_routes(wanted))

    def _look_at_tailscaled(self, now_s: float) -> None:
        seen, helm = self._tailscaled.seen, self._helm
        still = not (helm and helm.state and helm.state.move) and not self._hands.is_switching()
        self._past_exit.turn(seen, now_s, self.settings.limits.interval_s, still=still)
        if seen.actual is None:
            self._running_since_s = None
            if seen.error and self.settings.on_tailnet:
                self.troubles.begin("tailscaled", seen.error, seen.hint)
            return
        self.troubles.end("tailscaled")
        self.actuator.look_again(now_s)
        if self._running_since_s is None:
            self._running_since_s = now_s
        for name in helm.policy.use if helm else ():
            about = f"exit:{name.lower()}"
            if seen.offers(name):
                self.troubles.end(about)
            elif now_s - self._running_since_s > _UNKNOWN_PEERS_S:
                self.troubles.begin(
                    about,
                    f"{name} offers no exit on this tailnet",
                    "tailscale exit-node list    # it must advertise itself, and an admin must approve it",
                )

    def _restore(self, kept: Kept, now_s: float) -> None:
        learnt = kept.learnt()
        targets = [each.path.key for each in self.settings.judging(DIRECT)]
        with contextlib.suppress(ValueError):  # what was learnt of a link is learnt again
            self._book.restore(learnt.get("paths") or {})
            self._egress.restore(learnt.get("egress") or {}, targets)
        with contextlib.suppress(ValueError):
            self._withdrawal.restore(kept.standby(), kept.horizon_s(now_s))

    # What is told.

    def _standing(self) -> tuple[Trouble, ...]:
        theirs = [trouble for voice in self.listeners.voices for trouble in voice.troubles()]
        ours = self.troubles.standing()
        if self._kept is not None:
            ours = (*ours, *self._kept.troubles())
        return (*ours, *theirs)

    def _tell_troubles(self, unix_s: float) -> None:
        standing = self._standing()
        if standing == self._told:
            return
        for event in changes(self._told, standing, unix_s):
            self.listeners.tell(event)
        self._told = standing

    def _show(self) -> None:
        self._follow_uplink()
        if self._kept is not None:
            self._kept.retry()
        snapshot = self.snapshot()
        for voice in self.listeners.voices:
            voice.on_snapshot(snapshot)
