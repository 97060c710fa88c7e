"""`tsstack doctor`: what is wrong on the way from the file to a packet, and how to mend it."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from tsstack.cli.glyphs import UNCUT, Terminal, clean, redraws, screen_rows, terminal
from tsstack.cli.known_names import complete_peer
from tsstack.cli.options import Shared, file_option, json_option
from tsstack.cli.script import CheckVerb, watch, watch_option
from tsstack.cli.short_screen import in_rows

if TYPE_CHECKING:
    from tsstack.doctor.examination import Examination, Section
    from tsstack.doctor.finding import Finding, Level

_GLYPH: dict[Level, str] = {"ok": "ok", "warning": "warning", "error": "critical"}
_EXIT: dict[Level, int] = {"ok": 0, "warning": 1, "error": 2}
_UNKNOWN = 3
_AREA_WIDTH = 13
_WRAPPED = 100


@click.command(cls=CheckVerb, epilog="""\b
Examples:
  sudo tsstack doctor                 all of it; some seconds where something is silent
  sudo tsstack doctor --quick         without what asks the network
  sudo tsstack doctor --from laptop   could laptop open a new connection to this host?
  tsstack doctor --json | jq '.findings[] | select(.level != "ok")'
  tsstack explain TS861               what a code means
""")  # fmt: skip
@file_option
@json_option
@click.option("--quick", is_flag=True, help="Leave out what asks the network: DNS, clock, new connections.")
@click.option(
    "--from",
    "peer",
    metavar="PEER",
    default="",
    shell_complete=complete_peer,
    help="Ask for the way from this node as well.",
)
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Each check that went well in a line of its own."
)
@watch_option
@click.pass_context
def doctor(
    context: click.Context,
    *,
    file: Path,
    as_json: bool,
    quick: bool,
    peer: str,
    everything: bool,
    every_s: float | None,
) -> None:
    """Look for what is wrong or missing, all along the way from the file to a packet.

    The file, the engines and the kernel, disk and clock, units, the live generation and what differs from
    it, the tailnet, forwarding, firewalls of others, each service's name at the tailnet's resolver and at
    the system's, its certificate, its port, and whether a new connection arrives. Each finding has a code,
    what was seen, and the command that mends it. Changes nothing.

    Ends with 0 when all is well, 1 with a warning, 2 with an error, 3 when it cannot be told, as check
    plugins do.
    """
    from tsstack.doctor.examination import Request, examine
    from tsstack.switch.site import Site

    request = Request(file, _is_named(context), peer, quick)

    def draw() -> tuple[str, Level]:
        with _progress(every_s is None) as report:
            found = examine(Site(), request, report)
        if as_json:
            indent = None if every_s else 2  # a line for each when they follow each other
            return json.dumps(examination_dict(found), indent=indent, default=str), found.level
        to, rows = terminal(), screen_rows() if every_s else None
        wide = to if sys.stdout.isatty() else Terminal(colour=False, unicode=to.unicode, width=UNCUT)
        return "\n".join(doctor_lines(found, wide, everything=everything, rows=rows)), found.level

    level = cast("Level", watch(draw, every_s, as_json=as_json))
    raise click.exceptions.Exit(_EXIT.get(level, _UNKNOWN))


def _is_named(context: click.Context) -> bool:
    """Whether the file was named on the command line, before or after the verb."""
    shared = context.find_object(Shared)
    before = shared is not None and shared.file is not None
    return before or context.get_parameter_source("file") is ParameterSource.COMMANDLINE


@contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[str], None]]:
    """What is being asked, in one line of stderr that goes again; nothing where a line cannot."""
    if not wanted or not redraws(sys.stderr):
        yield lambda _: None
        return

    def report(name: str) -> None:
        sys.stderr.write(f"\r\033[Kasking: {name} ...")
        sys.stderr.flush()

    try:
        yield report
    finally:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def examination_dict(found: Examination) -> dict[str, Any]:
    """As --json prints it. `status` is the exit code."""
    return {
        "status": _EXIT[found.level],
        "level": found.level,
        "host": found.host,
        "generation": found.generation,
        "duration_s": round(found.duration_s, 3),
        "findings": [
            {
                "code": each.code,
                "level": each.level,
                "area": area,
                "about": each.about,
                "evidence": each.evidence,
                "fix": each.fix,
            }
            for area, each in found.findings
        ],
        "unproven": list(found.unproven),
        "left_out": list(found.left_out),
    }


def doctor_lines(
    found: Examination, to: Terminal, *, everything: bool = False, rows: int | None = None
) -> list[str]:
    """The screen: a row for each area, and below it what is not well there.

    In `rows` lines where they are given: then the verdict and what is wrong come before what is well.
    """
    generation = f"generation {found.generation}" if found.generation else "no generation"
    dot = f" {to.sign('dot')} "
    title = to.paint(
        to.clip(dot.join((f"tsstack doctor on {clean(found.host)}", generation)), to.width), "bold"
    )
    rest = []
    for sentence in found.unproven:
        rest += _wrapped(f"Not proven: {clean(sentence)}", to, 0)
    if found.left_out:
        rest += _wrapped(f"Left out (--quick): {', '.join(found.left_out)}", to, 0)
    sections = [[*_section_lines(each, to, everything)] for each in found.sections]
    whole = [title, *(line for each in sections for line in each), "", *rest, _verdict(found, to)]
    if rows is None or len(whole) <= rows:
        return whole
    wrong = [line for each in sorted(found.sections, key=_badness) for line in _wrong_lines(each, to)]
    well = [[*_good_lines(each, to, everything)] for each in found.sections]
    return in_rows([title, _verdict(found, to)], [*well, rest], wrong, rows, to)


def _badness(section: Section) -> int:
    return -max((_EXIT[each.level] for each in section.findings), default=0)


def _wrong_lines(section: Section, to: Terminal) -> Iterator[str]:
    bad = sorted(
        (each for each in section.findings if each.level != "ok"), key=lambda each: -_EXIT[each.level]
    )
    for number, each in enumerate(bad):
        yield from _bad_lines(to, each, "" if number else section.area)


def _good_lines(section: Section, to: Terminal, everything: bool, head: str | None = None) -> Iterator[str]:
    good = [each for each in section.findings if each.level == "ok"]
    head = section.area if head is None else head
    if everything:
        for number, each in enumerate(good):
            yield _row(to, "ok", "" if number else head, _said(each, section.area), each.code)
    elif good:
        yield _row(to, "ok", head, "; ".join(_said(each, section.area) for each in good))


def _section_lines(section: Section, to: Terminal, everything: bool) -> Iterator[str]:
    bad = [*_wrong_lines(section, to)]
    yield from bad
    yield from _good_lines(section, to, everything, "" if bad else section.area)


def _said(finding: Finding, area: str) -> str:
    about = "" if finding.about == area else f"{clean(finding.about)}: "
    return f"{about}{clean(finding.evidence)}"


def _row(to: Terminal, level: Level, area: str, text: str, code: str = "") -> str:
    head = f"{area:<{_AREA_WIDTH}}"
    room = to.width - _AREA_WIDTH - 2 - (len(code) + 1 if code else 0)
    tail = f" {to.paint(code, 'dim')}" if code else ""
    return f"{to.sign(_GLYPH[level])} {to.paint(head, 'bold')}{to.clip(text, room)}{tail}".rstrip()


def _bad_lines(to: Terminal, finding: Finding, area: str) -> Iterator[str]:
    """The level, the code and what it is about; then the evidence, and the fix whole, to be copied."""
    word = to.level(_GLYPH[finding.level], finding.level)
    head = f"{area:<{_AREA_WIDTH}}"
    room = to.width - _AREA_WIDTH - 2 - len(finding.level) - len(finding.code) - 2
    about = to.clip(clean(finding.about), room)
    yield f"{to.sign(_GLYPH[finding.level])} {to.paint(head, 'bold')}{word} {finding.code} {about}"
    yield from _wrapped(clean(finding.evidence), to, 4)
    if finding.fix:
        # Whole: a command that is cut cannot be copied.
        yield f"    {to.paint('fix:', 'green')} {clean(finding.fix)}"


def _wrapped(text: str, to: Terminal, indent: int) -> list[str]:
    blank = " " * indent
    return textwrap.wrap(
        text,
        to.width if to.width == UNCUT else max(min(to.width, _WRAPPED), 20),
        initial_indent=blank,
        subsequent_indent=blank,
        break_on_hyphens=False,
    )


def _verdict(found: Examination, to: Terminal) -> str:
    counts = {level: sum(each.level == level for _, each in found.findings) for level in _EXIT}
    words = [
        f"{counts[level]} {level}{'s' if counts[level] != 1 else ''}"
        for level in ("error", "warning")
        if counts[level]
    ]
    said = ", ".join(words) if words else "all is well"
    verdict = to.level(_GLYPH[found.level], said)
    return f"{verdict}, {counts['ok']} checks went well, {found.duration_s:.1f} s"
