"""Other owners' tables, and what they do with packets that our zones open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.doctor.foreign import Others
from tsstack.errors import CheckFailed, TsstackError
from tsstack.parts.firewall.foreign import filtering_tables, foreign_drops, tables_on_the_way_on
from tsstack.parts.firewall.library import Session
from tsstack.parts.proxy.plan import read_plan
from tsstack.status.firewall import standing_folder

if TYPE_CHECKING:
    from tsstack.doctor.passing import MayDrop
    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack
    from tsstack.parts.firewall.foreign import ForeignDrop
    from tsstack.parts.proxy.plan import Listener
    from tsstack.switch.site import Site


def look_at_others(site: Site, facts: Facts, *, longest_s: float | None = None) -> Others:
    """Asks with packets only where there is a table that may drop one; no longer than a screen may, unless
    `longest_s` is given. Raises NftError.
    """
    tables, drops = filtering_tables(Session()), foreign_drops(Session())
    further = tables_on_the_way_on(Session())
    through = tuple(each for each in drops if each.hook == "forward")
    if not tables and not further:
        return Others(drops=through)
    from tsstack.switch.generations import SOURCE
    from tsstack.switch.intent import load

    folder, _ = standing_folder(str(site.paths.state))
    may: tuple[MayDrop, ...] = ()
    try:
        loaded, _ = load(Path(folder) / SOURCE, None)
        may = _may_drop(further, drops, loaded.stack, facts)
        if not tables:
            return Others(drops=through, may=may)
        from tsstack.explain.others import LONGEST_S, ask_others

        served = _served(Path(folder))
        asked = ask_others(loaded.stack, facts, served, longest_s=longest_s or LONGEST_S)
        # Of what was not tried only the chains tell.
        return Others(tables, asked, drops=drops if asked.left else through, may=may)
    except (TsstackError, OSError) as error:
        # What was not tried is told of tables that may drop what comes in; of the others nothing is known.
        fault = str(error) if tables else ""
        return Others(tables, fault=fault, drops=drops if tables else through, may=may)


def _may_drop(
    tables: tuple[str, ...], drops: tuple[ForeignDrop, ...], stack: Stack, facts: Facts
) -> tuple[MayDrop, ...]:
    """What may drop what passes or is answered; not what is told already since it drops all."""
    if not tables:
        return ()
    from tsstack.doctor.gathering.ways import ways_of
    from tsstack.doctor.passing import may_drop
    from tsstack.explain.tracing import read_listing

    told = {(each.family, each.table, each.chain) for each in drops if each.hook == "forward"}
    listing = read_listing(Session().list_with_handles(*tables))
    found = may_drop(listing, ways_of(stack, facts))
    return tuple(each for each in found if (each.family, each.table, each.chain) not in told)


def _served(generation: Path) -> list[Listener]:
    """The sockets that the file serves to others. Raises CheckFailed where they cannot be read."""
    try:
        plan = read_plan(generation)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"what the proxy serves cannot be read: {error!r}") from error
    # Nobody but tailscaled comes to a claimed one.
    return [each for each in plan.listeners if not each.claimed] if plan else []
