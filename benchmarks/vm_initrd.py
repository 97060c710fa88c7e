"""The RAM disk that a machine starts from: busybox, the modules of its virtual devices, and nothing else."""

from __future__ import annotations

import lzma
from pathlib import Path

_XZ = b"\xfd7zXZ\0"
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_net")

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod /$module; done
until [ -b /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""


def make_initrd(root: Path, release: str) -> bytes:
    """A RAM disk that loads the virtio modules and becomes the disk's init: busybox and a few modules."""
    folder = root / "lib/modules" / release
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[Path(name).name.partition(".")[0].replace("-", "_")] = (name, others.split())
    builtin = {Path(line).stem.replace("-", "_") for line in (folder / "modules.builtin").read_text().split()}
    order: list[str] = []
    for module in (each for each in MODULES if each not in builtin):
        name, others = needs[module]
        order += [each for each in (*reversed(others), name) if each not in order]
    entries: list[tuple[str, int, bytes]] = [(name, 0o40755, b"") for name in ("bin", "dev", "root")]
    # Debian 13 packs its modules, which busybox cannot unpack.
    modules = {Path(each).name.removesuffix(".xz"): (folder / each).read_bytes() for each in order}
    entries += [
        ("bin/busybox", 0o100755, (root / "bin/busybox").read_bytes()),
        ("init", 0o100755, _INIT.encode()),
        ("modules", 0o100644, " ".join(modules).encode()),
    ]
    entries += [
        (name, 0o100644, lzma.decompress(data) if data.startswith(_XZ) else data)
        for name, data in modules.items()
    ]
    return b"".join(_cpio(at, *entry) for at, entry in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1))


def _cpio(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One entry in the format `newc` (early-userspace/buffer-format in the kernel's documentation)."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(f"{field:08x}".encode() for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
