"""One change of a host: plan, stage, check, guard, prove, activate, verify, commit; or undone as a whole."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tsstack import __version__
from tsstack.errors import ApplyFailed, CheckFailed, TsstackError
from tsstack.model.facts import Facts
from tsstack.parts.part import Part, SaysUnmet, Snapshot, StandsAlone, Tree
from tsstack.switch import deadman
from tsstack.switch.begun import note_begun
from tsstack.switch.generations import Manifest, part_tree
from tsstack.switch.plan import Plan, plan_switch
from tsstack.switch.proof import Prover, no_proof
from tsstack.switch.record import (
    Pending,
    clear_pending,
    digest_of,
    keep_reserve,
    read_boot_id,
    read_pending,
    write_pending,
)
from tsstack.switch.recovery import (
    describe,
    drop_unused,
    recover,
    refuse_unconfirmed,
    undo,
)
from tsstack.switch.signals import ignore_interrupts, signals_undo
from tsstack.switch.site import Site
from tsstack.switch.undone import last_undone, settle
from tsstack.system.processes import process_start


@dataclass(frozen=True)
class Wanted:
    """What a change is to make of the host.

    `generation` names one that is already on disk (a rollback); otherwise `tree` is staged as a new one.
    `render` gives the tree for facts that became known on the way (the tailnet's addresses, after the
    first enrolment); None where nothing is rendered.
    """

    tree: Tree
    source: bytes = b""
    source_name: str = ""
    input_digest: str = ""
    generation: int | None = None
    render: Callable[[Facts], tuple[Tree, str]] | None = None


@dataclass(frozen=True)
class Mode:
    """Which links follow, and whether the change has to be confirmed."""

    boot: bool = True
    """The boot link follows: the change survives a reboot."""
    confirm_s: float | None = None
    """Undo the change unless it is confirmed within this time."""
    sessions: Callable[[], tuple[str, ...]] = tuple
    """The sessions that are open once it is live; the confirmation must come from a later one."""


@dataclass(frozen=True)
class Outcome:
    """What a change did."""

    generation: int
    previous: int
    plan: Plan
    warnings: tuple[str, ...] = ()
    deadline_s: float | None = None
    durations_s: Mapping[str, float] | None = None

    @property
    def changed(self) -> bool:
        return bool(self.plan) or self.generation != self.previous


def observe_changes(site: Site, tree: Tree, facts: Facts) -> tuple[dict[str, Snapshot], Plan]:
    """What each part sees, and what it would change to make `tree` of it. Touches nothing.

    A part that neither the tree nor the live generation knows is not even asked, unless something of it
    stands all the same. All are asked where that generation is missing or damaged.
    """
    known = site.store.known(site.store.current())
    snapshots: dict[str, Snapshot] = {}
    changes = {}
    unmet: list[tuple[str, str]] = []
    for part in site.parts:
        wanted = part_tree(tree, part.folder)
        unknown = known is None or part_tree(known, part.folder)
        if not wanted and not unknown and not stands_alone(part, facts):
            continue
        snapshots[part.name] = part.observe(wanted, facts)
        changes[part.name] = part.changes(wanted, snapshots[part.name])
        unmet += _unmet(part, wanted, snapshots[part.name], facts)
    return snapshots, plan_switch(changes, unmet)


def stands_alone(part: Part, facts: Facts) -> bool:
    """Whether something of the part stands, or should, although no generation asks for it."""
    return isinstance(part, StandsAlone) and part.stands_alone(facts)


def _unmet(part: Part, wanted: Tree, snapshot: Snapshot, facts: Facts) -> Iterator[tuple[str, str]]:
    if isinstance(part, SaysUnmet):
        yield from ((part.name, line) for line in part.unmet(wanted, snapshot, facts))


def unmet_warnings(site: Site, tree: Tree, facts: Facts) -> tuple[str, ...]:
    """What `tree` asks for and this host cannot do, for verbs that look at nothing else. Touches nothing."""
    unmet = [
        line
        for part in site.parts
        if isinstance(part, SaysUnmet) and (wanted := part_tree(tree, part.folder))
        for line in _unmet(part, wanted, part.observe(wanted, facts), facts)
    ]
    return Plan((), tuple(unmet)).warnings()


def prepare(site: Site) -> None:
    """With the lock held: judge what an earlier command left, refuse to build on an unconfirmed change."""
    site.store.prepare()
    done = recover(site)
    if done:
        site.report(f"recovered: generation {done.target} was undone, because {done.reason}")
    refuse_unconfirmed(site)
    keep_reserve(site.paths.state)


@contextmanager
def machine_may_fail(what: str = "what was staged could not be judged") -> Iterator[None]:
    """For looks alone: the machine's own trouble (no socket, no file left) refuses as a fault does."""
    try:
        yield
    except OSError as error:
        raise CheckFailed(f"{what}: {error}", hint="nothing was changed") from error


@dataclass
class Transaction:
    """One change of a host, from the plan to the commit. Needs the host's lock and `prepare`.

    `guard` looks at the staged generation and raises CheckFailed when the operator would lose the way in.
    `prover` proves it with packets, beside the check and the guard.
    """

    site: Site
    wanted: Wanted
    facts: Facts
    mode: Mode
    guard: Callable[[Path, Plan], None]
    prover: Prover = no_proof
    durations_s: dict[str, float] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Make the host as `wanted` says.

        Raises CheckFailed (nothing changed), ApplyFailed (rolled back) or RollbackFailed.
        """
        store = self.site.store
        previous = store.current()
        with self._timed("plan"):
            snapshots, plan = observe_changes(self.site, self.wanted.tree, self.facts)
        if self.wanted.generation is None and previous and store.known(previous) == dict(self.wanted.tree):
            self.wanted = replace(self.wanted, generation=previous)
        if not plan and self.wanted.generation == previous:
            if self.mode.boot:
                store.point("boot", previous)
            store.remember_inputs(previous, self.wanted.input_digest)
            return Outcome(previous, previous, plan, plan.warnings(), durations_s=self.durations_s)
        with signals_undo(), ExitStack() as stack:
            number = self._stage(stack, plan)
            try:
                outcome = self._apply(self._record(number, previous, snapshots, plan), plan)
            except BaseException:
                # Whatever was touched is undone by now; a generation that never became live goes too.
                if self.wanted.generation is None and read_pending(self.site.paths.state) is None:
                    drop_unused(store, number)
                raise
        try:
            note_begun(self.site)
        except OSError as error:  # done is done
            self.site.report(f"a retry of the boot unit may go back to the boot generation: {error}")
        return outcome

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started_s = self.site.clock.now_s()
        self.site.report(step)
        yield
        self.durations_s[step] = self.durations_s.get(step, 0.0) + self.site.clock.now_s() - started_s

    def _stage(self, stack: ExitStack, plan: Plan) -> int:
        """The number of a generation on disk that the engines, the guard and the proof have nothing against.

        A new one lies there under its number only once `publish` was called; else it goes with `stack`.
        """
        store = self.site.store
        if self.wanted.generation is not None:
            self._judge(store.path(self.wanted.generation), plan)
            return self.wanted.generation
        manifest = self._manifest(plan)
        staged = stack.enter_context(self._staged(manifest, self.wanted.tree))
        self._judge(staged, plan)
        return manifest.number

    def _manifest(self, plan: Plan) -> Manifest:
        """That of a generation which is made now."""
        return Manifest(
            number=self.site.store.next_number(),
            created_unix_s=self.site.clock.unix_s(),
            version=__version__,
            source=self.wanted.source_name,
            summary=plan.summary(),
        )

    @contextmanager
    def _staged(self, manifest: Manifest, tree: Tree) -> Iterator[Path]:
        with ExitStack() as stack:
            with self._timed("stage"):
                staged = stack.enter_context(self.site.store.staged(manifest, tree, self.wanted.source))
            yield staged

    def _judge(self, generation: Path, plan: Plan) -> None:
        """Check, guard, prove: in this order, though the proof's world is made meanwhile."""
        with machine_may_fail(), self.prover(generation, plan, self.facts) as finish:
            self._check(plan.names, generation)
            with self._timed("guard"):
                self.guard(generation, plan)
            if finish is not None:
                with self._timed("prove"):
                    finish()

    def _record(self, number: int, previous: int, snapshots: Mapping[str, Snapshot], plan: Plan) -> Pending:
        confirm_s = self.mode.confirm_s
        return Pending(
            id=os.urandom(6).hex(),
            phase="activating",
            target=number,
            new_generation=self.wanted.generation is None,
            set_boot=self.mode.boot,
            previous_current=previous,
            previous_boot=self.site.store.boot(),
            snapshots={name: snapshots[name] for name in plan.names},
            boot_id=read_boot_id(),
            deadline_s=None if confirm_s is None else self.site.clock.now_s() + confirm_s,
            holder_pid=os.getpid(),
            holder_start=process_start(os.getpid()),
            source=digest_of(self.wanted.source),
        )

    def _check(self, names: tuple[str, ...], generation: Path) -> None:
        with self._timed("check"):
            for part in self.site.parts:
                if part.name in names:
                    part.check(generation, self.facts)

    def _apply(self, pending: Pending, plan: Plan) -> Outcome:
        """From the pending record on, every failure undoes the whole change."""
        site, touched, began_s = self.site, False, self.site.clock.now_s()
        try:
            if pending.deadline_s is not None:
                # Before the record: a kill between the two then leaves a guard with nothing to do, and
                # never a record without its guard.
                with self._timed("arm the dead man"):
                    deadman.arm(site, pending, systemd=self.facts.systemd)
            write_pending(site.paths.state, pending)
            if pending.deadline_s is not None:
                # The dead man may have looked for the record before it was there, and gone home.
                if site.clock.now_s() >= pending.deadline_s:
                    raise CheckFailed("the time to confirm was over before anything could be done")
                if site.clock.now_s() >= began_s + deadman.RECORD_S / 2:
                    raise CheckFailed("this host stood still before anything could be done")
            if pending.new_generation:
                # After the record: a kill leaves no generation that was never live and yet has a number.
                site.store.publish(pending.target)
            touched = True
            site.store.point("current", pending.target)
            pending, done = self._activate(pending, plan)
            for part in done:
                with self._timed(f"verify {part.name}"):
                    part.verify(site.store.path(pending.target), self.facts)
            spoken = [part.name for part in done]
            warnings = (*self._warnings(done, pending.target), *plan.warnings(besides=spoken))
            if pending.deadline_s is not None:
                deadman.require_guard(site, pending.id)
            site.store.remember_inputs(pending.target, self.wanted.input_digest)
            ignore_interrupts()  # the record tells whether it is done: nothing comes between that and us
            commit(site, pending, self.mode)
        except Exception as error:
            # A fault that nobody foresaw leaves the host no more between two generations than any other.
            if not isinstance(error, (TsstackError, OSError)):
                self.site.report("".join(traceback.format_exception(error)).rstrip())
            if not touched:
                clear_pending(site.paths.state)
                deadman.disarm(site, pending.id)
                raise CheckFailed(
                    f"nothing was changed: {describe(error)}", hint=getattr(error, "hint", "")
                ) from error
            self._undo(pending)
            raise ApplyFailed(
                f"{describe(error)}; the host was rolled back to generation {pending.previous_current}",
                hint=getattr(error, "hint", ""),
            ) from error
        return Outcome(
            pending.target, pending.previous_current, plan, warnings, pending.deadline_s, self.durations_s
        )

    def _undo(self, pending: Pending) -> None:
        """Undo what the record on disk says: it may know of more parts than `pending`, of when we began.

        Where there is none, it was cleared and the clearing may not be durable.
        """
        ignore_interrupts()
        self.site.report("undo")
        undo(self.site, read_pending(self.site.paths.state) or pending)
        deadman.disarm(self.site, pending.id)

    def _activate(self, pending: Pending, plan: Plan) -> tuple[Pending, list[Part]]:
        """Activate the plan's parts in order; return the record as it is then, and what was activated."""
        done: dict[str, Part] = {}
        names = set(plan.names)
        while waiting := [part for part in self.site.parts if part.name in names]:
            part = waiting[0]
            with self._timed(f"activate {part.name}"):
                part.activate(self.site.store.path(pending.target), self.facts, self.site.report)
            done[part.name] = part
            names.discard(part.name)
            if part.name == "tailscale" and self.wanted.render is not None:
                pending, more = self._render_again(pending, self.wanted.render)
                # The firewall too, once more, when it has to let in another port of tailscaled's.
                names |= more - {part.name}
        return pending, list(done.values())

    def _render_again(
        self, pending: Pending, render: Callable[[Facts], tuple[Tree, str]]
    ) -> tuple[Pending, set[str]]:
        """After the tailnet was joined, render again with what is known now (its addresses).

        Returns the record to go on with, and the parts that have something to change because of it.
        Their snapshots join the record, durably, before anything of them is touched.
        """
        site, store = self.site, self.site.store
        self.facts = site.facts()
        tree, digest = render(self.facts)
        self.wanted = replace(self.wanted, input_digest=digest)
        if dict(tree) == store.tree(pending.target):
            return pending, set()
        site.report("the tailnet's addresses are known now: render what needs them")
        snapshots, plan = observe_changes(site, tree, self.facts)
        replaced = pending.target
        manifest = self._manifest(plan)
        if (
            pending.new_generation
        ):  # nobody will see the one that it replaces: it tells that one's changes too
            told = dict.fromkeys([*store.manifest(replaced).summary, *manifest.summary])
            manifest = replace(manifest, summary=tuple(told))
        with self._staged(manifest, tree) as staged:
            self._judge(staged, plan)
            joined = self._join(pending, manifest.number, {name: snapshots[name] for name in plan.names})
        store.point("current", manifest.number)
        if pending.new_generation:
            store.drop(replaced)
        return joined, set(plan.names)

    def _join(self, pending: Pending, target: int, snapshots: Mapping[str, Snapshot]) -> Pending:
        """The record of a change that goes on to another target and touches more parts, durably."""
        known = {**snapshots, **pending.snapshots}
        in_order = {part.name: known[part.name] for part in self.site.parts if part.name in known}
        joined = replace(pending, target=target, new_generation=True, snapshots=in_order)
        write_pending(self.site.paths.state, joined)
        return joined

    def _warnings(self, done: list[Part], number: int) -> tuple[str, ...]:
        generation = self.site.store.path(number)
        return tuple(
            f"{part.name}: {line}" for part in done for line in part.warnings(generation, self.facts)
        )


def commit(site: Site, pending: Pending, mode: Mode) -> None:
    """Make the change last: flip the boot link and clear the record, or wait for the confirmation."""
    if mode.confirm_s is not None:
        waiting = replace(
            pending, phase="unconfirmed", holder_pid=0, holder_start="", sessions=mode.sessions()
        )
        write_pending(site.paths.state, waiting)
        return
    if mode.boot:
        site.store.point("boot", pending.target)
    clear_pending(site.paths.state)
    settle(site, pending.source)


def confirm(site: Site, sessions: tuple[str, ...] = (), *, from_here: bool = False) -> int:
    """Keep the change that waits for its confirmation; return its generation. Needs the lock.

    `sessions` are the SSH sessions that the confirmation comes from. One that was there before the
    change goes on under any ruleset, so it proves nothing about new ones. Nor does one that was opened on
    this host itself (`from_here`).

    Raises CheckFailed when nothing waits, when its time has passed (it is undone then), or when it comes
    from a session that proves nothing.
    """
    done = recover(site)
    if done:
        raise CheckFailed(
            f"generation {done.target} was undone before the confirmation came: {done.reason}",
            hint=f"generation {done.restored} is live",
        )
    pending = read_pending(site.paths.state)
    if pending is None:
        words = last_undone(site).words
        raise CheckFailed(
            "no change waits for a confirmation" + (f"; {words}" if words else ""),
            hint=f"generation {site.store.current()} is live; `tsstack generations` lists all",
        )
    if set(sessions) & set(pending.sessions):
        raise CheckFailed(
            "this session was open before the change: it would live on even if no new one could be opened",
            hint="open a NEW session and run `tsstack confirm` there, or use --same-session",
        )
    if from_here:
        raise CheckFailed(
            "this session comes from this host itself, which no rule of a zone keeps out: it proves nothing",
            hint="open a NEW session from elsewhere and run `tsstack confirm` there, or use --same-session",
        )
    if pending.set_boot:
        site.store.point("boot", pending.target)
    clear_pending(site.paths.state)
    settle(site, pending.source)
    deadman.disarm(site, pending.id)
    return pending.target
