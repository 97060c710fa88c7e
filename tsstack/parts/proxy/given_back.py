"""A distribution's nginx that did not start with ours in it, given back to those who had it before us."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsstack.errors import ApplyFailed
from tsstack.system.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tsstack.model.facts import Facts
    from tsstack.parts.part import Report
    from tsstack.parts.proxy.engine import Engine


def give_back(nginx: Engine, report: Report) -> None:
    """Start it, now without ours; one that does not start then is reported."""
    try:
        nginx.start()
        report("nginx started again, with what it had before")
    except ApplyFailed as error:
        report(f"nginx does not start with what it had before either: {error}")


def start_again(nginx: Engine, report: Report) -> None:
    """Those who had it before us have it again, where it failed with ours in it."""
    if nginx.has_failed():
        try:
            nginx.start()
            report("nginx started, for what others serve")
        except ApplyFailed as error:
            report(f"nginx does not start without us either: {error}")


def note_held(facts: Facts, sockets: Iterable[str]) -> None:
    """Sockets of others, by inode: at its next try the boot unit need not end nginx to find them.

    Behind its walls it may not look whose they are. Raises OSError.
    """
    write_durably(_note(facts), "\n".join(sockets))


def held_by_others(facts: Facts) -> frozenset[str]:
    """Inodes of the sockets that were noted."""
    try:
        return frozenset(_note(facts).read_text(encoding="ascii").split())
    except FileNotFoundError:
        return frozenset()


def forget_held(facts: Facts) -> None:
    """Raises OSError."""
    _note(facts).unlink(missing_ok=True)


def _note(facts: Facts) -> Path:
    return facts.paths.run / "proxy-held"
