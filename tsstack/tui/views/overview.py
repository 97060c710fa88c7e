"""The overview: this host in a few lines, what should be looked at, and its peers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tsstack.status.reach import not_watched, out_of_reach
from tsstack.status.words import (
    command_lines,
    is_cut_off,
    milliseconds,
    number,
    span,
    way_out,
    way_to,
    why_open,
    wrapped,
)
from tsstack.tui.cells import (
    LOOK_OF,
    Cells,
    Column,
    Line,
    Signs,
    Span,
    Table,
    dimmed,
    fitted,
    joined,
    labelled,
    say,
)
from tsstack.tui.frame import Frame

if TYPE_CHECKING:
    from tsstack.status.shape import Peer, Status

PEERS = (
    Column("", 1),
    Column("peer", 14, grow=3),
    Column("address", 15, leave=2),
    Column("way", 12, grow=1),
    Column("rtt", 8, right=True),
    Column("received", 8, right=True, leave=3),
    Column("sent", 8, right=True, leave=3),
    Column("os", 8, leave=5),
    Column("offers", 16, grow=2, leave=4),
)
_LEVELS = ("good", "suspect", "poor", "dead", "unknown")
_LEAVING = ("offers", "generation", "firewall")
"""Of the host's lines those that leave first when what is wrong needs the room."""
_LOOK_OF_WAY = {
    "direct": "ok",
    "relay": "warning",
    "peer-relay": "warning",
    "unknown": "unknown",
    "silent": "critical",
}


def summary(frame: Frame, signs: Signs, width: int) -> list[Line]:
    """The host: tailnet, offers, way out, links, services, firewall, generation."""
    status = frame.status
    lines = [
        *_tailnet(frame, signs),
        *_exit(frame, signs),
        _links(frame, signs),
        *_services(frame, signs),
        *_firewall(frame),
        _generation(status, signs),
    ]
    return [fitted(line, width, signs.end) for line in lines]


def _tailnet(frame: Frame, signs: Signs) -> Iterator[Line]:
    tailnet = frame.status["tailnet"]
    if not tailnet["state"]:
        yield labelled("tailnet", (signs.words(tailnet["error"]) or "no state", "critical"))
        return
    look = {"Running": "ok", "Starting": "warning"}.get(tailnet["state"], "critical")
    parts = [signs.words(tailnet["name"]), *tailnet["addresses"][:2]]
    parts += [f"relay {signs.words(tailnet['relay'])}"] if tailnet["relay"] else []
    parts += [" ".join(map(signs.words, tailnet["tags"]))] if tailnet["tags"] else []
    parts.append(f"tailscaled {signs.words(tailnet['version'])}")
    spans: list[Span] = [(signs.words(tailnet["state"]), look), *((part, "") for part in parts if part)]
    told = joined(spans, f" {signs.sign('dot')} ")
    if old := frame.as_of("tailscaled"):
        told = (("no answer", "critical"), (f"{old}: ", "dim"), *dimmed(told))
    yield labelled("tailnet", *told)
    offers = [_offer(each["route"], each["approved"], each["withdrawn"]) for each in tailnet["offers"]]
    if tailnet["offers_exit"]:
        offers.insert(0, _offer("exit node", tailnet["exit_approved"], withdrawn=False))
    if offers:
        line = labelled("offers", *joined(offers))
        yield dimmed(line) if old else line


def _offer(what: str, approved: bool, withdrawn: bool) -> Span:
    if withdrawn:
        return f"{what} (withdrawn by the monitor)", "critical"
    return (what, "") if approved else (f"{what} (not approved)", "warning")


def _exit(frame: Frame, signs: Signs) -> Iterator[Line]:
    status, way = frame.status, frame.status["exit"]
    if way["known"] and not (way["using"] or way["wanted"] or way["blocked"] or way["stuck"]):
        yield labelled("exit node", ("none: the bare uplink", ""))
        return
    using, look = exit_in_use(status, signs)
    why: tuple[Span, ...] = (
        ((f" {signs.sign('dot')} ", "dim"), (signs.words(way["why"][0]), "dim")) if way["why"] else ()
    )
    if frame.old_exit:
        using, look = using + frame.as_of("tailscaled"), "dim"
    yield labelled("exit node", (using, look), *why)


def exit_in_use(status: Status, signs: Signs) -> Span:
    """The way out that is in use, with what is unusual of it."""
    way = status["exit"]
    if not way["known"] and not way["using"]:
        return "unknown: tailscaled does not answer", "critical"
    home = not way["wanted"] or way["using"].lower() == way["wanted"][0].lower()
    notes = [
        word
        for word, holds in (
            ("offline", way["online"] is False),
            ("by hand", way["manual"] is not None),
            ("moving", way["moving"]),
            ("maintenance", way["maintenance"]),
            (f"not {signs.words(way['wanted'][0])}" if way["wanted"] else "", not home),
        )
        if holds
    ]
    text = signs.words(way_out(way))
    text += f" ({', '.join(notes)})" if notes else ""
    if is_cut_off(way):
        return text, "critical"
    return text, "warning" if notes else "ok"


def _links(frame: Frame, signs: Signs) -> Line:
    monitor = frame.status["monitor"]
    if monitor["state"] is None:
        return labelled("links", (signs.words(monitor["error"]), "warning" if monitor["wanted"] else "dim"))
    levels = [path["level"] for path in monitor["state"]["paths"] if path["kind"] != "service"]
    spans: list[Span] = []
    for level in _LEVELS:
        if count := levels.count(level):
            sign, look = signs.level(level)
            spans.append((f"{sign} {count} {level}", look))
    told = joined(spans, "  ") if spans else say("nothing is watched", "dim")
    if old := frame.as_of("monitor"):
        told = (*dimmed(told), (old, "dim"))
    return labelled("links", *told)


def _services(frame: Frame, signs: Signs) -> Iterator[Line]:
    status, services = frame.status, frame.status["services"]
    if not services:
        return
    dead = [signs.words(each["name"]) for each in services if each["level"] == "dead"]
    up = sum(each["level"] in {"good", "suspect", "poor"} for each in services)
    watched = sum(each["level"] != "unknown" for each in services)
    if away := out_of_reach(status):
        yield labelled("services", (signs.words(away), "critical"))
        return
    spans: list[Span] = [
        (f"{up} of {watched} up", "critical" if dead else "ok")
        if watched
        else (signs.words(not_watched(status)), "dim")
    ]
    spans += [(f"down: {', '.join(dead)}", "critical")] if dead else []
    if frame.remembered:
        spans = [(text, "dim") for text, _ in spans]
        spans[-1] = (spans[-1][0] + frame.as_of("monitor"), "dim")
    ends = [each["expires"] for each in status["certificates"] if each["expires"] is not None]
    if ends:
        left_s = min(ends) - status["at"]
        spans.append(
            (f"certificates for {span(left_s)}", "")
            if left_s > 0
            else ("a certificate has expired", "critical")
        )
    yield labelled("services", *joined(spans, f" {signs.sign('dot')} "))


def _firewall(frame: Frame) -> Iterator[Line]:
    firewall = frame.status["firewall"]
    if not firewall["enabled"]:
        return
    zones = f"{len(firewall['zones'])} zone{'' if len(firewall['zones']) == 1 else 's'}"
    if firewall["error"]:
        yield labelled("firewall", (f"{zones}; {firewall['error']}", "dim"))
    elif firewall["loaded"] is False:
        yield labelled("firewall", (why_open(firewall), "critical"))
    else:
        spans: list[Span] = [(zones, "")]
        refused = sum(zone["refused"]["packets"] for zone in firewall["zones"] if zone["refused"])
        spans.append((f"{number(refused)} refused", ""))
        spans += [(f"{number(each['packets'])} {name}", "") for name, each in firewall["dropped"].items()]
        yield labelled("firewall", *joined(spans))


def _generation(status: Status, signs: Signs) -> Line:
    generation = status["generation"]
    if not generation["current"]:
        return labelled("generation", ("none: `tsstack switch` makes the first", "dim"))
    spans: list[Span] = [(str(generation["current"]), "")]
    if generation["made"] is not None:
        spans.append((f"made {span(status['at'] - generation['made'])} ago", ""))
    if generation["boot"] != generation["current"]:
        spans.append((f"boots {generation['boot']}", "warning"))
    spans.append((signs.words(generation["source"]), "dim"))
    return labelled("generation", *joined(spans, f" {signs.sign('dot')} "))


def host_and_remarks(frame: Frame, signs: Signs, width: int, most: int) -> tuple[list[Line], list[Line]]:
    """The host's lines and the remarks, in so many lines: what is wrong goes before what is well."""
    host = summary(frame, signs, width)
    needed = len(remarks(frame.status, signs, width, hints=False))
    for label in _LEAVING:
        if needed > most - len(host):
            host = [line for line in host if line[0][0].strip() != label]
    return host, remarks_within(frame.status, signs, width, max(1, most - len(host)))


def remarks_within(status: Status, signs: Signs, width: int, most: int) -> list[Line]:
    """The remarks in so many lines: where these are short the hints go first, then the last remarks."""
    lines = remarks(status, signs, width)
    if len(lines) > most:
        lines = remarks(status, signs, width, hints=False)
    if len(lines) <= most:
        return lines
    kept = lines[: max(0, most - 1)]
    left = len(status["warnings"]) - sum(bool(line[0][0].strip()) for line in kept)
    more = f"and {left} more: w shows all" if left else "w shows the rest"
    return [*kept, say(more, "accent")]


def remarks(status: Status, signs: Signs, width: int, *, hints: bool = True) -> list[Line]:
    """What should be looked at, the worst first; empty when all is well."""
    lines: list[Line] = []
    for warning in status["warnings"]:
        sign, look = signs.level(warning["level"])
        first, *more = wrapped(
            signs.words(f"{warning['code']} {warning['about']}: {warning['message']}"), max(20, width - 2)
        )
        lines.append(((f"{sign} ", look), (first, LOOK_OF[warning["level"]])))
        lines += [(("  ", ""), (line, look)) for line in more]
        if warning["hint"] and hints:
            hint = command_lines(signs.words(warning["hint"]), max(20, width - 4))
            lines += [(("    ", ""), (line, "dim")) for line, _ in hint]
    return lines


def peers(frame: Frame, signs: Signs) -> Table:
    """The other nodes: those online first, then by name."""
    known = frame.status["peers"]
    at = frame.status["at"]

    def cells(row: int, _: Sequence[int]) -> Cells:
        return peer_cells(known[row], at, signs)

    away = frame.status["tailnet"]["error"]
    return Table(
        PEERS,
        [f"{each['address']} {each['name']}" for each in known],
        cells,
        empty="tailscaled does not say who is there" if away else "this node has no peers",
        stale="tailscaled" in frame.away,
    )


def peer_cells(peer: Peer, at: float, signs: Signs) -> Cells:
    """One peer in the columns of `PEERS`."""
    seen = peer["last_seen"]
    if peer["online"]:
        way = way_to(peer)
        look = _LOOK_OF_WAY.get(way, "dim")
        shown = say(way + (f" {signs.words(peer['relay'])}" if way == "relay" else ""), look)
        sign = (signs.sign("critical" if way == "silent" else "ok"), look)
    else:
        shown = say(f"off {span(at - seen)}" if seen is not None else "offline", "dim")
        sign = (signs.sign("unknown"), "dim")
    offers = [*(["exit node"] if peer["exit_node"] else []), *peer["routes"]]
    cells = (
        (sign,),
        say(signs.words(peer["name"])),
        say(peer["address"]),
        shown,
        say(milliseconds(peer["rtt_s"])),
        say(_bytes(peer["received_bytes"])),
        say(_bytes(peer["sent_bytes"])),
        say(signs.words(peer["os"])),
        say(signs.words(", ".join(offers)), "accent" if peer["exit_node"] else ""),
    )
    return cells if peer["online"] else tuple(dimmed(cell) for cell in cells)


def _bytes(count: int) -> str:
    return f"{number(count)}B" if count else ""
