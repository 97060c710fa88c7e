"""The certificate files on disk, as far as they can be told apart without parsing X.509.

Nothing here imports more than the standard library: an idle switch passes through.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tsstack.parts.part import JsonValue
    from tsstack.parts.proxy.plan import Certificate

# Chains have a few certificates of some 2 KiB; PKCS#8 keys are smaller.
MOST_BYTES = 1 << 20
_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----.*?-----END (?:X509 |TRUSTED )?CERTIFICATE-----",
    re.DOTALL,
)

Mark: TypeAlias = "dict[str, JsonValue]"
"""What tells one content of a pair of files from another: JSON, nothing of the key itself."""


class NoPlainFile(OSError):
    """Something that is there and cannot be a certificate's file: a device, a pipe, a giant."""


def read_plain(path: Path) -> bytes:
    """The whole content of a regular file of at most 1 MiB.

    Never waits for a pipe's other end, nor reads a device. Raises OSError, whose `strerror` says why.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NoPlainFile(errno.EINVAL, "it is no regular file", str(path))
        data = b""
        # Not the size that stat(2) gives: files of /proc and /sys have none.
        while len(data) <= MOST_BYTES and (more := file.read(MOST_BYTES + 1 - len(data))):
            data += more
    if len(data) > MOST_BYTES:
        raise NoPlainFile(errno.EFBIG, f"it has more than {MOST_BYTES >> 20} MiB", str(path))
    return data


def is_plain(path: str) -> bool:
    """Whether `read_plain` would give it to this user."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES and os.access(path, os.R_OK)


def mark_pair(certificate: Certificate, known: Mark | None = None) -> Mark | None:
    """The mark of the user's own pair as it is on disk now, None when it cannot be read.

    Who has a `known` mark spares reading: files that were not touched since are not opened. The chain is
    told by its content, the key by its inode, size and time alone.
    """
    try:
        files: JsonValue = {
            "certificate": _stamp(certificate.source_certificate),
            "key": _stamp(certificate.source_key),
        }
        if known is not None and known.get("files") == files:
            return known
        return {"files": files, "chain": _digest_chain(Path(certificate.source_certificate))}
    except PermissionError:  # who may not look cannot tell that it is another
        return known
    except OSError:
        return None


def is_same(mark: Mark | None, known: Mark | None) -> bool:
    """Whether nginx would load the same. A chain written anew with the same bytes is the same."""
    if mark is None or known is None:
        return mark is known
    return mark["chain"] == known.get("chain") and _key_of(mark) == _key_of(known)


def _key_of(mark: Mark) -> JsonValue:
    files = mark.get("files")
    return files.get("key") if isinstance(files, dict) else None


def _stamp(path: str) -> list[JsonValue]:
    status = os.stat(path)  # noqa: PTH116  (quicker, and this runs in every idle switch)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest_chain(path: Path) -> str:
    """Of the certificates alone: the same file may hold the key."""
    return hashlib.sha256(b"\n".join(_CERTIFICATE.findall(read_plain(path)))).hexdigest()
