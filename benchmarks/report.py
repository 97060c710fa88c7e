"""What was measured, as rows for people and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Series:
    """One thing, measured several times: on the clock, and on the processor where that was measured."""

    wall_s: tuple[float, ...] = ()
    cpu_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its alternative. A row without measurements says in `note` why there are none.

    The target is either a time of our own (`target_s`) or a ratio to the alternative (`target_ratio`).
    """

    what: str
    ours: Series = Series()
    alternative: str = ""
    other: Series = Series()
    target_s: float | None = None
    target_ratio: float | None = None
    note: str = ""

    @property
    def median_s(self) -> float | None:
        return _median(self.ours.wall_s)

    @property
    def alternative_s(self) -> float | None:
        return _median(self.other.wall_s)

    @property
    def ratio(self) -> float | None:
        if self.median_s is None or not self.alternative_s:
            return None
        return self.median_s / self.alternative_s

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None when there is none, or nothing to hold against it."""
        if self.target_s is not None and self.median_s is not None:
            return self.median_s <= self.target_s
        if self.target_ratio is not None and self.ratio is not None:
            return self.ratio <= self.target_ratio
        return None

    def as_json(self) -> dict[str, Any]:
        derived = {name: getattr(self, name) for name in ("median_s", "alternative_s", "ratio", "met")}
        return {**asdict(self), **derived}

    def cells(self) -> tuple[str, ...]:
        """The row for people, in the columns of `HEAD`."""
        wall_s = self.ours.wall_s
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} x"
        target = _show(self.target_s) or (f"{self.target_ratio:g} x" if self.target_ratio else "")
        return (
            self.what,
            _show(self.median_s) or "-",
            f"{_show(min(wall_s))} .. {_show(max(wall_s))}" if wall_s else "",
            _show(_median(self.ours.cpu_s)),
            self.alternative,
            _show(self.alternative_s) or ("-" if self.alternative else ""),
            _show(_median(self.other.cpu_s)),
            ratio,
            target,
            {True: "met", False: "MISSED", None: ""}[self.met],
            self.note,
        )


HEAD = ("what", "median", "range", "cpu", "beside", "median", "cpu", "ratio", "target", "", "")


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _show(value_s: float | None) -> str:
    return "" if value_s is None else f"{value_s * 1000:,.0f} ms"


def print_table(machine: dict[str, str], rows: Sequence[Row]) -> None:
    """The machine, then a line for each row: medians, their range, and processor time beside them."""
    for name, value in machine.items():
        print(f"{name:12}{value}")
    print()
    table = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEAD))]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
