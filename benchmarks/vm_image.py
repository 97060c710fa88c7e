"""A Debian 12 disk image with systemd, nginx, tailscaled and tsstack from a wheel of this checkout.

Three layers, each cached under a name made of its recipe: the distribution's packages (about a minute and
the network), the Python packages that tsstack needs, and the disk itself. A change of the code makes the
disk anew, which takes seconds. Nothing of it lies in the checkout.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsstack.lab import engines

CHECKOUT = Path(__file__).resolve().parents[1]
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
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_net")
SIZE = "2G"
GUEST = Path("opt/vm")
PYTHON = Path("usr/local/lib/python3.11/dist-packages")
_KEPT_IMAGES = 3

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod /$module; done
until [ -b /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
_TSSTACK = """#!/usr/bin/python3 -P
import sys
from tsstack.cli.main import main
sys.exit(main())
"""
_TAILSCALED = """[Unit]
Description=Tailscale node agent
Wants=network-pre.target
After=network-pre.target systemd-networkd.service systemd-resolved.service

[Service]
Type=notify
Environment=TS_DEBUG_FIREWALL_MODE=nftables TS_DISABLE_PORTMAPPER=1 TS_DEBUG_USE_DERP_HTTP=1
Environment=TS_NO_LOGS_NO_SUPPORT=true TS_PANIC_IF_HIT_MAIN_CONTROL=1
ExecStart=/usr/sbin/tailscaled --statedir=/var/lib/tailscale --state=/var/lib/tailscale/tailscaled.state \\
  --socket=/run/tailscale/tailscaled.sock --port=41641 --no-logs-no-support
RuntimeDirectory=tailscale
StateDirectory=tailscale
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""
_AGENT = """[Unit]
Description=The tests' hand in this machine
DefaultDependencies=no
Conflicts=shutdown.target

[Service]
ExecStart=/usr/bin/python3 -P -S /opt/vm/vm_agent.py
Restart=always
RestartSec=100ms
KillMode=process
"""
_TRIGGER = """[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=net
"""
_NETWORK = """[Match]
MACAddress={mac}

[Network]
Address={address}/24
Gateway={gateway}
Address={address6}/64
Gateway={gateway6}
IPv6AcceptRA=no
"""
_FILES = {
    "etc/fstab": "",
    "etc/hostname": "vm\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 vm\n",
    "etc/machine-id": "5d8c9d8e6a1f4c0f9b7f2f7e6a5b4c3d\n",
    "etc/systemd/journald.conf.d/vm.conf": "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n",
    "etc/systemd/system.conf.d/vm.conf": "[Manager]\nDefaultTimeoutStopSec=10s\nShowStatus=no\n",
    "etc/systemd/system/systemd-udev-trigger.service.d/vm.conf": _TRIGGER,
    "etc/systemd/system/tailscaled.service": _TAILSCALED,
    "etc/systemd/system/tsstack-agent.service": _AGENT,
    "usr/bin/tsstack": _TSSTACK,
}


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a machine is plugged in: its own address and that of the router, in IPv4 and IPv6."""

    number: int

    @property
    def name(self) -> str:
        return f"vm{self.number}"

    @property
    def mac(self) -> str:
        return f"52:54:00:77:00:{self.number:02x}"

    @property
    def address(self) -> str:
        return f"10.77.{200 + self.number}.2"

    @property
    def gateway(self) -> str:
        return f"10.77.{200 + self.number}.1"

    @property
    def address6(self) -> str:
        return f"fd77:0:0:{200 + self.number}::2"

    @property
    def gateway6(self) -> str:
        return f"fd77:0:0:{200 + self.number}::1"


SEATS = (Seat(1), Seat(2))


@dataclass(frozen=True, slots=True)
class Image:
    """What a machine boots: a raw ext4 disk that nobody writes to, a kernel and an initial RAM disk."""

    disk: Path
    kernel: Path
    initrd: Path


def cache_folder() -> Path:
    """Where images are kept, outside the checkout."""
    return engines.cache_folder().parent / "vm"


def prepare_image() -> Image:
    """The image of this checkout; what is not cached is made. Raises CalledProcessError with what failed."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        programs = engines.prepare(lambda line: print(line, file=sys.stderr))
        base, site = _base(cache), _site(cache)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".wheel-") as folder:
            wheel = _wheel(Path(folder))
            own = sorted(Path(__file__).parent.glob("*.py")) + sorted(
                (CHECKOUT / "monitor").glob("*.service")
            )
            inputs = [path.read_bytes() for path in (wheel, *(path for path in own if _in_guest(path)))]
            inputs += [f"{base.name} {site.name} {programs['tailscaled'].parent}".encode()]
            image = cache / f"image-{_digest(*inputs)}"
            if not image.is_dir():
                with _staged(image) as out:
                    _make_image(out, base, site, wheel, programs)
        os.utime(image)
        _forget_old(cache)
    return Image(image / "disk.ext4", image / "vmlinuz", image / "initrd")


def _in_guest(path: Path) -> bool:
    return path.name in {"vm_image.py", "vm_agent.py", "vm_verbs.py", "crash_picture.py"}


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + part)
    return digest.hexdigest()[:16]


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends well, and goes when it does not."""
    staged = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield staged
        staged.rename(target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _run(words: Sequence[str | Path], **more: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")


def _base(cache: Path) -> Path:
    folder = cache / f"base-{SUITE}-{_digest(' '.join(PACKAGES).encode())}"
    if not folder.is_dir():
        print("making the machine's Debian (a minute or two, once)", file=sys.stderr)
        mirror = os.environ.get("TSSTACK_DEBIAN_MIRROR")
        with _staged(folder) as out:
            words: list[str | Path] = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
            words += ['--aptopt=Apt::Install-Recommends "false"']
            for place in ("doc", "man", "locale"):
                words += [f"--dpkgopt=path-exclude=/usr/share/{place}/*"]
            _run([*words, SUITE, out / "root.tar", *([mirror] if mirror else [])])
    return folder


def _site(cache: Path) -> Path:
    """What tsstack depends on, for the machine's Python, whatever Python runs this."""
    needs = sorted(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"])
    folder = cache / f"site-{_digest(' '.join(needs).encode())}"
    if not folder.is_dir():
        with _staged(folder) as out:
            words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", out]
            words += ["--python-version", "3.11", "--implementation", "cp", "--only-binary", ":all:"]
            for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
                words += ["--platform", platform]
            _run([*words, *needs])
    return folder


def _wheel(folder: Path) -> Path:
    words = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, CHECKOUT]
    _run(words)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _make_image(out: Path, base: Path, site: Path, wheel: Path, programs: dict[str, Path]) -> None:
    root = out / "root"
    root.mkdir()
    _run(["tar", "-C", root, "--numeric-owner", "--exclude=./dev/*", "-xf", base / "root.tar"])
    shutil.copytree(site, root / PYTHON, dirs_exist_ok=True)
    _run([sys.executable, "-m", "zipfile", "-e", wheel, root / PYTHON])
    for name in ("tailscaled", "tailscale", "sops"):
        shutil.copy2(programs[name], root / "usr/sbin" / name)
    _settle(root)
    _run(["chroot", root, "python3", "-m", "compileall", "-q", "/" + str(PYTHON), "/" + str(GUEST)])
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    shutil.copy2(kernel, out / "vmlinuz")
    (out / "initrd").write_bytes(make_initrd(root, kernel.name.removeprefix("vmlinuz-")))
    _run(["mke2fs", "-q", "-t", "ext4", "-d", root, out / "disk.ext4", SIZE])
    shutil.rmtree(root)


def _settle(root: Path) -> None:
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "usr/bin/tsstack").chmod(0o755)
    (root / GUEST).mkdir(parents=True)
    for name in ("vm_agent.py", "vm_verbs.py", "crash_picture.py"):
        shutil.copy2(Path(__file__).with_name(name), root / GUEST / name)
    (root / "etc/systemd/network").mkdir(parents=True, exist_ok=True)
    for seat in SEATS:
        text = _NETWORK.format(
            mac=seat.mac,
            address=seat.address,
            gateway=seat.gateway,
            address6=seat.address6,
            gateway6=seat.gateway6,
        )
        (root / f"etc/systemd/network/{seat.name}.network").write_text(text)
    units = root / "etc/systemd/system"
    for unit in sorted((root / PYTHON / "tsstack/_assets/monitor").glob("tsstack-*.*")):
        shutil.copy2(unit, units / unit.name)
    for unit in units.glob("*.wants/*"):
        unit.unlink()
    for target, kept in KEPT.items():
        for unit in (root / f"lib/systemd/system/{target}.wants").iterdir():
            if unit.stem not in kept:
                unit.unlink()
    shutil.rmtree(root / "lib/systemd/system-generators")
    _link(units / "default.target", "/lib/systemd/system/multi-user.target")
    for target, names in ENABLED.items():
        for name in names:
            own = units / name
            place = f"/etc/systemd/system/{name}" if own.exists() else f"/lib/systemd/system/{name}"
            _link(units / f"{target}.wants" / name, place)
    _link(root / "etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf")
    (root / "etc/nginx/sites-enabled/default").unlink(missing_ok=True)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def make_initrd(root: Path, release: str) -> bytes:
    """A RAM disk that loads the virtio modules and becomes the disk's init: busybox and a few modules."""
    folder = root / "lib/modules" / release
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[Path(name).stem.replace("-", "_")] = (name, others.split())
    order: list[str] = []
    for module in MODULES:
        name, others = needs[module]
        order += [each for each in (*reversed(others), name) if each not in order]
    entries: list[tuple[str, int, bytes]] = [(name, 0o40755, b"") for name in ("bin", "dev", "root")]
    entries += [
        ("bin/busybox", 0o100755, (root / "bin/busybox").read_bytes()),
        ("init", 0o100755, _INIT.encode()),
        ("modules", 0o100644, " ".join(Path(each).name for each in order).encode()),
    ]
    entries += [(Path(each).name, 0o100644, (folder / each).read_bytes()) for each in order]
    return b"".join(_cpio(at, *entry) for at, entry in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1))


def _cpio(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One entry in the format `newc` (early-userspace/buffer-format in the kernel's documentation)."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(f"{field:08x}".encode() for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def _forget_old(cache: Path) -> None:
    """Disks of earlier code go; a machine that still runs from one keeps its file open."""
    images = sorted(cache.glob("image-*"), key=lambda path: path.stat().st_mtime)
    for path in images[:-_KEPT_IMAGES]:
        shutil.rmtree(path, ignore_errors=True)
