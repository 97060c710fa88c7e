"""Bringing a host back to one generation after a failure, a kill, an expired deadline or a reboot."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from tsstack.errors import CheckFailed, RollbackFailed, TsstackError, UsageError
from tsstack.parts.part import NeedsGeneration, Part
from tsstack.switch import undone
from tsstack.switch.generations import Store
from tsstack.switch.leftovers import remove_leftovers
from tsstack.switch.record import NAME, Pending, clear_pending, read_boot_id, read_pending, write_pending
from tsstack.switch.signals import undisturbed
from tsstack.switch.site import Site
from tsstack.system.processes import process_start

_LATE = "it was not confirmed in time"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery did: which change it undid, and why."""

    target: int
    restored: int
    reason: str


def undo(site: Site, pending: Pending, *, by_hand: bool = False) -> None:
    """Bring back what `pending` recorded, in reverse order of activation, and clear the record.

    Every part is tried even when one fails. Raises RollbackFailed naming what is left; the record then
    stays, so that the next command tries again, unless all of that needs files that are gone. Ignores what
    would interrupt it. `by_hand`: raises CheckFailed, and touches nothing, where the disk takes nothing at
    all: the host is whole as long.
    """
    with undisturbed():
        _take_back(site, pending, by_hand=by_hand)
        _bring_back(site, pending)


def _bring_back(site: Site, pending: Pending) -> None:
    missing = bool(pending.previous_current) and not site.store.has(pending.previous_current)
    left: list[str] = []
    lost: list[str] = []  # what failed for want of files that are gone: no other try would go better

    def failed(part: Part) -> list[str]:
        if missing and isinstance(part, NeedsGeneration):
            return lost if part.needs_generation(pending.snapshots[part.name]) else left
        return left

    with noted(left, "the links"):
        site.store.point("current", pending.previous_current)
        # A kill between the flip of the boot link and the clearing of the record is undone wholly, too.
        if pending.previous_boot is not None and site.store.boot() != pending.previous_boot:
            site.store.point("boot", pending.previous_boot)
    with noted(left, "the machine cannot be looked at"):
        with suppress(OSError):  # a reboot has taken it; what cannot do without it says so itself
            site.paths.run.mkdir(parents=True, exist_ok=True)
        facts = site.facts()
        back: list[Part] = []
        for part in reversed(site.parts):
            if part.name in pending.snapshots:
                site.report(f"restore {part.name}")
                with noted(failed(part), part.name):
                    part.restore(pending.snapshots[part.name], facts)
                    back.append(part)
        # What goes back late undoes what was back before it: tailscaled, given its routes again, clears the
        # DNS of its interface. Where nothing was undone this writes nothing.
        for part in reversed(back[:-1]):
            with noted(failed(part), part.name):
                part.restore(pending.snapshots[part.name], facts)
    # What else failed (a firewall) is tried again, from the record; what is lost bars nobody's way elsewhere.
    if not left:
        with noted(left, "the record"):
            clear_pending(site.paths.state)
    mend = f"mend the cause and run `tsstack rollback`; what was before is kept in {site.paths.state}"
    if missing:
        way = "`tsstack switch` makes a new generation, `tsstack rollback --to N` goes to another"
        mend = f"{mend}; or move {NAME} away there: {way}" if left else way
        site.report(f"generation {pending.previous_current}, which was live before, is missing: {way}")
    if pending.new_generation and not left:
        drop_unused(site.store, pending.target)
    if left or lost:
        raise RollbackFailed("the rollback is incomplete: " + "; ".join([*left, *lost]), hint=mend)


def _take_back(site: Site, pending: Pending, *, by_hand: bool) -> None:
    """From here on nothing keeps a change that waited: one that is half undone is no generation.

    What does not fit on a broken disk must not keep it from being undone; then only the deadline is left.
    """
    if pending.phase == "activating":
        return
    holder = os.getpid()
    under_way = replace(
        pending, phase="activating", waited=True, holder_pid=holder, holder_start=process_start(holder)
    )
    try:
        write_pending(site.paths.state, under_way)
    except OSError as error:
        # A full disk still takes all that an undoing writes: links and the end of the record are renames.
        if by_hand and error.errno in {errno.EROFS, errno.EIO}:
            raise CheckFailed(
                f"the record cannot be written: {error}",
                hint="nothing was undone yet; mend the disk, then the same again",
            ) from error
        site.report(f"the record cannot be written: {error}; going on")


@contextmanager
def noted(left: list[str], what: str) -> Iterator[None]:
    """Whatever fails here, a fault of our own included, must not keep the rest from being brought back."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  see above; it is raised again as RollbackFailed
        left.append(f"{what}: {describe(error)}")


def describe(error: Exception) -> str:
    """An error in words; one that nobody foresaw with its kind, as `KeyError: 'x'`."""
    return str(error) if isinstance(error, (TsstackError, OSError)) else f"{type(error).__name__}: {error}"


def drop_unused(store: Store, number: int) -> None:
    """Remove a generation unless the host runs it or boots it."""
    try:
        store.drop(number)
    except UsageError:  # the host runs or boots it
        return
    except OSError:  # on a broken disk it stays: whole, checked, and with nothing that points at it
        return


def recover(site: Site, *, booting: bool = False, unguarded: bool = False) -> Recovery | None:
    """Judge the pending record, with the host's lock held.

    A change whose command died is undone; so is one whose deadline has passed, that no one confirmed
    before a reboot, or that is `unguarded`: nobody would undo it. Returns what was undone, or None when
    there was nothing to judge or the change still waits within its time. Raises RollbackFailed.
    """
    pending = read_pending(site.paths.state)
    try:
        remove_leftovers(site.paths, everywhere=pending is not None)
    except OSError as error:  # they do no harm, and must not keep a change from being undone
        site.report(f"half-written files stay: {error}")
    try:
        _send_home(site, pending)
    except OSError as error:  # nor must he who guards nothing
        site.report(f"a dead man whom nobody needs may stay: {error}")
    if pending is None:
        return None
    late = pending.deadline_s is not None and site.clock.now_s() >= pending.deadline_s
    if pending.phase == "activating" and pending.waited and late:
        reason = _LATE
    elif pending.phase == "activating":
        at_work = "that undid it" if pending.waited else "that was at work on it"
        reason = f"the command {at_work} died before it was done"
    elif site.store.current() != pending.target:  # its undoing began, and the disk took no note of that
        reason = "the command that undid it died before it was done"
    elif booting or pending.boot_id != read_boot_id():
        reason = "the host rebooted before it was confirmed"
    elif unguarded:
        reason = "its dead man was gone before it was confirmed"
    elif late:
        reason = _LATE
    else:
        return None
    try:
        undo(site, pending)
    finally:
        note_if_over(site, pending, reason)
    return Recovery(pending.target, pending.previous_current, reason)


def note_if_over(site: Site, pending: Pending, reason: str, *, asked: bool = False) -> None:
    """After an undoing, also one that ended with what is lost: without its record it is over all the same."""
    from tsstack.switch.deadman import disarm  # which itself needs us

    if read_pending(site.paths.state) is None:
        disarm(site, pending.id)
        undone.note(site, pending, reason, asked=asked)


def _send_home(site: Site, pending: Pending | None) -> None:
    """A command that was killed between its dead man and its record has left him with nothing to guard."""
    from tsstack.switch.deadman import disarm  # which itself needs us

    for ready in site.paths.run.glob("deadman-*.ready"):
        change = ready.name.removeprefix("deadman-").removesuffix(".ready")
        if pending is None or change != pending.id:
            disarm(site, change)


def refuse_unconfirmed(site: Site) -> None:
    """Raise CheckFailed while a change waits for its confirmation: nothing may be built on it."""
    pending = read_pending(site.paths.state)
    if pending is not None:
        left_s = max(0.0, (pending.deadline_s or 0.0) - site.clock.now_s())
        raise CheckFailed(
            f"generation {pending.target} waits for its confirmation ({left_s:.0f} s left)",
            hint="run `tsstack confirm` to keep it or `tsstack rollback` to undo it",
        )


def stop_holder(pending: Pending) -> None:
    """End the command that holds a change past its deadline, so that the change can be undone.

    Only the very process that wrote the record is ended: its start time must match.
    """
    pid = pending.holder_pid
    if pid and pid != os.getpid() and process_start(pid) == pending.holder_start != "":
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
