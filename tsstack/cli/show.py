"""Verbs that show: generations, doctor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.options import json_option, unused_file_option
from tsstack.cli.output import result, result_json, style
from tsstack.errors import TsstackError
from tsstack.switch.record import read_pending
from tsstack.switch.site import Site
from tsstack.switch.transaction import observe_changes

if TYPE_CHECKING:
    from tsstack.model.facts import Facts


@click.command()
@unused_file_option
@json_option
@click.option("--prune", type=click.IntRange(min=1), metavar="KEEP", help="Remove all but the newest KEEP.")
def generations(as_json: bool, prune: int | None) -> None:
    """List what this host has been; `tsstack rollback --to N` goes back to any of them."""
    site = Site()
    store = site.store
    if prune is not None:
        from tsstack.switch.lock import host_lock

        with host_lock(site.paths.state, site.clock):
            store.prepare()
            store.prune(prune)
    pending = read_pending(site.paths.state)
    rows: list[dict[str, Any]] = [
        {
            "generation": each.number,
            "created_unix_s": each.created_unix_s,
            "source": each.source,
            "current": each.number == store.current(),
            "boot": each.number == store.boot(),
            "pending": pending is not None and pending.target == each.number,
            "summary": list(each.summary),
        }
        for each in store.list()
    ]
    if as_json:
        result_json({"generations": rows})
        return
    if not rows:
        result("no generation yet: `tsstack switch` makes the first")
    for row in rows:
        made = (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created_unix_s"]))
            if row["generation"]
            else "-" * 16
        )
        marks = [name for name in ("current", "boot", "pending") if row[name]]
        first = row["summary"][0] if row["summary"] else ("without tsstack" if not row["generation"] else "")
        more = f" (+{len(row['summary']) - 1} more)" if len(row["summary"]) > 1 else ""
        line = f"{row['generation']:>4}  {made}  {','.join(marks) or '-':<13}  {first[:60]}{more}"
        result(style(line, bold=True) if row["current"] else line)


@click.command()
@unused_file_option
@json_option
def doctor(as_json: bool) -> None:
    """Look for what is wrong or missing: engines, what is pending, drift from the live generation.

    Changes nothing. Ends with 0 when all is well, 1 with a warning, 2 with an error, as check plugins do.
    """
    site = Site()
    findings = list(_diagnose(site))
    worst = (
        2
        if any(level == "error" for level, _, _ in findings)
        else int(any(f[0] == "warning" for f in findings))
    )
    if as_json:
        result_json(
            {"status": worst, "findings": [{"level": a, "about": b, "message": c} for a, b, c in findings]}
        )
    else:
        colours = {"ok": "green", "warning": "yellow", "error": "red"}
        for level, about, message in findings:
            result(f"{style(f'{level:<8}', fg=colours[level])} {about:<12} {message}")
    raise click.exceptions.Exit(worst)


def _diagnose(site: Site) -> list[tuple[str, str, str]]:
    facts = site.facts()
    found: list[tuple[str, str, str]] = []
    if facts.nginx:
        version = ".".join(map(str, facts.nginx.version))
        found.append(("ok", "nginx", f"{version}, HTTP/3 {'yes' if facts.nginx.http3 else 'no'}"))
    else:
        found.append(("warning", "nginx", "not installed; `proxy` needs it: apt install nginx"))
    if facts.tailscale:
        state = facts.tailscale.backend_state
        level = "ok" if state == "Running" else "warning"
        found.append((level, "tailscaled", f"{state}, {' '.join(facts.tailscale.addresses) or 'no address'}"))
    else:
        found.append(("warning", "tailscaled", f"does not answer on {facts.paths.tailscale_socket}"))
    found.extend(_diagnose_units(facts))
    pending = read_pending(site.paths.state)
    if pending:
        if pending.phase == "unconfirmed":
            words = "waits for its confirmation: `tsstack confirm` keeps it, `tsstack rollback` undoes it"
            found.append(("warning", "switch", f"generation {pending.target} {words}"))
        else:
            words = "was cut off half-way: the next switch undoes it, or `tsstack recover` at once"
            found.append(("error", "switch", f"generation {pending.target} {words}"))
    live = site.store.current()
    if not live:
        kept = [each.number for each in site.store.list() if each.number]
        words = "none yet: `tsstack switch` makes the first"
        if kept:
            words = f"0 is live, the host without tsstack; {len(kept)} are kept, the newest is {max(kept)}"
        return [*found, ("ok", "generation", words)]
    try:
        _, plan = observe_changes(site, site.store.tree(live), facts)
        for part in site.parts:
            found.extend(("warning", part.name, line) for line in part.warnings(site.store.path(live), facts))
    except TsstackError as error:
        return [*found, ("error", "host", f"{error}")]
    found.extend(("warning", "drift", line) for line in plan.summary())
    if not plan:
        found.append(("ok", "generation", f"{live} is live and the host is as it says"))
    return found


def _diagnose_units(facts: Facts) -> list[tuple[str, str, str]]:
    if not facts.systemd:
        return []
    from tsstack.switch.units import look, missing_at_boot

    missing = missing_at_boot()
    found = [("warning", "units", missing)] if missing else [("ok", "units", "a boot brings the host up")]
    old = [unit.name for unit in look() if unit.differs]
    if old:
        found.append(("warning", "units", f"of another version: {', '.join(old)}; `tsstack units install`"))
    return found
