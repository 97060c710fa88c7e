"""The table of links: what stands in it, in which order, and that it fits every terminal."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from watched_links import NOON, quality

from tsstack.cli.glyphs import Terminal
from tsstack.cli.link_table import milliseconds, spark, table
from tsstack.cli.ts_quality import fit
from tsstack.monitor.archive import BadTime, Point
from tsstack.monitor.book import kind_of
from tsstack.monitor.links import MOST, Link, Report
from tsstack.monitor.verdict import Level

PLAIN = Terminal(colour=False, unicode=True, width=80)
ASCII = Terminal(colour=False, unicode=False, width=80)
_ESCAPES = re.compile(r"\033\[[0-9;]*m")


def link(key: str, level: Level = "good", rtt_s: float | None = 0.02, **more) -> Link:
    figures = quality(60, rtt_s, more.pop("loss", 0.0), more.pop("relayed", None))
    return Link(key, kind_of(key), level, figures, since=NOON - 252, **more)


def course(*rtts: float | None) -> tuple[Point, ...]:
    return tuple(
        Point(NOON + number, quality(60, rtt_s), "dead" if rtt_s is None else "good")
        for number, rtt_s in enumerate(rtts)
    )


def report(*links: Link, window_s: float | None = 60.0) -> Report:
    return Report(NOON, True, "mint", NOON - 3600, NOON, window_s, links)


SOME = (
    link("exit:exit-a", relayed=0.12, series=course(*([0.02] * 40 + [0.08] * 20))),
    link(
        "target:icmp:1.1.1.1",
        "poor",
        0.216,
        loss=0.31,
        causes=("216 ms over 30 s (limit 150 ms)", "lost 31 % over 12 s (limit 5 %)"),
        series=course(*([0.2] * 60)),
    ),
    link(
        "service:wiki#0",
        "dead",
        None,
        causes=("no answer for 9.1 s",),
        error="refused",
        series=course(*([None] * 60)),
    ),
)


def test_it_looks_like_this_at_80_columns() -> None:
    assert table(report(*SOME), PLAIN) == [
        "✖ dead · mint · 3 paths · last 1m · RTT in ms · exit 1 good · target 1 poor",
        "service 1 dead",
        "  PATH                LEVEL LOSS  P50  P95  P99 JITTER RELAY LAST 1h",
        "✖ service:wiki#0      dead  100%    -    -    -      -     - ×××××××××××××××××××",  # noqa: RUF001
        "    for 4m12s: no answer for 9.1 s; refused",
        "▲ target:icmp:1.1.1.1 poor   31%  216  281  432   21.6     - ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅",
        "    for 4m12s: 216 ms over 30 s (limit 150 ms); lost 31 % over 12 s (limit 5 %)",
        "● exit:exit-a         good    0% 20.0 26.0 40.0    2.0   12% ▃▃▃▃▃▃▃▃▃▃▃▃███████",
    ]


def test_names_are_whole_before_the_course_has_more_than_it_needs() -> None:
    name = "target:https:status.example.org"
    nothing = Point(NOON, replace(quality(60, None), sent=0, lost=0), "unknown")
    without = "\n".join(table(report(link(name, relayed=0.1, series=(nothing,) * 60)), PLAIN))
    assert name in without
    assert "LAST" not in without, "a blank course has no room"
    given = table(report(link(name, series=course(*[0.02] * 60))), PLAIN)
    assert name in given[-1]
    assert len(given[-1]) == 80


def test_what_a_monitor_said_that_has_ended_is_no_level_of_now() -> None:
    lines = table(replace(report(*SOME[:1]), live=False), PLAIN)
    assert lines[0].startswith("○ unknown now, good when the monitor ended")
    assert " WAS " in lines[2] or " WAS " in lines[1]


def test_it_looks_like_this_in_ascii() -> None:
    lines = table(report(*SOME), replace_width(ASCII, 60))
    assert lines == [
        "X dead - mint - 3 paths - last 1m - RTT in ms - exit 1 good",
        "target 1 poor - service 1 dead",
        "  PATH                LEVEL LOSS  P50  P95 JITTER LAST 1h",
        "X service:wiki#0      dead  100%    -    -      - xxxxxxxxxx",
        "    for 4m12s: no answer for 9.1 s; refused",
        "! target:icmp:1.1.1.1 poor   31%  216  281   21.6 ==========",
        "    for 4m12s: 216 ms over 30 s (limit 150 ms); lost 31 % o~",
        "* exit:exit-a         good    0% 20.0 26.0    2.0 ------####",
    ]
    assert all(line.isascii() for line in lines)


def replace_width(out: Terminal, width: int) -> Terminal:
    return Terminal(colour=out.colour, unicode=out.unicode, width=width)


@pytest.mark.parametrize("width", [24, 32, 40, 60, 72, 80, 100, 140, 400])
@pytest.mark.parametrize("span", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, span: bool) -> None:
    links = [
        *SOME,
        link(
            "target:https:https://" + "very-long." * 12 + "example.org/health", series=course(0.1, None, 0.2)
        ),
        link("peer:café☃", "unknown", None),
    ]
    if span:
        links = [replace(each, worst="dead", bad=BadTime(1, 2, 3000)) for each in links]
    for colour in (False, True):
        out = Terminal(colour=colour, unicode=True, width=width)
        lines = table(report(*links, window_s=None if span else 60.0), out)
        widths = [len(_ESCAPES.sub("", line)) for line in lines]
        assert max(widths) <= width


def test_colour_changes_nothing_but_colour() -> None:
    coloured = table(report(*SOME), Terminal(colour=True, unicode=True, width=80))
    assert [_ESCAPES.sub("", line) for line in coloured] == table(report(*SOME), PLAIN)
    assert "\033[31mdead" in "\n".join(coloured)


def test_over_a_span_it_says_how_bad_it_was() -> None:
    links = [
        replace(link("exit:exit-a"), worst="dead", bad=BadTime(10, 60, 4140)),
        replace(link("exit:exit-b"), worst="good", bad=BadTime()),
    ]
    lines = table(report(*reversed(links), window_s=None), PLAIN)
    assert lines == [
        "● good · mint · 2 paths · last 1h · RTT in ms · exit 2 good",
        "  PATH        NOW  WORST   BAD LOSS  P50  P95  P99 JITTER",
        "● exit:exit-a good dead  1h10m   0% 20.0 26.0 40.0    2.0",
        "● exit:exit-b good good      -   0% 20.0 26.0 40.0    2.0",
        "BAD: how long it was poor or dead, each time up to 10s too much",
    ]


def test_of_a_thousand_those_that_need_a_look_are_shown() -> None:
    links = [link(f"service:a{number}#0", rtt_s=number / 1e4 + 0.001) for number in range(1000)]
    links[500] = link("service:a500#0", "dead", None)
    lines = table(report(*links), PLAIN)
    assert lines[0] == "✖ dead · mint · 1000 paths · last 1m · RTT in ms · service 1 dead, 999 good"
    assert lines[2].startswith("✖ service:a500#0 dead")
    assert len(lines) == MOST + 3
    assert lines[-1] == "and 960 good more: --all shows them"
    assert len(table(report(*links), PLAIN, every=True)) == 1002
    worst = table(report(*links), PLAIN, most=2)
    assert [line.split()[1] for line in worst[2:4]] == ["service:a500#0", "service:a999#0"]
    assert worst[-1] == "and 998 good more: --all shows them"


def test_all_that_is_not_well_is_shown_however_much_it_is() -> None:
    links = [link(f"service:a{number}#0", "dead", None) for number in range(90)]
    lines = table(report(*links, *(link(f"peer{number}") for number in range(5))), PLAIN)
    assert sum("dead" in line for line in lines[2:]) == 90


def test_words_of_others_reach_no_terminal_as_commands() -> None:
    evil = link("service:\033[2J\n#0", "dead", None, causes=("\033]0;x\007",), error="\r\033[A")
    lines = table(report(evil), PLAIN)
    assert all(line.isprintable() for line in lines)
    assert "?[2J?#0" in lines[2]


def test_nothing_watched_is_said() -> None:
    assert table(report(), PLAIN)[-1] == "nothing is watched"
    assert table(replace(report(window_s=None), live=False), PLAIN)[-1] == "nothing was measured in that time"


def test_a_course_shows_peaks_gaps_and_losses() -> None:
    assert spark(course(0.1, 0.1, None, 0.1), 9, PLAIN) == "▅▅×▅"  # noqa: RUF001
    assert spark(course(0.1, 0.1, 0.8, 0.1, 0.1, 0.1), 3, PLAIN) == "▂█▂"
    nothing = Point(NOON, replace(quality(60, None), sent=0, lost=0), "unknown")
    assert spark((nothing, *course(0.1)), 9, PLAIN) == " ▅"
    assert spark((), 9, PLAIN) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0.00004, "0.04"), (0.000999, "1.0"), (0.0213, "21.3"), (0.09996, "100"), (1.5, "1500")],
)
def test_round_trips_have_few_digits(seconds: float | None, words: str) -> None:
    assert milliseconds(seconds) == words


def test_a_screen_that_is_drawn_in_place_is_not_taller_than_the_terminal() -> None:
    lines = [str(number) for number in range(30)]
    assert fit(lines, PLAIN, None) == lines
    assert fit(lines, PLAIN, 30) == lines
    fitted = fit(lines, PLAIN, 23)
    assert (len(fitted), fitted[-1]) == (23, "and 8 lines more: a larger terminal")
