"""Spans of time: as they are typed (`--since 24h`) and as people read them (`3h20m`)."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_S = 3 * 366 * 86400


class Span(click.ParamType[float]):
    """How far back: 90m, 24h, 7d. At most three years, which is what the history keeps."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,9})(s|m|h|d|w)", value.strip().lower())
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
        if not 0 < seconds <= _LONGEST_S:
            self.fail(f"{value!r} is no span of time; write 90m, 24h or 7d", param, ctx)
        return float(seconds)


def span_words(seconds: float) -> str:
    """A span in its two largest units: 42s, 4m12s, 3h20m, 2d4h."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if 0 < seconds < 9.95 and seconds != whole else f"{whole}s"
    if whole < 3600:
        return _two(whole, 60, "m", 1, "s")
    if whole < 86400:
        return _two(whole, 3600, "h", 60, "m")
    return _two(whole, 86400, "d", 3600, "h")


def _two(seconds: int, large_s: int, large: str, small_s: int, small: str) -> str:
    rest = seconds % large_s // small_s
    return f"{seconds // large_s}{large}" + (f"{rest}{small}" if rest else "")
