"""The systemd units: without them a boot brings no generation up and undoes none that nobody confirmed.

They are shipped ready in `monitor/`. A package of the distribution puts them into /usr/lib and NixOS writes
its own; for an installation by pip or pipx `install` puts them into /etc with the path of this tsstack.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed
from tsstack.system import command

BOOT_UNITS = ("tsstack-early.service", "tsstack-boot.service")
RENEWAL_UNITS = ("tsstack-renew.service", "tsstack-renew.timer")
DNS_UNITS = ("tsstack-dns.service", "tsstack-dns.path", "tsstack-dns.timer")
MONITOR_UNITS = ("tsstack-flows@.service", "tsstack-flows.socket", "tsstack-monitor.service")
OWN = Path("/etc/systemd/system")
# systemd.unit(5), "Unit File Load Path", the first wins.
_LOAD_PATH = (OWN, Path("/run/systemd/system"), Path("/usr/local/lib/systemd/system"),
              Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))  # fmt: skip
_SHIPPED_PROGRAM = "/usr/bin/tsstack"
# Nothing that systemd.service(5), "Command lines", would read as more than itself.
_PLAIN = re.compile(r"/[A-Za-z0-9._/+-]+")
_PROGRAM = re.compile(r"^ExecStart=(/\S+)", re.MULTILINE)
_TARGET = re.compile(r"^WantedBy=(\S+)$", re.MULTILINE)
_HOMES = ("/home", "/run/user")  # may be a file system of its own, mounted later than the first unit runs
_HIDDEN = ("/root", *_HOMES)  # systemd.exec(5), ProtectHome=
REMEDY = "tsstack units install"
_STARTED_BY_OTHERS = (*BOOT_UNITS, "tsstack-dns.service")
BASE_UNITS = (*BOOT_UNITS, *RENEWAL_UNITS, *DNS_UNITS)
ALL_UNITS = (*BASE_UNITS, *MONITOR_UNITS)


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of ours as the host has it."""

    name: str
    path: Path | None
    """Where systemd finds it; None: nowhere."""
    enabled: bool
    """Whether its target wants it; true of a unit that nothing enables (a template)."""
    differs: bool = False
    """Whether the one in /etc, which we put there, is not what we would put there now."""
    lost: str = ""
    """The program that it starts and that is not there (any more)."""

    @property
    def standing(self) -> bool:
        """Whether it is there and does its work."""
        return self.path is not None and self.enabled and not self.lost


def look(names: Iterable[str] = ALL_UNITS, *, root: Path = Path("/")) -> tuple[Unit, ...]:
    """The units as files below `root` say; asks no systemd, so that it costs nothing."""
    found = []
    for name in names:
        path = next((each for each in _places(name, root) if os.path.lexists(each)), None)
        target = _TARGET.search(_shipped(name))
        wants = [folder / f"{target[1]}.wants" for folder in _LOAD_PATH] if target else []
        enabled = not target or any(os.path.lexists(each / name) for each in _below(wants, root))
        ours = path is not None and path == _below([OWN], root)[0] / name and not path.is_symlink()
        differs = ours and path is not None and _is_old(name, path)
        found.append(Unit(name, path, enabled, differs, _lost_program(path, root) if path else ""))
    return tuple(found)


def missing_at_boot(*, root: Path = Path("/")) -> str:
    """What to tell of a host with systemd that would come up without tsstack; empty: all is well."""
    missing = [_wrong(unit) for unit in look(BOOT_UNITS, root=root) if not unit.standing]
    if not missing:
        return ""
    return f"a boot would not bring this up: {' and '.join(missing)}; `{REMEDY}`"


def missing_for_dns(*, root: Path = Path("/")) -> str:
    """What to tell of a host with split DNS whose units are not there to keep it; empty: they are."""
    missing = [_wrong(unit) for unit in look(DNS_UNITS, root=root) if not unit.standing]
    if not missing:
        return ""
    return f"tailscaled may clear the split DNS unseen: {' and '.join(missing)}; `{REMEDY}`"


def _wrong(unit: Unit) -> str:
    return f"{unit.name} starts {unit.lost}, which is gone" if unit.lost else f"{unit.name} not enabled"


def install(names: Iterable[str], *, root: Path = Path("/")) -> tuple[Unit, ...]:
    """Put the units there where no package did, enable them, and start what runs all the time.

    Raises CheckFailed where they could not work, ApplyFailed where systemd refuses.
    """
    names = tuple(names)
    program = _program()
    folder = _below([OWN], root)[0]
    texts: dict[Path, str] = {}
    for name in names:
        path = next((each for each in _places(name, root) if os.path.lexists(each)), folder / name)
        if path.is_symlink():
            raise CheckFailed(
                f"{path} is a link to {path.readlink()}: somebody masked it, or another tool owns it",
                hint=f"systemctl unmask {name}; on NixOS the modules provide the units",
            )
        if path.parent == folder:
            _refuse_hidden(program, name)
            texts[path] = text_of(name, program)
    for path, text in texts.items():
        _write(path, text)
    starting = [name for name in names if name not in _STARTED_BY_OTHERS and _enables(name)]
    try:
        _systemctl("daemon-reload")
        _systemctl("enable", "--quiet", *(name for name in names if _enables(name)))
        if starting:
            _systemctl("restart", *starting)
    except CommandFailed as error:
        raise ApplyFailed(f"systemd refuses: {error.message}", hint=error.hint) from error
    return look(names, root=root)


def remove(*, root: Path = Path("/")) -> tuple[str, ...]:
    """Stop and disable all, and take away those that `install` put there; returns their names.

    Raises ApplyFailed where systemd refuses. The host stays as it is until its next boot.
    """
    present = [unit for unit in look(root=root) if unit.path is not None]
    enabled = [unit.name for unit in present if _enables(unit.name)]
    running = [name for name in enabled if name not in BOOT_UNITS]
    own = _below([OWN], root)[0]
    try:
        if running:
            _systemctl("stop", *running)
        if enabled:
            _systemctl("disable", "--quiet", *enabled)
        removed = [unit for unit in present if unit.path == own / unit.name and not unit.path.is_symlink()]
        for unit in removed:
            (own / unit.name).unlink()
        _systemctl("daemon-reload")
    except CommandFailed as error:
        raise ApplyFailed(f"systemd refuses: {error.message}", hint=error.hint) from error
    return tuple(unit.name for unit in removed)


def text_of(name: str, program: Path) -> str:
    """The unit with the path of `program`. Raises CheckFailed for one that systemd would read otherwise."""
    if not _PLAIN.fullmatch(str(program)):
        raise CheckFailed(f"a unit cannot name {program}", hint="install tsstack where its path is plain")
    return _shipped(name).replace(_SHIPPED_PROGRAM, str(program))


def _program() -> Path:
    """The tsstack that runs, by the name it was called by: a link such as pipx makes outlives an upgrade."""
    called = Path(sys.argv[0])
    found = called if called.is_absolute() else command.which(called.name)
    if found is None or found.name != "tsstack":
        found = Path(sys.executable).with_name("tsstack")
    if not found.is_file():
        raise CheckFailed(f"there is no program {found}", hint="install the package, then run it by its name")
    return found


def _refuse_hidden(program: Path, name: str) -> None:
    """Raise CheckFailed for an installation in a home: mounted too late, or shut to the unit's sandbox."""
    hidden = _HIDDEN if "ProtectHome=yes" in _shipped(name) else _HOMES
    for path in (program, program.resolve(), Path(sys.prefix), Path(sys.base_prefix)):
        if any(path.is_relative_to(each) for each in hidden):
            raise CheckFailed(
                f"{name} cannot use {path}: it lies in a home, which units see too late or not at all",
                hint="in a checkout: PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install .",
            )


def _enables(name: str) -> bool:
    """Whether there is something to enable: not a template, nor a service that its timer starts."""
    return "[Install]" in _shipped(name)


def _shipped(name: str) -> str:
    from tsstack import assets

    return (assets.folder("monitor") / name).read_text(encoding="utf-8")


def _lost_program(path: Path, root: Path) -> str:
    """What the unit starts, where that is an absolute path to nothing."""
    try:
        program = _PROGRAM.search(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # a mask, or a link to nowhere: it is not enabled, or says so itself
        return ""
    if program is None or (root / program[1].lstrip("/")).exists():
        return ""
    return program[1]


def _is_old(name: str, path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    program = _PROGRAM.search(text)
    # A timer, a path, a socket names none.
    return text != (_shipped(name).replace(_SHIPPED_PROGRAM, program[1]) if program else _shipped(name))


def _places(name: str, root: Path) -> list[Path]:
    return [folder / name for folder in _below(_LOAD_PATH, root)]


def _below(folders: Iterable[Path], root: Path) -> list[Path]:
    return [root / folder.relative_to("/") for folder in folders]


def _write(path: Path, text: str) -> None:
    from tsstack.system.files import write_durably

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, text)
    except OSError as error:
        raise ApplyFailed(
            f"{path} cannot be written: {error.strerror}", hint="on NixOS the modules provide the units"
        ) from error


def _systemctl(*words: str) -> None:
    command.run(["systemctl", *words], timeout_s=60)
