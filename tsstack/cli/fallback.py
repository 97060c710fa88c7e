"""`tsstack fallback`: the firewall for the time in which no generation has one."""

from __future__ import annotations

from pathlib import Path

import click

from tsstack.cli.options import group_options, json_option, unused_file_option
from tsstack.cli.output import chatter, print_findings, progress, result, result_json, style


@click.group()
@group_options
def fallback() -> None:
    """The firewall that stands while the live generation has none.

    A generation without a firewall, and the bare host before the first one, leave the packet filter to
    others. Where nobody else filters that is an open host: after a first switch that failed or that nobody
    confirmed, after `tsstack rollback --to 0`. A fallback closes it: a file of zones as any other, with
    nothing else in it. It stands at once and at every boot until a generation brings a firewall, which
    replaces it in one step, and it is back when that goes.

    \b
    Examples:
      tsstack fallback set /etc/tsstack/fallback.yaml
      tsstack fallback remove
    """


@fallback.command(name="set")
@click.argument("file", type=click.Path(path_type=Path))
@unused_file_option
@json_option
def set_(file: Path, as_json: bool) -> None:
    """Let the firewall of FILE stand. It has `host` and `firewall` and nothing else.

    \b
    Example of a file that lets in SSH alone:
      host: {name: gw1}
      firewall: {zones: {lan: {interfaces: [eth0], services: [ssh]}}}

    \b
    Example:
      tsstack fallback set /etc/tsstack/fallback.yaml
    """
    from tsstack.switch.fallback import set_fallback
    from tsstack.switch.site import Site
    from tsstack.switch.units import missing_at_boot

    stands, findings = set_fallback(Site(report=progress(quiet=as_json)), file)
    if as_json:
        result_json({"stands": stands})
        return
    print_findings(findings, to_stdout=False)
    if missing := missing_at_boot() if Path("/run/systemd/system").is_dir() else "":
        chatter(f"{style('warning:', fg='yellow')} {missing}")
    result("the fallback stands" if stands else "kept: the live generation has a firewall of its own")


@fallback.command()
@unused_file_option
@json_option
@click.option(
    "--made-of",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Only one that was set from this file.",
)
def remove(as_json: bool, made_of: Path | None) -> None:
    """Have none any more. Where it stands, no table of tsstack's stands afterwards.

    \b
    Examples:
      tsstack fallback remove
      tsstack fallback remove --made-of fallback.yaml
    """
    from tsstack.switch.fallback import remove_fallback
    from tsstack.switch.site import Site

    removed = remove_fallback(Site(report=progress(quiet=as_json)), made_of=made_of)
    if as_json:
        result_json({"removed": removed})
    else:
        result("the fallback is removed" if removed else "there is none" + (" of it" if made_of else ""))
