"""What the units do at boot: first the firewall alone, then the whole boot generation.

A boot has nothing to go back to but a bare host. So one part that cannot come up (no uplink yet, a port
that is taken) takes no other one down: a router whose proxy is broken routes, behind its firewall.
"""

from __future__ import annotations

from contextlib import ExitStack

from tsstack.errors import CheckFailed, LockedError, RollbackFailed, TsstackError
from tsstack.model.facts import Facts
from tsstack.parts.firewall.fallback import has_fallback
from tsstack.parts.part import Change, Part, StepsAside
from tsstack.switch.begun import has_begun, note_begun
from tsstack.switch.deadman import stands
from tsstack.switch.generations import part_tree
from tsstack.switch.lock import host_lock
from tsstack.switch.plan import plan_switch
from tsstack.switch.record import read_pending
from tsstack.switch.recovery import noted, recover
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
        outcome = _bring_up(site, _boot_before_pending(site) if first else site.store.current(), left)
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


def _bring_up(site: Site, number: int, left: list[str]) -> Outcome:
    """Activate each part that differs and verify every one; note in `left` those that fail and go on.

    Then look once more: what comes up late undoes what was set before it. tailscaled clears the DNS of its
    interface when it has joined, which after a boot may be some time after it is up.
    """
    store, facts = site.store, site.facts()
    previous, generation = store.current(), store.path(number)
    tree = store.tree(number)
    known = {**store.tree(previous), **tree}
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
        if part_tree(known, part.folder) or stands_alone(part, facts):
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


def activate_firewall_early(site: Site) -> tuple[int, str]:
    """Before any interface is up: the boot generation's firewall, and nothing that needs a daemon.

    A change that was pending is judged later, by `activate_boot`; until then the host gets the firewall
    that the next boot had before it. Where a generation has none, the fallback's; that too where its own
    cannot be loaded, whatever the cause, and the error is raised all the same. A disk that cannot be written
    is no reason to leave the host open. Returns the generation, and in words what stands.
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
        firewall = next(part for part in site.parts if part.name == "firewall")
        try:
            folder = site.store.path(number)
            if (folder / firewall.folder).is_dir():
                firewall.activate(folder, facts, site.report)
                return number, f"the firewall of generation {number} stands"
        except Exception:
            if has_fallback(site.paths.state):
                firewall.activate(site.paths.state / "none", facts, site.report)
            raise
        if has_fallback(site.paths.state):
            firewall.activate(site.paths.state / "none", facts, site.report)
            return number, "the fallback stands"
    return number, f"generation {number} has no firewall, and there is no fallback: nothing is closed"


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
