"""Text to data with places: the YAML 1.2 core schema, strictly, and where each key and value stands.

The events come from libyaml (through ruamel.yaml's C parser), so a large file costs little; the tree is
built here, because a place is needed for every key and because duplicate keys, merge keys and alias
bombs must be refused with a place. JSON is YAML 1.2, down to `\\/` and to escaped surrogate pairs,
which libyaml alone would refuse.
"""

from __future__ import annotations

import errno
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsstack.errors import ConfigError, Finding
from tsstack.model import file_codes as codes
from tsstack.model.code import Code
from tsstack.model.keypath import KeyPath, format_path, match_step
from tsstack.model.words import nearest, redact
from tsstack.model.yaml_events import disguise, explain_syntax, parser_of
from tsstack.system.files import LARGEST_FILE_BYTES, read_bounded

Scalar = None | bool | int | float | str
Plain = Scalar | dict[str, "Plain"] | tuple["Plain", ...]
"""What a document says without its places; lists are tuples, as everything is frozen."""

MAX_DEPTH = 40
# Values after aliases are expanded. A zone of 100,000 addresses fits; ten lines of aliases of aliases do not.
MAX_VALUES = 500_000

# YAML 1.2.2 section 5.1, "c-printable", turned round; NEL and the BOM are legal inside.
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
# The same for a text of ASCII alone, as nearly all are: the other takes 4 ms to compile.
_UNPRINTABLE_ASCII = "[^\t\n\r\x20-\x7e]"
# YAML 1.2.2 section 10.3.2, "tag resolution" of the core schema.
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_DIGITS = 40
_TAGGED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
# RFC 8259 section 7: a character beyond U+FFFF is escaped as two surrogates.
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


@dataclass(slots=True)
class Node:
    """One value of the file and where it starts (line and column count from 1)."""

    value: Scalar | dict[str, Node] | list[Node]
    line: int
    column: int
    text: str = ""
    """A scalar as it is written, before it became a number or a boolean."""
    size: int = 1
    """Values in it, itself included, with aliases expanded."""
    keys: dict[str, tuple[int, int]] | None = None
    """Where each key of a mapping stands; None for anything else."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. `findings` are faults that did not keep it from being read."""

    file: str
    source: bytes
    root: Node
    findings: tuple[Finding, ...]

    @property
    def sections(self) -> dict[str, Node]:
        """The keys at the top of the file."""
        return self.root.value if isinstance(self.root.value, dict) else {}

    def plain(self) -> dict[str, Plain]:
        """The data without places."""
        return {key: plain(node) for key, node in self.sections.items()}

    def node(self, path: KeyPath) -> Node | None:
        """The node at a key path, or None."""
        node: Node | None = self.root
        for step in path:
            node = child(node, step)
            if node is None:
                return None
        return node

    def split(self, path: str) -> KeyPath:
        """A written key path as steps. Keys that hold dots are found as the file has them."""
        steps: list[str | int] = []
        node: Node | None = self.root
        rest = path
        while rest:
            keys = node.value if node is not None and isinstance(node.value, dict) else {}
            step, rest = match_step(rest, keys)
            steps.append(step)
            node = child(node, step)
        return tuple(steps)

    def place(self, path: str | KeyPath, *, value: bool = False) -> tuple[str, int, int]:
        """File, line and column of a key, or with `value` of what it holds.

        A path that is not in the file has the place of its nearest ancestor; the whole file's is 1:1.
        """
        steps = self.split(path) if isinstance(path, str) else tuple(path)
        line, column = 1, 1
        node = self.root
        for index, step in enumerate(steps):
            below = child(node, step)
            if below is None:
                break
            last = value and index == len(steps) - 1
            if isinstance(step, str) and not last and node.keys and step in node.keys:
                line, column = node.keys[step]
            else:
                line, column = below.line, below.column
            node = below
        return self.file, line, column

    def scalars(self) -> Iterator[tuple[KeyPath, Node]]:
        """Every scalar with its key path, in the file's order; aliased ones once."""
        yield from _scalars(self.root, (), set())


def child(node: Node | None, step: str | int) -> Node | None:
    """What stands below `node` at `step`, or None."""
    if node is None:
        return None
    if isinstance(node.value, dict):
        return node.value.get(step) if isinstance(step, str) else None
    if isinstance(node.value, list) and isinstance(step, int):
        return node.value[step] if 0 <= step < len(node.value) else None
    return None


def plain(node: Node) -> Plain:
    """The data below a node without places."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return tuple(plain(below) for below in value)
    return value


def _scalars(node: Node, path: KeyPath, seen: set[int]) -> Iterator[tuple[KeyPath, Node]]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node.value, dict):
        for key, below in node.value.items():
            yield from _scalars(below, (*path, key), seen)
    elif isinstance(node.value, list):
        for index, below in enumerate(node.value):
            yield from _scalars(below, (*path, index), seen)
    else:
        yield path, node


def read_document(path: Path) -> Document:
    """Read and parse a file.

    Raises ConfigError, with one finding that says where, when there is no mapping to be had from it.
    """
    return parse_document(read_source(path), str(path))


def read_source(path: Path) -> bytes:
    """The bytes of a file or a pipe. Raises ConfigError when it cannot be read or is too large."""
    try:
        return read_bounded(path, limit_bytes=LARGEST_FILE_BYTES, pipes=True)
    except (OSError, ValueError) as error:
        raise unreadable(str(path), error) from None


def unreadable(file: str, error: OSError | ValueError) -> ConfigError:
    """The fault of a file that `read_bounded` could not read."""
    if isinstance(error, IsADirectoryError):
        return _fatal(file, codes.UNREADABLE, f"{file} is a folder, not a file")
    if isinstance(error, FileNotFoundError):
        hint = "write one with `tsstack init`, or name another with `-c FILE`"
        return _fatal(file, codes.UNREADABLE, f"there is no file {file}", hint)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return _fatal(file, codes.TOO_LARGE, f"{file} is larger than {LARGEST_FILE_BYTES // 1024**2} MiB")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return _fatal(file, codes.UNREADABLE, f"the file {file} cannot be read: {reason}")


def parse_document(source: bytes, file: str) -> Document:
    """Parse a file's bytes; `file` is the name that findings carry. Raises ConfigError."""
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as error:
        before = source[: error.start].decode("utf-8")
        place = _place_after(before)
        raise _fatal(
            file, codes.NOT_UTF8, f"byte 0x{source[error.start]:02x} is not UTF-8", place=place
        ) from None
    text = text.removeprefix("\ufeff")
    if unprintable := re.search(_UNPRINTABLE_ASCII if text.isascii() else _UNPRINTABLE, text):
        message = f"the control character U+{ord(unprintable[0]):04X} stands here"
        raise _fatal(file, codes.CONTROL_CHARACTER, message, place=_place_after(text[: unprintable.start()]))
    text, shifts = _join_surrogates(text)
    builder = _Builder(file, text, shifts)
    root = builder.build()
    return Document(file, source, root, tuple(builder.findings))


def _fatal(
    file: str, code: Code, message: str, hint: str = "", place: tuple[int, int] = (0, 0)
) -> ConfigError:
    finding = Finding(code.code, code.severity, "", redact(message), hint, file, *place)
    return ConfigError(f"{file} cannot be read as a tsstack file", findings=(finding,), hint=hint)


def _place_after(before: str) -> tuple[int, int]:
    line_start = before.rfind("\n") + 1
    return before.count("\n") + 1, len(before) - line_start + 1


def _join_surrogates(text: str) -> tuple[str, dict[int, list[tuple[int, int]]]]:
    """Replace escaped surrogate pairs by `\\UXXXXXXXX`.

    Returns the text and, for each line (from 0), the columns behind which the source is longer and by how
    much in all up to there: a generated JSON file is one long line, and its places must stay true.
    """
    shifts: dict[int, list[tuple[int, int]]] = {}
    if "\\u" not in text:
        return text, shifts
    pieces: list[str] = []
    done = 0
    line, line_length = 0, 0
    for match in _SURROGATES.finditer(text):
        between = text[done : match.start()]
        newlines = between.count("\n")
        line += newlines
        line_length = len(between) - between.rfind("\n") - 1 if newlines else line_length + len(between)
        high, low = int(match[2], 16), int(match[3], 16)
        point = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        joined = f"{match[1]}\\U{point:08X}"
        line_length += len(joined)
        pieces += [between, joined]
        done = match.end()
        grown = shifts.setdefault(line, [])
        grown.append((line_length, len(match[0]) - len(joined) + (grown[-1][1] if grown else 0)))
    pieces.append(text[done:])
    return "".join(pieces), shifts


class _Builder:
    """Builds the tree out of the parser's events."""

    def __init__(self, file: str, text: str, shifts: dict[int, list[tuple[int, int]]]) -> None:
        self.file = file
        self.disguise = disguise(text)
        self.shifts = shifts
        self.findings: list[Finding] = []
        self.anchors: dict[str, Node | None] = {}
        self.open_brackets: list[tuple[int, int]] = []
        """Where the lists and mappings in brackets start that have not ended, the innermost last."""
        self.events: Any = None
        self.kinds: Any = None

    def build(self) -> Node:
        from ruamel.yaml import events
        from ruamel.yaml.error import YAMLError

        self.kinds = events
        self.events = parser_of(self.disguise.text)
        try:
            return self._document()
        except YAMLError as error:
            raise self._syntax(error) from None

    def _document(self) -> Node:
        self.events.get_event()  # the stream's start
        if isinstance(self.events.peek_event(), self.kinds.StreamEndEvent):
            raise self._empty()
        self.events.get_event()  # the document's start
        version = self.disguise.version
        if version not in ("", "1.2"):
            message = f"%YAML {version} is asked for, but the file is read as YAML 1.2"
            self._add(codes.BAD_TAG, (), message, (1, 1))
        root = self._node(self.events.get_event(), (), 0)
        self.events.get_event()  # the document's end
        after = self.events.get_event()
        if isinstance(after, self.kinds.DocumentStartEvent):
            place = self._place(after.start_mark)
            hint = "join them into one, without ---"
            raise _fatal(self.file, codes.SEVERAL_DOCUMENTS, "a second document starts here", hint, place)
        if root.value is None and not root.text:
            raise self._empty()
        if not isinstance(root.value, dict):
            message = "the file must be a mapping of sections (host:, tailscale:, ...)"
            raise _fatal(self.file, codes.NOT_A_MAPPING, message, place=(root.line, root.column))
        return root

    def _node(self, event: Any, path: KeyPath, depth: int) -> Node:
        place = self._place(event.start_mark)
        if depth > MAX_DEPTH:
            message = f"more than {MAX_DEPTH} levels deep"
            raise _fatal(self.file, codes.TOO_LARGE, message, place=place)
        if isinstance(event, self.kinds.AliasEvent):
            return self._alias(event.anchor, path, place)
        tag = event.tag
        if tag is not None and tag not in _TAGS and tag != "!":
            shown = self.disguise.restore(tag)
            self._add(codes.BAD_TAG, path, f"the tag {shown} means nothing here", place)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, self.kinds.ScalarEvent):
            node = self._scalar(event, tag, path, place)
        else:
            if event.flow_style:
                self.open_brackets.append(place)
            is_list = isinstance(event, self.kinds.SequenceStartEvent)
            node = (self._sequence if is_list else self._mapping)(path, place, depth)
            if event.flow_style:
                self.open_brackets.pop()
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, anchor: str, path: KeyPath, place: tuple[int, int]) -> Node:
        if anchor not in self.anchors:
            hint = nearest(anchor, self.anchors) or "define it first: &name"
            raise _fatal(self.file, codes.BAD_ALIAS, f"there is no anchor &{anchor} before this", hint, place)
        target = self.anchors[anchor]
        if target is None:
            message = f"*{anchor} stands inside what it repeats"
            raise _fatal(self.file, codes.BAD_ALIAS, message, place=place)
        return target

    def _sequence(self, path: KeyPath, place: tuple[int, int], depth: int) -> Node:
        items: list[Node] = []
        size = 1
        next_event, end = self.events.get_event, self.kinds.SequenceEndEvent
        while not isinstance(event := next_event(), end):
            item = self._node(event, (*path, len(items)), depth + 1)
            items.append(item)
            size = self._grown(size, item, place)
        return Node(items, *place, size=size)

    def _mapping(self, path: KeyPath, place: tuple[int, int], depth: int) -> Node:
        entries: dict[str, Node] = {}
        places: dict[str, tuple[int, int]] = {}
        size = 1
        next_event, end = self.events.get_event, self.kinds.MappingEndEvent
        while not isinstance(event := next_event(), end):
            key_place = self._place(event.start_mark)
            if not isinstance(event, self.kinds.ScalarEvent):
                raise _fatal(self.file, codes.KEY_NOT_TEXT, "a key must be plain text", place=key_place)
            key = self.disguise.restore(event.value)
            value = self._node(next_event(), (*path, key), depth + 1)
            size = self._grown(size, value, place)
            if key == "<<" and event.implicit[0]:
                hint = "write the keys out, or repeat whole values with *name"
                self._add(codes.MERGE_KEY, path, "merge keys (<<) are not part of YAML 1.2", key_place, hint)
            elif key in entries:
                line = places[key][0]
                self._add(codes.DUPLICATE_KEY, (*path, key), f"the key is already in line {line}", key_place)
            else:
                entries[key] = value
                places[key] = key_place
        return Node(entries, *place, size=size, keys=places)

    def _grown(self, size: int, node: Node, place: tuple[int, int]) -> int:
        if size + node.size > MAX_VALUES:
            message = f"more than {MAX_VALUES:,} values once aliases are written out"
            raise _fatal(self.file, codes.TOO_LARGE, message, place=place)
        return size + node.size

    def _scalar(self, event: Any, tag: str | None, path: KeyPath, place: tuple[int, int]) -> Node:
        text = self.disguise.restore(event.value)
        if tag is None:
            return Node(resolve(text) if event.implicit[0] else text, *place, text=text)
        kind = tag.rpartition(":")[2] if tag in _TAGS else ""
        if kind == "str" or tag == "!" or (not event.implicit[0] and not kind):
            return Node(text, *place, text=text)
        value = resolve(text)
        if kind and type(value) not in _TAGGED.get(kind, ()):
            self._add(codes.BAD_TAG, path, f"the value does not fit its tag !!{kind}", place)
        return Node(value, *place, text=text)

    def _place(self, mark: Any) -> tuple[int, int]:
        line, column = int(mark.line), int(mark.column)
        if grown := self.shifts.get(line):
            before = bisect_right(grown, mark.column, key=lambda shift: shift[0])
            column += grown[before - 1][1] if before else 0
        return line + 1, column + 1

    def _add(self, code: Code, path: KeyPath, message: str, place: tuple[int, int], hint: str = "") -> None:
        finding = Finding(
            code.code, code.severity, redact(format_path(path)), redact(message), hint, self.file, *place
        )
        self.findings.append(finding)

    def _empty(self) -> ConfigError:
        hint = "start from `tsstack init`, or from the least that works: host: {name: myhost}"
        return _fatal(self.file, codes.EMPTY, "the file is empty", hint, (1, 1))

    def _syntax(self, error: Any) -> ConfigError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is None:
            return _fatal(self.file, codes.SYNTAX, str(getattr(error, "reason", error)), place=(1, 1))
        lines = self.disguise.restore(self.disguise.text).split("\n")
        line = lines[mark.line] if mark.line < len(lines) else ""
        # libyaml says that a quote or bracket is open only when the file ends: its start is what helps.
        opening = getattr(error, "context_mark", None)
        said = explain_syntax(error, line, mark.column)
        place = self._place(opening if said.at_opening and opening is not None else mark)
        if said.at_bracket and self.open_brackets:
            place = self.open_brackets[-1]
        return _fatal(self.file, said.code, said.message, said.hint, place)


def resolve(text: str) -> Scalar:
    """What a plain scalar means in the core schema: `no`, `on` and `1_000` are strings, `0o14` is 12."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    # Nearly all scalars are plain words, told by their first letter.
    first = text[0]
    numeric = first.isascii() and (first.isdigit() or first in "+-.") and len(text) <= _MAX_DIGITS
    # Addresses begin with a digit too; no number has two dots.
    numeric = numeric and text.find(".") == text.rfind(".")
    return _number(text) if numeric else text


def _number(text: str) -> int | float | str:
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text
