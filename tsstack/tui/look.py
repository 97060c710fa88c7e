"""Colours and layout: few colours, each with its meaning, in several themes. Textual's style sheets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.style import Style
from textual.color import Color
from textual.theme import Theme

if TYPE_CHECKING:
    from rich.color import Color as RichColor

OWN = (
    Theme(
        name="tsstack",
        primary="#5fa8d3",
        secondary="#7f8ea3",
        accent="#6cb6d9",
        foreground="#d5dae1",
        background="#14171c",
        surface="#14171c",
        panel="#242a33",
        success="#7fbf7f",
        warning="#e0b052",
        error="#e06c75",
    ),
    Theme(
        name="tsstack-light",
        primary="#1f6f9f",
        secondary="#66707c",
        accent="#1f6f9f",
        foreground="#22272e",
        background="#fafafa",
        surface="#fafafa",
        panel="#e4e8ec",
        success="#2f7d32",
        warning="#9a6700",
        error="#b3261e",
        dark=False,
    ),
)
THEMES = (
    "tsstack",
    "tsstack-light",
    "nord",
    "gruvbox",
    "catppuccin-mocha",
    "tokyo-night",
    "solarized-light",
    "ansi-dark",
)
"""`t` goes through these. The last has the terminal's own colours."""
PLAIN = "ansi-dark"
"""The one that takes no colour of ours: with NO_COLOR its colours are left out altogether."""


def theme_after(name: str) -> str:
    """The next theme; the first after the last."""
    return THEMES[(THEMES.index(name) + 1) % len(THEMES)] if name in THEMES else THEMES[0]


def is_plain(environment: Mapping[str, str]) -> bool:
    """Whether no colour is wanted (no-color.org: the variable is there and not empty)."""
    return bool(environment.get("NO_COLOR"))


def styles(colours: Mapping[str, str], *, ansi: bool, plain: bool) -> dict[str, Style]:
    """The looks in a theme's colours (Textual's `theme_variables`), over a ground that they leave alone.

    `ansi`: they are the terminal's own sixteen, which do not blend. `plain`: none is wanted.
    """
    if plain:
        bold, dim, reverse = Style(bold=True), Style(dim=True), Style(reverse=True)
        return {
            "dim": dim, "bold": bold, "head": dim, "accent": Style(), "ok": Style(), "warning": bold,
            "critical": bold, "unknown": Style(), "tab": reverse + bold, "cursor": reverse,
        }  # fmt: skip

    def colour(name: str) -> RichColor:
        return Color.parse(colours[name]).rich_color

    faint = Color.parse(colours["background"]).blend(Color.parse(colours["foreground"]), 0.55)
    return {
        "dim": Style(dim=True) if ansi else Style(color=faint.rich_color),
        "bold": Style(bold=True),
        "head": Style(color=colour("secondary"), bold=True),
        "accent": Style(color="cyan") if ansi else Style(color=colour("accent")),
        "ok": Style(color=colour("success")),
        "warning": Style(color=colour("warning")),
        "critical": Style(color=colour("error"), bold=True),
        "unknown": Style(color=colour("primary")),
        "tab": Style(reverse=True, bold=True)
        if ansi
        else Style(color=colour("background"), bgcolor=colour("accent"), bold=True),
        "cursor": Style(bgcolor="bright_black") if ansi else Style(bgcolor=colour("panel")),
    }


CSS = """
* { scrollbar-size: 1 1; scrollbar-background: $background; scrollbar-background-hover: $background;
    scrollbar-background-active: $background; scrollbar-color: $panel; scrollbar-color-hover: $secondary;
    scrollbar-color-active: $primary; scrollbar-corner-color: $background; }
Screen { background: $background; color: $foreground; }
Painted { background: $background; color: $foreground; }
Bar { height: 1; overflow: hidden; }
Panel { height: auto; overflow: hidden; }
#head { height: 1; background: $panel; }
#banner { max-height: 6; padding: 0 1; }
Tab { height: 1fr; display: none; }
Tab.-open { display: block; }
.box { border: round $secondary 60%; border-title-color: $secondary; border-title-style: bold;
    border-subtitle-color: $secondary; padding: 0 1; }
Grid.box:focus { border: round $accent; border-title-color: $accent; }
Grid { height: 1fr; min-height: 4; overflow-x: hidden; }
.-none { display: none; }
Dialog { align: center middle; background: $background 60%; }
Dialog > Vertical { width: 72; max-width: 94%; height: auto; border: round $accent;
    border-title-color: $accent; border-title-style: bold; background: $background; padding: 1 2 0 2; }
Dialog Panel { height: auto; overflow-y: auto; }
Dialog Bar { margin-top: 1; }
Difference > Vertical { width: 100%; max-width: 100%; height: 100%; max-height: 100%; padding: 0 1; }
Difference Panel { height: 1fr; }
Difference Bar { margin-top: 0; }
.-ascii .box, Dialog.-ascii > Vertical { border: ascii $secondary; }
.-ascii Grid.box:focus { border: ascii $accent; }
.-plain Grid.box:focus { border: heavy $accent; }
.-plain.-ascii Grid.box:focus { border: ascii $accent; }
Screen.-low .box { border-bottom: none; }
Toast { padding: 0 1; margin: 0; }
.-ascii Toast { border-left: ascii $secondary; border-right: none; }
ToastRack { align: right bottom; margin-bottom: 1; }
"""
