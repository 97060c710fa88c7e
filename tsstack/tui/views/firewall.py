"""The firewall: zones with what the kernel counts, a second's worth of it, and what is dropped. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsstack.status.severity import TABLE_CHANGED, TABLE_NOT_COMPARED
from tsstack.status.words import number, span, why_open, wrapped
from tsstack.tui.cells import Cells, Column, Line, Signs, Span, Table, fitted, joined, labelled, say
from tsstack.tui.frame import Frame, Rate

if TYPE_CHECKING:
    from tsstack.parts.firewall.drops import Drops
    from tsstack.status.shape import Counter, Zone

ZONES = (
    Column("zone", 10, grow=1),
    Column("members", 12, grow=2, leave=3),
    Column("accepted", 8, right=True),
    Column("a second", 9, right=True, leave=2),
    Column("forwarded", 9, right=True, leave=4),
    Column("refused", 8, right=True),
    Column("a second", 9, right=True),
    Column("refused", 12, grow=2, leave=1),
)
_SPARK = len(ZONES) - 1
_DROPS = {
    "unzoned": "of no zone",
    "invalid": "invalid",
    "spoofed": "spoofed",
    "misdirected": "misdirected",
}


def zones(frame: Frame, signs: Signs) -> Table:
    """The zones in the file's order."""
    firewall = frame.status["firewall"]

    def cells(row: int, widths: Sequence[int]) -> Cells:
        return zone_cells(firewall["zones"][row], frame, signs, widths[_SPARK])

    empty = "no zone is declared" if firewall["enabled"] else "the live generation has no firewall"
    return Table(ZONES, [zone["name"] for zone in firewall["zones"]], cells, empty=empty)


def zone_cells(zone: Zone, frame: Frame, signs: Signs, spark_width: int) -> Cells:
    """One zone in the columns of `ZONES`."""
    name = zone["name"]
    refused = frame.rates.get(f"{name}/refused")
    return (
        say(signs.words(name)),
        say(signs.words(members(zone)), "dim"),
        say(count(zone["accepted"])),
        say(per_second(frame.rates.get(f"{name}/accepted")), "ok"),
        say(count(zone["forwarded"])),
        say(count(zone["refused"])),
        say(per_second(refused), "critical" if refused and refused.packets else "dim"),
        _spark(frame, f"{name}/refused", signs, spark_width),
    )


def _spark(frame: Frame, name: str, signs: Signs, width: int) -> Line:
    series = frame.drops.get(name, ())
    return signs.spark(series, width, "critical" if any(series[-width:]) else "dim")


def members(zone: Zone) -> str:
    """Its interfaces and the first of its sources."""
    shown = ", ".join((*zone["interfaces"], *zone["sources"][:2]))
    hidden = zone["source_count"] - len(zone["sources"][:2])
    return shown + (f" +{hidden}" if hidden > 0 else "")


def count(counter: Counter | None) -> str:
    """Packets of a counter; a dash where there is none."""
    return "-" if counter is None else number(counter["packets"])


def per_second(rate: Rate | None) -> str:
    """Packets in a second; empty as long as that is not known."""
    if rate is None:
        return ""
    return f"{rate.packets:.1f}/s" if 0 < rate.packets < 10 else f"{number(rate.packets)}/s"


def drops(frame: Frame, signs: Signs, width: int) -> list[Line]:
    """What is dropped, live: above the zones' own rules, and by all zones together."""
    firewall = frame.status["firewall"]
    if not firewall["enabled"]:
        return [labelled("firewall", ("the live generation has none", "dim"))]
    if firewall["error"]:
        return [labelled("firewall", (signs.words(firewall["error"]), "warning"))]
    if firewall["loaded"] is False:
        return [labelled("firewall", (why_open(firewall), "critical"))]
    whole: dict[bool | None, Span] = {
        True: ("changed since it was loaded", TABLE_CHANGED),
        False: ("as it was loaded", "ok"),
        None: ("loaded; whether it was changed since is not known", TABLE_NOT_COMPARED),
    }
    state: list[Span] = [whole[firewall["changed"]]]
    if firewall["changed"] is False:  # else the file's word need not be the kernel's
        state.insert(0, (f"default {firewall['default_policy']}", ""))
    lines = [labelled("table", *joined(state, f" {signs.sign('dot')} "))]
    for name, counter in firewall["dropped"].items():
        rate = frame.rates.get(name)
        told = f"{number(counter['packets']):>8}  {per_second(rate):>9}  "
        look = "critical" if rate and rate.packets else ""
        line = labelled(_DROPS.get(name, name), (told, look))
        room = width - sum(len(text) for text, _ in line)
        lines.append((*line, *_spark(frame, name, signs, max(0, min(room, 60)))))
    return [fitted(line, width, signs.end) for line in lines]


def logged(frame: Frame, signs: Signs, width: int, most: int) -> list[Line]:
    """What was dropped lately by zone, source and port, as the kernel logged it; at most so many lines."""
    if not frame.status["firewall"]["enabled"]:
        return []
    if frame.logged is None:
        return [labelled("logged", ("not read yet", "dim"))]
    found, trouble = frame.logged.drops, frame.logged.reading.trouble
    if not found:
        words = wrapped(signs.words(trouble or "nothing"), max(20, width - 12))[:most]
        return [labelled("" if at else "logged", (text, "dim")) for at, text in enumerate(words)]
    shown = found if len(found) <= most else found[: max(1, most - 1)]
    rows = [_drop(each, signs, frame.status["at"]) for each in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        labelled(
            "" if at else "logged",
            *((f"{text:<{size}}  ", look) for text, size, look in zip(row, widths, _DROP_LOOKS, strict=True)),
        )
        for at, row in enumerate(rows)
    ]
    if len(shown) < len(found):
        more = (f"{len(found) - len(shown)} more: fw-status", "dim")
        lines = [*lines, labelled("", more)] if len(lines) < most else [(*lines[0], more)]
    return [fitted(line, width, signs.end) for line in lines]


_DROP_LOOKS = ("", "bold", "", "accent", "dim", "")


def _drop(drop: Drops, signs: Signs, now: float) -> tuple[str, ...]:
    port = f"/{drop.port}" if drop.port is not None else ""
    arrow = f"{drop.incoming or 'here'} {signs.sign('arrow')} {drop.outgoing}"
    return (
        f"{number(drop.count):>5} x",
        signs.words(drop.zone),
        signs.words(drop.source),
        drop.protocol + port,
        signs.words(arrow if drop.outgoing else drop.incoming),
        f"{span(max(0.0, now - drop.last_unix_s))} ago",
    )


def zone_details(frame: Frame, signs: Signs, key: str, width: int) -> list[Line]:
    """What a zone opens, each with the line of the file behind it."""
    zone = next((each for each in frame.status["firewall"]["zones"] if each["name"] == key), None)
    if zone is None:
        return []
    lines = [labelled("zone", (signs.words(key), "bold"), (f"  {zone['path']}", "dim"))]
    sources = ", ".join((*zone["interfaces"], *zone["sources"]))
    hidden = zone["source_count"] - len(zone["sources"])
    sources += f" and {hidden} more" if hidden > 0 else ""
    for at, text in enumerate(wrapped(signs.words(sources), max(20, width - 12))[:2]):
        lines.append(labelled("" if at else "members", (text, "")))
    if zone["allow"]:
        lines.append(labelled("opens", (f"{zone['allow']}", "warning")))
    opened = [(f"{each['protocol']}/{each['ports']}", each["path"]) for each in zone["open"]]
    for at, (ports, path) in enumerate(opened):
        lines.append(
            labelled(
                "" if at or zone["allow"] else "opens",
                (f"{signs.words(ports):<16} ", "accent"),
                (path, "dim"),
            )
        )
    if not opened and not zone["allow"]:
        lines.append(
            labelled("opens", ("nothing" + (", but answers to ping" if zone["ping"] else ""), "dim"))
        )
    return [fitted(line, width, signs.end) for line in lines]
