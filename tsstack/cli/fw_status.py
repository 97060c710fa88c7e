"""`fw-status`: the zones, what they let in and refuse, by which line of the file, and who else drops."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.ending import leave
from tsstack.cli.glyphs import Terminal, terminal
from tsstack.cli.known_names import complete_zone
from tsstack.cli.options import json_option
from tsstack.cli.output import result_json
from tsstack.cli.script import EXIT_CODE, run_script, watch, watch_option
from tsstack.cli.spans import Span
from tsstack.status.words import clean, number

if TYPE_CHECKING:
    from tsstack.parts.firewall.drops import Drops
    from tsstack.parts.firewall.kernel_log import Reading
    from tsstack.status.shape import Counter, Firewall, Rule, Zone

_DROPS_SHOWN = 10
_PIPED_WIDTH = 160


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("zones", nargs=-1, metavar="[ZONE]...", shell_complete=complete_zone)
@click.option(
    "--since",
    "since_s",
    type=Span(),
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="Drops that were logged in the last 15m, 1h or 2d.",
)
@click.option("--rules/--no-rules", default=True, help="Each rule's counter with its line of the file.")
@json_option
@watch_option
@click.option("--state", type=click.Path(path_type=Path), default="/var/lib/tsstack", hidden=True)
@click.option("--run", "run_folder", type=click.Path(path_type=Path), default="/run/tsstack", hidden=True)
def command(  # noqa: PLR0917  click passes them by name
    zones: Sequence[str], since_s: float, rules: bool, as_json: bool, every_s: float | None, state: Path,
    run_folder: Path,
) -> None:  # fmt: skip
    """Show the firewall's zones: who belongs to them, what they open, what each rule has counted.

    Below stand the packets that were dropped lately, by source and port, as far as the kernel has logged them
    (`firewall.log: true` in the file), and other tables that drop what our zones let in. Reading the packet
    filter needs root. Counters start anew with each switch of the firewall.

    Ends with 0 when the table is as it was loaded, 1 when another table drops too, 2 when it is not loaded or
    something changed it, 3 when it cannot be read.

    \b
    Examples:
      fw-status
      fw-status dmz --since 1d
      fw-status --watch 1
      fw-status --json | jq '.zones[] | {name, refused}'
    """

    def draw() -> tuple[str, str]:
        found = _look(state, run_folder, since_s, zones)
        if as_json:
            import json

            return json.dumps(found.as_json(), indent=None if every_s else 2), found.level
        return "\n".join(firewall_lines(found, terminal(piped=_PIPED_WIDTH), rules=rules)), found.level

    if as_json and every_s is None:
        found = _look(state, run_folder, since_s, zones)
        result_json(found.as_json())
        level = found.level
    else:
        level = watch(draw, every_s)
    raise click.exceptions.Exit(EXIT_CODE[level])


class Found:
    """All that is shown."""

    def __init__(
        self,
        *,
        firewall: Firewall,
        lines: Mapping[str, str],
        reading: Reading,
        drops: Sequence[Drops],
        foreign: Sequence[str],
        at: float,
        foreign_trouble: str = "",
        generation: bool = True,
    ) -> None:
        self.firewall = firewall
        self.lines = lines
        """`file:line` of key paths."""
        self.reading = reading
        self.drops = drops
        self.foreign = foreign
        self.foreign_trouble = foreign_trouble
        """Why the tables of others are unknown; empty: they are known."""
        self.at = at
        self.generation = generation
        """Whether there is a live generation at all."""

    @property
    def level(self) -> str:
        """As the exit code says it."""
        if not self.firewall["enabled"]:
            return "ok" if self.generation else "unknown"
        if self.firewall["loaded"] is None:
            return "unknown"
        if not self.firewall["loaded"] or self.firewall["changed"]:
            return "critical"
        if self.foreign_trouble:
            return "unknown"
        return "warning" if self.foreign else "ok"

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values: `shape.Firewall`, each rule with its `line`, and the three lists."""
        from dataclasses import asdict

        zones = [
            {**zone, "rules": [{**rule, "line": self.lines.get(rule["path"], "")} for rule in zone["rules"]]}
            for zone in self.firewall["zones"]
        ]
        return {
            **self.firewall,
            "level": self.level,
            "zones": zones,
            "logged_drops": [asdict(each) for each in self.drops],
            "log_trouble": self.reading.trouble,
            "foreign": list(self.foreign),
            "foreign_trouble": self.foreign_trouble,
        }


def _look(state: Path, run: Path, since_s: float, zones: Sequence[str]) -> Found:
    from tsstack.errors import UsageError
    from tsstack.parts.firewall.drops import group_drops
    from tsstack.parts.firewall.foreign import foreign_drops
    from tsstack.parts.firewall.kernel_log import read_drops
    from tsstack.parts.firewall.library import NftError, Session
    from tsstack.status.firewall import read_firewall

    generation = state / "current"
    firewall = read_firewall(str(generation), str(run))
    known = [zone["name"] for zone in firewall["zones"]]
    if known and (strange := [name for name in zones if name not in known]):
        raise UsageError(f"there is no zone {strange[0]!r}", hint=f"there are: {', '.join(known)}")
    at = time.time()
    reading = read_drops(at - since_s)
    drops = [each for each in group_drops(reading.packets) if not zones or each.zone in zones]
    foreign, foreign_trouble = [], ""
    if firewall["loaded"] is not None:  # else `error` says that the packet filter cannot be read
        try:
            foreign = [str(each) for each in foreign_drops(Session())]
        except NftError as error:
            foreign_trouble = f"other tables cannot be read: {error.message}"
    chosen = [zone for zone in firewall["zones"] if not zones or zone["name"] in zones]
    paths = {rule["path"] for zone in chosen for rule in zone["rules"]}
    shown: Firewall = {**firewall, "zones": chosen}
    return Found(
        firewall=shown,
        lines=_lines_of(generation, paths),
        reading=reading,
        drops=drops,
        foreign=foreign,
        foreign_trouble=foreign_trouble,
        at=at,
        generation=generation.exists(),
    )


def _lines_of(generation: Path, paths: Iterable[str]) -> dict[str, str]:
    """`file:line` of each key path, in the file that the live generation was made from."""
    import json

    from tsstack.errors import ConfigError
    from tsstack.model.document import read_document

    try:
        document = read_document(generation / "source.yaml")
        name = Path(json.loads((generation / "manifest.json").read_bytes())["source"]).name
    except (ConfigError, OSError, ValueError, KeyError, TypeError):
        return {}
    return {path: f"{name}:{document.place(path)[1]}" for path in paths if not path.startswith("always:")}


def firewall_lines(found: Found, out: Terminal, *, rules: bool = True) -> list[str]:
    """The screen."""
    firewall = found.firewall
    if not found.generation:
        return [f"{out.sign('unknown')} no generation is live: tsstack closes nothing here"]
    if not firewall["enabled"]:
        return [f"{out.sign('unknown')} the live generation has no firewall: tsstack closes nothing here"]
    return [
        *_head(found, out),
        *_zones(found, out, rules=rules),
        *_above(found, out),
        *_logged(found, out),
        *(_foreign(found, out)),
    ]


def _head(found: Found, out: Terminal) -> Iterator[str]:
    firewall = found.firewall
    words = {
        "ok": "loaded, as the file says",
        "warning": "loaded",
        "critical": "not as it was loaded: something changed it"
        if firewall["loaded"]
        else "not loaded: nothing is closed",
        "unknown": clean(firewall["error"] or found.foreign_trouble) or "it cannot be read",
    }[found.level]
    name = out.paint("table inet tsstack", "bold")
    policy = f", by default {firewall['default_policy']}" if firewall["default_policy"] else ""
    room = out.width - len("  table inet tsstack: ")
    line = out.clip(f"{words}{policy}", room)
    told = out.level(found.level, line[: len(words)]) + line[len(words) :]
    yield f"{out.sign(found.level)} {name}: {told}"
    if found.level == "critical":
        yield out.paint(out.clip("  fix: tsstack switch", out.width), "dim")


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
    widths = [min(max(len(row[at]) for row in rows), 20) for at in range(4)]
    for at, row in enumerate(rows):
        cells = [out.clip(row[0], widths[0]).ljust(widths[0])]
        cells += [row[column].rjust(widths[column]) for column in (1, 2, 3)]
        line = "  " + "  ".join(cells) + "  "
        line += out.clip(row[4], max(8, out.width - len(line)))
        yield out.paint(line.rstrip(), "bold" if at else "dim")
        if at and rules:
            yield from _opened(zones[at - 1], found, out)


def _packets(count: Counter | None) -> str:
    return "-" if count is None else number(count["packets"])


def _members(zone: Zone) -> str:
    shown = [*zone["interfaces"], *zone["sources"]]
    hidden = zone["source_count"] - len(zone["sources"])
    return ", ".join(shown) + (f" +{hidden}" if hidden else "")


def _opened(zone: Zone, found: Found, out: Terminal) -> Iterator[str]:
    longest = max((len(_what(rule, zone)) for rule in zone["rules"]), default=0)
    for rule in sorted(zone["rules"], key=_order):
        what = _what(rule, zone)
        counted = f"{number(rule['packets']):>7}  {_size(rule['bytes']):>7}"
        place = found.lines.get(rule["path"], "")
        head = f"      {counted}  "
        room = min(max(8, out.width - len(head) - len(place) - 2), max(longest, 44))
        text = out.clip(what, room).ljust(room)
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
        trouble = clean(found.reading.trouble)
        if trouble:
            yield f"  {out.clip(f'logged drops: {trouble}', out.width - 2)}"
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
        for at, line in enumerate(_wrapped(clean(sentence), out.width - 4)):
            yield f"  {out.sign('warning') if not at else ' '} {out.level('warning', line)}"


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, max(width, 20))


def _size(count: int) -> str:
    return f"{number(count)}B"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"


def main() -> None:
    """The console script."""
    leave(run_script(command, "fw-status"))
