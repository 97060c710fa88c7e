"""The table that stands while the live generation has none, if somebody gave one (`tsstack fallback`).

Without it a host whose first switch fails, or is undone, would have no firewall at all where another one made
way for tsstack's. It lies beside the generations and looks like one; no generation points at it.
"""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LINK = "fallback"
_FOLDER = "fallbacks"


def fallback_file(state: Path, name: str) -> Path | None:
    """The file `name` of the fallback, if there is one."""
    path = state / LINK / name
    return path if path.is_file() else None


def has_fallback(state: Path) -> bool:
    """Whether there is one."""
    return (state / LINK).is_dir()


def stage_fallback(state: Path, files: Mapping[str, bytes]) -> Path:
    """Write `files` to a folder that nothing points at yet, and return it. Raises OSError."""
    from tsstack.system.files import fsync_folder, write_durably

    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    folder = state / _FOLDER / digest.hexdigest()[:16]
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, data)
    for each in (folder, folder.parent, state):
        fsync_folder(each)
    return folder


def kept_fallback(state: Path) -> Path | None:
    """The folder that is the fallback now."""
    link = state / LINK
    return state / link.readlink() if link.is_symlink() else None


def keep_fallback(state: Path, folder: Path | None) -> None:
    """Make a staged folder the fallback, in one rename; None: have none. Raises OSError."""
    from tsstack.system.files import fsync_folder, link_durably

    if folder is not None:
        link_durably(state / LINK, folder.relative_to(state))
        return
    (state / LINK).unlink(missing_ok=True)
    fsync_folder(state)


def drop_unused(state: Path) -> None:
    """Remove what is staged and no fallback. What cannot be removed does no harm."""
    kept = kept_fallback(state)
    for folder in (state / _FOLDER).glob("*"):
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)
