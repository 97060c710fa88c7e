"""A Debian 12 or 13 as a user has it: its own nginx, resolved and units, a tailscaled, and no tsstack.

Nothing of this checkout but the tests' hand is on the disk, so a change of the code makes none anew.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import Literal

from vm_debian import (
    Image,
    bootstrap,
    cache_folder,
    digest_of,
    enable,
    forget_old,
    furnish,
    run,
    staged,
    unpack,
    write_disk,
)

from tsstack.lab import engines

Suite = Literal["bookworm", "trixie"]
SUITES: tuple[Suite, ...] = ("bookworm", "trixie")
PACKAGES = (
    "systemd", "systemd-sysv", "systemd-resolved", "udev", "dbus", "kmod", "linux-image-cloud-amd64",
    "tiny-initramfs", "busybox-static", "iproute2", "iputils-ping", "procps", "openssl", "ca-certificates",
    "curl",
    # What the Debian package depends on and recommends: no machine of the lab reaches a mirror.
    "python3", "nftables", "libnftables1", "ethtool", "nginx", "libnginx-mod-stream",
)  # fmt: skip
ENABLED = {
    "sysinit.target": ("tsstack-agent.service",),
    "multi-user.target": ("tailscaled.service", "systemd-networkd.service", "systemd-resolved.service"),
    "network-online.target": ("systemd-networkd-wait-online.service",),
}
# They wait for a network, a mirror or a night that never comes, and cost minutes of emulation.
OFF = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
)
SIZE = "3G"


def prepare_release(suite: Suite) -> Image:
    """The image of this release; made when there is none. Raises RuntimeError with what failed."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"lock-{suite}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        programs = engines.prepare(lambda line: print(line, file=sys.stderr))
        base = bootstrap(cache, suite, PACKAGES)
        own = [Path(__file__).with_name(f"vm_{name}.py") for name in ("release", "debian", "initrd", "agent")]
        stamp = digest_of(
            *(path.read_bytes() for path in own), f"{base.name} {programs['tailscaled'].parent}".encode()
        )
        image = cache / f"{suite}-{stamp}"
        if not image.is_dir():
            with staged(image) as out:
                root = out / "root"
                unpack(base, root)
                furnish(root, tools=("vm_agent.py", "crash_picture.py"), programs=programs)
                enable(root, ENABLED)
                for unit in OFF:
                    (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
                run(["chroot", root, "python3", "-m", "compileall", "-q", "/usr/lib/python3"])
                write_disk(out, root, SIZE)
        os.utime(image)
        forget_old(cache, suite)
    return Image.at(image)
