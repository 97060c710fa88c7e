"""The only code that finds shipped files: templates, zone presets, NixOS modules, units, examples.

An installed package carries them under `tsstack/_assets`; a checkout (and an editable install) has
them beside `pyproject.toml`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tsstack.errors import TsstackError

FOLDERS = ("templates", "zones", "modules", "monitor", "examples")


@cache
def root() -> Path:
    """The folder that holds the data folders.

    Raises TsstackError when neither the installed nor the checkout layout is there.
    """
    package = Path(__file__).resolve().parent
    installed = package / "_assets"
    if installed.is_dir():
        return installed
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file():
        return checkout
    raise TsstackError(
        f"the data folders of tsstack are missing beside {package}",
        hint="reinstall the package; in a checkout: pipx install --force .",
    )


def folder(name: str) -> Path:
    """The shipped folder `name`, one of `FOLDERS`."""
    if name not in FOLDERS:
        raise ValueError(f"no such data folder: {name}")
    path = root() / name
    if not path.is_dir():
        raise TsstackError(f"the data folder {path} is missing", hint="reinstall the package")
    return path
