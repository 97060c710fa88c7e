"""The verb that shows the generations."""

from __future__ import annotations

import time
from typing import Any

import click

from tsstack.cli.options import json_option, unused_file_option
from tsstack.cli.output import chatter, result, result_json, style
from tsstack.switch.record import read_pending
from tsstack.switch.site import Site


@click.command()
@unused_file_option
@json_option
@click.option("--prune", type=click.IntRange(min=1), metavar="KEEP", help="Remove all but the newest KEEP.")
def generations(as_json: bool, prune: int | None) -> None:
    """List what this host has been; `tsstack rollback --to N` goes back to any of them.

    \b
    Examples:
      tsstack generations
      tsstack generations --prune 5    all but the newest five, the live one and the next boot's go
    """
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
    lost = {number: store.fault(number) for number in (store.current(), store.boot()) if store.fault(number)}
    if as_json:
        result_json({"generations": rows, "warnings": [*lost.values()]})
        return
    for number, fault in lost.items():
        link = "live" if number == store.current() else "what the next boot wants"
        chatter(f"{style('warning:', fg='yellow')} {fault}, and it is {link}: {store.way_on(number)}")
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
