"""`tsstack lab`: a whole tailnet in namespaces, to try tsstack and to hurt it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.options import file_option, group_options, json_option, unused_file_option
from tsstack.cli.output import result_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from tsstack.lab.lab import LabStatus

ROOT = "/run/tsstack-lab"


def _which_lab(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which lab is meant, on every command of the group."""
    name = click.option(
        "--name",
        default="lab",
        show_default=True,
        envvar="TSSTACK_LAB",
        help="Several labs run beside each other.",
    )
    folder = click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path),
        default=ROOT,
        show_default=True,
        help="Where the lab is remembered.",
    )
    return name(folder(command))


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group()
@group_options
def lab() -> None:
    """A whole tailnet on this machine: Headscale, nodes with tailscaled, a LAN, an internet.

    It lives in namespaces, touches nothing outside, and is gone after `down`.

    \b
    Examples:
      tsstack lab up
      tsstack lab exec laptop -- tailscale status
      tsstack lab fault uplink exit-b
      tsstack lab down
    """


@lab.command(short_help="Bring the lab up.")
@_which_lab
@click.option("--nodes", "clients", type=int, help="So many clients more.  [default: 0]")
@unused_file_option
@json_option
def up(name: str, directory: Path, clients: int | None, as_json: bool) -> None:
    """Bring the lab up; builds its engines first where they are missing (minutes, once).

    \b
    Examples:
      tsstack lab up
      tsstack lab exec kernelcore -- tsstack -c examples/kernelcore.yaml switch
    """
    from tsstack.lab.lab import Lab

    brought = Lab.up(name=name, clients=clients or 0, directory=directory, report=_say)
    if clients is not None and brought.clients != clients:
        _say(f"it has {brought.clients} clients more, not {clients}: `tsstack lab down` first, then up again")
    _print_status(brought.status(), as_json)


@lab.command()
@_which_lab
@unused_file_option
@json_option
def down(name: str, directory: Path, as_json: bool) -> None:
    """Take the lab down, whole or half made. Everything in it is gone.

    \b
    Examples:
      tsstack lab down
      tsstack lab down --name mine
    """
    from tsstack.lab.lab import take_down

    was = take_down(name=name, directory=directory)
    if as_json:
        result_json({"lab": name, "was_up": was})
        return
    _say(f"the lab {name!r} is gone" if was else f"there is no lab {name!r}")


@lab.command()
@_which_lab
@unused_file_option
@json_option
def status(name: str, directory: Path, as_json: bool) -> None:
    """Show the nodes and the faults in force.

    \b
    Examples:
      tsstack lab status
      tsstack lab status --json | jq .nodes
    """
    from tsstack.lab.lab import read_status

    _print_status(read_status(name=name, directory=directory), as_json)


@lab.command(
    "exec",
    short_help="Run a program in a node, or a shell.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@_which_lab
@unused_file_option
@click.argument("node")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def execute(name: str, directory: Path, node: str, argv: tuple[str, ...]) -> None:
    """Run a program in NODE (a shell when none is named): `tsstack lab exec laptop -- tailscale status`.

    Its streams, terminal and exit code are passed through.

    \b
    Examples:
      tsstack lab exec kernelcore
      tsstack lab exec laptop -- tailscale status
    """
    from tsstack.lab.lab import Lab

    Lab.attach(name=name, directory=directory).node(node).become(list(argv) or ["bash"])


@lab.command(short_help="Put a file's service names into the tailnet's DNS.")
@_which_lab
@file_option
@click.option("--node", default="", help="Whose addresses the names get.  [default: the file's host]")
@json_option
def publish(name: str, directory: Path, file: Path, node: str, as_json: bool) -> None:
    """Give the tailnet's DNS the service names of a file; the host need not have enrolled yet.

    \b
    Example:
      tsstack -c examples/kernelcore.yaml lab publish
    """
    from tsstack.lab.lab import Lab

    names = Lab.attach(name=name, directory=directory).publish_services(file, node=node)
    if as_json:
        result_json(
            {service: [str(address) for address in addresses] for service, addresses in names.items()}
        )
        return
    for service, addresses in names.items():
        click.echo(f"{service} {' '.join(map(str, addresses))}")


@lab.command(short_help="Break something, or heal it.")
@_which_lab
@click.argument("fault_name", metavar="FAULT")
@click.argument("node", required=False, default="")
@click.option("--amount", default=0, help="Percent for loss, milliseconds for delay.")
@unused_file_option
@json_option
def fault(*, name: str, directory: Path, fault_name: str, node: str, amount: int, as_json: bool) -> None:
    """Break something: FAULT on NODE; `heal` ends it (all of them without NODE). See `tsstack lab faults`.

    \b
    Examples:
      tsstack lab fault uplink exit-b    its way to the internet, and no other, is dead
      tsstack lab fault heal
    """
    from tsstack.lab.lab import Lab

    found = Lab.attach(name=name, directory=directory)
    if fault_name == "heal":
        healed = found.heal(node)
        if as_json:
            result_json({"healed": [asdict(each) for each in healed]})
            return
        for ended in healed:
            click.echo(f"{ended.name} {ended.target}: healed")
        return
    hurt = found.fault(fault_name, node, amount=amount)
    if as_json:
        result_json({"fault": fault_name, "target": hurt})
        return
    click.echo(f"{fault_name} {hurt}")


@lab.command()
@unused_file_option
@json_option
def faults(as_json: bool) -> None:
    """List the faults by name.

    \b
    Example:
      tsstack lab faults
    """
    from tsstack.lab.faults import CATALOGUE

    if as_json:
        result_json([asdict(kind) for kind in CATALOGUE.values()])
        return
    for kind in CATALOGUE.values():
        amount = f" ({kind.amount} {kind.unit})" if kind.unit else ""
        click.echo(f"{kind.name:18} {kind.effect}{amount}; default node {kind.target}")
    click.echo(f"{'heal':18} ends the faults of a node, or all")


def _print_status(status: LabStatus, as_json: bool) -> None:
    if as_json:
        result_json(asdict(status))
        return
    click.echo(_table(status))


def _table(status: LabStatus) -> str:
    lines = [f"lab {status.name}: {'up' if status.up else 'down'}"]
    for node in status.nodes:
        daemon = f"{node.daemon} {'runs' if node.running else 'DOWN'}" if node.daemon else ""
        words = [f"{node.name:12}", f"{node.address:14}", f"{daemon:16}", f"{node.state:12}"]
        words += [f"{', '.join(node.tailnet):38}", f"exit {node.exit_node}" if node.exit_node else node.role]
        lines.append("  ".join(words).rstrip())
    for active in status.faults:
        amount = f" {active.amount}" if active.amount else ""
        lines.append(f"fault: {active.name} {active.target}{amount}")
    return "\n".join(lines)


@lab.command(short_help="Find the engines, or build them once.")
@unused_file_option
@json_option
def engines(as_json: bool) -> None:
    """Find the engines, or build them from their pinned modules (minutes, once); say where they are.

    \b
    Example:
      tsstack lab engines
    """
    from tsstack.lab.engines import prepare

    found = {name: str(path) for name, path in sorted(prepare(_say).items())}
    if as_json:
        result_json(found)
        return
    for name, path in found.items():
        click.echo(f"{name:<12} {path}")
