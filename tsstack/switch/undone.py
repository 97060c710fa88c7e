"""What was undone last: for who comes too late to confirm, and so that no unit tries it again by itself.

A note in the state folder, no more: a disk that does not take it hurts nothing else.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass

from tsstack.errors import CheckFailed, TsstackError
from tsstack.switch.generations import SOURCE
from tsstack.switch.record import Pending, digest_of
from tsstack.switch.site import Site
from tsstack.system.files import fsync_folder, write_durably

NAME = "undone"


@dataclass(frozen=True, slots=True)
class Undone:
    """A change that was undone."""

    words: str = ""
    """In one line; empty when another change has been made since."""
    by_itself: bool = False
    """Whether nobody asked for that: then somebody may come too late to undo it."""
    unconfirmed: str = ""
    """`digest_of` its file, which was live and which nobody kept. It is forgotten when that very file is."""


def note(site: Site, pending: Pending, reason: str, *, asked: bool = False) -> None:
    """`pending` is undone; `asked`: because somebody said so."""
    words = f"generation {pending.target} was undone at {time.strftime('%F %H:%M:%S')}: {reason}"
    waited = pending.waited or pending.phase == "unconfirmed"
    source = pending.source if waited else ""
    _write(site, Undone(words, not asked, source or last_undone(site).unconfirmed))


def last_undone(site: Site) -> Undone:
    """What is noted; empty when nothing is."""
    try:
        return Undone(**json.loads((site.paths.state / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):  # it is for messages, and none is better than a refusal
        return Undone()


def settle(site: Site, source: str) -> None:
    """A change lasts, from the file with this digest (empty: from none)."""
    undone = last_undone(site)
    if undone != Undone():
        _write(site, Undone(unconfirmed="" if undone.unconfirmed == source else undone.unconfirmed))


def refuse_undone(site: Site, source: bytes) -> None:
    """Raise CheckFailed for a file that was live and that nobody kept: nobody would this time either.

    Not where it is live all the same, since somebody went back to it.
    """
    undone = last_undone(site)
    if undone.unconfirmed and undone.unconfirmed == digest_of(source) and not _is_live(site, source):
        raise CheckFailed(
            "this file was live, was not confirmed and was undone; with --unattended it is not tried again",
            hint="`tsstack switch --confirm 60s` by hand tries it again; any other file is taken",
        )


def _is_live(site: Site, source: bytes) -> bool:
    live = site.store.current()
    try:
        return bool(live) and (site.store.path(live) / SOURCE).read_bytes() == source
    except (OSError, TsstackError):  # missing, too
        return False


def _write(site: Site, undone: Undone) -> None:
    with contextlib.suppress(OSError):
        if undone != Undone():
            write_durably(site.paths.state / NAME, json.dumps(asdict(undone)) + "\n")
            return
        (site.paths.state / NAME).unlink(missing_ok=True)
        fsync_folder(site.paths.state)
