"""Split DNS is kept: what another program has cleared is set again, and what it has set is left alone."""

from __future__ import annotations

from tsstack.parts.part import Change
from tsstack.switch.generations import part_tree
from tsstack.switch.lock import host_lock
from tsstack.switch.site import Site


def keep_dns(site: Site) -> tuple[Change, ...]:
    """Set the live generation's DNS where an interface has none. Returns what was set.

    An interface that is not there, or that somebody gave settings of their own, is no fault: the first is
    set when it comes (monitor/tsstack-dns.service), the second is for `ts-status` to tell.
    Raises LockedError while a change is under way, ApplyFailed where systemd-resolved refuses.
    """
    if not _cleared(site):  # most calls: no command shall have to wait for these
        return ()
    with host_lock(site.paths.state, site.clock, wait_s=60.0):
        cleared = _cleared(site)
        for part in site.parts:
            if cleared and part.name == "dns":
                generation, facts = site.store.path(site.store.current()), site.facts()
                part.activate(generation, facts, site.report)
                part.verify(generation, facts)
        return cleared


def _cleared(site: Site) -> tuple[Change, ...]:
    tree = site.store.tree(number) if (number := site.store.current()) else {}
    for part in site.parts:
        if part.name == "dns" and (wanted := part_tree(tree, part.folder)):
            snapshot = part.observe(wanted, site.facts())
            links = snapshot.get("links")
            known = links.items() if isinstance(links, dict) else ()
            there = {f"DNS of {link}" for link, dns in known if dns is not None}
            changes = part.changes(wanted, snapshot)
            if all(change.before is None and change.subject in there for change in changes):
                return changes
    return ()
