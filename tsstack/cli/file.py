"""Verbs about the file: init, check, build, diff, schema."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsstack.cli.options import file_option, json_option, unused_file_option
from tsstack.cli.output import finding_dict, print_findings, result, result_json, style
from tsstack.errors import ConfigError, Finding, UsageError
from tsstack.switch.generations import write_tree
from tsstack.switch.intent import build_facts, load, located, render_loaded
from tsstack.switch.plan import diff_trees
from tsstack.switch.site import Site

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.loaded import LoadedStack

# The parts whose engines can judge a rendered file without the host's daemons.
_STANDALONE = {"firewall": "nft", "proxy": "nginx"}

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
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder")
    if out.exists() and any(out.iterdir()):
        if not (out / _BUILD_MARK).is_file():
            raise UsageError(f"{out} is not empty", hint="name a new folder, or that of an earlier build")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _BUILD_MARK).touch()
        write_tree(out, tree)
        if any(path.startswith("nginx/") for path in tree):
            from tsstack.parts.proxy.placeholders import write_placeholders

            write_placeholders(out, tree)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
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
@click.option("--file-only", is_flag=True, help="Do not ask nft and nginx.")
def check(file: Path, as_json: bool, file_only: bool) -> None:
    """Judge the file: every fault and contradiction at once, each with its place and what to write instead.

    Then, where they are installed, nft and nginx judge what is rendered from it. Exit code 3 when the
    file is invalid, 4 when an engine refuses the result.
    """
    site = Site()
    facts = site.facts()
    try:
        loaded, findings = load(file, facts)
    except ConfigError as error:
        if as_json:
            result_json({"findings": [finding_dict(each) for each in error.findings]})
        else:
            print_findings(error.findings, to_stdout=True)
        raise click.exceptions.Exit(error.exit_code) from error
    asked = [] if file_only else _ask_engines(loaded, facts, site)
    if as_json:
        result_json({"findings": [finding_dict(each) for each in findings]})
        return
    print_findings(findings, to_stdout=True)
    warnings = sum(each.severity == "warning" for each in findings)
    accepted = f"; {' and '.join(asked)} accept{'s' * (len(asked) == 1)} what it renders to" if asked else ""
    result(
        f"{file}: valid"
        + (f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else "")
        + accepted
    )


def _ask_engines(loaded: LoadedStack, facts: Facts, site: Site) -> list[str]:
    """Stage what the file renders to in a scratch folder and let the engines that are here judge it.

    Returns those that were asked. Raises CheckFailed.
    """
    from tsstack.system.command import which
    from tsstack.system.scratch import Scratch

    asked = []
    with Scratch() as folder:
        write_tree(folder, render_loaded(loaded, facts, site.parts))
        for part in site.parts:
            engine = _STANDALONE.get(part.name)
            if engine and which(engine) and (folder / part.folder).is_dir():
                with located(loaded):
                    part.check(folder, facts)
                asked.append(engine)
    return asked


@click.command()
@file_option
@json_option
def diff(file: Path, as_json: bool) -> None:
    """Show how the files rendered now differ from those of the live generation, part by part."""
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
    """
    from tsstack.model.schema import json_schema

    result_json(json_schema())
