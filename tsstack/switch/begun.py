"""Whether this boot has had its generation: from then on what is live is what somebody has asked for."""

from __future__ import annotations

from pathlib import Path

from tsstack.errors import CommandFailed
from tsstack.switch.record import read_boot_id
from tsstack.switch.site import Site
from tsstack.system.command import run
from tsstack.system.files import write_durably
from tsstack.system.processes import process_start


def has_begun(site: Site) -> bool:
    """Since this boot of the machine, or start of the container."""
    return _is_same(_noted(site), _this_boot())


def note_begun(site: Site) -> None:
    """What is not known now stays as it was noted. Raises OSError."""
    noted, now = _noted(site), _this_boot()
    kept = [new or old for old, new in zip(noted, now, strict=True)] if _is_same(noted, now) else now
    if kept != noted:
        site.paths.run.mkdir(parents=True, exist_ok=True)
        write_durably(_mark(site), "\n".join(kept))


def _noted(site: Site) -> list[str]:
    try:
        return _mark(site).read_text(encoding="ascii").split("\n")
    except FileNotFoundError:
        return []


def _is_same(noted: list[str], now: list[str]) -> bool:
    return len(noted) == len(now) and all(map(_agree, noted, now))


def _agree(noted: str, now: str) -> bool:
    """What was not known one of the two times (proc(5), hidepid; a systemd that hangs) tells nothing."""
    return noted == now or not (noted and now)


def _this_boot() -> list[str]:
    """A container that is started anew may keep /run, and the boot id: its first process is another.

    So does systemctl(1)'s soft-reboot, with the first process too: systemd says when its own boot began.
    """
    return [read_boot_id(), process_start(1), _userspace()]


def _userspace() -> str:
    """org.freedesktop.systemd1(5), UserspaceTimestampMonotonic; it outlives a daemon-reexec."""
    if not Path("/run/systemd/system").exists():  # sd_booted(3)
        return ""
    words = ["systemctl", "show", "--property=UserspaceTimestampMonotonic", "--value"]
    try:
        return run(words, timeout_s=10, check=False).stdout.strip()
    except CommandFailed:  # a systemd that hangs keeps no host down, and makes no failure of what is done
        return ""


def _mark(site: Site) -> Path:
    return site.paths.run / "begun"
