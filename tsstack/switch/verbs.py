"""The verbs that change a host, each as one function: what the command line and the units call."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from tsstack.errors import CheckFailed, UsageError
from tsstack.model.facts import Facts
from tsstack.parts.firewall.fallback import kept_fallback
from tsstack.switch.boot import activate_boot, activate_firewall_early
from tsstack.switch.generations import SOURCE, Manifest, part_tree, tree_digest
from tsstack.switch.intent import Intent, located, read_generation, read_intent
from tsstack.switch.judges import Judges
from tsstack.switch.lock import host_lock
from tsstack.switch.lockout import AT_BOOT
from tsstack.switch.plan import PartPlan, Plan
from tsstack.switch.proof import no_proof
from tsstack.switch.record import Pending, digest_of, read_pending
from tsstack.switch.recovery import note_if_over, recover, undo
from tsstack.switch.site import Site
from tsstack.switch.transaction import (
    Mode,
    Outcome,
    Transaction,
    confirm,
    machine_may_fail,
    prepare,
    stands_alone,
)
from tsstack.switch.undone import last_undone, refuse_undone, settle
from tsstack.system.bypass import in_words, read_bypass, way_back
from tsstack.system.localapi import LocalApi, LocalApiError

__all__ = [
    "Mode",
    "Outcome",
    "activate_boot",
    "activate_firewall_early",
    "confirm_change",
    "not_at_boot",
    "roll_back",
    "stage_for_boot",
    "switch",
]


# For what a unit does in passing; a person's own command takes longer, and is named.
_WAIT_S = 2.0
UNPROVEN = (
    "NOT PROVEN: with --no-prove nobody has tried with packets whether the rules do what the file says; "
    "`tsstack prove` does"
)


def switch(
    site: Site,
    file: Path,
    mode: Mode,
    *,
    force_lockout: bool = False,
    prove: bool = True,
    unattended: bool = False,
) -> tuple[Outcome, Intent]:
    """Make the host as `file` says. Raises ConfigError, CheckFailed, ApplyFailed, RollbackFailed.

    `unattended`: not a file that was undone because nobody confirmed it.
    """
    mode = _complete(mode, force_lockout)
    with host_lock(site.paths.state, site.clock, wait_s=_WAIT_S):
        prepare(site)
        site.report("read")
        lost = _lost(site)
        facts = site.facts()
        intent = read_intent(site, file, facts)
        if unattended:
            refuse_undone(site, intent.wanted.source)
        judges = Judges(site, file, facts, intent, attended=not unattended)
        guard = _no_guard if force_lockout else judges.keep_ways_in
        prover = judges.proving().begin if prove else no_proof
        with located(intent.loaded):
            refuse_vanished_uplink(intent, facts)
            outcome = Transaction(site, intent.wanted, facts, mode, guard, prover).run()
    if outcome.changed:
        told = (lost, UNPROVEN if not prove else "", *judges.doubts, not_at_boot(facts))
        outcome = replace(outcome, warnings=(*filter(None, told), *outcome.warnings))
    if past := past_the_exit(facts):
        outcome = replace(outcome, warnings=(past, *outcome.warnings))
    return outcome, intent


def past_the_exit(facts: Facts) -> str:
    """What is said where the kernel sends what leaves past the exit node that tailscaled has by now."""
    try:
        api = LocalApi(facts.paths.tailscale_socket, timeout_s=_WAIT_S)
        if not api.prefs().get("ExitNodeID"):
            return ""
        status = api.status(peers=False)
    except LocalApiError:
        return ""
    if status.get("BackendState") != "Running":
        return ""
    addresses = [str(each) for each in (status.get("Self") or {}).get("TailscaleIPs") or ()]
    past = read_bypass(addresses, wait=lambda _: time.sleep(_WAIT_S))  # the routes come after the prefs
    return f"{in_words(past)}, and not by the exit node in use (TS718): {way_back(past)}" if past else ""


def not_at_boot(facts: Facts) -> str:
    """What to tell of a host that would come up without tsstack; empty: all is well."""
    if not facts.systemd:
        return ""
    from tsstack.parts.dns.host import read_record
    from tsstack.switch.units import missing_at_boot, missing_for_dns

    return missing_at_boot() or (missing_for_dns() if read_record(facts.paths) else "")


def _complete(mode: Mode, force_lockout: bool) -> Mode:
    """The mode with the sessions that cannot confirm it. Raises UsageError for a one-way lock-out."""
    if mode.confirm_s is not None:
        from tsstack.switch.sessions import sessions_before

        return replace(mode, sessions=sessions_before)
    if force_lockout:
        raise UsageError(
            "--force-lockout needs --confirm", hint="so that the change undoes itself if you are locked out"
        )
    return mode


def refuse_vanished_uplink(intent: Intent, facts: Facts) -> None:
    """Raise CheckFailed when the uplink that the file names is not there: nothing would reach the host.

    Lint only warns of absent interfaces, since bridges and tunnels may come later, and since a file is
    also judged and built on other machines.
    """
    uplink = intent.loaded.stack.host.uplink if intent.loaded else None
    if uplink and uplink not in facts.interfaces:
        raise CheckFailed(
            f"host.uplink: there is no interface {uplink} on this host",
            hint=f"here are: {', '.join(facts.interfaces)}",
        )


def stage_for_boot(site: Site, file: Path, *, prove: bool = True) -> tuple[Manifest, bool, Intent]:
    """Make what `file` says the next boot's generation; the live host is not touched.

    All of it is proven, unless `prove` says no: nobody watches a boot.

    Returns the generation's manifest, whether it is a new one, and the intent.
    """
    with host_lock(site.paths.state, site.clock):
        prepare(site)
        facts = site.facts()
        intent = read_intent(site, file, facts)
        store, wanted = site.store, intent.wanted
        judges = Judges(site, file, facts, intent, past_it=AT_BOOT)
        prover = judges.proving(everything=True).begin if prove else no_proof

        def judge(staged: Path) -> None:
            parts = [
                part
                for part in site.parts
                if part_tree(wanted.tree, part.folder) or stands_alone(part, facts)
            ]
            plan = Plan(tuple(PartPlan(part.name, ()) for part in parts))
            with located(intent.loaded), machine_may_fail(), prover(staged, plan, facts) as finish:
                for part in parts:
                    part.check(staged, facts)
                judges.keep_ways_in(staged, plan)
                for doubt in judges.doubts:
                    site.report(doubt)
                if finish is not None:
                    site.report("prove")
                    finish()

        for known in reversed(store.whole()):
            if known and tree_digest(store.tree(known)) == tree_digest(wanted.tree):
                judge(store.path(known))
                store.point("boot", known)
                settle(site, digest_of(wanted.source))
                return store.manifest(known), False, intent
        from tsstack import __version__

        manifest = Manifest(store.next_number(), site.clock.unix_s(), __version__, wanted.source_name)
        with store.staged(manifest, wanted.tree, wanted.source) as staged:
            judge(staged)
        store.point("boot", manifest.number)
        settle(site, digest_of(wanted.source))
    return manifest, True, intent


def confirm_change(site: Site, *, same_session: bool = False, pending_only: str = "") -> int:
    """Keep the change that waits for its confirmation; return its generation.

    `pending_only`: the id of the change that is to be kept; CheckFailed where another is pending, or none.
    """
    with host_lock(site.paths.state, site.clock, wait_s=_WAIT_S):
        _require_pending(read_pending(site.paths.state), pending_only)
        if same_session:
            return confirm(site)
        from tsstack.switch.sessions import comes_from_here, operator_sessions

        with machine_may_fail("whether this session is a new one cannot be told"):
            sessions = operator_sessions()
            from_here = comes_from_here(sessions)
        return confirm(site, tuple(map(str, sessions)), from_here=from_here)


def roll_back(
    site: Site, to: int | None, mode: Mode, *, force_lockout: bool = False, pending_only: str = ""
) -> Outcome:
    """Undo the change that waits for its confirmation; else go back to an earlier generation.

    `pending_only`: the id of the change that is to be undone; CheckFailed where another is pending, or none.

    Needs no network, no secrets and no rendering.
    """
    mode = _complete(mode, force_lockout)
    with host_lock(site.paths.state, site.clock, wait_s=_WAIT_S):
        site.store.prepare()
        pending = read_pending(site.paths.state)
        _require_pending(pending, pending_only)
        recover(site)
        if pending is not None:
            if read_pending(site.paths.state) is not None:
                try:
                    undo(site, pending, by_hand=True)
                finally:
                    note_if_over(site, pending, "`tsstack rollback`", asked=True)
            if to is None or to == pending.previous_current:
                return Outcome(site.store.current(), pending.target, Plan(()))
        live = site.store.current()
        if to is None:
            _refuse_one_too_many(site, live)
        target = _previous(site, live) if to is None else to
        lost = _lost(site)
        facts = site.facts()
        intent = read_generation(site, target)
        fallback = kept_fallback(site.paths.state)
        source = (site.store.path(target) if target or fallback is None else fallback) / SOURCE
        judges = Judges(site, source, facts, intent, admins=False, bare=not target and fallback is None)
        guard = _no_guard if force_lockout else judges.keep_ways_in
        # Not proven: the way back must work where a proof does not, and what was live was proven then.
        outcome = Transaction(site, intent.wanted, facts, mode, guard).run()
    return replace(outcome, warnings=(*filter(None, (lost,)), *judges.doubts, *outcome.warnings))


def _lost(site: Site) -> str:
    """What is told where the live generation is no more: what it asked for is not known."""
    fault = site.store.fault(site.store.current())
    return f"{fault}, and it was live: every part was looked at as on an unknown host" if fault else ""


def _require_pending(pending: Pending | None, change: str) -> None:
    """Raise CheckFailed where who asked meant `change` (empty: whichever), and that waits no more."""
    if change and (pending is None or pending.id != change):
        raise CheckFailed(
            "the switch that was asked about is over already; nothing was changed",
            hint="`tsstack generations` lists what there is",
        )


def _refuse_one_too_many(site: Site, live: int) -> None:
    """Raise CheckFailed where what is to be undone was undone already: further back may be a bare host."""
    undone = last_undone(site)
    if undone.by_itself:
        raise CheckFailed(
            f"{undone.words}; generation {live} is live, and nothing was changed",
            hint="`tsstack rollback --to N` goes further back; `tsstack generations` lists them",
        )


def _previous(site: Site, live: int) -> int:
    store = site.store
    numbers = [number for number in store.whole() if number < live]
    if not numbers:
        raise UsageError("there is no earlier generation", hint="`tsstack generations` lists them")
    # What is before a first one is the bare host; before any other it may be what was lost with its folder.
    passed_over = [number for number in store.damaged() if number < live]
    lost = filter(None, map(store.fault, [*passed_over, *([live] if live > 1 else [])]))
    if max(numbers) == 0 and (faults := "; ".join(lost)):
        raise CheckFailed(
            f"no earlier generation is whole: {faults}",
            hint="`tsstack switch` makes a new one; `tsstack rollback --to 0` goes to a host without it",
        )
    return max(numbers)


def _no_guard(_: Path, __: Plan) -> None:
    return None
