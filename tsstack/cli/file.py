"""Verbs about the file: init, check, build, diff, schema."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsstack.cli.options import DEFAULT_FILE, file_option, json_option, unused_file_option
from tsstack.cli.output import chatter, finding_dict, print_findings, result, result_json, style
from tsstack.errors import ConfigError, Finding, UsageError
from tsstack.switch.generations import write_tree
from tsstack.switch.intent import build_facts, load, located, render_loaded
from tsstack.switch.plan import diff_trees
from tsstack.switch.site import Site

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.loaded import LoadedStack

# The parts whose engines can judge a rendered file without the host's daemons.
_STANDALONE = {"firewall", "proxy"}
_ENGINES = {
    "firewall": "nft",
    "proxy": "nginx",
    "tailscale": "tailscaled",
    "kernel": "the kernel",
    "dns": "DNS",
}

_BUILD_MARK = ".tsstack-build"


@click.command()
@unused_file_option
@json_option
def init(as_json: bool) -> None:
    """Write a starter file to stdout, from what this host has; nothing is changed.

    \b
    Example:
      tsstack init > /etc/tsstack/tsstack.yaml
    """
    from tsstack.model.starter import starter_file
    from tsstack.system.inventory import discover

    text = starter_file(discover())
    result_json({"file": text}) if as_json else click.echo(text, nl=False)


def _build(file: Path, out: Path, site: Site) -> tuple[Finding, ...]:
    """Render everything into `out`, which must be empty or absent, or an earlier build."""
    facts = build_facts(site.facts(), out)
    loaded, findings = load(file, facts)
    tree = render_loaded(loaded, facts, site.parts)
    try:
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out} is not a folder")
        if out.exists() and any(out.iterdir()):
            if not (out / _BUILD_MARK).is_file():
                raise UsageError(f"{out} is not empty", hint="name a new folder, or that of an earlier build")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / _BUILD_MARK).touch()
        write_tree(out, tree)
        if any(path.startswith("nginx/") for path in tree):
            from tsstack.parts.proxy.placeholders import write_placeholders

            write_placeholders(out, tree)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written: {error.strerror}", hint="name a folder of yours"
        ) from error
    return findings


@click.command()
@file_option
@json_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder to fill."
)
def build(file: Path, as_json: bool, out: Path) -> None:
    """Render everything into a folder: no root, no effect on the host.

    nginx's configuration is in DIR/nginx, the packet filter's table in DIR/nftables/tsstack.nft.
    Certificates there are throwaways: `nginx -t -c DIR/nginx/nginx.conf` accepts the result as it stands.

    \b
    Examples:
      tsstack -c host.yaml build --out /tmp/rendered
      nginx -t -c /tmp/rendered/nginx/nginx.conf
    """
    out = out.absolute()
    findings = _build(file, out, Site())
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    shown = [name for name in files if not name.startswith(".")]
    if as_json:
        result_json({"out": str(out), "files": shown, "findings": [finding_dict(each) for each in findings]})
        return
    print_findings([each for each in findings if each.severity != "info"], to_stdout=False)
    for name in shown:
        result(f"{out}/{name}")


@click.command()
@file_option
@json_option
@click.option(
    "--file-only", is_flag=True, help="Judge the file alone: ask neither nft and nginx nor this host."
)
def check(file: Path, as_json: bool, file_only: bool) -> None:
    """Judge the file: every fault and contradiction at once, each with its place and what to write instead.

    Then, where they are installed, nft and nginx judge what is rendered from it. For root, on the host that
    the file is about, the kernel, tailscaled and DNS are asked as well, as before a switch. Exit code 3 when
    the file is invalid, 4 when one of them refuses the result.

    \b
    Examples:
      tsstack check
      tsstack -c new.yaml check --json | jq '.findings[]'
    """
    site = Site()
    facts = site.facts()
    try:
        loaded, findings = load(file, None if file_only else facts)
    except ConfigError as error:
        if as_json:
            result_json({"findings": [finding_dict(each) for each in error.findings]})
        else:
            print_findings(error.findings, to_stdout=True)
        raise click.exceptions.Exit(error.exit_code) from error
    judged = Judged() if file_only else _ask(loaded, facts, site)
    if as_json:
        shown = [finding_dict(each) for each in findings]
        result_json({"findings": shown, "asked": judged.asked, "warnings": judged.warnings})
        return
    print_findings(findings, to_stdout=True)
    for line in judged.warnings:
        result(f"{style('warning:', fg='yellow', bold=True)} {line}")
    warnings = sum(each.severity == "warning" for each in findings) + len(judged.warnings)
    asked = judged.asked
    who = " and ".join(filter(None, (", ".join(asked[:-1]), *asked[-1:])))
    accepted = f"; {who} accept{'s' * (len(asked) == 1)} what it renders to" if asked else ""
    result(
        f"{file}: valid"
        + (f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else "")
        + accepted
    )
    if judged.left_out:
        chatter(f"this host was not asked whether it can do it: {judged.left_out}")


@dataclass(frozen=True)
class Judged:
    """Who judged what the file renders to, and what they said."""

    asked: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: str = ""
    """Why this host was not asked; empty where it was."""


def _ask(loaded: LoadedStack, facts: Facts, site: Site) -> Judged:
    """Stage what the file renders to in a scratch folder and let the engines that are here judge it.

    Where the file is this host's own, every part looks at the host as it does before a switch. Raises
    CheckFailed.
    """
    from tsstack.switch.intent import Intent
    from tsstack.switch.transaction import Wanted, unmet_warnings
    from tsstack.switch.verbs import refuse_vanished_uplink
    from tsstack.system.command import which
    from tsstack.system.scratch import Scratch

    why_not = _why_not_this_host(loaded, facts, site)
    asked: list[str] = []
    warnings: list[str] = []
    with Scratch() as folder, located(loaded):
        tree = render_loaded(loaded, facts, site.parts)
        write_tree(folder, tree)
        if not why_not:
            refuse_vanished_uplink(Intent(Wanted(tree), loaded=loaded), facts)
        for part in site.parts:
            if not (folder / part.folder).is_dir():
                continue
            engine = _ENGINES.get(part.name, part.name)
            standalone = part.name in _STANDALONE
            if (standalone and which(engine)) or not (standalone or why_not):
                part.check(folder, facts)
                asked += [engine] if engine != part.name else []
        if os.geteuid() == 0:
            warnings += unmet_warnings(site, tree, facts)
    return Judged(asked, warnings, why_not)


def _why_not_this_host(loaded: LoadedStack, facts: Facts, site: Site) -> str:
    """Why the host that this runs on is not the one to ask; empty when it is.

    A file is also judged where it is written. It is this host's own when it says so by `host.name`, lies
    where the verbs look for it, or is what the live generation came from.
    """
    file, name = Path(loaded.document.file), loaded.stack.host.name
    live = site.store.current()
    if site.store.fault(live):
        live = 0
    known = {DEFAULT_FILE.resolve(), *((Path(site.store.manifest(live).source).resolve(),) if live else ())}
    tailnet_name = facts.tailscale.dns_name.partition(".")[0] if facts.tailscale else ""
    here = {socket.gethostname().partition(".")[0].lower(), tailnet_name.lower()}
    if name.lower() not in here and file.resolve() not in known:
        return f"host.name is {name}, and this is {' or '.join(sorted(here - {''}))}"
    return "" if os.geteuid() == 0 else "that takes root"


@click.command()
@file_option
@json_option
def diff(file: Path, as_json: bool) -> None:
    """Show how the files rendered now differ from those of the live generation, part by part.

    \b
    Examples:
      tsstack diff
      tsstack -c new.yaml diff | less -R
    """
    site = Site()
    facts = site.facts()
    loaded, _ = load(file, facts)
    live = site.store.current()
    before = site.store.tree(live) if live else {}
    differences = tuple(diff_trees(before, render_loaded(loaded, facts, site.parts)))
    if as_json:
        result_json({"files": [{"path": each.path, "diff": list(each.lines)} for each in differences]})
        return
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for each in differences:
        for line in each.lines:
            how = {"bold": True} if line.startswith(("+++", "---")) else {"fg": colours.get(line[:1])}
            result(style(line, **how))
    if not differences:
        result(f"no difference to generation {live}")


@click.command()
@unused_file_option
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of the file.

    \b
    For editors with yaml-language-server, put this line at the top of the file:
      # yaml-language-server: $schema=/etc/tsstack/schema.json

    \b
    Example:
      tsstack schema > /etc/tsstack/schema.json
    """
    from tsstack.model.schema import json_schema

    result_json(json_schema())
