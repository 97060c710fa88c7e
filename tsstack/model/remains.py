"""What is left of a faulty file when the faulty nodes are taken out of it. Pure.

The rest is still judged, so that one run tells all. What was taken out is kept in mind, because a finding
that rests on it could be false: the defaults stand in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tsstack.model import shape
from tsstack.model.document import Plain
from tsstack.model.keypath import KeyPath
from tsstack.model.stack import Stack
from tsstack.model.words import nearest_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MANY_NAMES = 100
_NAME: KeyPath = ("host", "name")


@dataclass(frozen=True)
class Remains:
    """The stack without the faulty nodes.

    `taken` holds their key paths as the file has them, and those of keys that may have been meant by an
    unknown one. `kept` says, for each list that lost entries, which entries of the file are left.
    """

    stack: Stack
    taken: frozenset[KeyPath]
    kept: Mapping[KeyPath, tuple[int, ...]]

    def in_file(self, path: KeyPath) -> KeyPath:
        """A key path of the stack as the file has it: entries of shortened lists have other numbers."""
        return _in_file(path, self.kept)

    def leaves(self, path: KeyPath, rests_on: Iterable[KeyPath]) -> bool:
        """Whether a finding at `path` is sure: neither it nor what it rests on was touched."""
        grounds = (path, *rests_on)
        if any(step in self.taken for step in _from_root(path)):
            return False
        # What is switched off is not judged, and the faulty switch counts as on here.
        if any((*step, "enabled") in self.taken for ground in grounds for step in _from_root(ground)):
            return False
        return not any(self._touches(ground) for ground in grounds[1:])

    def _touches(self, ground: KeyPath) -> bool:
        """Whether a node, something in it or something around it was taken out, or perhaps its name."""
        if ground in self.around or any(step in self.taken for step in _from_root(ground)):
            return True
        names = self.names.get(ground[:-1], ())
        # Past some names, to compare them all costs more than it tells.
        if not isinstance(ground[-1], str) or len(names) > _MANY_NAMES:
            return bool(names)
        return any(nearest_of(name, [ground[-1]]) for name in names)

    @cached_property
    def around(self) -> frozenset[KeyPath]:
        """Every node that something was taken out of."""
        return frozenset(path[:length] for path in self.taken for length in range(1, len(path)))

    @cached_property
    def names(self) -> dict[KeyPath, list[str]]:
        """The names that were taken out of each mapping."""
        names: dict[KeyPath, list[str]] = {}
        for *above, name in self.taken:
            if isinstance(name, str):
                names.setdefault(tuple(above), []).append(name)
        return names


def _from_root(path: KeyPath) -> Iterator[KeyPath]:
    return (path[:length] for length in range(1, len(path) + 1))


def take_out(data: Mapping[str, Plain], faulty: Collection[KeyPath]) -> Remains:
    """The stack of `data` without the `faulty` nodes and without all that its types refuse.

    What cannot be without a node (a list's entry that lacks a required key) goes with it. A host without
    a valid name is called `unnamed`.
    """
    from pydantic import ValidationError

    taken = set(faulty)
    while True:
        kept: dict[KeyPath, tuple[int, ...]] = {}
        rest = _without(data, (), taken, kept)
        if not isinstance(rest.get("host", {}), dict) or "name" not in rest.get("host", {}):
            taken.add(_NAME)
            rest["host"] = {**(rest["host"] if isinstance(rest.get("host"), dict) else {}), "name": "unnamed"}
        try:
            stack = Stack.model_validate(rest, strict=True)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            found = {_in_file(_refused(detail, rest), kept) for detail in errors}
            found |= {meant for detail in errors for meant in _meant(detail, rest, kept)}
            # Every round takes something out, so that there is an end to it.
            taken |= found if found - taken - {()} else {(str(detail["loc"][0]),) for detail in errors}
        else:
            return Remains(stack, frozenset(taken - {()}), kept)


def _without(value: Any, path: KeyPath, taken: set[KeyPath], kept: dict[KeyPath, tuple[int, ...]]) -> Any:
    if isinstance(value, dict):
        return {
            key: _without(below, (*path, key), taken, kept)
            for key, below in value.items()
            if (*path, key) not in taken
        }
    if isinstance(value, tuple):
        left = tuple(index for index in range(len(value)) if (*path, index) not in taken)
        if len(left) < len(value):
            kept[path] = left
        return tuple(_without(value[index], (*path, index), taken, kept) for index in left)
    return value


def _in_file(path: KeyPath, kept: Mapping[KeyPath, tuple[int, ...]]) -> KeyPath:
    original: KeyPath = ()
    for step in path:
        left = kept.get(original)
        renumbered = left[step] if left is not None and isinstance(step, int) else step
        original = (*original, renumbered)
    return original


def _refused(error: ErrorDetails, rest: Any) -> KeyPath:
    """The node that goes: what pydantic refused, or what a missing key is missing in."""
    path: list[str | int] = []
    for step in error["loc"]:
        # Steps that are no key of the data are pydantic's names for the arms of a union.
        if isinstance(rest, dict) and step in rest:
            rest = rest[str(step)]
        elif isinstance(rest, tuple) and isinstance(step, int) and step < len(rest):
            rest = rest[step]
        else:
            continue
        path.append(step)
    return tuple(path)


def _meant(error: ErrorDetails, rest: Any, kept: Mapping[KeyPath, tuple[int, ...]]) -> Iterator[KeyPath]:
    """The keys that an unknown key may have been meant as: the nearest, else all that are not written."""
    if error["type"] != "extra_forbidden":
        return
    *above, key = _refused(error, rest)
    owner: Any = rest
    for step in above:
        owner = owner[step]
    sections = shape.sections(shape.annotations_at(Stack, tuple(above)))
    absent = [known for section in sections for known in shape.known_keys(section) if known not in owner]
    near = nearest_of(str(key), absent)
    for known in [near] if near else absent:
        yield _in_file((*above, known), kept)
