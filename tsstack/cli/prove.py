"""The verb that proves the file with packets."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsstack.cli.options import file_option, json_option
from tsstack.cli.output import chatter, print_findings, result, result_json, style
from tsstack.errors import CheckFailed
from tsstack.model.host_codes import ONE_FAMILY_NOT_FORWARDED, PING_UNANSWERED
from tsstack.switch.generations import write_tree
from tsstack.switch.intent import load, render
from tsstack.switch.proof import IPV4_ALONE
from tsstack.switch.site import Site

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.loaded import LoadedStack
    from tsstack.prove.expected import Oracle
    from tsstack.prove.matrix import Mark, Table
    from tsstack.prove.proof import Proof, Row
    from tsstack.prove.vhosts import Hearing, VhostExperiment

_PLAIN: dict[Mark, str] = {"open": "+", "closed": ".", "mixed": "~", "wrong": "X", "unasked": " "}
_SIGNS: dict[Mark, str] = {"open": "✓", "closed": "·", "mixed": "±", "wrong": "✗", "unasked": " "}
_COLOURS: dict[Mark, dict[str, str | bool]] = {
    "open": {"fg": "green"},
    "closed": {"dim": True},
    "mixed": {"fg": "yellow"},
    "wrong": {"fg": "red", "bold": True},
    "unasked": {},
}
_SHOWN = 20
_LISTED = 40
_PROVEN = {"firewall", "proxy"}
# What the kernel does otherwise than the rules, as the file has it.
_BESIDE_THE_RULES = {PING_UNANSWERED.code, ONE_FAMILY_NOT_FORWARDED.code}


@click.command()
@file_option
@json_option
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Which packets are chosen."
)
def prove(file: Path, as_json: bool, seed: int) -> None:
    """Prove with real packets and requests that the host would do what the file says.

    The rules are loaded in a throwaway network that has this host's interfaces; this host itself is not
    touched. Thousands of TCP, UDP and ICMP packets of IPv4 and IPv6 are sent from every zone, and from
    those who only pretend to be in one, to this host and through it. What the kernel does with each is
    compared with what the file says, worked out by code that shares nothing with the renderer. nginx is
    started there too and asked for every service by its name; stand-ins take the place of the upstreams.

    Exit code 4 if they differ. Needs root, or user namespaces and /dev/net/tun.

    \b
    Example:
      tsstack -c tsstack.yaml prove --seed 7
    """
    from tsstack.prove.expected import Oracle
    from tsstack.prove.proof import prove_generation
    from tsstack.prove.vhosts import Hearing
    from tsstack.system.scratch import Scratch

    site = Site()
    facts = site.facts()
    loaded, findings = load(file, facts)
    with Scratch() as folder, ExitStack() as stack:
        tree = render(loaded.stack, facts, [part for part in site.parts if part.name in _PROVEN])
        write_tree(folder, tree)
        vhosts = _begin_vhosts(stack, loaded, facts, folder)
        proof = prove_generation(loaded.stack, facts, folder, seed=seed)
        hearing = vhosts.run() if vhosts else Hearing(())
    if as_json:
        result_json(
            {
                "checks": proof.checks + hearing.checks,
                "mismatches": len(proof.mismatches) + len(hearing.mismatches),
                "ipv6": proof.ipv6,
                "matrix": [*proof.matrix, *hearing.matrix],
            }
        )
    else:
        print_findings([each for each in findings if each.code in _BESIDE_THE_RULES], to_stdout=False)
        if not proof.checks and not hearing.checks:
            result("the file asks for no firewall and no services: there is nothing to prove")
        print_proof(Oracle(loaded.stack, facts), proof, loaded)
        print_hearing(hearing, loaded)
    if proof.mismatches or hearing.mismatches:
        raise click.exceptions.Exit(CheckFailed.exit_code)


def _begin_vhosts(
    stack: ExitStack, loaded: LoadedStack, facts: Facts, folder: Path
) -> VhostExperiment | None:
    """nginx on the rendered files, asked while the packets are sent; None where there are no services."""
    from tsstack.prove.vhosts import VhostExperiment, has_vhosts

    if not has_vhosts(loaded.stack, folder):
        return None
    if facts.nginx is None:
        chatter("nginx is not installed here: the services were not asked by name")
        return None
    return stack.enter_context(VhostExperiment(loaded.stack, facts, folder))


def print_hearing(hearing: Hearing, loaded: LoadedStack) -> None:
    """What was asked by name; of very many services only what differs, then the count."""
    if not hearing.checks:
        return
    result(style("By name", bold=True))
    plain = [each for each in hearing.answers if not each.question.about]
    if len(plain) <= _LISTED:
        for each in plain:
            paint = _paint("wrong" if not each.agrees else "open" if each.question.passes else "closed")
            result(f"  {paint} {each.question}  {each.seen}")
    for each in hearing.mismatches[:_SHOWN]:
        file, line, column = loaded.place(each.question.key)
        place = f"{file}:{line}:{column}: " if line else ""
        result(f"{_paint('wrong')} {each.question}")
        result(f"    {place}{each.question.key} says {each.question.expected}, seen is {each.seen}")
    if len(hearing.mismatches) > _SHOWN:
        result(f"... and {len(hearing.mismatches) - _SHOWN} more; --json prints them all")
    if hearing.shared_handshakes:
        result(f"{hearing.shared_handshakes} of the requests went over connections that were open already")
    result(
        f"{hearing.checks} requests and sockets in {hearing.duration_s:.1f} s: "
        f"{_count(len(hearing.mismatches))}"
    )


def _count(mismatches: int) -> str:
    words = f"{mismatches} mismatch{'' if mismatches == 1 else 'es'}"
    return style(words, fg="red" if mismatches else "green", bold=True)


def print_proof(oracle: Oracle, proof: Proof, loaded: LoadedStack) -> None:
    """The tables, then what differs, each with its place in the file, then the counts."""
    from tsstack.prove.matrix import arriving_table, passing_table

    if not proof.checks:
        return
    _print_table("To this host, from", arriving_table(oracle, proof))
    _print_table("Through this host, from (rows) to (columns)", passing_table(oracle, proof))
    signs = _signs()
    meanings = {
        "open": "passes",
        "closed": "refused",
        "mixed": "some of it passes",
        "wrong": "not as the file says",
    }
    result("   ".join(f"{_paint(mark)} {text}" for mark, text in zip(signs, meanings.values(), strict=False)))
    for row in proof.mismatches[:_SHOWN]:
        _print_mismatch(row, loaded)
    if len(proof.mismatches) > _SHOWN:
        result(f"... and {len(proof.mismatches) - _SHOWN} more; --json prints them all")
    text = _count(len(proof.mismatches))
    result(f"{proof.checks} packets sent in {proof.duration_s:.1f} s (seed {proof.seed}): {text}")
    if not proof.ipv6:
        result(IPV4_ALONE)


def _signs() -> dict[Mark, str]:
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return _SIGNS if encoding == "utf8" else _PLAIN


def _paint(mark: Mark) -> str:
    return style(_signs()[mark], **_COLOURS[mark])


def _print_table(title: str, table: Table) -> None:
    """The table in as many blocks of columns as the terminal needs."""
    if not table.rows:
        return
    result(style(title, bold=True))
    names = max(map(len, table.rows))
    room = shutil.get_terminal_size((100, 24)).columns - names - 4
    columns = list(table.columns)
    while columns:
        block: list[str] = []
        while columns and (not block or sum(len(each) + 2 for each in [*block, columns[0]]) <= room):
            block.append(columns.pop(0))
        result("  " + " " * names + "".join(f"  {each}" for each in block))
        for row in table.rows:
            cells = [table.cells.get((row, each)) for each in block]
            marks: list[Mark] = [cell.mark if cell else "unasked" for cell in cells]
            shown = "".join(
                f"  {_paint(mark)}{' ' * (len(each) - 1)}" for mark, each in zip(marks, block, strict=True)
            )
            result(f"  {row:<{names}}{shown}".rstrip())
        result()


def _print_mismatch(row: Row, loaded: LoadedStack) -> None:
    file, line, column = loaded.place(row.path)
    place = f"{file}:{line}:{column}: " if line else ""
    zones = f"from {row.source} to {row.target}"
    result(f"{_paint('wrong')} {row.packet} ({zones})")
    result(f"    {place}{row.path} says {row.expected.outcome}, the kernel does {row.seen}")
