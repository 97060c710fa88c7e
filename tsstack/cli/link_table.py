"""The links as a table for people: pure, from a report to lines that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tsstack.cli.glyphs import COLOUR_OF, Terminal, clean
from tsstack.cli.spans import span_words
from tsstack.monitor.archive import Point
from tsstack.monitor.links import Link, Report, counts, shown, worst_first, worst_level
from tsstack.status.severity import TROUBLE, level_of, worst_of
from tsstack.status.words import cut, padded, width_of

_PATH_LEAST, _SPARK_LEAST = 20, 9
_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    cell: Callable[[Link], str]
    left: bool = False


def table(report: Report, terminal: Terminal, *, most: int | None = None, every: bool = False) -> list[str]:
    """A summary by kind, then a row for each link, the worst first, with what speaks against it below.

    `most` and `every` choose the rows as `links.shown` says.
    """
    lines = _summary(report, terminal)
    if not report.links:
        return [*lines, "nothing is watched" if report.live else "nothing was measured in that time"]
    rows = shown(report.links, most, every=every)
    lines += _rows(rows, report, terminal)
    keys = {each.key for each in rows}
    rest = [each for each in worst_first(report.links) if each.key not in keys]
    if rest:
        levels = ", ".join(
            f"{sum(each.level == level for each in rest)} {level}"
            for level in dict.fromkeys(each.level for each in rest)
        )
        lines.append(
            terminal.paint(terminal.clip(f"and {levels} more: --all shows them", terminal.width), "dim")
        )
    if report.window_s is None:
        to_s = max((each.bad.to_s for each in rows if each.bad), default=10)
        foot = f"BAD: how long it was poor or dead, each time up to {span_words(to_s)} too much"
        lines.append(terminal.paint(terminal.clip(foot, terminal.width), "dim"))
    return lines


def severity_of(report: Report) -> str:
    """How bad it is, as on every screen; unknown without a monitor: what its history ends with may be old."""
    if not report.live:
        return "unknown"
    levels = [level_of(each.level, others_serve=each.others_serve) for each in report.links]
    return worst_of([*levels, *(TROUBLE for _ in report.troubles)])


def spark(series: Sequence[Point], width: int, terminal: Terminal) -> str:
    """Round trips over time in at most `width` signs, coloured by the worst level of each time.

    Of several steps in one sign the slowest counts. `x` is a time in which every probe was lost; a blank one
    in which nothing was measured. A steady link stands at half height.
    """
    width = min(width, len(series))
    groups = [
        series[number * len(series) // width : (number + 1) * len(series) // width] for number in range(width)
    ]
    values = [_highest(group) for group in groups]
    known = sorted(each for each in values if each is not None)
    top = max(known[-1], 2 * known[(len(known) - 1) // 2]) if known else 0.0
    bars = terminal.spark([*values, top])[:-1]
    lost = "×" if terminal.unicode else "x"  # noqa: RUF001  the sign is meant
    signs = ""
    for bar, group in zip(bars, groups, strict=True):
        sent = sum(each.quality.sent for each in group)
        sign = lost if bar == " " and sent else bar
        worst = max((each.worst for each in group), key=_SEVERITY.index, default="good")
        bad = worst in {"suspect", "poor", "dead"} and sent
        signs += terminal.paint(sign, COLOUR_OF[worst]) if bad else sign
    return signs


_SEVERITY = ("unknown", "good", "suspect", "poor", "dead")


def _highest(group: Iterable[Point]) -> float | None:
    return max((each.quality.rtt_p50_s for each in group if each.quality.rtt_p50_s is not None), default=None)


def _summary(report: Report, terminal: Terminal) -> list[str]:
    """What this is of, and how many of each kind have which level: on as many lines as that takes."""
    dot = terminal.sign("dot")
    of = f"last {span_words(report.window_s or report.until - report.since)}"
    ended = worst_level(report.links)
    level = severity_of(report)
    words = ended if report.live else f"unknown now, {ended} when the monitor ended"
    words += ", the monitor has trouble" if report.troubles else ""
    parts = [
        " ".join([terminal.sign(level), terminal.level(level, words)]),
        *([clean(report.host)] if report.host else []),
        f"{len(report.links)} paths" if len(report.links) != 1 else "1 path",
        of,
        "RTT in ms",
    ]
    plain = [f"{_bare(terminal, level)} {words}", *parts[1:]]
    for kind, levels in counts(report.links).items():
        plain.append(f"{kind} " + ", ".join(f"{count} {name}" for name, count in levels.items()))
        parts.append(
            f"{kind} " + ", ".join(terminal.level(name, f"{count} {name}") for name, count in levels.items())
        )
    lines, used = [""], 0
    for part, bare in zip(parts, plain, strict=True):
        gap = 3 if used else 0
        if used and used + gap + width_of(bare) > terminal.width:
            lines.append("")
            used = gap = 0
        lines[-1] += (f" {dot} " if gap else "") + (
            part if width_of(bare) <= terminal.width else cut(bare, terminal.width)
        )
        used += gap + width_of(bare)
    return lines


def _bare(terminal: Terminal, level: str) -> str:
    return Terminal(colour=False, unicode=terminal.unicode, width=terminal.width).sign(level)


def _rows(links: Sequence[Link], report: Report, terminal: Terminal) -> list[str]:
    columns = _columns(links, report)
    span = report.until - report.since
    # A course of which nothing is known yet, or no more, would take the room of the names.
    with_spark = any(point.quality.sent for each in links for point in each.series)
    widths = {
        head: max(len(column.head), *(len(column.cell(each)) for each in links))
        for head, column in columns.items()
    }
    longest = max(4, *(width_of(clean(each.key)) for each in links))

    def taken() -> int:
        least = min(longest, _PATH_LEAST)
        return 2 + least + sum(widths[head] + 1 for head in columns) + with_spark * (_SPARK_LEAST + 1)

    for head in ("P99", "RELAY", "JITTER", "spark", "P50", "WORST", "P95", "LOSS", "BAD"):
        if taken() <= terminal.width:
            break
        if head == "spark":
            with_spark = False
        columns.pop(head, None)
    spare = terminal.width - taken()
    # What is left goes to the names, which say what the row is about, then to the course.
    least = min(longest, _PATH_LEAST)
    path = max(1, min(longest, least + spare))
    spark_width = _SPARK_LEAST + spare - (path - least)
    heads = [
        each.head.ljust(widths[each.head]) if each.left else each.head.rjust(widths[each.head])
        for each in columns.values()
    ]
    title = f"LAST {span_words(span)}"[:spark_width] if with_spark else ""
    lines = [terminal.paint(" ".join(["  " + "PATH".ljust(path), *heads, title]).rstrip(), "bold")]
    for link in links:
        cells = []
        for head, column in columns.items():
            text = column.cell(link)
            text = text.ljust(widths[head]) if column.left else text.rjust(widths[head])
            cells.append(terminal.level(text.strip(), text) if column.left else text)
        name = padded(terminal.clip(clean(link.key), path), path)
        row = [f"{terminal.sign(link.level)} {name}", *cells]
        row += [spark(link.series, spark_width, terminal)] if with_spark and link.series else []
        lines.append(" ".join(row).rstrip())
        said = _said(link, report)
        if said:
            lines.append(terminal.paint(terminal.clip(f"    {said}", terminal.width), "dim"))
    return lines


def _columns(links: Sequence[Link], report: Report) -> dict[str, _Column]:
    """The columns by their key; which of them there is room for is decided later."""
    over_span = report.window_s is None
    head = ("NOW" if over_span else "LEVEL") if report.live else "WAS"
    columns = [_Column(head, lambda link: link.level, left=True)]
    if over_span:
        columns.append(_Column("WORST", lambda link: link.worst or "unknown", left=True))
        columns.append(_Column("BAD", _bad))
    columns += [
        _Column("LOSS", lambda link: _share(link.quality.loss if link.quality else None)),
        _Column("P50", lambda link: milliseconds(link.quality.rtt_p50_s if link.quality else None)),
        _Column("P95", lambda link: milliseconds(link.quality.rtt_p95_s if link.quality else None)),
        _Column("P99", lambda link: milliseconds(link.quality.rtt_p99_s if link.quality else None)),
        _Column("JITTER", lambda link: milliseconds(link.quality.jitter_s if link.quality else None)),
    ]
    if any(link.quality and link.quality.relayed is not None for link in links):
        columns.append(_Column("RELAY", lambda link: _share(link.quality.relayed if link.quality else None)))
    return {each.head: each for each in columns}


def _said(link: Link, report: Report) -> str:
    """Why the level is what it is, and since when."""
    figures_of_before = link.level == "unknown" and link.quality is not None
    if link.level in {"good", "unknown"} and not link.error and not figures_of_before:
        return ""
    causes = "; ".join(link.causes)
    error = link.error if link.error not in {"", "timeout"} else ""
    words = clean("; ".join(each for each in (causes, error) if each))
    if link.level == "good" or not words:
        return words
    lasted = f"for {span_words(max(0.0, report.at - link.since))}: " if link.since is not None else ""
    return lasted + words


def _bad(link: Link) -> str:
    if link.bad is None or not link.bad.bad_s:
        return _NOTHING
    return span_words(link.bad.bad_s)


def _share(share: float | None) -> str:
    """A share in a few signs: 0%, 0.4%, 12%."""
    if share is None:
        return _NOTHING
    value = share * 100
    if 0 < value < 0.05:
        return "<0.1%"
    return f"{value:.1f}%" if 0 < value < 9.95 else f"{value:.0f}%"


def milliseconds(seconds: float | None) -> str:
    """A round trip in ms with three digits: 0.05, 21.3, 204."""
    if seconds is None:
        return _NOTHING
    value = seconds * 1000
    return f"{value:.2f}" if value < 0.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
