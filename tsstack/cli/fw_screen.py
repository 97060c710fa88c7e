"""The screen of `fw-status`: zones, what each rule has counted, what was dropped, who else drops. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tsstack.cli.glyphs import Terminal
from tsstack.cli.short_screen import in_rows
from tsstack.status.severity import of_table
from tsstack.status.words import clean, number, padded, why_open, width_of, wrapped

if TYPE_CHECKING:
    from tsstack.cli.fw_status import Found
    from tsstack.status.shape import Counter, Rule, Zone

_DROPS_SHOWN = 10
_MEMBERS_LEAST = 10
_RULE_WIDTH = 24
"""Columns before what a rule is: its packets and bytes."""


def firewall_lines(found: Found, out: Terminal, *, rules: bool = True, rows: int | None = None) -> list[str]:
    """The screen; in `rows` lines where they are given."""
    firewall = found.firewall
    if not found.generation and firewall["error"]:
        return [f"{out.sign('unknown')} {clean(firewall['error'])}: `tsstack switch` makes a new one"]
    if not found.generation:
        return [f"{out.sign('unknown')} no generation is live: tsstack closes nothing here"]
    if not firewall["enabled"]:
        return [f"{out.sign('unknown')} the live generation has no firewall: tsstack closes nothing here"]
    well = ([*_zones(found, out, rules=rules)], [*_above(found, out)], [*_logged(found, out)])
    return in_rows([*_head(found, out)], well, [*_foreign(found, out)], rows, out)


def _head(found: Found, out: Terminal) -> Iterator[str]:
    firewall = found.firewall
    own = of_table(firewall)
    if firewall["loaded"] is None or found.foreign_trouble:
        words = clean(firewall["error"] or found.foreign_trouble)
    elif own == "critical":
        words = "not as it was loaded: something changed it" if firewall["loaded"] else why_open(firewall)
    elif firewall["changed"] is None:
        words = "loaded; whether it was changed since is not known"
    elif firewall["fallback"]:
        words = "the fallback, as no generation's firewall is live"
    else:
        words = "loaded, as the file says" if found.level == "ok" else "loaded, and others drop too"
    name = out.paint("table inet tsstack", "bold")
    # The file's word, which is the kernel's only as long as nobody has changed the table.
    stands = firewall["loaded"] and firewall["changed"] is False and firewall["default_policy"]
    policy = f", by default {firewall['default_policy']}" if stands else ""
    room = out.width - len("X table inet tsstack: ")
    line = out.clip(f"{words}{policy}", room)
    told = out.level(found.level, line[: len(words)]) + line[len(words) :]
    yield f"{out.sign(found.level)} {name}: {told}"
    if own == "critical":
        yield out.paint(out.clip(f"  fix: {found.fix}", out.width), "dim")


def _zones(found: Found, out: Terminal, *, rules: bool) -> Iterator[str]:
    zones = found.firewall["zones"]
    rows = [("zone", "accepted", "through", "refused", "members")]
    rows += [
        (
            zone["name"],
            _packets(zone["accepted"]),
            _packets(zone["forwarded"]),
            _packets(zone["refused"]),
            _members(zone),
        )
        for zone in zones
    ]
    widths = [min(max(width_of(row[at]) for row in rows), 20) for at in range(4)]
    figures = sum(widths[1:]) + 6 + 2
    widths[0] = min(widths[0], max(4, out.width - figures))
    # Where they have no room beside the figures the members stand below.
    below = out.width - figures - widths[0] - 2 < _MEMBERS_LEAST
    for at, row in enumerate(rows):
        cells = [padded(out.clip(row[0], widths[0]), widths[0])]
        cells += [row[column].rjust(widths[column]) for column in (1, 2, 3)]
        line = "  " + "  ".join(cells)
        if not below:
            line += "  " + out.clip(row[4], out.width - width_of(line) - 2)
        yield out.paint(line.rstrip(), "bold" if at else "dim")
        if below and at and row[4]:
            yield out.paint(out.clip(f"    {row[4]}", out.width), "dim")
        if at and rules:
            yield from _opened(zones[at - 1], found, out)


def _packets(count: Counter | None) -> str:
    return "-" if count is None else number(count["packets"])


def _members(zone: Zone) -> str:
    shown = [*zone["interfaces"], *zone["sources"]]
    hidden = zone["source_count"] - len(zone["sources"])
    return ", ".join(shown) + (f" +{hidden}" if hidden else "")


def _opened(zone: Zone, found: Found, out: Terminal) -> Iterator[str]:
    """Each rule with its line; where that is narrow without bytes, with the line's number alone."""
    words = [_what(rule, zone) for rule in zone["rules"]]
    places = [found.lines.get(rule["path"], "") for rule in zone["rules"]]
    longest = max(map(width_of, words), default=0)
    narrow = _RULE_WIDTH + longest + max(map(width_of, places), default=0) + 2 > out.width
    for rule in sorted(zone["rules"], key=_order):
        what, place = _what(rule, zone), found.lines.get(rule["path"], "")
        head = f"      {number(rule['packets']):>7}  {_size(rule['bytes']):>7}  "
        if narrow:
            head = f"  {number(rule['packets']):>7}  "
            what = what.replace("through, ", f"{out.sign('arrow')} ")
            place = f":{place.rpartition(':')[2]}" if place else ""
        room = min(max(8, out.width - len(head) - width_of(place) - 2), max(longest, 44))
        text = padded(out.clip(what, room), room)
        looks = "dim" if not rule["packets"] else ""
        yield out.paint(out.clip(f"{head}{text}  {place}".rstrip(), out.width), looks)


def _order(rule: Rule) -> int:
    """What lets in stands before what lets through, what refuses last; else as the kernel asks them."""
    kind = rule["name"].rpartition(".")[2]
    if kind == "refused":
        return 2
    return 1 if kind in {"published", "exit", "routes"} or kind.isdigit() else 0


def _what(rule: Rule, zone: Zone) -> str:
    kind = rule["name"].rpartition(".")[2]
    ports = {
        protocol: ", ".join(each["ports"] for each in zone["open"] if each["protocol"] == protocol)
        for protocol in ("tcp", "udp")
    }
    if kind in ports:
        return f"{kind} {ports[kind]}"
    words = {
        "ping": "ping",
        "all": "everything",
        "refused": "refused",
        "default": "let in by the default policy",
        "published": "through, to published ports",
        "exit": "through, out by this exit node",
        "routes": "through, to advertised routes",
    }
    return words.get(kind, f"through, by {rule['path']}")


def _above(found: Found, out: Terminal) -> Iterator[str]:
    dropped = found.firewall["dropped"]
    if dropped:
        told = ", ".join(f"{number(count['packets'])} {name}" for name, count in dropped.items())
        yield f"  {out.clip(f'dropped above the zones: {told}', out.width - 2)}"


def _logged(found: Found, out: Terminal) -> Iterator[str]:
    if not found.drops:
        if trouble := clean(found.reading.trouble):
            lines = wrapped(f"logged drops: {trouble}", max(20, out.width - 4))
            yield f"  {lines[0]}"
            yield from (f"    {line}" for line in lines[1:])
        return
    yield ""
    yield out.paint("  dropped lately, as logged", "bold")
    for each in found.drops[:_DROPS_SHOWN]:
        port = f"/{each.port}" if each.port is not None else ""
        way = (
            f"{each.incoming or 'here'} {out.sign('arrow')} {each.outgoing}"
            if each.outgoing
            else each.incoming
        )
        age = _age(found.at - each.last_unix_s)
        line = (
            f"  {each.count:>6} x  {clean(each.zone):<12} {clean(each.source):<20} {each.protocol}{port:<7} "
            f"{clean(way):<12} {age}"
        )
        yield out.clip(line, out.width)
    hidden = len(found.drops) - _DROPS_SHOWN
    if hidden > 0:
        yield out.clip(f"  and {hidden} more: fw-status --json", out.width)


def _foreign(found: Found, out: Terminal) -> Iterator[str]:
    for sentence in found.foreign:
        level = found.foreign_level
        for at, line in enumerate(wrapped(clean(f"TS864 {sentence}"), max(20, out.width - 4))):
            yield f"  {out.sign(level) if not at else ' '} {out.level(level, line)}"
    if found.foreign:
        # Whole: a command that is cut cannot be copied.
        yield from (f"    {out.paint('fix:', 'dim')} {clean(fix)}" for fix in found.foreign_fixes)
    if found.tried:
        yield from (f"  {line}" for line in wrapped(clean(found.tried), max(20, out.width - 2)))


def _size(count: int) -> str:
    return f"{number(count)}B"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
