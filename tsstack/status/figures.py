"""Which of a path's figures a screen shows where nobody chose: the same on all of them. Pure, and light."""

from __future__ import annotations

from tsstack.status.words import milliseconds, percent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

WINDOW_S = 60.0
WINDOW = "1m"
"""As `ts-quality --window` names it."""


def figures_of(path: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Those of the last minute of one of the monitor's paths; None where nothing was measured in it."""
    windows = path["windows"] if path else ()
    return next((each for each in windows if each["window_s"] == WINDOW_S and each["sent"]), None)


def ways_apart(path: Mapping[str, Any] | None, level: str | None) -> str:
    """Why an exit node is at `level` while the figures, which are of the way to it, say otherwise."""
    if path is None or path["causes"] or level in {None, path["level"]}:
        return ""
    return f"the way to it is {path['level']}, the way through it {level}"


def way_cells(path: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Loss, median and p95 of the last minute as words; empty where they are not known."""
    figures = figures_of(path)
    if figures is None:
        return "", "", ""
    return percent(figures["loss"]), milliseconds(figures["rtt_p50_s"]), milliseconds(figures["rtt_p95_s"])
