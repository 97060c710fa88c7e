"""Kernel parameters, read and written as files below /proc/sys."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.parts.kernel.desired import normalised, segments

# Registered for the first network namespace alone (net/core/sysctl_net_core.c): where it is missing,
# we stand in another one, and what the whole machine shares cannot be set from here.
_MACHINE_ONLY = "net.core.netdev_max_backlog"

_SHARED = ("net.core.", "net.netfilter.")

# What the kernel says when it has no such parameter or value, or does not give it to us. A full disk or a
# fault of the machine is no such answer: it says nothing about the kernel.
_REFUSALS = {
    errno.EACCES, errno.EINVAL, errno.ENODEV, errno.ENOENT, errno.ENOTDIR, errno.EOPNOTSUPP, errno.EPERM,
    errno.ERANGE, errno.EROFS,
}  # fmt: skip


class Refused(ApplyFailed):
    """This kernel does not have a parameter, or does not take the value."""


class Sysctls(NamedTuple):
    """The parameters below `root`, by canonical name."""

    root: Path = Path("/proc/sys")

    def path(self, name: str) -> Path:
        """The file of a parameter. Raises CheckFailed for a name that leads out of `root`."""
        parts = segments(name)
        if any(part in {"", ".", ".."} or "\0" in part or "/" in part for part in parts):
            raise CheckFailed(f"{name} is no kernel parameter")
        return self.root.joinpath(*parts)

    def read(self, name: str) -> str | None:
        """The live value, white space normalised; None where this host has no such parameter.

        Raises CheckFailed for a parameter that can only be written, like net.ipv4.route.flush.
        """
        try:
            return normalised(self.path(name).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CheckFailed(
                f"{name} cannot be read: {error.strerror}",
                hint="only parameters that hold a value can be managed",
            ) from error

    def is_writable(self, name: str) -> bool:
        """Whether a write could work: mode bits (a namespace shows what it shares read-only) and mount."""
        return os.access(self.path(name), os.W_OK)

    def is_shared(self, name: str) -> bool:
        """Whether the parameter belongs to the machine outside the network namespace that we stand in.

        Such a value is shown read-only here (net.netfilter.nf_conntrack_max) or not at all
        (net.core.netdev_max_backlog).
        """
        if not name.startswith(_SHARED) or self.read(_MACHINE_ONLY) is not None:
            return False
        path = self.path(name)
        if not path.exists():
            return name.startswith("net.core.")
        return path.stat().st_mode & 0o222 == 0

    def write(self, name: str, value: str) -> None:
        """Set a parameter, in one write(2) as proc(5) asks.

        Raises Refused where this kernel does not have it so, ApplyFailed for anything else.
        """
        try:
            descriptor = os.open(self.path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(descriptor, f"{value}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            failure = Refused if error.errno in _REFUSALS else ApplyFailed
            raise failure(f"{name} = {value}: {_reason(error)}") from error

    def nearest(self, name: str) -> str:
        """An existing parameter that resembles `name`, or an empty string."""
        import difflib

        parts = name.split(".")
        folder = self.root
        found: list[str] = []
        for part in parts:
            names = [entry.name.replace(".", "/") for entry in _entries(folder)]
            close = [part] if part in names else difflib.get_close_matches(part, names, 1, 0.6)
            if not close:
                return ""
            found.append(close[0])
            folder /= close[0].replace("/", ".")
        return ".".join(found) if folder.is_file() else ""

    def interfaces_with(self, family: str, key: str) -> tuple[str, ...]:
        """Canonical names of `key` for every interface of `family` (ipv4, ipv6)."""
        folder = self.root / "net" / family / "conf"
        return tuple(f"net.{family}.conf.{entry.name.replace('.', '/')}.{key}" for entry in _entries(folder))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EROFS:
            return "/proc/sys is read-only here (a container?)"
        case errno.EACCES | errno.EPERM:
            return "the kernel does not let us write it here"
        case errno.EINVAL | errno.ERANGE:
            return "the kernel refuses this value"
        case _:
            return str(error.strerror)
