"""The machine beneath: room on disk, a clock that is right, a boot that brings the host up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tsstack.doctor.finding import Finding, Level, listed

# A generation takes some 100 kB; logs and the monitor's history share the disk.
_LITTLE_BYTES, _NO_BYTES = 100 << 20, 8 << 20
_FEW_INODES, _NO_INODES = 1000, 50
# TLS and the control protocol forgive minutes, one-time logins do not; NTP keeps milliseconds.
_CLOCK_WARNS_S, _CLOCK_IS_WRONG_S = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that holds `path`."""

    path: str
    free_bytes: int
    free_inodes: int | None
    """None where the file system counts none."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """How right the clock is."""

    disciplined: bool | None
    """Whether something keeps it (adjtimex(2), STA_UNSYNC); None: the kernel does not say."""
    ahead_s: float | None = None
    """Of the control server's; None: not asked, or no answer."""
    margin_s: float = 1.0
    """How wrong `ahead_s` may be: Date has whole seconds (RFC 9110 section 6.6.1), and answers travel."""
    server: str = ""
    url: str = ""
    """Where it was asked."""
    uplink: str = ""
    """By which interface, past an exit node; empty: as the routes say."""
    fault: str = ""
    """Why the control server gave no time."""


@dataclass(frozen=True, slots=True)
class Units:
    """The systemd units; `missing` is a sentence, empty when a boot brings the host up."""

    missing: str = ""
    old: tuple[str, ...] = ()


def check_disks(disks: Sequence[Disk]) -> Iterator[Finding]:
    """Room for generations, for state and for logs."""
    for disk in disks:
        if disk.read_only:
            fix = f"mount -o remount,rw $(findmnt -no TARGET -T {disk.path})"
            yield Finding(
                "TS823", "error", disk.path, "the file system is read-only: no switch can work", fix
            )
        free = f"{disk.free_bytes / (1 << 20):,.0f} MiB free"
        if disk.free_bytes < _LITTLE_BYTES:
            level: Level = "error" if disk.free_bytes < _NO_BYTES else "warning"
            yield Finding(
                "TS821", level, disk.path, free, f"df -h {disk.path}; tsstack generations --prune 5"
            )
        elif not disk.read_only:
            yield Finding("TS821", "ok", disk.path, free)
        if disk.free_inodes is not None and disk.free_inodes < _FEW_INODES:
            level = "error" if disk.free_inodes < _NO_INODES else "warning"
            words = f"{disk.free_inodes} inodes free: no new file can be made soon"
            yield Finding("TS822", level, disk.path, words, f"df -i {disk.path}; du --inodes -x {disk.path}")


def check_clock(clock: Clock) -> Iterator[Finding]:
    """The control server's clock decides; without it, whether anything keeps ours."""
    ahead_s = clock.ahead_s
    if ahead_s is not None:
        off_s = max(0.0, abs(ahead_s) - clock.margin_s)
        words = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} {clock.server}"
        if off_s > _CLOCK_WARNS_S:
            level: Level = "error" if off_s > _CLOCK_IS_WRONG_S else "warning"
            yield Finding("TS825", level, "clock", words, "timedatectl set-ntp true; chronyc makestep")
            return
        kept = "" if clock.disciplined is not False else ", though nothing on this host keeps it (no NTP)"
        yield Finding("TS825", "ok", "clock", f"agrees with {clock.server}{kept}")
        return
    if clock.fault:
        by = f"--interface {clock.uplink} " if clock.uplink else ""
        yield Finding("TS826", "warning", clock.server, clock.fault, f"curl -vI {by}{clock.url}")
    if clock.disciplined is False:
        words = "nothing keeps the clock: the kernel says that it is not synchronised"
        yield Finding(
            "TS824", "warning", "clock", words, "timedatectl set-ntp true; timedatectl timesync-status"
        )
    elif clock.disciplined:
        yield Finding("TS824", "ok", "clock", "synchronised")


def check_units(units: Units | None) -> Iterator[Finding]:
    """None: this host has no systemd."""
    if units is None:
        return
    if units.missing:
        fix = "tsstack units install    # on NixOS: nixos-rebuild switch"
        yield Finding("TS827", "warning", "units", units.missing, fix)
    else:
        yield Finding("TS827", "ok", "units", "a boot brings the host up")
    if units.old:
        words = f"of another version: {listed(units.old)}"
        yield Finding("TS828", "warning", "units", words, "tsstack units install")
