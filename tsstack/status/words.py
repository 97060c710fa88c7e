"""How figures, levels and words of others are written: alike on every screen. Pure, and light to import."""

from __future__ import annotations

import functools

from tsstack.system.spans import span as span  # noqa: PLC0414  screens take it from here
from tsstack.system.spans import time_left as time_left  # noqa: PLC0414

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tsstack.status.shape import Exit, Firewall, Peer

COLOUR_OF = {
    "ok": "green",
    "warning": "yellow",
    "critical": "red",
    "unknown": "blue",
    "good": "green",
    "suspect": "yellow",
    "poor": "yellow",
    "dead": "red",
}
"""What a level looks like, everywhere: of a status (ok, warning, critical) and of a path (good to dead)."""

SIGNS = {
    "ok": ("●", "*"),
    "warning": ("▲", "!"),
    "critical": ("✖", "X"),
    "unknown": ("○", "?"),
    "good": ("●", "*"),
    "suspect": ("▲", "!"),
    "poor": ("▲", "!"),
    "dead": ("✖", "X"),
    "arrow": ("→", "->"),
    "dot": ("·", "-"),
    "line": ("─", "-"),
}
"""Each in UTF-8, and in ASCII for what cannot show that. The word stands beside it."""

BARS = ("▁▂▃▄▅▆▇█", "_.-~=+*#")
"""From low to high, in UTF-8 and in ASCII."""


def clean(text: str) -> str:
    """Words of others (peers, services, the kernel log) without what a terminal would act on."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def width_of(text: str) -> int:
    """Columns that `text` takes on a terminal: two of a wide sign (UAX #11), none of a combining one."""
    if text.isascii():
        return len(text)
    return sum(1 if _is_plain(sign) else _width_of(sign) for sign in text)


def _is_plain(sign: str) -> bool:
    """Latin letters, dashes and dots, arrows, lines, blocks and geometric signs: one column each."""
    return (
        sign < "\u0300" or "\u2500" <= sign <= "\u25fc" or "\u2010" <= sign <= "\u2027"
        or "\u2190" <= sign <= "\u21ff" or sign == "\u2716"
    )  # fmt: skip


@functools.cache
def _width_of(sign: str) -> int:
    import unicodedata

    if unicodedata.east_asian_width(sign) in "WF":
        return 2
    return 0 if unicodedata.category(sign) in {"Mn", "Me"} else 1


def cut(text: str, width: int) -> str:
    """As much of the beginning of `text` as has room in `width` columns."""
    width = max(width, 0)
    if text.isascii():
        return text[:width]
    taken = 0
    for at, sign in enumerate(text):
        taken += 1 if _is_plain(sign) else _width_of(sign)
        if taken > width:
            return text[:at]
    return text


@functools.lru_cache(maxsize=4096)
def natural(text: str) -> str:
    """What orders names as people do: `peer-2` before `peer-10`."""
    key = digits = ""
    for sign in f"{text} ":
        if "0" <= sign <= "9":
            digits += sign
            continue
        key += digits.zfill(12) + sign if digits else sign
        digits = ""
    return key


def padded(text: str, width: int) -> str:
    """`text` with as many blanks behind it as fill `width` columns."""
    return text + " " * (width - width_of(text))


def way_out(way: Exit) -> str:
    """The way out that is in use, in words."""
    if way["stuck"]:
        return "none: what leaves goes to tailscaled, which carries nothing"
    if way["bypassed"]:
        names = dict.fromkeys(each["interface"] for each in way["bypassed"])
        return f"{clean(', '.join(names))}, past {clean(way['using'])}"
    return "blocked" if way["blocked"] else clean(way["using"]) or "the bare uplink"


def why_open(firewall: Firewall) -> str:
    """Of a table that is not loaded, or not in force: why nothing is closed."""
    why = "switched off (flags dormant)" if firewall["dormant"] else "not loaded"
    return f"{why}: nothing is closed"


def is_cut_off(way: Exit) -> bool:
    """Whether nothing gets out by it, or what gets out does not go by it."""
    return bool(way["bypassed"]) or way["blocked"] or way["stuck"] or way["online"] is False


def way_to(peer: Peer) -> str:
    """What control calls online and the monitor finds dead is silent: the way is a memory then."""
    return "silent" if peer["answers"] is False else peer["way"]


def spark(values: Sequence[float | None], bars: str, top: float | None = None) -> str:
    """One sign for each value, higher for more; a blank where nothing was measured (None).

    `top` is what the highest sign stands for: the highest value where it is not given.
    """
    if top is None:
        top = max((value for value in values if value is not None), default=0.0)
    most = len(bars) - 1
    return "".join(
        " " if value is None else bars[min(most, int(value / top * len(bars)))] if top else bars[0]
        for value in values
    )


def milliseconds(seconds: float | None) -> str:
    """A round trip: 0.05 ms, 1.2 ms, 120 ms; empty when it is not known."""
    if seconds is None:
        return ""
    if 0 < seconds < 0.001:
        return f"{seconds * 1000:.2f} ms"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def percent(share: float | None) -> str:
    """A share of 0 to 1: 0 %, 2.5 %; empty when it is not known."""
    return "" if share is None else f"{share * 100:.1f} %" if 0 < share < 1 else f"{share * 100:.0f} %"


def number(value: float) -> str:
    """At most four figures and a letter: 987, 12.3k, 4.56M."""
    if value < 1000:
        return str(round(value))
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if value < size * 1000 or unit == "T":
            return f"{value / size:.3g}{unit}" if value < size * 999.5 else f"{value / size:.0f}{unit}"
    return str(value)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns (or one sign), broken at blanks where that is possible."""
    width = max(1, width)
    lines, line = [], ""
    for word in text.split(" "):
        rest = word
        while width_of(rest) > width:
            room = width - width_of(line) - bool(line)
            head = (cut(rest, room) if room > 0 else "") or ("" if line else rest[:1])
            lines.append(f"{line} {head}".strip(" ") if line else head)
            line, rest = "", rest[len(head) :]
        if line and width_of(line) + 1 + width_of(rest) > width:
            lines.append(line)
            line = rest
        else:
            line = f"{line} {rest}" if line else rest
    return [*lines, line]


def command_lines(hint: str, width: int) -> list[tuple[str, bool]]:
    """A fix in lines of at most `width` that can be pasted together: the command, then its comment.

    Each with whether it goes on inside a word: to a shell it does so only where nothing stands before it.
    """
    if len(hint) <= width:
        return [(hint, False)] if hint else []
    command, _, comment = hint.partition("    # ")
    if command.startswith("# "):
        command, comment = "", command[2:]
    room = max(1, width - 2)
    lines, line, inside = [], "", False
    for word in command.split(" "):
        if line and len(line) + 1 + len(word) > room:
            lines.append((f"{line} \\", inside))
            line, inside = "", False
        line = f"{line} {word}" if line else word
        while len(line) > room:
            lines.append((f"{line[:room]}\\", inside))
            line, inside = line[room:], True
    lines += [(line, inside)] if line else []
    return lines + ([(f"# {each}", False) for each in wrapped(comment, room)] if comment else [])


def speaks_utf8(environment: Mapping[str, str]) -> bool:
    """Whether the locale is one of UTF-8 (locale(7): the first of these that is set and not empty decides).

    Python's own streams do not tell: under the C locale they are UTF-8 all the same (PEP 540).
    """
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        if environment.get(name):
            return environment[name].lower().replace("-", "").partition("@")[0].endswith(".utf8")
    return False
