"""The Debian package's version, in the order in which dpkg sees it."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

BUILDER = Path(__file__).resolve().parents[2] / "scripts" / "package-deb"
# Oldest first, as PEP 440 orders them.
VERSIONS = ("0.2.0.dev3", "0.2.0a1", "0.2.0b2.dev1", "0.2.0b2", "0.2.0rc1", "0.2.0", "0.2.0.post1", "0.2.1")


def debian_version() -> Callable[[str], str]:
    """The builder's own function. It is read, not imported: it would start itself anew."""
    tree = ast.parse(BUILDER.read_text())
    (found,) = (
        each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "debian_version"
    )
    names: dict[str, Callable[[str], str]] = {}
    code = compile(ast.Module([found], []), str(BUILDER), "exec")
    exec(code, {"re": re}, names)  # noqa: S102 - the checkout's own
    return names["debian_version"]


def test_dpkg_orders_versions_as_python_does() -> None:
    versions = [f"{debian_version()(each)}-1" for each in VERSIONS]
    for older, newer in pairwise(versions):
        words = ["dpkg", "--compare-versions", older, "lt", newer]
        assert subprocess.run(words, check=False).returncode == 0, (older, newer)


def test_a_version_of_a_commit_is_as_it_is() -> None:
    assert debian_version()("0.2.0+g1a2b3") == "0.2.0+g1a2b3"
