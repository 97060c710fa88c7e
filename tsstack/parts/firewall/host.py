"""The table in the kernel: judge, load, watch and bring back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed, RollbackFailed
from tsstack.parts.firewall.fallback import fallback_file, has_fallback
from tsstack.parts.firewall.fingerprint import fingerprint, moment_of
from tsstack.parts.firewall.library import NftError, Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Change, Report, Snapshot, Tree

_FAMILY, _TABLE = "inet", "tsstack"
FILE = "nftables/tsstack.nft"
_SUBJECT = f"table {_FAMILY} {_TABLE}"
_LOOK = "nft list table inet tsstack shows what is loaded"
_UNREADABLE = "the packet filter cannot be read"
# Works whether or not there is such a table: `delete` alone fails without one.
_REMOVE = f"{_SUBJECT}\ndelete {_SUBJECT}\n"
_PLACE = re.compile(r"^[^\n:]+:(\d+):\d+(?:-\d+)?: Error: (.*)$", re.MULTILINE)
_COMMENT = re.compile(r'comment "([^"]*)"')
# Of the table itself, as nft lists it: flags of sets stand deeper.
_DORMANT = re.compile(r"^\tflags .*\bdormant\b", re.MULTILINE)


class Firewall:
    """The part that owns `table inet tsstack` and nothing else of the packet filter.

    Its snapshot: `text`, from which the table can be loaded again (None: there is none), and `file`, the
    digest of the file that it was loaded from (None: the table is not as we loaded it, or not ours).
    To know that, every load notes the text and the kernel's fingerprint of what became of it. `fallback` is
    the text of what stands for a generation without a firewall (`tsstack fallback`), or None.
    """

    name = "firewall"
    folder = "nftables"

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        from tsstack.parts.firewall.desired import desired

        return desired(stack, facts)

    def check(self, generation: Path, facts: Facts) -> None:
        """The kernel judges the whole transaction and takes it back.

        Without root the same is done by `nft -c` in a namespace of its own (unshare(1), -Urn).
        """
        path = _to_load(generation, facts)
        if path is None:
            return
        text = _text_of(path)
        try:
            if os.geteuid() == 0:
                Session().load(path, dry_run=True)
            else:
                _check_without_root(path)
        except NftError as error:
            raise CheckFailed(explain_refusal(error.message, text), hint=error.hint) from error

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        """Other owners' chains that drop what our table accepts: `foreign.foreign_drops`."""
        if not (generation / FILE).exists():
            return ()
        from tsstack.parts.firewall.foreign import foreign_drops

        try:
            return tuple(map(str, foreign_drops(Session())))
        except NftError as error:
            return (f"other tables cannot be read, so it is unknown whether they drop: {error.message}",)

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        """The table's text: what we loaded if the kernel still has just that, else nft's listing."""
        try:
            fallback = fallback_file(facts.paths.state, FILE)
            stands_in = _text_of(fallback) if fallback else None
            mark = fingerprint(_TABLE)
            record = _read_record(facts)
            if mark is None:
                return {"text": None, "file": None, "fallback": stands_in}
            if record is not None and record["fingerprint"] == mark:
                text = record["text"]
                return {"text": text, "file": _digest(text), "fallback": stands_in}
            listing = Session().list_table(_FAMILY, _TABLE)
            return {"text": listing, "file": None, "fallback": stands_in}
        except NftError as error:
            raise CheckFailed(f"{_UNREADABLE}: {error.message}", hint=error.hint) from error
        except OSError as error:
            raise CheckFailed(f"{_UNREADABLE}: {error}", hint=_needs_root(error)) from error

    def stands_alone(self, facts: Facts) -> bool:
        """The fallback, or a table that we loaded and that an interrupted change has left."""
        return has_fallback(facts.paths.state) or _record_path(facts).exists()

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        loaded, fallback = snapshot["text"], snapshot["fallback"]
        wanted = tree.get(FILE) or (None if fallback is None else str(fallback))
        if loaded == wanted and (wanted is None or snapshot["file"] is not None):
            return ()
        from tsstack.parts.firewall.summary import describe_difference
        from tsstack.parts.part import Change

        if wanted is None:
            return () if loaded is None else (Change(_SUBJECT, before="loaded"),)
        if loaded is None:
            details = describe_difference("", wanted)
            return (Change(_SUBJECT, after="loaded"), *(Change(*each) for each in details))
        if snapshot["file"] is None:
            return (Change(_SUBJECT, before="not as tsstack left it", after="as the file says"),)
        told = tuple(Change(*each) for each in describe_difference(str(loaded), wanted))
        return told or (Change(_SUBJECT, before="as an earlier file said", after="as the file says"),)

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        """Replace the table in one transaction, then cut the connections that it would not accept."""
        text = ""
        try:
            path = _to_load(generation, facts)
            text = _text_of(path) if path else ""
            before = self.observe({}, facts)["text"]
            session = Session()
            if path is None:
                session.run(_REMOVE)
                _forget_record(facts)
                report("firewall: the table is removed")
                return
            session.load(path)
            if fingerprint(_TABLE) is None:
                raise ApplyFailed(f"{path} was loaded and made no {_SUBJECT}: it is damaged")
            _write_record(facts, text)
        except CheckFailed as error:
            raise ApplyFailed(error.message, hint=error.hint) from error
        except NftError as error:
            raise ApplyFailed(explain_refusal(error.message, text), hint=error.hint) from error
        except OSError as error:
            raise ApplyFailed(f"the firewall's record cannot be written: {error}") from error
        told = "the fallback stands" if path.parents[1] != generation else "the table is loaded"
        report(f"firewall: {told}")
        if before != text:
            _cut_refused(_in_force(before), text, report)

    def verify(self, generation: Path, facts: Facts) -> None:
        try:
            mark, record = fingerprint(_TABLE), _read_record(facts)
            path = _to_load(generation, facts)
            text = _text_of(path) if path else ""
        except OSError as error:
            raise ApplyFailed(f"{_UNREADABLE}: {error}", hint=_needs_root(error)) from error
        if path is None:
            if mark is not None:
                raise ApplyFailed(f"{_SUBJECT} is there although the file asks for no firewall")
            return
        if mark is None or record is None or (record["fingerprint"], record["text"]) != (mark, text):
            raise ApplyFailed(f"{_SUBJECT} is not as it was loaded: something else changes it", hint=_LOOK)
        _connect_to_self()

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        """Load the table that was there, then cut the connections that only the undone one let in.

        What could not be cut is told as a failure: the table is back, but the connection is not gone.
        """
        text = snapshot["text"]
        try:
            undone = self.observe({}, facts)["text"]
            session = Session()
            # Our own text begins with the removal; a second one does no harm and a listing needs it.
            session.run(_REMOVE if text is None else f"{_REMOVE}{text}")
            # The record only says that a table is as we loaded it; without it the next switch loads anew.
            if snapshot["file"] is None:
                with contextlib.suppress(OSError):
                    _forget_record(facts)
                if session.list_table(_FAMILY, _TABLE) != text:
                    raise RollbackFailed(f"{_SUBJECT} came back otherwise than it was", hint=_LOOK)
            else:
                with contextlib.suppress(OSError):
                    _write_record(facts, str(text), needed=False)
        except (CheckFailed, NftError, OSError) as error:
            raise RollbackFailed(f"{_SUBJECT} cannot be brought back: {error}", hint=_LOOK) from error
        # Without a table everything is accepted: nothing was let in by one, or nothing is shut out now.
        was, stands = _in_force(undone), _in_force(text)
        if was is not None and stands is not None and was != stands:
            _cut_undone(was, stands)


def _to_load(generation: Path, facts: Facts) -> Path | None:
    """The file of the table that is to stand with this generation; None: no table is.

    Raises OSError where the disk does not say: not by `exists`, for which there is none then.
    """
    own = generation / FILE
    try:
        own.stat()
    except (FileNotFoundError, NotADirectoryError):
        return fallback_file(facts.paths.state, FILE)
    return own


def _in_force(text: object) -> str | None:
    """A table's text; None where there is none, or one that is switched off: both accept everything."""
    return text if isinstance(text, str) and not _DORMANT.search(text) else None


def _text_of(path: Path) -> str:
    """What a broken disk made of it is for nft to judge, and must not keep a host from its firewall."""
    return path.read_text(encoding="utf-8", errors="replace")


def explain_refusal(words: str, text: str) -> str:
    """nft's words with the line and the key path that they are about, if that can be told."""
    match = _PLACE.search(words)
    if match is None:
        return f"nft refuses the table: {words}"
    lines = text.splitlines()
    number = int(match[1])
    if not 1 <= number <= len(lines):
        return f"nft refuses the table: {match[2]}"
    nearby = [lines[number - 1], *reversed(lines[max(number - 20, 0) : number - 1])]
    path = next((found[1] for line in nearby if (found := _COMMENT.search(line))), "")
    place = f" ({path})" if path else ""
    return f"nft refuses line {number}{place}: {match[2]}: {lines[number - 1].strip()}"


def _check_without_root(path: Path) -> None:
    from tsstack.system.command import run

    try:
        run(["unshare", "-Urn", "nft", "-c", "-f", path])
    except CommandFailed as error:
        raise NftError(error.stderr.strip() or error.message, hint=error.hint) from error


def _cut_refused(before: str | None, after: str, report: Report) -> None:
    from tsstack.parts.firewall.flows import Unseen, cut_refused

    try:
        cut = cut_refused(before, after)
    except Unseen as error:
        report(f"firewall: {error}")
        return
    if cut.gone:
        report(f"firewall: {_counted(cut.gone)} no longer allowed and cut: {_named(cut.gone)}")
    if cut.may_return:
        which = "all of them" if len(cut.may_return) == len(cut.gone) else _named(cut.may_return)
        report(f"firewall: they come back if the side that was asked sends first, as rules allow: {which}")
    for sentence in cut.failed:
        report(f"firewall: {sentence}")


def _counted(entries: Sequence[object]) -> str:
    return "1 connection is" if len(entries) == 1 else f"{len(entries)} connections are"


def _named(entries: Sequence[object]) -> str:
    return ", ".join(map(str, entries[:5])) + (" and more" if len(entries) > 5 else "")


def _cut_undone(undone: str, text: str) -> None:
    from tsstack.parts.firewall.flows import Unseen, cut_refused

    try:
        left = cut_refused(undone, text).failed
    except Unseen:
        return  # the switch that is undone has already said that nothing can be cut here
    if left:
        raise RollbackFailed(
            f"{_SUBJECT} is back, but {'; '.join(left)}",
            hint="restart the service that they lead to, or conntrack -F (Debian: conntrack)",
        )


def _connect_to_self() -> None:
    """A new connection over loopback must pass, or this host is of no use to itself."""
    try:
        # Without create_connection: it looks the address up as a name, which loads the tables of IDNA.
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.settimeout(2)
            client.connect(server.getsockname())
    except OSError as error:
        raise ApplyFailed(f"no new connection over loopback: {error}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _needs_root(error: OSError) -> str:
    return "the packet filter needs root" if isinstance(error, PermissionError) else ""


def _record_path(facts: Facts) -> Path:
    return facts.paths.run / "firewall.json"


def _read_record(facts: Facts) -> dict[str, str] | None:
    """What we noted at the last load; a record that is damaged counts as none and the table is reloaded."""
    try:
        record = json.loads(_record_path(facts).read_text())
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(record, dict) and record.keys() == {"fingerprint", "text", "moment"}
    return record if known else None


def _write_record(facts: Facts, text: str, *, needed: bool = True) -> None:
    from tsstack.system.files import write_durably, write_note

    record = {"fingerprint": fingerprint(_TABLE), "text": text, "moment": moment_of(_TABLE)}
    facts.paths.run.mkdir(parents=True, exist_ok=True)
    write = write_durably if needed else write_note
    write(_record_path(facts), json.dumps(record), mode=0o600)


def _forget_record(facts: Facts) -> None:
    _record_path(facts).unlink(missing_ok=True)


PART = Firewall()
