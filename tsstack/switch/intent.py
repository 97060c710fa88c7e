"""From the file to what a change is to make: load, lint, render; or none of it when nothing is new."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack import assets
from tsstack.errors import ApplyFailed, CheckFailed, ConfigError, Finding
from tsstack.model.facts import Facts
from tsstack.parts.part import Part, Tree
from tsstack.switch.facts import input_digest
from tsstack.switch.generations import part_tree
from tsstack.switch.site import Site
from tsstack.switch.transaction import Wanted
from tsstack.system.files import LARGEST_FILE_BYTES, read_bounded

if TYPE_CHECKING:
    from tsstack.model.loader import LoadedStack
    from tsstack.model.stack import Stack


@dataclass(frozen=True)
class Intent:
    """What the file asks for, and what lint had to say. `loaded` is None when nothing had to be read anew."""

    wanted: Wanted
    findings: tuple[Finding, ...] = ()
    loaded: LoadedStack | None = None


def render(stack: Stack, facts: Facts, parts: Sequence[Part]) -> dict[str, str]:
    """All parts' trees as one. Raises ValueError when a part writes outside its own folder."""
    tree: dict[str, str] = {}
    for part in parts:
        own = dict(part.desired(stack, facts))
        if own.keys() != part_tree(own, part.folder).keys():
            raise ValueError(f"{part.name} renders outside {part.folder}/")
        tree.update(own)
    return tree


def render_loaded(loaded: LoadedStack, facts: Facts, parts: Sequence[Part]) -> dict[str, str]:
    """All parts' trees for a file. Raises CheckFailed with the place in the file."""
    with located(loaded):
        return render(loaded.stack, facts, parts)


@contextmanager
def located(loaded: LoadedStack | None) -> Iterator[None]:
    """Put file:line:column in front of a refusal whose message names a key of the file."""
    try:
        yield
    except (CheckFailed, ApplyFailed) as error:
        place = _place_of(error.message, loaded) if loaded is not None else ""
        if place and not error.message.startswith(place):
            error.message = f"{place}: {error.message}"
            error.args = (error.message,)
        raise


# What a part writes in front of a refusal, or in brackets behind what it is about.
_KEY_PATH = re.compile(r"(?:^|[ (])([a-z]+\.[^\s():;,]+)")


def _place_of(message: str, loaded: LoadedStack) -> str:
    """`file:line:column` of the first key path in the message that the file has; empty without one."""
    for match in _KEY_PATH.finditer(message):
        steps = loaded.document.split(match[1].rstrip("."))
        if len(steps) > 1 and steps[0] in loaded.document.sections:
            file, line, column = loaded.place(steps)
            return f"{file}:{line}:{column}"
    return ""


def load(
    file: Path, facts: Facts | None, source: bytes | None = None
) -> tuple[LoadedStack, tuple[Finding, ...]]:
    """Read and lint the file. Raises ConfigError with all findings when one of them is an error.

    `source` is what was read of it before: a pipe (`-c <(...)`) gives its bytes but once.
    """
    from tsstack.model.lint import lint
    from tsstack.model.loader import load_stack, parse_stack

    presets = _shipped_presets()
    loaded = load_stack(file, presets) if source is None else parse_stack(source, file, presets)
    findings = lint(loaded, facts)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        faults = "1 fault" if len(errors) == 1 else f"{len(errors)} faults"
        raise ConfigError(f"{file} has {faults}", findings=findings)
    return loaded, findings


@cache
def _shipped_presets() -> Mapping[str, Mapping[str, Any]]:
    from tsstack.model.loader import load_presets

    return load_presets(assets.folder("zones"))


def read_intent(site: Site, file: Path, facts: Facts) -> Intent:
    """What `file` asks of this host.

    When nothing that goes into rendering has changed since the live generation was made, its tree is
    taken as it is. Raises ConfigError.
    """
    source = read_source(file)
    digest = input_digest(source, facts)
    live = site.store.current()
    if live and site.store.rendered_from(live) == digest and not site.store.fault(live):
        tree: Tree = site.store.tree(live)
        return Intent(Wanted(tree, source, str(file), digest, generation=live))
    loaded, findings = load(file, facts, source)

    def render_for(known: Facts) -> tuple[Tree, str]:
        return render_loaded(loaded, known, site.parts), input_digest(source, known)

    tree, digest = render_for(facts)
    return Intent(Wanted(tree, source, str(file), digest, render=render_for), findings, loaded)


def read_generation(site: Site, number: int) -> Intent:
    """What generation `number` asks of this host; nothing is rendered. Raises UsageError."""
    manifest = site.store.manifest(number)
    return Intent(Wanted(site.store.tree(number), b"", manifest.source, generation=number))


def build_facts(facts: Facts, out: Path) -> Facts:
    """Facts for a build that is only looked at: certificates, logs and the pid file lie below `out`.

    No compiled templates: `out` is anybody's.
    """
    root = out / "nginx"
    paths = replace(facts.paths, state=root, run=root / "run", log=root / "log", templates=None)
    return replace(facts, paths=paths)


def read_source(file: Path) -> bytes:
    """The file's bytes. Raises ConfigError."""
    try:
        return read_bounded(file, limit_bytes=LARGEST_FILE_BYTES, pipes=True)
    except (OSError, ValueError) as error:
        from tsstack.model.document import unreadable

        raise unreadable(str(file), error) from error
