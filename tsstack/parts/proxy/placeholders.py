"""Makes a built folder acceptable to `nginx -t` on its own, on any machine and for any user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.parts.proxy.plan import PLAN, parse_plan

if TYPE_CHECKING:
    from tsstack.parts.part import Tree

_PATHS = re.compile(r"^(?:pid|error_log) (\S+?)[; ]", re.MULTILINE)


def write_placeholders(directory: Path, tree: Tree) -> None:
    """Make the folders and throwaway certificates that the tree written to `directory` names.

    Only below `directory`: a tree that was rendered for the host's own paths gets none. Raises OSError.
    """
    if PLAN not in tree:
        return
    root = directory.resolve()
    folders = {Path(path).parent for path in _PATHS.findall(tree["nginx/nginx.conf"])}
    for folder in folders:
        if folder.resolve().is_relative_to(root):
            folder.mkdir(parents=True, exist_ok=True)
    plan = parse_plan(tree[PLAN])
    ours = [one for one in plan.certificates if Path(one.certificate).resolve().is_relative_to(root)]
    if ours:
        from tsstack.parts.proxy.authority import write_placeholder

        for certificate in ours:
            write_placeholder(certificate)
