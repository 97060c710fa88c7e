"""Generations on disk: what a host was asked to be, complete and rendered.

    STATE/generations/7/     the rendered trees of all parts, manifest.json, and the file they came from
    STATE/current            link to the generation that is live; files in /etc point through it
    STATE/boot               link to the generation that the next boot brings up

Generation 0 is the host without tsstack: always there, empty. A generation never changes once it has
its number; it is staged under a name that no reader knows, made durable, checked, then renamed. So
whatever has a number is whole and has passed its checks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tsstack.errors import CheckFailed, TsstackError, UsageError
from tsstack.parts.part import JsonValue, Tree
from tsstack.switch.record import read_pending
from tsstack.system.files import fsync_folder, hint_for, link_durably, write_durably

MANIFEST = "manifest.json"
SOURCE = "source.yaml"
INPUTS = "inputs.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a generation besides its files."""

    number: int
    created_unix_s: float
    version: str
    source: str
    summary: tuple[str, ...] = ()
    """What changed against the generation before it, a line each."""


def tree_digest(tree: Tree) -> str:
    """One digest over all paths and texts of a tree."""
    digest = hashlib.sha256()
    for path, text in sorted(tree.items()):
        digest.update(f"{path}\0{len(text)}\0{text}\0".encode())
    return digest.hexdigest()


def write_tree(folder: Path, tree: Tree) -> None:
    """Write a tree's files below `folder`, each one durable before this returns.

    Raises OSError (a full disk); what was written so far is the caller's to remove.
    """
    folders = {folder}
    for name, text in sorted(tree.items()):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name} would leave {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        folders |= {each for each in path.parents if each.is_relative_to(folder)}
        _write(path, text.encode())
    for each in folders:
        fsync_folder(each)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def read_tree(folder: Path) -> dict[str, str]:
    """The rendered files below a generation's folder; an absent folder is an empty tree.

    Bytes that a broken disk made of a file are replaced: it then differs from anything that is rendered.
    """
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent != folder
    }


def templates_of(state: Path) -> Path:
    """Where compiled templates are kept, below the state folder."""
    return state / "templates"


class Store:
    """The generations of one host. Every write needs the host's lock."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.folder = state / "generations"

    def prepare(self) -> None:
        """Make the store's folders and generation 0, and drop what a killed command left half-written.

        Raises CheckFailed when the state folder cannot be written.
        """
        try:
            templates = templates_of(self.state)
            for folder in (self.state, self.folder, templates):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            for leftover in self.folder.glob(".staging-*"):
                shutil.rmtree(leftover)
            for leftover in templates.glob(".*"):  # `check` beside us may be at work on one
                leftover.unlink(missing_ok=True)
            zero = self.folder / "0"
            if not (zero / MANIFEST).exists():
                shutil.rmtree(zero, ignore_errors=True)
                with self.staged(Manifest(0, 0.0, "", ""), {}, b""):
                    pass
        except OSError as error:
            place = error.filename or self.state
            raise CheckFailed(f"{place} cannot be written: {error.strerror}", hint=hint_for(error)) from error

    @contextmanager
    def staged(self, manifest: Manifest, tree: Tree, source: bytes) -> Iterator[Path]:
        """Put a generation on disk, whole and durable; it gets its number when the block ends well.

        Until then, or until `publish` within the block, it has a name that no reader knows, and a kill
        leaves nothing that a rollback could choose. Raises CheckFailed when the disk is full or cannot be
        written; nothing is left then.
        """
        staging = self._staging(manifest.number)
        try:
            with _as_refusal(manifest.number, self.folder):
                staging.mkdir()
                write_tree(staging, tree)
                _write(staging / MANIFEST, json.dumps(asdict(manifest), indent=1).encode() + b"\n")
                _write(staging / SOURCE, source)
                fsync_folder(staging)
            yield staging
            if staging.exists():
                self.publish(manifest.number)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def publish(self, number: int) -> None:
        """Give a staged generation its number. Raises CheckFailed when the disk cannot be written."""
        with _as_refusal(number, self.folder):
            self._staging(number).rename(self.folder / str(number))
            fsync_folder(self.folder)

    def _staging(self, number: int) -> Path:
        return self.folder / f".staging-{number}-{os.getpid()}"

    def path(self, number: int) -> Path:
        """The folder of generation `number`.

        Raises UsageError when there is none, CheckFailed when it is missing: the host runs or boots it.
        """
        if not self.has(number):
            if number in self._kept():
                raise CheckFailed(f"generation {number} is missing", hint=self.way_on(number))
            known = ", ".join(map(str, self.whole())) or "none"
            raise UsageError(f"there is no generation {number}", hint=f"there are: {known}")
        return self.folder / str(number)

    def has(self, number: int) -> bool:
        """Whether generation `number` is there, be it damaged, or on a disk that does not say.

        Not by `is_file`, which says no of some errors, and of every one from Python 3.14 on.
        """
        try:
            return stat.S_ISREG((self.folder / str(number) / MANIFEST).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def manifest(self, number: int) -> Manifest:
        """What is known of generation `number`.

        Raises UsageError when there is none, CheckFailed when it is missing or its manifest is damaged.
        """
        path = self.path(number) / MANIFEST
        try:
            return _read_manifest(path)
        except _DAMAGE as error:
            away = f"move {path.parent} away"
            hint = f"{self.way_on(number)}; then {away}" if number in self._kept() else away
            raise CheckFailed(f"{path} is damaged: {error}", hint=hint) from error

    def fault(self, number: int) -> str:
        """Why generation `number` is not whole, in words; empty: it is. Of 0 nothing is needed."""
        if number == 0:
            return ""
        if not self.has(number):
            return f"generation {number} is missing"
        try:
            _read_manifest(self.folder / str(number) / MANIFEST)
        except (OSError, *_DAMAGE) as error:
            return f"generation {number} is damaged: {MANIFEST}: {error}"
        return ""

    def whole(self) -> tuple[int, ...]:
        """The numbers of all generations that are whole, oldest first."""
        return tuple(number for number in self._numbers() if not self.fault(number))

    def damaged(self) -> tuple[int, ...]:
        """The numbers of all whose folder is there, and that are not whole."""
        return tuple(number for number in self._numbers() if self.fault(number))

    def instead_of(self, number: int) -> tuple[int, ...]:
        """The generations that may take the place of one that is not whole, the best first.

        That is the newest of those before it. Then come later ones, which may have been for a test; what
        is not confirmed comes last. Never the host without tsstack.
        """
        unconfirmed = self.pending_target()
        others = [each for each in self.whole() if each not in {0, number}]
        others.sort(key=lambda each: (each == unconfirmed, each > number, abs(number - each)))
        return tuple(others)

    def known(self, number: int) -> dict[str, str] | None:
        """All rendered files of what is or was live; None where it is not whole, and nobody knows them."""
        if number == 0:
            return {}
        return None if self.fault(number) else self.tree(number)

    def way_on(self, number: int) -> str:
        """What mends a host whose generation `number` is missing or damaged, in words."""
        others = self.instead_of(number)
        back = f"`tsstack rollback --to {others[0]}` goes to the newest whole one" if others else ""
        return ", ".join(filter(None, (back, "`tsstack switch` makes a new one")))

    def _kept(self) -> Set[int | None]:
        """What the host runs or boots, or may go back to, but 0, which is made anew."""
        try:
            return self._in_use() - {0}
        except TsstackError:  # a record that nobody understands, which others say
            return {self.current(), self.boot()} - {0}

    def pending_target(self) -> int | None:
        """The generation of a change that is not done; None: there is no such change, or nobody knows it."""
        try:
            pending = read_pending(self.state)
        except TsstackError:
            return None
        return pending.target if pending else None

    def tree(self, number: int) -> dict[str, str]:
        """All rendered files of generation `number`."""
        return read_tree(self.path(number))

    def _numbers(self) -> tuple[int, ...]:
        if not self.folder.is_dir():
            return ()
        return tuple(sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit()))

    def list(self) -> tuple[Manifest, ...]:
        """All generations, oldest first."""
        return tuple(self.manifest(number) for number in self._numbers() if self.has(number))

    def next_number(self) -> int:
        """A number that no generation on disk has had.

        Nor one that was removed by hand while something names it still: it would be taken for that one.
        """
        remembered = self._remembered().get("generation")
        named = remembered if isinstance(remembered, int) else 0
        return max([*self._numbers(), self.current(), self.boot(), named]) + 1

    def drop(self, number: int) -> None:
        """Remove a generation that nothing points at: no link, and no change that may have to be undone.

        It loses its number before its files, so that a kill leaves none that is half there; and what it
        was rendered from is forgotten first, since its number may be given again.
        """
        if number in self._in_use():
            raise UsageError(f"generation {number} is in use")
        folder = self.folder / str(number)
        if not folder.is_dir():
            return
        if self._remembered().get("generation") == number:
            (self.state / INPUTS).unlink(missing_ok=True)
            fsync_folder(self.state)
        leaving = self.folder / f".staging-gone-{number}"
        folder.rename(leaving)
        fsync_folder(self.folder)
        shutil.rmtree(leaving, ignore_errors=True)

    def _in_use(self) -> set[int | None]:
        pending = read_pending(self.state)
        kept = {pending.target, pending.previous_current, pending.previous_boot} if pending else set()
        return {0, self.current(), self.boot(), *kept}

    def rendered_from(self, number: int) -> str:
        """The digest of what generation `number` was last rendered from; empty when that is not known.

        Equal digests mean equal trees, so that nothing needs to be rendered to see that.
        """
        remembered = self._remembered()
        return str(remembered.get("digest", "")) if remembered.get("generation") == number else ""

    def _remembered(self) -> dict[str, JsonValue]:
        try:
            remembered = json.loads((self.state / INPUTS).read_bytes())
        except (FileNotFoundError, ValueError):  # a torn or absent memory costs a rendering, no more
            return {}
        return remembered if isinstance(remembered, dict) else {}

    def remember_inputs(self, number: int, digest: str) -> None:
        """Remember what the live generation was rendered from."""
        if digest and self.rendered_from(number) != digest:
            write_durably(self.state / INPUTS, json.dumps({"generation": number, "digest": digest}) + "\n")

    def prune(self, keep: int) -> tuple[int, ...]:
        """Remove all but the newest `keep` generations; those in use stay. Returns what went."""
        used = self._in_use()
        unused = [number for number in self.whole() if number not in used]
        gone = tuple(unused[: max(0, len(unused) - keep)])
        for number in gone:
            self.drop(number)
        return gone

    def current(self) -> int:
        """The generation that is live; 0 when tsstack has made nothing of this host."""
        return self._target("current")

    def boot(self) -> int:
        """The generation that the next boot brings up."""
        return self._target("boot")

    def point(self, link: str, number: int) -> None:
        """Point `current` or `boot` at a generation, in one durable rename."""
        if self._target(link) != number or not (self.state / link).is_symlink():
            link_durably(self.state / link, f"generations/{number}")

    def _target(self, link: str) -> int:
        try:
            name = (self.state / link).readlink().name
        except FileNotFoundError:
            return 0
        return int(name) if name.isdigit() else 0


_DAMAGE = (ValueError, TypeError, AttributeError)


def _read_manifest(path: Path) -> Manifest:
    """What a newer tsstack has noted beside is left out: after a downgrade its generations are whole."""
    noted = json.loads(path.read_bytes())
    known = {each.name: noted[each.name] for each in fields(Manifest) if each.name in noted}
    return Manifest(**{**known, "summary": tuple(noted.get("summary", ()))})


@contextmanager
def _as_refusal(number: int, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckFailed(
            f"generation {number} cannot be staged in {folder}: {error.strerror}",
            hint="nothing was changed; make room on the disk and switch again",
        ) from error


def part_tree(tree: Mapping[str, str], folder: str) -> dict[str, str]:
    """The files of one part: those below `folder`."""
    return {path: text for path, text in tree.items() if path.startswith(f"{folder}/")}
