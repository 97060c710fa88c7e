"""A status as lines for people, on a terminal of any width. Pure. Light: `ts-status` starts with it."""

from __future__ import annotations

from tsstack.cli.short_screen import HIGHER, in_rows
from tsstack.status.headline import headline
from tsstack.status.reach import not_watched, out_of_reach
from tsstack.status.words import (
    clean,
    command_lines,
    is_cut_off,
    milliseconds,
    number,
    padded,
    span,
    way_out,
    way_to,
    why_open,
    width_of,
    wrapped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tsstack.cli.glyphs import Terminal
    from tsstack.status.shape import Counter, Peer, Service, Status, Zone

_LABEL = 11
_PEERS_SHOWN, _SERVICES_SHOWN, _ZONES_SHOWN = 12, 16, 16
_LEVEL_OF_STATE = {"Running": "ok", "Starting": "warning"}


def status_lines(
    status: Status,
    terminal: Terminal,
    *,
    everything: bool = False,
    rows: int | None = None,
    more: str = HIGHER,
) -> list[str]:
    """The whole screen. `everything` lists all peers, services and zones, however many there are.

    In `rows` lines where they are given: then what is wrong comes before what is well, and the last line
    says with `more` how to see what had no room.
    """
    well = (
        _tailnet(status, terminal),
        _exit(status, terminal),
        _peers(status, terminal, everything=everything),
        _services(status, terminal, everything=everything),
        _zones(status, terminal, everything=everything),
        _links(status, terminal),
        _generation(status, terminal),
    )
    head, wrong = [*_head(status, terminal)], [*_warnings(status, terminal)]
    return in_rows(head, [[*each] for each in well], wrong, rows, terminal, more=more)


def _row(terminal: Terminal, label: str, text: str, *looks: str) -> str:
    shown = terminal.clip(text, terminal.width - _LABEL - 3)
    return f"  {terminal.paint(f'{label:<{_LABEL}}', 'dim')} {terminal.paint(shown, *looks)}"


def _head(status: Status, terminal: Terminal) -> Iterator[str]:
    level = status["level"]
    name = terminal.paint(terminal.clip(clean(status["host"]), 40), "bold")
    yield f"{terminal.sign(level)} {name}: {terminal.level(level, headline(status))}"


def _tailnet(status: Status, terminal: Terminal) -> Iterator[str]:
    tailnet = status["tailnet"]
    if tailnet["error"]:
        yield _row(terminal, "tailnet", clean(tailnet["error"]), "red")
        return
    level = _LEVEL_OF_STATE.get(tailnet["state"], "critical")
    dot = f" {terminal.sign('dot')} "
    parts = [clean(tailnet["name"]), *tailnet["addresses"][:2]]
    parts += [f"relay {clean(tailnet['relay'])}"] if tailnet["relay"] else []
    parts += [" ".join(map(clean, tailnet["tags"]))] if tailnet["tags"] else []
    parts.append(f"tailscaled {clean(tailnet['version'])}")
    state = tailnet["state"] or "no state"
    text = _fitting(filter(None, parts), dot, terminal, terminal.width - _LABEL - 6 - len(state))
    label = terminal.paint(f"{'tailnet':<{_LABEL}}", "dim")
    yield f"  {label} {terminal.level(level, state)}{dot}{text}"
    offers = [_offer(offer["route"], offer["approved"], offer["withdrawn"]) for offer in tailnet["offers"]]
    if tailnet["offers_exit"]:
        offers.insert(0, _offer("exit node", tailnet["exit_approved"], withdrawn=False))
    if offers:
        yield _row(terminal, "offers", ", ".join(offers))


def _fitting(parts: Iterable[str], between: str, terminal: Terminal, width: int) -> str:
    """As many of `parts` as have room, the first of them cut if need be."""
    text, taken = "", 0
    for part in parts:
        taken += width_of(part) + (len(between) if text else 0)
        if taken > width:
            return text or terminal.clip(part, width)
        text = f"{text}{between}{part}" if text else part
    return text


def _offer(what: str, approved: bool, withdrawn: bool) -> str:
    if withdrawn:
        return f"{what} (withdrawn by the monitor)"
    return what if approved else f"{what} (not approved)"


def _exit(status: Status, terminal: Terminal) -> Iterator[str]:
    way = status["exit"]
    if not (way["using"] or way["wanted"] or way["blocked"] or way["stuck"]):
        return
    if not way["known"]:
        yield _row(terminal, "exit node", "unknown: tailscaled does not answer", "red")
        return
    text = way_out(way)
    notes = [
        word
        for word, holds in (
            ("offline", way["online"] is False),
            ("by hand", way["manual"] is not None),
            ("moving", way["moving"]),
            ("maintenance", way["maintenance"]),
        )
        if holds
    ]
    others = [name for name in way["wanted"] if name.lower() != way["using"].lower() and not way["bypassed"]]
    text += f" ({', '.join(notes)})" if notes else ""
    # Where nothing gets out, none of them comes next.
    if others and way["wanted"][0] not in others and not (way["blocked"] or way["stuck"]):
        text += f", then {', '.join(map(clean, others))}"
    home = not way["wanted"] or way["using"].lower() == way["wanted"][0].lower()
    yield _row(terminal, "exit node", text, "red" if is_cut_off(way) else "" if home else "yellow")
    for sentence in way["why"][:2]:
        yield _row(terminal, "", clean(sentence), "dim")


def _peers(status: Status, terminal: Terminal, *, everything: bool) -> Iterator[str]:
    peers = status["peers"]
    if not peers:
        return
    online = [peer for peer in peers if peer["online"]]
    ways = [way_to(peer) for peer in online]
    counts = [
        (way, ways.count(way)) for way in ("direct", "relay", "peer-relay", "unknown", "idle", "silent")
    ]
    told = ", ".join(f"{count} {way}" for way, count in counts if count)
    yield _row(terminal, "peers", f"{len(online)} of {len(peers)} online" + (f": {told}" if told else ""))
    told_of = peers if everything else [peer for peer in online if way_to(peer) != "idle"]
    using = status["exit"]["using"].lower()
    listed = told_of
    if len(told_of) > _PEERS_SHOWN and not everything:
        listed = sorted(told_of, key=lambda peer: _unremarkable(peer, using))[:_PEERS_SHOWN]
    width = max((width_of(peer["name"]) for peer in listed), default=0)
    for peer in listed:
        yield _peer(peer, terminal, min(max(width, 8), 24))
    if len(listed) < len(told_of):
        yield _row(terminal, "", f"and {len(told_of) - len(listed)} more: ts-status --all", "dim")


def _unremarkable(peer: Peer, using: str) -> int:
    """Whoever needs a look comes first: silent, relayed, or the way out that is in use."""
    if using and using in {peer["name"].lower(), *peer["names"]}:
        return 1
    return {"silent": 0, "relay": 2, "peer-relay": 2, "unknown": 3}.get(way_to(peer), 4)


def _peer(peer: Peer, terminal: Terminal, width: int) -> str:
    way = way_to(peer) if peer["online"] else "offline"
    by = f" by {peer['relay']}" if way == "relay" else ""
    notes = ["exit node"] if peer["exit_node"] else []
    notes += peer["routes"][:3]
    level = {
        "direct": "good",
        "relay": "poor",
        "peer-relay": "poor",
        "unknown": "unknown",
        "silent": "dead",
    }.get(way, "")
    name = padded(terminal.clip(clean(peer["name"]), width), width)
    cells = f"{name}  {peer['address']:<15}  "
    path = f"{clean(way + by):<12}"
    room = terminal.width - _LABEL - 5 - width_of(path)
    tail = f"  {milliseconds(peer['rtt_s']):>8}"
    if width_of(cells) > room:
        cells, tail = f"{name}  ", ""
    elif width_of(cells) + len(tail) > room:
        tail = ""
    elif width_of(cells) + len(tail) + 2 < room:
        told = _fitting(map(clean, notes), ", ", terminal, room - width_of(cells) - len(tail) - 2)
        tail = f"{tail}  {told}".rstrip()
    path = path if tail.strip() else path.rstrip()
    return f"  {' ' * _LABEL}   {cells}{terminal.level(level, path) if level else path}{tail}".rstrip()


def _services(status: Status, terminal: Terminal, *, everything: bool) -> Iterator[str]:
    services = status["services"]
    if not services:
        return
    up = sum(service["level"] in {"good", "suspect", "poor"} for service in services)
    watched = sum(service["level"] != "unknown" for service in services)
    # All that is known: an upstream that takes a connection may yet give no answer.
    told = f"{up} of {watched} take connections" if watched else not_watched(status)
    if watched and watched < len(services):
        told += f", {len(services) - watched} unknown"
    ends = [each["expires"] for each in status["certificates"] if each["expires"] is not None]
    if ends:
        left_s = min(ends) - status["at"]
        told += f"; certificates for {span(left_s)}" if left_s > 0 else "; a certificate has expired"
    away = out_of_reach(status)
    yield _row(terminal, "services", away or told, "red" if away else "")
    worst_first = sorted(services, key=_unworried)
    shown = services if everything else worst_first[:_SERVICES_SHOWN]
    width = min(max(len(service["name"]) for service in shown), 20)
    for service in shown:
        yield _service(service, terminal, width)
    if len(shown) < len(services):
        yield _row(terminal, "", f"and {len(services) - len(shown)} more: ts-status --all", "dim")


def _unworried(service: Service) -> int:
    """Where it stands in a list that begins with what needs a look."""
    if service["unreached"] or service["level"] == "dead":
        return 0
    if service["dead_upstreams"]:
        return 1
    return {"poor": 2, "suspect": 2}.get(service["level"], 3)


def _service(service: Service, terminal: Terminal, width: int) -> str:
    room = terminal.width - _LABEL - 7 - width
    name = terminal.clip(clean(service["name"]), width)
    rest = f"  {clean(service['url'])}"
    said = clean(service["error"]) if service["level"] == "dead" else milliseconds(service["rtt_s"])
    if said and len(rest) + len(said) + 2 <= room:
        rest += f"  {said}"
    sign = terminal.sign(service["level"])
    return f"  {' ' * _LABEL} {sign} {name:<{width}}{terminal.clip(rest, room)}".rstrip()


def _zones(status: Status, terminal: Terminal, *, everything: bool) -> Iterator[str]:
    firewall = status["firewall"]
    if not firewall["enabled"]:
        return
    dropped = ", ".join(
        f"{number(counter['packets'])} {name}" for name, counter in firewall["dropped"].items()
    )
    zones_told = f"{len(firewall['zones'])} zone{'' if len(firewall['zones']) == 1 else 's'}"
    if firewall["error"]:
        yield _row(terminal, "firewall", f"{zones_told}; {clean(firewall['error'])}")
    elif firewall["loaded"] is False:
        yield _row(terminal, "firewall", why_open(firewall), "red")
    else:
        yield _row(terminal, "firewall", f"{zones_told}; dropped: {dropped}")
    zones = firewall["zones"] if everything else firewall["zones"][:_ZONES_SHOWN]
    width = min(max((len(zone["name"]) for zone in zones), default=0), 20)
    for zone in zones:
        yield _zone(zone, terminal, width)
    if len(zones) < len(firewall["zones"]):
        yield _row(terminal, "", f"and {len(firewall['zones']) - len(zones)} more: ts-status --all", "dim")


def _zone(zone: Zone, terminal: Terminal, width: int) -> str:
    members = ", ".join((*zone["interfaces"], *zone["sources"][:2]))
    hidden = zone["source_count"] - len(zone["sources"][:2])
    members += f" +{hidden}" if hidden > 0 else ""
    counts = ""
    if zone["refused"] is not None or zone["accepted"] is not None:
        counts = f"  accepted {_count(zone['accepted'])}, refused {_count(zone['refused'])}"
    room = terminal.width - _LABEL - 5 - width
    members = terminal.clip(members, max(8, room - len(counts) - 2))
    text = f"  {members:<{max(0, min(20, room - len(counts) - 2))}}{counts}"
    name = terminal.clip(zone["name"], width)
    return f"  {' ' * _LABEL}   {name:<{width}}{terminal.clip(text, room)}".rstrip()


def _links(status: Status, terminal: Terminal) -> Iterator[str]:
    monitor = status["monitor"]
    if not monitor["running"] or monitor["state"] is None:
        if monitor["wanted"]:
            yield _row(terminal, "links", f"{clean(monitor['error'])}", "yellow")
        return
    paths = [path for path in monitor["state"]["paths"] if path["kind"] != "service"]
    counts = [
        f"{terminal.sign(level)} {count} {level}"
        for level in ("good", "suspect", "poor", "dead", "unknown")
        if (count := sum(path["level"] == level for path in paths))
    ]
    label = terminal.paint(f"{'links':<{_LABEL}}", "dim")
    yield f"  {label} {'  '.join(counts) or 'nothing is watched'}"


def _generation(status: Status, terminal: Terminal) -> Iterator[str]:
    generation = status["generation"]
    if not generation["current"]:
        yield _row(terminal, "generation", "none: `tsstack switch` makes the first")
        return
    made = generation["made"]
    age = f", made {span(status['at'] - made)} ago" if made is not None else ""
    boot = "" if generation["boot"] == generation["current"] else f", boots {generation['boot']}"
    yield _row(
        terminal, "generation", f"{generation['current']}{age}{boot} {clean(generation['source'])}".rstrip()
    )


def _warnings(status: Status, terminal: Terminal) -> Iterator[str]:
    for warning in status["warnings"]:
        head = f"{warning['code']} {warning['about']}: "
        room = terminal.width - 4
        lines = wrapped(clean(head + warning["message"]), room)
        yield f"  {terminal.sign(warning['level'])} {terminal.level(warning['level'], lines[0])}"
        yield from (f"    {terminal.level(warning['level'], line)}" for line in lines[1:])
        for line, goes_on in command_lines(clean(warning["hint"]), terminal.width - 6):
            yield f"{'' if goes_on else '      '}{terminal.paint(line, 'dim')}"


def _count(counter: Counter | None) -> str:
    return "-" if counter is None else number(counter["packets"])
