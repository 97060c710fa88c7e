"""Compares the host with its live generation, as `dry-activate` does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tsstack.doctor.generations import GenerationFacts
from tsstack.errors import CheckFailed, TsstackError
from tsstack.parts.dns.host import doctor as resolver_faults
from tsstack.switch.record import read_pending
from tsstack.switch.transaction import observe_changes
from tsstack.system.processes import process_start

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.switch.site import Site

# What a part warns of and another check of the doctor tells with more: by the part's name.
_TOLD_ELSEWHERE = {"tailscale": ("tailscale.advertise:", "tailscale.exit_node:")}


def look_at_generation(site: Site, facts: Facts, *, thorough: bool, hung: bool = False) -> GenerationFacts:
    """`thorough`: let the parts remark on it and the engines judge it, which may take seconds.

    With `hung` tailscaled has been silent already: each of its parts would wait for it once more.

    Raises RollbackFailed for a pending record that nobody understands.
    """
    store = site.store
    live, boot = store.current(), store.boot()
    told = GenerationFacts(
        live=live,
        boot=boot,
        boot_fault=store.fault(boot),
        kept=tuple(number for number in store.whole() if number),
        abandoned=_abandoned(site),
    )
    if not live:
        return told
    if fault := store.fault(live):
        return replace(told, fault=fault, hint=_anew(site, live))
    if os.geteuid() != 0:  # the packet filter cannot be read, and the engines' files partly
        return replace(told, compared=False)
    if hung:
        return replace(
            told,
            fault="tailscaled runs and does not answer, so the host is not compared with its generation",
            hint="systemctl restart tailscaled",
        )
    try:
        _, plan = observe_changes(site, store.tree(live), facts)
        told = replace(
            told,
            drift=tuple((part.part, str(change)) for part in plan.parts for change in part.changes),
            remarks=plan.unmet,
        )
        if thorough:
            said = tuple(_remarks(site, facts, live))
            # What it cannot do of the user's own wishes is unmet; the rest a profile would merely like.
            notes = tuple(each for each in said if each[0] == "kernel" and each not in plan.unmet)
            remarks = (*(each for each in said if each not in notes), *plan.unmet)
            told = replace(
                told,
                remarks=tuple(dict.fromkeys(remarks)),
                notes=notes,
                refusals=tuple(_refusals(site, facts, live)),
            )
    except TsstackError as error:
        return replace(told, fault=error.message, hint=error.hint)
    return told


def _anew(site: Site, lost: int) -> str:
    others = site.store.instead_of(lost)
    older = f"; tsstack rollback --to {others[0]} goes to the newest whole one" if others else ""
    return f"tsstack switch    # makes a new one{older}"


def _abandoned(site: Site) -> int | None:
    pending = read_pending(site.paths.state)
    if pending is None or pending.phase != "activating":
        return None
    alive = bool(pending.holder_pid) and process_start(pending.holder_pid) == pending.holder_start
    return None if alive else pending.target


def _remarks(site: Site, facts: Facts, live: int) -> Iterator[tuple[str, str]]:
    generation = site.store.path(live)
    files = _own_certificates(site, live)
    known = set(resolver_faults(facts.paths)) if facts.resolved else set()
    for part in site.parts:
        if part.name in {"firewall", "monitor"}:
            continue  # TS864, TS741
        for line in part.warnings(generation, facts):
            if line in known or line.startswith(_TOLD_ELSEWHERE.get(part.name) or "\0"):
                continue
            if part.name == "proxy" and any(path in line for path in files) and " expires on " not in line:
                continue  # TS846 to TS849
            yield part.name, line


def _own_certificates(site: Site, live: int) -> tuple[str, ...]:
    try:
        plan = json.loads((site.store.path(live) / "nginx" / "plan.json").read_bytes())
        return tuple(
            path
            for each in plan["certificates"]
            for path in (each["source_certificate"], each["source_key"])
            if path
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ()


def _refusals(site: Site, facts: Facts, live: int) -> Iterator[tuple[str, str, str]]:
    generation = site.store.path(live)
    for part in site.parts:
        if not (generation / part.folder).is_dir():
            continue
        try:
            part.check(generation, facts)
        except CheckFailed as error:
            yield part.name, error.message, error.hint
