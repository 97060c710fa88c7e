"""Other owners' tables, and what they do with packets that our zones open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.doctor.foreign import Others
from tsstack.errors import TsstackError
from tsstack.parts.firewall.foreign import filtering_tables, foreign_drops
from tsstack.parts.firewall.library import Session
from tsstack.status.firewall import standing_folder

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.switch.site import Site


def look_at_others(site: Site, facts: Facts) -> Others:
    """Asks with packets only where there is a table that may drop one. Raises NftError."""
    tables = filtering_tables(Session())
    drops = foreign_drops(Session())
    through = tuple(each for each in drops if each.hook == "forward")
    if not tables:
        return Others(drops=through)
    from tsstack.explain.others import ask_others
    from tsstack.switch.generations import SOURCE
    from tsstack.switch.intent import load

    folder, _ = standing_folder(str(site.paths.state))
    try:
        loaded, _ = load(Path(folder) / SOURCE, None)
        asked = ask_others(loaded.stack, facts)
        # Of what was not tried only the chains tell.
        return Others(tables, asked, drops=drops if asked.left else through)
    except (TsstackError, OSError) as error:
        return Others(tables, fault=str(error), drops=drops)
