"""What a switch would do, decided before anything is done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tsstack.parts.part import Change, Tree


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One part's share of a switch."""

    part: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts that a switch touches, in activation order. Empty: there is nothing to do."""

    parts: tuple[PartPlan, ...]
    unmet: tuple[tuple[str, str], ...] = ()
    """(part, sentence): what the file asks for and this host cannot do, see part.SaysUnmet."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.part for each in self.parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def warnings(self, besides: Collection[str] = ()) -> tuple[str, ...]:
        """What cannot be had, a line for each, but for the parts that have spoken for themselves."""
        return tuple(f"{part}: {line}" for part, line in self.unmet if part not in besides)

    def summary(self) -> tuple[str, ...]:
        """A line for each change: `firewall: ~ zone dmz: ...`."""
        return tuple(f"{each.part}: {change}" for each in self.parts for change in each.changes)


def plan_switch(changes: Mapping[str, Sequence[Change]], unmet: Iterable[tuple[str, str]] = ()) -> Plan:
    """Keep the parts that have something to change. `changes` is by part name in activation order."""
    parts = tuple(PartPlan(name, tuple(each)) for name, each in changes.items() if each)
    return Plan(parts, tuple(unmet))


@dataclass(frozen=True, slots=True)
class FileDiff:
    """How one rendered file differs, as unified diff lines without newlines."""

    path: str
    lines: tuple[str, ...]


def diff_trees(before: Tree, after: Tree) -> Iterator[FileDiff]:
    """The files that differ between two trees, in order of their paths."""
    import difflib

    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path, ""), after.get(path, "")
        if old != new:
            lines = difflib.unified_diff(
                old.splitlines(),
                new.splitlines(),
                f"current/{path}" if path in before else "/dev/null",
                f"new/{path}" if path in after else "/dev/null",
                lineterm="",
            )
            yield FileDiff(path, tuple(lines))
