"""Events as lines for people: pure, from what was told to lines that fit the terminal, or go into a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from tsstack.cli.glyphs import Terminal, clean
from tsstack.cli.spans import span_words
from tsstack.monitor.episodes import Told
from tsstack.status.words import padded, width_of

_ONE_LINE = 100
"""From this width on an event is one line; below, its sentence stands on a line of its own."""
_ABOUT_MOST = 30
_INDENT = " " * 11
_COLOURS = {"critical": "red", "warning": "yellow", "over": "green", "info": ""}


class EventLines:
    """Lays out events one after the other; knows on which day the last one was."""

    def __init__(self, terminal: Terminal, *, piped: bool, full: bool = False) -> None:
        """`piped`: whole lines with their date, for other programs. `full`: nothing is cut off."""
        self._terminal = terminal
        self._piped = piped
        self._full = full
        self._day = ""
        self._about = 0

    def lines(self, told: Iterable[Told]) -> Iterator[str]:
        """These events, with a line for each day that begins."""
        told = list(told)
        longest = max((width_of(clean(each.event.about)) for each in told), default=0)
        self._about = max(self._about, min(_ABOUT_MOST, longest))
        for each in told:
            if self._piped:
                yield _whole(each)
                continue
            day = _clock(each.event.at, "%A %d %B %Y")
            if day != self._day:
                self._day = day
                yield self._rule(day)
            yield from self._event(each)

    def _rule(self, day: str) -> str:
        line = self._terminal.sign("line")
        text = f"{line * 2} {day} "
        text += line * (self._terminal.width - len(text))
        return self._terminal.paint(self._terminal.clip(text, self._terminal.width), "bold")

    def _event(self, told: Told) -> Iterator[str]:
        out = self._terminal
        word = severity(told)
        at = _clock(told.event.at, "%H:%M:%S")
        sign = out.sign({"over": "ok", "info": "dot"}.get(word, word))
        head = f"{at} {sign} {out.paint(word.ljust(8), _COLOURS[word])} {_lasted(told):>7}"
        head_width = len(at) + len(" * critical lasting")  # the widest of each
        about, text = clean(told.event.about), clean(told.event.text)
        if out.width >= _ONE_LINE:
            about = padded(out.clip(about, self._about), self._about)
            indent = " " * (head_width + self._about + 4)
            first, *more = self._fit(text, out.width - len(indent), indent)
            yield f"{head}  {out.paint(about, 'bold')}  {first}"
        else:
            yield f"{head}  {out.paint(out.clip(about, out.width - head_width - 2), 'bold')}"
            first, *more = self._fit(text, out.width - len(_INDENT), _INDENT)
            yield _INDENT + first
        yield from more

    def _fit(self, text: str, width: int, indent: str) -> list[str]:
        """The sentence on one line, cut; or whole, on as many as it takes."""
        if not self._full:
            return [self._terminal.clip(text, width)]
        first, *more = wrap(text, max(width, 10)) or [""]
        return [first, *(indent + each for each in more)]


def standing_lines(stands: Sequence[Told], terminal: Terminal, now: float) -> list[str]:
    """What still stands, the worst first: for the end of the list on a terminal."""
    if not stands:
        return [terminal.clip("nothing stands", terminal.width)]
    lines = [terminal.paint("still stands", "bold")]
    for each in stands:
        lasts = span_words(max(0.0, now - each.event.at))
        plain = f" {each.worst}, for {lasts}: {clean(each.event.about)} {clean(each.event.text)}"
        plain = terminal.clip(plain, terminal.width - 1)
        lines.append(terminal.sign(each.worst) + plain.replace(each.worst, terminal.level(each.worst), 1))
    return lines


def severity(told: Told) -> str:
    """The word for people: what ends something is `over`."""
    return "over" if told.event.over else told.event.severity


def _lasted(told: Told) -> str:
    if told.lasted_s is not None:
        return span_words(told.lasted_s)
    return "stands" if told.stands else ""


def _whole(told: Told) -> str:
    """One line with everything, the same on every machine but for its time zone."""
    event = told.event
    lasted = f" ({'stands' if told.stands else f'lasted {_lasted(told)}'})" if _lasted(told) else ""
    at = _clock(event.at, "%Y-%m-%d %H:%M:%S")
    return f"{at}  {severity(told):8}  {clean(event.about)}: {clean(event.text)}{lasted}"


def _clock(at: float, form: str) -> str:
    return time.strftime(form, time.localtime(at))
