"""Our links in the folder of a distribution's nginx: with them it serves ours, without them it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsstack.errors import ApplyFailed
from tsstack.parts.proxy.discovery import OWN_HTTP, OWN_MAIN
from tsstack.parts.proxy.engine import UNIT
from tsstack.parts.proxy.faults import reload_nginx
from tsstack.system.files import link_durably

if TYPE_CHECKING:
    from pathlib import Path

    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Plan


def links(facts: Facts) -> tuple[Path, Path]:
    """The one in `http {}`, and the one in the main file."""
    return facts.paths.etc / "nginx" / OWN_HTTP, facts.paths.etc / "nginx" / OWN_MAIN


def target_of(link: Path) -> str | None:
    """Where a link of ours leads; None where there is none."""
    return str(link.readlink()) if link.is_symlink() else None


def set_links(plan: Plan, facts: Facts) -> bool:
    """Let the distribution's file include ours, or no longer. Returns whether anything was changed.

    Raises ApplyFailed.
    """
    return put_links(_wanted(plan, facts))


def _wanted(plan: Plan, facts: Facts) -> dict[Path, str | None]:
    http, main = links(facts)
    if not plan.main_config:
        return {http: None, main: None}
    folder = facts.paths.current / "nginx"
    return {http: str(folder / "http.conf"), main: str(folder / "main.conf") if plan.has_main else None}


def is_linked(plan: Plan, facts: Facts) -> bool:
    """Whether the distribution's file includes ours: at a boot it does not until they can be served."""
    return all(target_of(link) == wanted for link, wanted in _wanted(plan, facts).items())


def reload_command(plan: Plan, facts: Facts) -> str:
    """Makes an nginx that runs load what is there; empty where a reload would not bring ours in."""
    if not is_linked(plan, facts):
        return ""
    return reload_nginx("nginx" if plan.main_config else UNIT).partition("    # ")[0]


def put_links(wanted: dict[Path, str | None]) -> bool:
    """Let each lead where it should; None: nowhere. Returns whether anything was changed.

    Raises ApplyFailed.
    """
    changed = False
    for link, target in wanted.items():
        if target_of(link) == target:
            continue
        if target is None:
            link.unlink(missing_ok=True)
        elif link.exists() and not link.is_symlink():
            raise ApplyFailed(
                f"{link} is a file of somebody else", hint="move it away; the name is tsstack's"
            )
        else:
            link_durably(link, target)
        changed = True
    return changed
