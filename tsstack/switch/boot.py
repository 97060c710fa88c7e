"""What the units do at boot: first the firewall alone, then the whole boot generation.

A boot has nothing to go back to but a bare host. So one part that cannot come up (no uplink yet, a port
that is taken) takes no other one down: a router whose proxy is broken routes, behind its firewall.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tsstack.errors import CheckFailed, LockedError, RollbackFailed, TsstackError
from tsstack.model.facts import Facts
from tsstack.parts.firewall.fallback import has_fallback
from tsstack.parts.part import Change, Part, StepsAside
from tsstack.switch.begun import has_begun, note_begun
from tsstack.switch.deadman import stands
from tsstack.switch.generations import SOURCE, part_tree
from tsstack.switch.lock import host_lock
from tsstack.switch.plan import plan_switch
from tsstack.switch.record import clear_pending, read_pending
from tsstack.switch.recovery import describe, drop_unused, note_if_over, noted, recover
from tsstack.switch.site import Site
from tsstack.switch.transaction import Outcome, stands_alone


def activate_boot(site: Site) -> tuple[Outcome, str]:
    """Judge what was pending, then bring up the boot generation. Returns what was said of the former.

    Where this boot has brought up a host already (a retry, or somebody has switched since), what is live
    is brought up once more, and a change that waits for its confirmation goes on waiting.

    Raises RollbackFailed naming all that could not be brought back or up; the rest of it is up then, and
    the same again, or a switch, does what is left.
    """
    with host_lock(site.paths.state, site.clock, wait_s=10.0):
        site.store.prepare()
        left: list[str] = []
        said = ""
        first = not has_begun(site)
        with noted(left, "the change that was pending"):
            done = recover(site, booting=first, unguarded=_is_unguarded(site))
            said = f"generation {done.target} was undone: {done.reason}" if done else ""
        wanted = _boot_before_pending(site) if first else site.store.current()
        number, lost = _whole_or_another(site, wanted, retry=not first)
        if lost and (first or number != wanted):
            left.append(lost)
        if number is None:
            raise RollbackFailed(f"the host is as it is: {'; '.join(left)}", hint="`tsstack switch`")
        before, stays = len(left), False
        with noted(left, "what is left of the change that was pending"):
            stays = _stays(site, number)
        outcome = _bring_up(site, number, left)
        if len(left) == before and not stays:
            with noted(left, "the end of the change that was pending"):
                _let_go(site, outcome)
        with noted(left, "the change that waits"):
            pending = read_pending(site.paths.state)
            if pending is not None and pending.phase == "unconfirmed":
                # It may be undone, and what could not come up before would be there again.
                left.append("a change waits for its confirmation")
    if left:
        raise RollbackFailed(
            f"generation {outcome.generation} is up, but not wholly: {'; '.join(left)}",
            hint="mend the cause, then `tsstack recover --boot` or `tsstack switch`",
        )
    return outcome, said


def _let_go(site: Site, up: Outcome) -> None:
    """End an undoing that is stuck, where what it goes back to is gone and `up` stands whole in its place.

    Nothing of what is to be undone is left then: beside one that is missing every part is looked at. And each
    retry of the boot would tear it down for what cannot be whole. Not where something `_stays`.
    """
    pending = read_pending(site.paths.state)
    if pending is None or pending.phase != "activating":
        return
    if up.previous == pending.previous_current != 0 and not site.store.has(up.previous):
        clear_pending(site.paths.state)
        note_if_over(site, pending, f"generation {up.generation} came up in place of the one before")
        if pending.new_generation:
            drop_unused(site.store, pending.target)


def _stays(site: Site, number: int) -> bool:
    """Whether a stuck undoing left what generation `number` does not ask for and nobody can take away.

    So it is with the settings of a tailscaled that does not run yet: by itself each part says that.
    """
    pending = read_pending(site.paths.state)
    if pending is None or pending.phase != "activating":
        return False
    tree, generation, facts = site.store.tree(number), site.store.path(number), site.facts()
    touched = [part for part in site.parts if part.name in pending.snapshots]
    return any(part.warnings(generation, facts) for part in touched if not part_tree(tree, part.folder))


def _bring_up(site: Site, number: int, left: list[str]) -> Outcome:
    """Activate each part that differs and verify every one; note in `left` those that fail and go on.

    Then look once more: what comes up late undoes what was set before it. tailscaled clears the DNS of its
    interface when it has joined, which after a boot may be some time after it is up.
    """
    store, facts = site.store, site.facts()
    previous, generation = store.current(), store.path(number)
    tree = store.tree(number)
    before = store.known(previous)
    store.point("current", number)
    with noted(left, "that this boot has its generation"):
        note_begun(site)
    changes: dict[str, tuple[Change, ...]] = {}
    warnings: list[str] = []
    up: list[Part] = []

    def activate(part: Part) -> tuple[Change, ...]:
        wanted = part_tree(tree, part.folder)
        found = part.changes(wanted, part.observe(wanted, facts))
        if found:
            site.report(f"activate {part.name}")
            part.activate(generation, facts, site.report)
        return found

    for part in site.parts:
        known = before is None or part_tree(before, part.folder) or part_tree(tree, part.folder)
        if known or stands_alone(part, facts):
            with noted(left, part.name):
                changes[part.name] = activate(part)
                part.verify(generation, facts)
                if changes[part.name]:
                    warnings += (f"{part.name}: {line}" for line in part.warnings(generation, facts))
                up.append(part)
    for part in up:
        with noted(left, part.name):
            if again := activate(part):
                changes[part.name] += again
                part.verify(generation, facts)
    return Outcome(number, previous, plan_switch(changes), tuple(warnings))


def _whole_or_another(site: Site, wanted: int, *, retry: bool) -> tuple[int | None, str]:
    """The generation to bring up: `wanted`, or another where that one is missing or damaged, and what to say.

    One whose manifest alone is damaged still has its table, or never asked for one. Else an older one is
    better than a host without any: it comes up as it was, closed, and reachable from where it was. None:
    there is no other. In a `retry` what was live may have been for a test: what the next boot brings up, with
    a table or without one, is what somebody has settled on.
    """
    store = site.store
    fault = store.fault(wanted)
    if not fault:
        return wanted, ""
    if _has_table(site, wanted, shown=True) or _wants_no_table(site, wanted):
        return wanted, f"{fault}; it came up as far as its files are there"
    others = [number for number in store.instead_of(wanted) if number != store.pending_target()]
    closed = [number for number in others if _has_table(site, number, shown=True)]
    settled = {_boot_before_pending(site)} if retry else set()
    number = next(iter((*settled.intersection(others), *closed, *others)), None)
    told = "there is no other" if number is None else f"generation {number} came up in its place"
    return number, f"{fault}; {told}"


def activate_firewall_early(site: Site) -> tuple[int, str]:
    """Before any interface is up: the boot generation's firewall, and nothing that needs a daemon.

    A change that was pending is judged later, by `activate_boot`; until then the host gets the firewall
    that the next boot had before it. Where a generation has none, the fallback's; that too where its own
    cannot be loaded, whatever the cause, or is not there any more, and the error is raised all the same.
    Without a fallback it is another generation's then. A disk that cannot be written is no reason to leave
    the host open. Returns the generation, and in words what stands.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(host_lock(site.paths.state, site.clock, wait_s=10.0))
            site.store.prepare()
        except (CheckFailed, OSError) as error:
            if isinstance(error, LockedError):
                raise
            site.report(f"{error}; going on, since nobody else is at work before the first interface is up")
        number = _boot_before_pending(site)
        facts = site.facts()
        stack.callback(_step_aside, site, facts)
        firewall = _firewall(site)
        try:
            fault = site.store.fault(number)
            if _has_table(site, number):
                firewall.activate(site.store.path(number), facts, site.report)
                return number, _told_with(f"the firewall of generation {number} stands", fault)
            if fault and not _wants_no_table(site, number):
                raise CheckFailed(fault)
        except Exception as error:
            stands = _stand_in(site, number, facts)
            if not stands:
                raise
            raise RollbackFailed(
                f"{describe(error)}; {stands} instead",
                hint="`tsstack generations` tells more; `tsstack switch` makes a new one",
            ) from error
        if has_fallback(site.paths.state):
            firewall.activate(site.paths.state / "none", facts, site.report)
            return number, _told_with("the fallback stands", fault)
    bare = f"generation {number} has no firewall, and there is no fallback: nothing is closed"
    return number, _told_with(bare, fault)


def _told_with(stands: str, fault: str) -> str:
    return f"{stands}; {fault}" if fault else stands


def _stand_in(site: Site, number: int, facts: Facts) -> str:
    """Have another table stand than that of generation `number`; which, in words (empty: none could).

    The fallback, as it is made for this. Without one that of another generation, where none stands by now.
    """
    firewall, state = _firewall(site), site.paths.state
    if has_fallback(state):
        with _told(site, "the fallback"):
            firewall.activate(state / "none", facts, site.report)
            return "the fallback stands"
    for other in site.store.instead_of(number):
        if _has_table(site, other):
            with _told(site, f"generation {other}"):
                if firewall.observe({}, facts).get("text") is not None:
                    return "the table that was loaded before stands"
                firewall.activate(site.store.path(other), facts, site.report)
                return f"the firewall of generation {other} stands"
    return ""


@contextmanager
def _told(site: Site, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  the next one may do
        site.report(f"{what}: {describe(error)}")


def _firewall(site: Site) -> Part:
    return next(part for part in site.parts if part.name == "firewall")


def _has_table(site: Site, number: int, *, shown: bool = False) -> bool:
    """Whether generation `number` has a table, or one that the disk does not show: to load it tells then.

    Where it must be `shown` that is none: what a disk hides of a whole generation is not there to come up.

    Not by `Path.glob`, which from Python 3.12 on finds nothing in a folder that cannot be read.
    """
    if not site.store.has(number):
        return False
    try:
        return any((site.store.folder / str(number) / _firewall(site).folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return not shown


def _wants_no_table(site: Site, number: int) -> bool:
    """Whether the file that generation `number` is from can be read, and asks for no firewall.

    The folder of a table that is gone says that there was one, also where the file was cut off before it.
    """
    from tsstack.model.loader import load_stack

    folder = site.store.folder / str(number)
    if not site.store.has(number):
        return False
    try:
        if (folder / _firewall(site).folder).exists():
            return False
        return load_stack(folder / SOURCE, {}).stack.firewall is None
    except Exception:  # noqa: BLE001  whatever makes it unreadable: nobody knows then
        return False


def _is_unguarded(site: Site) -> bool:
    """Whether a change waits for its confirmation and its dead man is gone: nobody else would undo it.

    So it is after a reboot that has kept /run (systemctl(1): soft-reboot), as well.
    """
    try:
        pending = read_pending(site.paths.state)
    except RollbackFailed:  # `recover` says so
        return False
    return pending is not None and pending.phase == "unconfirmed" and not stands(site, pending.id)


def _step_aside(site: Site, facts: Facts) -> None:
    for part in site.parts:
        if isinstance(part, StepsAside):
            try:
                part.step_aside(facts)
            except (TsstackError, OSError) as error:
                site.report(f"{part.name}: {error}; its program starts with it")


def _boot_before_pending(site: Site) -> int:
    """The boot generation, without what a change that is not done made of it."""
    try:
        pending = read_pending(site.paths.state)
    except RollbackFailed as error:
        site.report(str(error))  # a host without a firewall would be worse than one with the last that stood
        return site.store.boot()
    if pending is None or pending.previous_boot is None:
        return site.store.boot()
    return pending.previous_boot
