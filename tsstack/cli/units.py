"""`tsstack units`: the systemd units that bring the host up at a boot, renew certificates, and monitor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsstack.cli.options import group_options, json_option, unused_file_option
from tsstack.cli.output import result, result_json, style
from tsstack.errors import CheckFailed

if TYPE_CHECKING:
    from tsstack.switch.units import Unit


@click.group()
@group_options
def units() -> None:
    """The systemd units: what comes up at a boot, renews certificates, watches the links.

    A package of the distribution brings them, and the NixOS modules too. Of an installation by pip or pipx
    they are put into /etc/systemd/system by `install`, with the path of the tsstack that you call.

    \b
    Examples:
      tsstack units install             what a boot needs, and the renewal of certificates
      tsstack units install --monitor   the monitor too
      tsstack units status
    """


@units.command()
@unused_file_option
@json_option
@click.option("--monitor", is_flag=True, help="Also the monitor, which is started at once.")
def install(as_json: bool, monitor: bool) -> None:
    """Put the units there, enable them, and start what shall run now. Doing it again is harmless.

    Needed again after tsstack moved to another path, and after an upgrade that `status` says to be newer.

    \b
    Examples:
      tsstack units install
      tsstack units install --monitor
    """
    from tsstack.switch.units import BASE_UNITS, MONITOR_UNITS, install

    _need_systemd()
    _show(install((*BASE_UNITS, *(MONITOR_UNITS if monitor else ()))), as_json)


@units.command()
@unused_file_option
@json_option
def remove(as_json: bool) -> None:
    """Stop and disable them, and take away what `install` put there. The host stays as it is now.

    \b
    Example:
      tsstack units remove
    """
    from tsstack.switch.units import remove

    _need_systemd()
    removed = remove()
    if as_json:
        result_json({"removed": list(removed)})
    else:
        result("removed: " + ", ".join(removed) if removed else "there were none of ours")


@units.command()
@unused_file_option
@json_option
def status(as_json: bool) -> None:
    """Say which are there and enabled. Ends with 1 when a boot would not bring this host up.

    \b
    Examples:
      tsstack units status
      tsstack units status --json | jq '.units[] | select(.enabled | not).name'
    """
    from tsstack.switch.units import look, missing_at_boot

    _show(look(), as_json)
    if missing_at_boot():
        raise click.exceptions.Exit(1)


def _show(found: tuple[Unit, ...], as_json: bool) -> None:
    if as_json:
        result_json(
            {
                "units": [
                    {
                        "name": unit.name,
                        "path": str(unit.path) if unit.path else None,
                        "enabled": unit.enabled,
                        "differs": unit.differs,
                    }
                    for unit in found
                ]
            }
        )
        return
    for unit in found:
        state, colour = "enabled", "green"
        if unit.path is None:
            state, colour = "not installed", "yellow"
        elif not unit.enabled:
            state, colour = "not enabled", "yellow"
        elif unit.differs:
            state, colour = "differs from this version: install again", "yellow"
        result(f"{unit.name:<24} {style(state, fg=colour):<14}  {unit.path or ''}".rstrip())


def _need_systemd() -> None:
    """Raises CheckFailed without a running systemd."""
    if not Path("/run/systemd/system").is_dir():
        raise CheckFailed(
            "systemd does not run here",
            hint="have your init run `tsstack recover --early` before the network is up and "
            "`tsstack recover --boot` after tailscaled and nginx",
        )
