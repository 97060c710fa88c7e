"""What stands above and below every screen: host and level, tabs, what is away, keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from time import localtime, strftime
from typing import NamedTuple

from tsstack.status.headline import headline
from tsstack.status.words import span, wrapped
from tsstack.tui.cells import Line, Signs, Span, cut, fitted, width_of
from tsstack.tui.frame import Away, Frame

LATE_S = 3.5
"""Figures that are older than this are called old."""
TABS = ("overview", "links", "exit nodes", "services", "firewall", "events", "generations")
_SHORT = {"exit nodes": "exits", "generations": "gens", "overview": "over"}


class Key(NamedTuple):
    """A key, what it does in a word, and the action behind both."""

    key: str
    word: str
    action: str


class Part(NamedTuple):
    """A piece of a bar, and what a click on it does."""

    spans: Line
    action: str = ""


def header(frame: Frame | None, signs: Signs, width: int, now: float) -> Line:
    """One line: what this is, the host, its level, whether one may change anything, the time."""
    clock = strftime("%H:%M:%S", localtime(now))
    if frame is None:
        return ((" tsstack  ", "bold"), ("asking ...", "dim"))
    status = frame.status
    sign, look = signs.level(status["level"])
    left: list[Span] = [
        (" tsstack  ", "dim"),
        (cut(signs.words(status["host"]), max(8, width // 3), signs.end), "bold"),
        ("  ", ""),
        (f"{sign} {headline(status)}", look),
    ]
    right: list[Span] = [(f"{clock} ", "")]
    may = frame.permissions
    if not (may.steer and may.switch):
        right.insert(
            0, (("read-only" if not (may.steer or may.switch) else "no switching") + "  ", "warning")
        )
    room = width - sum(width_of(text) for text, _ in right) - 1
    if sum(width_of(text) for text, _ in left) > room:
        left[0] = (" ", "")  # how the host is says more than what this program is
    line = fitted(tuple(left), room, signs.end)
    return (*line, (" " * (room + 1 - sum(width_of(text) for text, _ in line)), ""), *right)


def tabs(current: str, width: int) -> list[Part]:
    """The tabs with the numbers that are their keys; shorter words where there is no room."""
    for names in (
        list(TABS),
        [_SHORT.get(name, name) for name in TABS],
        [name if name == current else name[:3] for name in TABS],
        [name if name == current else "" for name in TABS],
    ):
        words = [f"{number} {name}".strip() for number, name in enumerate(names, 1)]
        for gap in (2, 1):
            if sum(map(len, words)) + gap * len(words) + 1 <= width:
                break
        else:
            continue
        break
    parts = [Part(((" ", ""),))]
    for name, word in zip(TABS, words, strict=True):
        look = "tab" if name == current else "dim"
        parts += [Part(((f"{word}", look),), f"app.tab('{name}')"), Part(((" " * gap, ""),))]
    return parts


def footer(keys: Sequence[Key], width: int) -> list[Part]:
    """The keys that do something here, as many as have room; the last two, help and the end, always."""
    parts, left = [Part(((" ", ""),))], width - 1 - sum(map(_size, keys[-2:]))
    for at, key in enumerate(keys):
        if at < len(keys) - 2:
            if _size(key) > left:
                continue
            left -= _size(key)
        parts.append(Part(((key.key, "accent"), (f" {key.word}", "dim")), key.action))
        parts.append(Part((("  ", ""),)))
    return parts


def _size(key: Key) -> int:
    return len(key.key) + len(key.word) + 3


def banner(frame: Frame | None, signs: Signs, width: int, now: float, failed: str = "") -> list[Line]:
    """What matters on every screen: who is away since when, old figures, a switch to be confirmed."""
    lines: list[Line] = []
    if frame is not None and frame.status["generation"]["pending"] is not None:
        lines.append(_pending(frame, now))
    if failed:
        lines.append((("! ", "critical"), ("asking went wrong: ", "critical"), (signs.words(failed), "")))
    if frame is not None:
        for name, away in frame.away.items():
            lines += _away(name, away, signs, width, now)
        age_s = now - frame.status["at"]
        if age_s > LATE_S:
            lines.append((("! ", "warning"), (f"these figures are {span(age_s)} old", "warning")))
    return [fitted(line, width, signs.end) for line in lines]


def _away(name: str, away: Away, signs: Signs, width: int, now: float) -> list[Line]:
    """Who is away, since when and why, on as many lines as the reason takes, two at most."""
    since = strftime("%H:%M:%S", localtime(away.since))
    said = f"{name} away since {since} ({span(now - away.since)})"
    text = f"{said}: {signs.words(away.why)}"
    told = f"{text}; what it said last is dim"
    first, *more = wrapped(told if len(told) + 2 <= width else text, max(20, width - 2))
    head: Line = (("! ", "critical"), (first[: len(said)], "critical"), (first[len(said) :], "dim"))
    if not more:
        return [head]
    rest = " ".join(more)
    return [head, (("  ", ""), (rest, "dim"))]


def _pending(frame: Frame, now: float) -> Line:
    pending = frame.status["generation"]["pending"]
    if pending is not None and pending["phase"] == "damaged":
        words = "a switch is not over, and its record is damaged: tsstack recover"
        return (("! ", "warning"), (words, "warning"))
    if pending is None or pending["phase"] == "unknown":
        return (("! ", "warning"), ("a switch is not over; root may read more of it", "warning"))
    number = pending["generation"]
    if pending["phase"] != "unconfirmed":
        return (("! ", "warning"), (f"a switch to generation {number} is at work, or was cut off", "warning"))
    left_s = pending["left_s"]
    if left_s is None:
        return (("! ", "warning"), (f"generation {number} waits for its confirmation: c keeps it", "warning"))
    left_s = max(0.0, left_s - max(0.0, now - frame.status["at"]))
    look = "critical" if left_s < 15 else "warning"
    return (
        ("! ", look),
        (f"generation {number} is undone in {left_s:.0f} s", look),
        (": c keeps it, r undoes it now", "warning"),
    )
