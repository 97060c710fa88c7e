"""Giving the host a firewall for the time in which no generation has one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tsstack.errors import ApplyFailed, CheckFailed, Finding
from tsstack.model.facts import Facts
from tsstack.model.loaded import LoadedStack
from tsstack.parts.firewall.fallback import (
    drop_unused,
    keep_fallback,
    kept_fallback,
    stage_fallback,
)
from tsstack.parts.firewall.host import PART
from tsstack.switch.generations import MANIFEST, SOURCE, part_tree
from tsstack.switch.intent import load, located, read_generation, read_source
from tsstack.switch.judges import Judges
from tsstack.switch.lock import host_lock
from tsstack.switch.lockout import AS_FALLBACK
from tsstack.switch.plan import PartPlan, Plan
from tsstack.switch.site import Site
from tsstack.switch.transaction import Mode, Transaction, prepare

_SECTIONS = frozenset({"host", "firewall"})
_WAIT_S = 10.0
_EXAMPLE = "firewall: {zones: {lan: {interfaces: [eth0], services: [ssh]}}}"


def set_fallback(site: Site, file: Path) -> tuple[bool, tuple[Finding, ...]]:
    """Let the firewall of `file` stand whenever the live generation has none.

    One transaction: what cannot stand, or would lock the operator out, leaves the one before in its place.
    Returns whether it stands now, and what lint had to say. Raises ConfigError, CheckFailed (also for
    sections other than `host` and `firewall`), ApplyFailed.
    """
    with host_lock(site.paths.state, site.clock, wait_s=_WAIT_S):
        prepare(site)
        facts = site.facts()
        source = read_source(file)
        loaded, findings = load(file, facts, source)
        _refuse_other_sections(loaded)
        with located(loaded):
            tree = PART.desired(loaded.stack, facts)
        files = {name: text.encode() for name, text in tree.items()}
        files |= {SOURCE: source, MANIFEST: json.dumps({"source": str(file)}).encode()}
        try:
            folder = stage_fallback(site.paths.state, files)
        except OSError as error:
            raise ApplyFailed(f"the fallback cannot be kept: {error}") from error
        try:
            with located(loaded):
                PART.check(folder, facts)
                return _change(site, facts, folder), findings
        finally:
            drop_unused(site.paths.state)


def remove_fallback(site: Site, *, made_of: Path | None = None) -> bool:
    """Have no fallback any more; where it stood no table stands then. Returns whether there was one.

    With `made_of` only one that was set from that file. Again after it was interrupted it ends what it had
    begun.
    """
    with host_lock(site.paths.state, site.clock, wait_s=_WAIT_S):
        prepare(site)
        kept = kept_fallback(site.paths.state)
        was_there = kept is not None
        if kept is not None and made_of is not None and _source_of(kept) != str(made_of):
            return False
        _change(site, site.facts(), None)
        drop_unused(site.paths.state)
        return was_there


def _source_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["source"])
    except (OSError, ValueError, KeyError, TypeError):  # damaged: nobody knows whose it is
        return ""


def _change(site: Site, facts: Facts, folder: Path | None) -> bool:
    """Make `folder` the fallback, and let it stand where the live generation has no firewall."""
    before = kept_fallback(site.paths.state)
    stands = not part_tree(site.store.tree(site.store.current()), PART.folder)
    if folder is not None:
        _guard(site, facts, folder, stands=stands)
    try:
        keep_fallback(site.paths.state, folder)
        return _let_stand(site, facts, folder) if stands else False
    except BaseException as error:
        keep_fallback(site.paths.state, before)
        if isinstance(error, OSError):
            raise ApplyFailed(f"the fallback cannot be kept: {error}") from error
        raise


def _let_stand(site: Site, facts: Facts, folder: Path | None) -> bool:
    """Change over to it as to a generation, but of the firewall alone."""
    of_firewall = replace(site, parts=(PART,))
    intent = read_generation(of_firewall, site.store.current())
    Transaction(of_firewall, intent.wanted, facts, Mode(boot=False), _guarded_before).run()
    return folder is not None


def _guard(site: Site, facts: Facts, folder: Path, *, stands: bool) -> None:
    """Ask before anything points at it, so that a kill leaves none that locks out.

    Where it does not stand now nobody is cut: then it is only told what it would do. Raises CheckFailed.
    """
    intent = read_generation(site, site.store.current())
    of_firewall = replace(site, parts=(PART,))
    judges = Judges(of_firewall, folder / SOURCE, facts, intent, past_it=AS_FALLBACK)
    try:
        judges.keep_ways_in(folder, Plan((PartPlan(PART.name, ()),)))
    except CheckFailed as error:
        if stands:
            raise
        site.report(f"warning: where it has to stand, {error}")


def _guarded_before(_: Path, __: Plan) -> None:
    """A table that goes locks nobody out, and of one that comes it was asked already."""


def _refuse_other_sections(loaded: LoadedStack) -> None:
    document = loaded.document
    others = [section for section in document.sections if section not in _SECTIONS]
    if others:
        file, line, column = document.place(others[0])
        raise CheckFailed(
            f"{file}:{line}:{column}: {others[0]}: a fallback has `host` and `firewall` only",
            hint="the rest belongs into the file that `tsstack switch` reads",
        )
    if loaded.stack.firewall is None or not loaded.stack.firewall.enabled:
        raise CheckFailed(f"{document.file}: a fallback needs a firewall section", hint=_EXAMPLE)
