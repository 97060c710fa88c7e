"""`fw-status`: the zones, what they let in and refuse, by which line of the file, and who else drops."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.ending import leave
from tsstack.cli.fw_screen import firewall_lines
from tsstack.cli.glyphs import screen_rows, terminal
from tsstack.cli.known_names import complete_zone
from tsstack.cli.options import json_option
from tsstack.cli.script import EXIT_CODE, run_script, watch, watch_option
from tsstack.cli.spans import Span
from tsstack.doctor.remarks import STATUS_LEVEL
from tsstack.status.severity import OTHERS_MAY_DROP, of_table, worst_of

if TYPE_CHECKING:
    from tsstack.doctor.foreign import Others
    from tsstack.parts.firewall.drops import Drops
    from tsstack.parts.firewall.kernel_log import Reading
    from tsstack.status.shape import Firewall, Level

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

    Ends with 0 when the table is as it was loaded, 1 when another table may drop too or nobody can tell
    whether ours was changed, 2 when it is not loaded, something changed it, or another table drops what a
    zone opens, 3 when it cannot be read.

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
        rows = screen_rows() if every_s else None
        return "\n".join(
            firewall_lines(found, terminal(piped=_PIPED_WIDTH), rules=rules, rows=rows)
        ), found.level

    level = watch(draw, every_s, as_json=as_json)
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
        foreign_level: Level = "ok",
        foreign_trouble: str = "",
        foreign_fixes: Sequence[str] = (),
        tried: str = "",
        generation: bool = True,
        fix: str = "tsstack switch",
    ) -> None:
        self.firewall = firewall
        self.lines = lines
        """`file:line` of key paths."""
        self.reading = reading
        self.drops = drops
        self.foreign = foreign
        self.foreign_level: Level = foreign_level
        """How bad the tables of others are, as `tsstack doctor` has it."""
        self.foreign_trouble = foreign_trouble
        """Why the tables of others are unknown; empty: they are known."""
        self.foreign_fixes = foreign_fixes
        """What mends that, as `tsstack doctor` has it."""
        self.tried = tried
        """What was tried of the tables of others, in words, where they drop nothing that our zones open."""
        self.at = at
        self.generation = generation
        """Whether there is a live generation at all."""
        self.fix = fix
        """What loads the table as it should be."""

    @property
    def level(self) -> str:
        """As the exit code says it."""
        if not self.firewall["enabled"]:
            return "ok" if self.generation else "unknown"
        own = of_table(self.firewall)
        if own is None or self.firewall["loaded"] is None:
            return "unknown"
        others = OTHERS_MAY_DROP if self.foreign_trouble else self.foreign_level
        return worst_of([own, others])

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
            "foreign_level": self.foreign_level,
            "foreign_trouble": self.foreign_trouble,
            "foreign_tried": self.tried,
            "foreign_fixes": list(self.foreign_fixes),
        }


def _look(state: Path, run: Path, since_s: float, zones: Sequence[str]) -> Found:
    from tsstack.errors import UsageError
    from tsstack.parts.firewall.library import NftError
    from tsstack.status.firewall import read_firewall, standing_folder
    from tsstack.status.logged import read_logged

    standing, is_fallback = standing_folder(str(state))
    firewall = read_firewall(standing, str(run), fallback=is_fallback)
    generation = Path(standing)
    known = [zone["name"] for zone in firewall["zones"]]
    if known and (strange := [name for name in zones if name not in known]):
        raise UsageError(f"there is no zone {strange[0]!r}", hint=f"there are: {', '.join(known)}")
    at = time.time()
    logged = read_logged(firewall, generation, at - since_s)
    drops = [each for each in logged.drops if not zones or each.zone in zones]
    foreign: Sequence[str] = ()
    fixes: Sequence[str] = ()
    foreign_level: Level = "ok"
    tried = foreign_trouble = ""
    if firewall["loaded"] is not None:  # else `error` says that the packet filter cannot be read
        try:
            foreign, tried, foreign_level, fixes = _others(state, run)
        except NftError as error:
            foreign_trouble = f"other tables cannot be read: {error.message}"
    chosen = [zone for zone in firewall["zones"] if not zones or zone["name"] in zones]
    paths = {rule["path"] for zone in chosen for rule in zone["rules"]}
    shown: Firewall = {**firewall, "zones": chosen}
    return Found(
        firewall=shown,
        lines=_lines_of(generation, paths),
        reading=logged.reading,
        drops=drops,
        foreign=foreign,
        foreign_level=foreign_level,
        foreign_trouble=foreign_trouble,
        foreign_fixes=fixes,
        tried=tried,
        at=at,
        generation=generation.exists(),
        fix=_fix(state, fallback=is_fallback),
    )


def _fix(state: Path, *, fallback: bool) -> str:
    """As `ts-status` has it (TS731, TS732)."""
    from tsstack.status.fixes import reapply
    from tsstack.status.generation import read_generation

    generation = read_generation(str(state))
    return reapply(0 if fallback else generation["current"], generation["boot"], generation["pending"])


_Tried = tuple[Sequence[str], str, "Level", Sequence[str]]
_TRIED: dict[str, tuple[float, _Tried]] = {}
"""By the moment of the ruleset, with when it was tried."""
_TRIED_AGAIN_S = 30.0


def _others(state: Path, run: Path) -> _Tried:
    """What other owners' tables drop of what our zones open, or that it was tried and passes; how bad it is,
    and what mends it.

    With `--watch` packets are sent again only when some table has changed, and not for every ban of a program
    that changes its table all the time.
    """
    from tsstack.doctor.gathering.foreign import look_at_others
    from tsstack.model.facts import Paths
    from tsstack.parts.firewall.fingerprint import present_moment
    from tsstack.switch.site import Site

    moment, now_s = present_moment() or "", time.monotonic()
    for known, (at_s, told) in _TRIED.items():
        if (moment and known == moment) or now_s - at_s < _TRIED_AGAIN_S:
            return told
    site = Site(paths=Paths(state=state, run=run))
    told = _told(look_at_others(site, site.facts()))
    _TRIED.clear()
    _TRIED[moment] = (now_s, told)
    return told


def _told(others: Others) -> _Tried:
    from tsstack.doctor.finding import worst
    from tsstack.doctor.foreign import all_pass, check_foreign

    findings = list(check_foreign(others))
    level = STATUS_LEVEL[worst(findings)]
    fixes = tuple(dict.fromkeys(each.fix for each in findings if each.level != "ok"))
    through = [*map(str, others.drops), *map(str, others.may)]
    if not others.tables:
        return through, "", level, fixes
    if others.asked is None:
        names = f"{', '.join(others.tables)} may drop or redirect something"
        return through, f"{names}; that was not tried: {others.fault}", level, fixes
    if others.asked.hits or others.asked.astray:
        return [*map(str, others.asked.hits), *others.asked.astray, *through], "", level, fixes
    return through, all_pass(others.tables, others.asked), level, fixes


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


def main() -> None:
    """The console script."""
    leave(run_script(command, "fw-status"))
