"""How an explanation is printed, for people and as JSON."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from tsstack.cli.output import result, style

if TYPE_CHECKING:
    from tsstack.explain.decisions import Decision
    from tsstack.explain.packet import Explanation
    from tsstack.explain.places import Place
    from tsstack.explain.question import Question

_COLOURS = {"accept": "green", "drop": "red", "reject": "red"}
_VERDICT_COLOURS = {"accepted": "green", "dropped": "red", "rejected": "red", "lost": "yellow"}
_WIDEST_NAME = 24
_LEAST = 40
_INDENT = " " * 6
_BY_TAILSCALED = (
    "tailscaled's own SSH server takes it before any rule: whom it lets in says the tailnet's policy"
)
_NO_BREAK = "\xa0"


def wrap(text: str, indent: str = "", first: str | None = None) -> str:
    """`text` broken to the terminal's width, on a terminal; else as one line."""
    start = indent if first is None else first
    if not sys.stdout.isatty():
        return start + text
    room = max(shutil.get_terminal_size((80, 24)).columns - 1, _LEAST)
    return textwrap.fill(
        text,
        room,
        initial_indent=start,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def print_explanation(explained: Explanation, *, live: bool) -> None:
    """The packet, each decision with its line, the verdict last."""
    result(style(wrap(_heading(explained.question, explained), "    ", ""), bold=True))
    for note in explained.question.notes:
        result(wrap(f"({note})", "   ", "  "))
    if live:
        tables = ", ".join(explained.foreign) or "none"
        ours = "and tsstack's" if explained.sees_ours else "tsstack has none in force here"
        result(wrap(f"(a copy of the live ruleset; tables of others: {tables}; {ours})", "   ", "  "))
    result()
    _print_decisions(explained)
    result()
    _print_answer(explained, live=live)


def _heading(question: Question, explained: Explanation) -> str:
    from tsstack.explain.decisions import zone_entry

    packet = question.packet
    firewall = explained.firewall
    text = f"{question.service.text} from {packet.source} by {packet.interface}"
    text += f" ({_zone(zone_entry(firewall, packet.source, packet.interface)[0])})"
    if not packet.outgoing:
        return f"{text} to this host, {packet.destination}"
    target = zone_entry(firewall, question.destination, packet.outgoing)[0]
    return f"{text} through this host to {packet.destination} by {packet.outgoing} ({_zone(target)})"


def _zone(name: str) -> str:
    return f"zone {name}" if name else "no zone"


def _name(decision: Decision) -> str:
    return decision.chain if decision.ours else f"{decision.family} {decision.table} {decision.chain}"


def _print_decisions(explained: Explanation) -> None:
    names = [len(_name(each)) for each, _ in explained.decisions]
    width = min(max(names, default=0), _WIDEST_NAME)
    shown_line: tuple[str, int] | None = None
    for decision, place in explained.decisions:
        name = _name(decision)
        words = decision.words if decision.ours else f"{decision.words} ({decision.owner})"
        unbroken = decision.verdict.replace(" ", _NO_BREAK)
        line = wrap(f"{words} {_arrow()} {unbroken}", " " * (width + 4), f"  {name:<{width}}  ").removesuffix(
            unbroken
        )
        colour = _COLOURS.get(decision.verdict)
        result(line + (style(decision.verdict, fg=colour, bold=True) if colour else decision.verdict))
        if place is None:
            continue
        preset = f" of the preset `{place.preset}`" if place.preset else ""
        result(style(wrap(f"{place} {place.path}{preset}", _INDENT, _INDENT), dim=True))
        if place.text and shown_line != (place.file, place.line):
            shown_line = (place.file, place.line)
            result(style(f"{_INDENT}| {_clip(place, len(_INDENT) + 3)}", fg="cyan"))


def _clip(place: Place, used: int) -> str:
    """The line of the file, or the part of it around the place that fits."""
    room = max(shutil.get_terminal_size((80, 24)).columns - used, _LEAST) if sys.stdout.isatty() else 10_000
    text = place.text
    if len(text) <= room:
        return text
    dots = _dots()
    start = max(min(place.column - 1 - place.indent - room // 3, len(text) - room + 2 * len(dots)), 0)
    cut = text[start : start + room - 2 * len(dots)]
    return f"{dots if start else ''}{cut}{dots if start + len(cut) < len(text) else ''}"


def _utf8() -> bool:
    return (sys.stdout.encoding or "ascii").lower().replace("-", "") == "utf8"


def _arrow() -> str:
    return "→" if _utf8() else "->"


def _dots() -> str:
    return "…" if _utf8() else "..."


def _print_answer(explained: Explanation, *, live: bool) -> None:
    answer, place = explained.answer, explained.place
    text = f"{answer.verdict}: {answer.reason}"
    if place is not None:
        preset = f" of the preset `{place.preset}`" if place.preset else ""
        text += f" ({place} {place.path}{preset})"
    if answer.fix is not None:
        text += f"; to let it pass, {answer.fix.words}"
    elif answer.hint:
        text += f"; {answer.hint}"
    if live and explained.sees_ours and not explained.agrees:
        text += f"; the file alone says {explained.expected}"
    line = wrap(text, "  ", "")
    result(
        style(answer.verdict, fg=_VERDICT_COLOURS[answer.verdict], bold=True) + line[len(answer.verdict) :]
    )
    if explained.by_tailscaled:
        place = explained.ssh_place
        at = f" ({place} {place.path})" if place is not None else ""
        result(wrap(f"{_BY_TAILSCALED}{at}", "  ", ""))


def explanation_dict(explained: Explanation, *, live: bool) -> dict[str, Any]:
    """An explanation as `--json` prints it."""
    from tsstack.explain.answer import TAILSCALE_SSH
    from tsstack.explain.decisions import zone_entry

    answer, packet = explained.answer, explained.question.packet
    by = answer.decision
    return {
        "verdict": answer.verdict,
        "reason": answer.reason,
        "path": answer.path,
        "place": _place_dict(explained.place),
        "fix": None
        if answer.fix is None
        else {
            "words": answer.fix.words,
            "path": answer.fix.path,
            "value": answer.fix.value,
            "append": answer.fix.append,
        },
        "hint": answer.hint,
        "decided_by": None
        if by is None
        else {"family": by.family, "table": by.table, "chain": by.chain, "owner": by.owner or "tsstack"},
        "before_rules": {
            "words": _BY_TAILSCALED,
            "path": TAILSCALE_SSH,
            "place": _place_dict(explained.ssh_place),
        }
        if explained.by_tailscaled
        else None,
        "live": live,
        "expected": explained.expected,
        "packet": {
            "source": str(packet.source),
            "source_zone": zone_entry(explained.firewall, packet.source, packet.interface)[0],
            "interface": packet.interface,
            "destination": str(packet.destination),
            "outgoing": packet.outgoing,
            "service": explained.question.service.text,
        },
        "notes": list(explained.question.notes),
        "decisions": [
            {
                "family": each.family,
                "table": each.table,
                "chain": each.chain,
                "owner": each.owner or "tsstack",
                "rule": each.rule,
                "words": each.words,
                "verdict": each.verdict,
                "path": each.path,
                "place": _place_dict(place),
            }
            for each, place in explained.decisions
        ],
    }


def _place_dict(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    return {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "text": place.text,
        "preset": place.preset,
    }
