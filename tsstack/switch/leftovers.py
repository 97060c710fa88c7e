"""Files that a killed command had begun to write: under names that no reader knows, and nobody's since."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tsstack.model.facts import Paths
from tsstack.switch.record import OVER

# What tsstack.system.files gives a file until it is whole; the number is the writer's pid.
_STAGED = re.compile(r"^\..+\.(\d+)\.new$")


def remove_leftovers(paths: Paths, *, everywhere: bool) -> None:
    """Remove staged files whose writer is gone. Needs the host's lock. Raises OSError.

    `everywhere`: in /etc too, where only a change that is under way writes.
    """
    for path in chain(
        _inside(paths.state), _inside(paths.run), paths.etc.glob("*/*/.*tsstack*.new") if everywhere else ()
    ):
        staged = _STAGED.match(path.name)
        if path.name == OVER or (staged and not Path(f"/proc/{staged[1]}").exists()):
            path.unlink(missing_ok=True)


def _inside(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())
