"""Signs and colours on a terminal, for the commands that show. Light: `ts-status` starts with it.

A sign never stands alone for what it means: the word is beside it. What a terminal cannot show (no UTF-8)
gets a sign of ASCII, what takes no colour gets none (no-color.org).
"""

from __future__ import annotations

import io
import os
import sys

from tsstack.status.words import BARS, COLOUR_OF, SIGNS, clean, cut, spark, speaks_utf8, width_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["COLOUR_OF", "Terminal", "clean", "terminal"]

UNCUT = 100_000
"""Columns where nobody reads a screen: each sentence stays in one line, for grep(1)."""
_SGR = {
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "bold": "1",
    "dim": "2",
}


_COERCED = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})
"""What PEP 538 tries, in its order."""


class Terminal:
    """How to write to a stream: in colour or not, in UTF-8 or ASCII, how wide."""

    __slots__ = ("colour", "unicode", "width")

    def __init__(self, *, colour: bool, unicode: bool, width: int) -> None:
        self.colour = colour
        self.unicode = unicode
        self.width = width

    def paint(self, text: str, *looks: str) -> str:
        """`text` in the looks of `_SGR`; as it is without colour, or without looks."""
        codes = ";".join(_SGR[look] for look in looks if look)
        return f"\033[{codes}m{text}\033[0m" if self.colour and codes and text else text

    def level(self, level: str, text: str | None = None) -> str:
        """A word (the level itself by default) in the level's colour."""
        return self.paint(level if text is None else text, COLOUR_OF.get(level, ""))

    def sign(self, name: str) -> str:
        """The sign of a level, coloured, or one of the plain signs (`arrow`, `dot`, `line`)."""
        sign = SIGNS[name][0 if self.unicode else 1]
        return self.paint(sign, COLOUR_OF[name]) if name in COLOUR_OF else sign

    def spark(self, values: list[float | None]) -> str:
        """One sign for each value, higher for more; a blank where nothing was measured (None)."""
        return spark(values, BARS[0 if self.unicode else 1])

    def clip(self, text: str, width: int) -> str:
        """`text` in at most `width` columns, with a sign where it was cut. For text without colour.

        What a terminal without UTF-8 cannot show is a question mark there.
        """
        if not self.unicode:
            text = text.encode("ascii", "replace").decode("ascii")
        if width_of(text) <= width:
            return text
        end = "…" if self.unicode else "~"
        return cut(text, width - 1) + end if width > 0 else ""


def redraws(stream: TextIO) -> bool:
    """Whether what is written there can take the place of what was before: a terminal that knows how."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def screen_rows() -> int | None:
    """Lines that a screen has which is drawn in place on stdout; None where there is no such screen."""
    try:
        height = os.get_terminal_size(sys.stdout.fileno()).lines
    except (OSError, ValueError):
        return None
    # The cursor stands on the last one.
    return max(2, height - 1) if height and redraws(sys.stdout) else None


def redrawn(text: str) -> str:
    """`text` as it takes the place of the screen before, as far as the terminal is high.

    Home, each line cleared and written, then the rest is cleared: nothing flickers (ECMA-48: CUP, EL, ED).
    A line that is too wide is cut, not wrapped (DECAWM), or the first lines would be pushed off. Whoever has
    more lines than `screen_rows` says which of them matter; of what is left over the last line tells.
    """
    lines = text.rstrip("\n").split("\n")
    rows = screen_rows()
    if rows is not None and len(lines) > rows:
        hidden = len(lines) - (rows - 1)
        lines = [*lines[: rows - 1], f"  and {hidden} more lines: make the window higher"]
    # Cleared before it is written: after a line of the full width the cursor still stands on its last sign.
    drawn = "".join(f"\033[K{line}\n" for line in lines)
    return f"\033[H\033[?7l{drawn}\033[?7h\033[J"


def newest(lines: list[str], rows: int | None, out: Terminal) -> list[str]:
    """The last lines that have room, with a first one that says what is before them."""
    if rows is None or len(lines) <= rows:
        return lines
    left = len(lines) - rows + 1
    return [
        out.paint(out.clip(f"{left} lines before: make the window higher", out.width), "dim"),
        *lines[left:],
    ]


def terminal(*, piped: int = 80) -> Terminal:
    """What stdout is. `piped` columns where nothing says otherwise; COLUMNS is honoured (environ(7))."""
    out = sys.stdout
    try:
        is_terminal = out.isatty()
        width = os.get_terminal_size(out.fileno()).columns if is_terminal else 0
    except (OSError, ValueError):
        is_terminal, width = False, 0
    told = os.environ.get("COLUMNS", "")
    columns = int(told) if told.isdigit() else 0
    return Terminal(
        colour=is_terminal and _wants_colour(), unicode=_is_utf8(), width=columns or width or piped
    )


def takes_colour(stream: TextIO) -> bool:
    """Whether what is written there may have colour: a terminal that knows how, and nobody said NO_COLOR."""
    return stream.isatty() and _wants_colour()


def _wants_colour() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_whatever_comes(stream: TextIO) -> None:
    """What the locale has no sign for is a question mark there, and no end of us: peers have any name."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def _is_utf8() -> bool:
    """Whether the user's locale has UTF-8 (locale(7): LC_ALL before LC_CTYPE before LANG).

    Python writes UTF-8 in the C locale too (PEP 540), whatever the terminal makes of it.
    """
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return encoding == "utf8" and speaks_utf8(locale_given())


def locale_given() -> dict[str, str]:
    """What the user said of the locale, not what Python made of it before we were asked.

    In the C locale, or in one that is not installed, it puts UTF-8 into LC_CTYPE itself (PEP 538). What exec
    gave us is in /proc (proc_pid_environ(5)).
    """
    told = {name: os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")}
    if told["LC_CTYPE"] in _COERCED:
        try:
            with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
                given = file.read().split(b"\0")
        except OSError:
            return told
        mine = [each[9:].decode("ascii", "replace") for each in given if each.startswith(b"LC_CTYPE=")]
        told["LC_CTYPE"] = mine[0] if mine else ""
    return told
