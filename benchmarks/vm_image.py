"""A Debian 12 disk image with systemd, nginx, tailscaled and tsstack from a wheel of this checkout.

Three layers, each cached under a name made of its recipe: the distribution's packages (about a minute and
the network), the Python packages that tsstack needs, and the disk itself. A change of the code makes the
disk anew, which takes seconds. Nothing of it lies in the checkout.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from vm_debian import (
    CHECKOUT,
    GUEST,
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

SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "systemd-resolved", "udev", "dbus", "kmod", "linux-image-cloud-amd64",
    "tiny-initramfs", "busybox-static", "nftables", "nginx-light", "libnginx-mod-stream", "iproute2",
    "iputils-ping", "ethtool", "conntrack", "procps", "openssl", "ca-certificates", "python3",
)  # fmt: skip
# Of the distribution's own units these start; the others cost seconds of emulation and have no say here.
KEPT = {
    "sysinit.target": ("systemd-journald", "systemd-modules-load", "systemd-sysctl", "systemd-udevd",
                       "systemd-udev-trigger"),
    "multi-user.target": ("dbus",),
    "local-fs.target": (),
    "timers.target": (),
    "sockets.target": ("dbus", "systemd-journald-dev-log", "systemd-journald", "systemd-udevd-control",
                       "systemd-udevd-kernel"),
}  # fmt: skip
ENABLED = {
    "sysinit.target": ("tsstack-early.service", "tsstack-agent.service"),
    "paths.target": ("tsstack-dns.path",),
    "timers.target": ("tsstack-dns.timer",),
    "multi-user.target": (
        "tsstack-boot.service", "tailscaled.service", "systemd-networkd.service", "systemd-resolved.service",
        "nginx.service",
    ),
    "network-online.target": ("systemd-networkd-wait-online.service",),
}  # fmt: skip
SIZE = "2G"
TOOLS = ("vm_agent.py", "vm_verbs.py", "crash_picture.py")
PYTHON = Path("usr/local/lib/python3.11/dist-packages")

_TSSTACK = """#!/usr/bin/python3 -P
import sys
from tsstack.cli.main import main
sys.exit(main())
"""
_TRIGGER = """[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=net
"""


def prepare_image() -> Image:
    """The image of this checkout; what is not cached is made. Raises CalledProcessError with what failed."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        programs = engines.prepare(lambda line: print(line, file=sys.stderr))
        base, site = bootstrap(cache, SUITE, PACKAGES), _site(cache)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".wheel-") as folder:
            wheel = _wheel(Path(folder))
            own = sorted(Path(__file__).parent.glob("*.py")) + sorted(
                (CHECKOUT / "monitor").glob("*.service")
            )
            inputs = [path.read_bytes() for path in (wheel, *(path for path in own if _in_guest(path)))]
            inputs += [f"{base.name} {site.name} {programs['tailscaled'].parent}".encode()]
            image = cache / f"image-{digest_of(*inputs)}"
            if not image.is_dir():
                with staged(image) as out:
                    _make_image(out, base, site, wheel, programs)
        os.utime(image)
        forget_old(cache, "image")
    return Image.at(image)


def _in_guest(path: Path) -> bool:
    return path.name in {"vm_image.py", "vm_debian.py", "vm_initrd.py", *TOOLS}


def _site(cache: Path) -> Path:
    """What tsstack depends on, for the machine's Python, whatever Python runs this."""
    needs = sorted(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"])
    folder = cache / f"site-{digest_of(' '.join(needs).encode())}"
    if not folder.is_dir():
        with staged(folder) as out:
            words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", out]
            words += ["--python-version", "3.11", "--implementation", "cp", "--only-binary", ":all:"]
            for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
                words += ["--platform", platform]
            run([*words, *needs])
    return folder


def _wheel(folder: Path) -> Path:
    words = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, CHECKOUT]
    run(words)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _make_image(out: Path, base: Path, site: Path, wheel: Path, programs: dict[str, Path]) -> None:
    root = out / "root"
    unpack(base, root)
    shutil.copytree(site, root / PYTHON, dirs_exist_ok=True)
    run([sys.executable, "-m", "zipfile", "-e", wheel, root / PYTHON])
    shutil.copy2(programs["sops"], root / "usr/sbin/sops")
    for unit in (root / "etc/systemd/system").glob("*.wants/*"):
        unit.unlink()
    furnish(root, tools=TOOLS, programs=programs)
    _settle(root)
    run(["chroot", root, "python3", "-m", "compileall", "-q", "/" + str(PYTHON), "/" + str(GUEST)])
    write_disk(out, root, SIZE)


def _settle(root: Path) -> None:
    units = root / "etc/systemd/system"
    for unit in sorted((root / PYTHON / "tsstack/_assets/monitor").glob("tsstack-*.*")):
        shutil.copy2(unit, units / unit.name)
    trigger = units / "systemd-udev-trigger.service.d/vm.conf"
    trigger.parent.mkdir()
    trigger.write_text(_TRIGGER)
    program = root / "usr/bin/tsstack"
    program.write_text(_TSSTACK)
    program.chmod(0o755)
    for target, kept in KEPT.items():
        for unit in (root / f"lib/systemd/system/{target}.wants").iterdir():
            if unit.stem not in kept:
                unit.unlink()
    shutil.rmtree(root / "lib/systemd/system-generators")
    enable(root, ENABLED)
    (root / "etc/nginx/sites-enabled/default").unlink(missing_ok=True)
