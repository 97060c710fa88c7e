"""A benchmark as lines of text. Pure: values in, lines out."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tsstack.bench.figures import Latency, Load, Mtu, Report, Throughput
from tsstack.bench.fitness import Fitness, told_of_mtu
from tsstack.bench.grades import Change
from tsstack.bench.mtu_search import TAILNET_DEFAULT
from tsstack.cli.glyphs import COLOUR_OF, Terminal, clean
from tsstack.cli.short_screen import in_rows
from tsstack.status.words import padded, width_of

_LABEL_WIDTH = 13
_GRADE_LOOKS = {"A+": "green", "A": "green", "B": "green", "C": "", "D": "yellow", "F": "yellow"}
_WORDS = {"direct": "direct", "relay": "relayed", "peer-relay": "through a peer relay", "unknown": "unknown"}
_SHORT = {
    "rx-gro": "GRO",
    "rx-gro-list": "GRO list",
    "rx-udp-gro-forwarding": "UDP GRO forwarding",
    "tx-generic-segmentation": "GSO",
    "tx-tcp-segmentation": "TSO",
    "tx-udp-segmentation": "UDP GSO",
}

Piece = tuple[str, str]
"""Words and their look (a colour, `bold`, `dim`, or nothing)."""


def report_lines(
    report: Report, changes: Sequence[Change], before: str, terminal: Terminal, found: Fitness,
    *, limit: int | None = None,
) -> list[str]:  # fmt: skip
    """The whole screen. `before` is when the last run to this peer was, empty when there was none.

    In `limit` lines where they are given: then what changed and the notes come before the other figures.
    """
    rows = _Rows(terminal)
    rows.head(found, report)
    _way(rows, report)
    rows.row("latency", _latency(report.idle))
    for load in report.loads:
        rows.row(load.throughput.direction, _load(load))
    if report.loads:
        engine = report.loads[0].throughput.engine
        own = "own test" if engine == "own" else engine
        rows.row("", [(f"{own}, {report.loads[0].throughput.span_s:.2g} s each way", "dim")])
    _underlay(rows, report)
    _mtu(rows, report)
    relays = report.relays
    home = f"{relays.home} {milliseconds(relays.home_s)}" if relays.home_s is not None else relays.home
    if relays.home or relays.peer_home:
        rows.row("relays", [(f"home {home or '?'}, the peer's {relays.peer_home or '?'}", "")])
    if relays.udp is False:
        rows.text("", "no UDP gets out of this network: every way is relayed", "yellow")
    if relays.varies:
        rows.text("", "this network's NAT maps by destination: direct ways are hard to find", "yellow")
    _host(rows, report)
    figures = len(rows.lines)
    _changes(rows, changes, before)
    for note in report.notes:
        rows.text("note", note, "yellow")
    lines = rows.lines
    return in_rows(lines[:1], [lines[1:figures]], lines[figures:], limit, terminal)


def history_lines(runs: Iterable[Mapping[str, Any]], terminal: Terminal) -> list[str]:
    """A line for each run, the newest first. What a damaged run lacks is a dash."""
    runs = list(runs)
    # Sixteen signs of a name are enough where they have to be.
    longest = max((width_of(clean(run["peer"])) for run in runs), default=0)
    room = max(16, min(longest, terminal.width - 64))
    head = f"{'when (UTC)':17}{'peer':{room + 1}}{'way':12}{'latency':>10}{'up':>12}{'down':>12}"
    lines = [terminal.paint(terminal.clip(head, terminal.width), "bold")]
    for run in reversed(runs):
        loads = {}
        for load in run.get("loads") or ():
            through = load.get("throughput") if isinstance(load, Mapping) else None
            if isinstance(through, Mapping):
                loads[through.get("direction")] = _number(through.get("bits_s"))
        way, idle = run.get("way"), run.get("idle")
        via = str(way.get("via")) if isinstance(way, Mapping) else "-"
        rtt = _number(idle.get("p50_s")) if isinstance(idle, Mapping) else None
        cells = (
            clean(run["at"])[:16].replace("T", " ").ljust(17)
            + padded(terminal.clip(clean(run["peer"]), room), room + 1)
            + clean(via)[:11].ljust(12)
            + milliseconds(rtt).rjust(10)
            + bits(loads.get("up")).rjust(12)
            + bits(loads.get("down")).rjust(12)
        )
        lines.append(terminal.clip(cells, terminal.width))
    return lines


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def milliseconds(value_s: float | None) -> str:
    """`0.42 ms`, `12.3 ms`, `220 ms`; a dash for None."""
    if value_s is None:
        return "-"
    value_ms = value_s * 1000
    digits = 2 if value_ms < 10 else 1 if value_ms < 100 else 0
    return f"{value_ms:.{digits}f} ms"


def bits(value: float | None) -> str:
    """`940 Mbit/s`, `2.35 Gbit/s`, `56 kbit/s`; a dash for None."""
    if value is None:
        return "-"
    for size, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s")):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value / size < 1000 else f"{value / size:.0f} {unit}"
    return f"{value / 1e3:.3g} kbit/s"


def change_words(change: Change) -> str:
    """`throughput up 512 -> 300 Mbit/s, -41 %`."""
    if isinstance(change.before, str) or isinstance(change.now, str):
        return f"{change.what} {change.before} -> {change.now}"
    show = _SHOW[change.unit]
    grown = (
        f", {change.now / change.before - 1:+.0%}" if change.before and change.unit in {"s", "bit/s"} else ""
    )
    return f"{change.what} {show(change.before)} -> {show(change.now)}{grown}"


_SHOW: dict[str, Callable[[float], str]] = {
    "s": milliseconds,
    "bit/s": bits,
    "share": "{:.1%}".format,
    "bytes": "{:.0f}".format,
}


class _Rows:
    """Rows of a label and pieces, each cut to the terminal; text is broken into lines instead."""

    def __init__(self, terminal: Terminal) -> None:
        self.lines: list[str] = []
        self._terminal = terminal

    def head(self, found: Fitness, report: Report) -> None:
        level, why = found.level, found.why
        pieces = [
            (report.peer, "bold"),
            (f"  {report.address}  ", ""),
            (f"{level}: {', '.join(why)}" if why else level, COLOUR_OF[level]),
        ]
        left = self._terminal.width - 2
        line = self._terminal.sign(level) + " "
        for words, look in pieces:
            shown = self._terminal.clip(clean(words), left)
            line += self._terminal.paint(shown, look)
            left -= len(shown)
        self.lines.append(line.rstrip())

    def row(self, label: str, pieces: Iterable[Piece]) -> None:
        left = self._terminal.width - _LABEL_WIDTH
        line = self._terminal.paint(label.ljust(_LABEL_WIDTH), "dim")
        for words, look in pieces:
            shown = self._terminal.clip(clean(words), left)
            line += self._terminal.paint(shown, look)
            left -= len(shown)
            if left <= 0:
                break
        self.lines.append(line.rstrip())

    def text(self, label: str, words: str, look: str = "") -> None:
        wrapped = textwrap.wrap(clean(words), max(20, self._terminal.width - _LABEL_WIDTH)) or [""]
        for number, line in enumerate(wrapped):
            self.row(label if not number else "", [(line, look)])


def _way(rows: _Rows, report: Report) -> None:
    way = report.way
    where = way.relay if way.via == "relay" else way.endpoint
    looks = {"direct": "green", "relay": "yellow", "peer-relay": "yellow"}
    pieces = [(_WORDS[way.via], looks.get(way.via, "")), (f", {where}" if where else "", "")]
    rows.row("way", pieces)
    if way.relayed:
        rows.text(
            "", "a relay stands between: slower, and shared. `tailscale netcheck` on both ends says why"
        )


def _latency(latency: Latency) -> list[Piece]:
    lost = f"lost {latency.lost} of {latency.sent}" if latency.lost else f"none of {latency.sent} lost"
    pieces = [
        (milliseconds(latency.p50_s).ljust(14), "bold"),
        (f"p95 {milliseconds(latency.p95_s)}   ", ""),
        (lost, "yellow" if latency.lost else ""),
    ]
    if latency.jitter_s is not None:
        pieces.append((f"   jitter {milliseconds(latency.jitter_s)}", ""))
    if latency.method != "icmp":
        pieces.append((f"   by {latency.method}", "dim"))
    return pieces


def _load(load: Load) -> list[Piece]:
    through = load.throughput
    pieces: list[Piece] = [(bits(through.bits_s).ljust(14), "bold")]
    if load.grade:
        pieces.append((f"grade {load.grade}".ljust(11), _GRADE_LOOKS.get(load.grade, "")))
    if load.added_s is not None:
        pieces.append((f"+{milliseconds(load.added_s)} under load", ""))
    if load.latency and load.latency.lost:
        pieces.append((f"   lost {load.latency.lost} of {load.latency.sent}", "yellow"))
    if through.retransmits:
        pieces.append((f"   {through.retransmits} sent again", "dim"))
    return pieces


def _underlay(rows: _Rows, report: Report) -> None:
    below = report.underlay
    if below is None:
        return
    ratio = f": the tailnet takes {report.ratio:.1f} times that" if report.ratio else ""
    rows.row("underlay", [(f"{below.address} {milliseconds(below.latency.p50_s)}{ratio}", "")])
    through: dict[str, Throughput] = {each.direction: each for each in below.loads}
    for load in report.loads:
        direct = through.pop(load.throughput.direction, None)
        if direct and direct.bits_s:
            share = load.throughput.bits_s / direct.bits_s
            rows.row(
                "", [(f"{direct.direction} {bits(direct.bits_s)}: the tailnet has {share:.0%} of it", "")]
            )
    for direct in through.values():
        rows.row("", [(f"{direct.direction} {bits(direct.bits_s)}", "")])


def _mtu(rows: _Rows, report: Report) -> None:
    found, below = report.mtu, report.underlay.mtu if report.underlay else None
    if found and found.found_bytes:
        usual = " (its default)" if found.found_bytes == TAILNET_DEFAULT and found.certain else ""
        words = f"{_size(found)} on the tailnet{usual}"
    else:
        words = f"not found on the tailnet: {found.why}" if found else "not found"
    rows.row(
        "MTU", [(words + (f", {_size(below)} on the underlay" if below and below.found_bytes else ""), "")]
    )
    if any(each and each.found_bytes and not each.certain for each in (found, below)):
        rows.text("", "uncertain: so much gets lost that larger ones may have failed by chance", "dim")
    if said := told_of_mtu(report):
        rows.text("", said, "yellow")


def _size(mtu: Mtu) -> str:
    return str(mtu.found_bytes) if mtu.certain else f"{mtu.found_bytes} or more"


def _host(rows: _Rows, report: Report) -> None:
    for interface, features in report.host.offloads.items():
        on = ", ".join(_SHORT[name] for name, active in features.items() if active and name in _SHORT)
        off = ", ".join(_SHORT[name] for name, active in features.items() if not active and name in _SHORT)
        rows.text(
            interface,
            "; ".join(each for each in (f"on: {on}" if on else "", f"off: {off}" if off else "") if each),
        )
    rows.row("kernel", [(report.host.kernel, "")])
    for trouble in report.host.troubles:
        rows.text("", trouble, "yellow")
    if report.host.udp_gro_warning:
        rows.text("", " ".join(report.host.udp_gro_warning.split()), "yellow")


def _changes(rows: _Rows, changes: Sequence[Change], before: str) -> None:
    if not before:
        return
    worse = [change for change in changes if change.worse]
    rows.row(
        "last run",
        [(before[:16].replace("T", " ") + " UTC", ""), ("" if worse else ": nothing is worse", "")],
    )
    for change in worse:
        rows.text("", f"worse: {change_words(change)}", "yellow")
