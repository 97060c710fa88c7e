"""What the host's own nginx did before tsstack came, kept over reboots: so it is left when tsstack goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsstack.system.files import fsync_folder, write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from tsstack.model.facts import Facts

RAN, DID_NOT_RUN = "it ran\n", "it did not run\n"


def ran_before(facts: Facts) -> str:
    """What was noted; empty where nothing was.

    That nginx is down at some later time says nothing: at a boot it may have come before an address that our
    part listens on.
    """
    try:
        return _note(facts).read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def note_before(facts: Facts, said: str) -> None:
    """Note it, durably; empty: forget it. Raises OSError."""
    note = _note(facts)
    if said == ran_before(facts):
        return
    if said:
        write_durably(note, said)
    else:
        note.unlink()
        fsync_folder(note.parent)


def _note(facts: Facts) -> Path:
    return facts.paths.state / "nginx-before"
