"""What the tests' machines have in common: a Debian on a disk, with a place on a lab's network.

The distribution's packages are cached under a name made of their list, outside the checkout.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vm_initrd import make_initrd

from tsstack.lab import engines

CHECKOUT = Path(__file__).resolve().parents[1]
GUEST = Path("opt/vm")
_KEPT_IMAGES = 3

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
    "etc/systemd/system/tailscaled.service": _TAILSCALED,
    "etc/systemd/system/tsstack-agent.service": _AGENT,
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

    @classmethod
    def at(cls, folder: Path) -> Image:
        """What `write_disk` put there."""
        return cls(folder / "disk.ext4", folder / "vmlinuz", folder / "initrd")


def cache_folder() -> Path:
    """Where images are kept, outside the checkout."""
    return engines.cache_folder().parent / "vm"


def digest_of(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + part)
    return digest.hexdigest()[:16]


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends well, and goes when it does not."""
    staged = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield staged
        staged.rename(target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def run(words: Sequence[str | Path], **more: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")


def bootstrap(cache: Path, suite: str, packages: Sequence[str]) -> Path:
    """A folder with `root.tar`, the packages of this suite of Debian; made when there is none."""
    folder = cache / f"base-{suite}-{digest_of(' '.join(packages).encode())}"
    if not folder.is_dir():
        print(f"making a machine's Debian, {suite} (a minute or two, once)", file=sys.stderr)
        mirror = os.environ.get("TSSTACK_DEBIAN_MIRROR")
        with staged(folder) as out:
            words: list[str | Path] = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
            words += ['--aptopt=Apt::Install-Recommends "false"']
            for place in ("doc", "man", "locale"):
                words += [f"--dpkgopt=path-exclude=/usr/share/{place}/*"]
            run([*words, suite, out / "root.tar", *([mirror] if mirror else [])])
    return folder


def unpack(base: Path, root: Path) -> None:
    """Unpack what `bootstrap` made into a new folder."""
    root.mkdir()
    run(["tar", "-C", root, "--numeric-owner", "--exclude=./dev/*", "-xf", base / "root.tar"])


def furnish(root: Path, *, tools: Sequence[str], programs: Mapping[str, Path]) -> None:
    """What every machine has beside its packages: a place on the lab's net, tailscaled, the tests' hand."""
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / GUEST).mkdir(parents=True)
    for name in tools:
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
    for name in ("tailscaled", "tailscale"):
        shutil.copy2(programs[name], root / "usr/sbin" / name)
    link(root / "etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")
    link(root / "etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf")


def enable(root: Path, wanted: Mapping[str, Sequence[str]]) -> None:
    """Enable units, by the target that wants them; the machine's own come before the distribution's."""
    units = root / "etc/systemd/system"
    for target, names in wanted.items():
        for name in names:
            own = units / name
            place = f"/etc/systemd/system/{name}" if own.exists() else f"/lib/systemd/system/{name}"
            link(units / f"{target}.wants" / name, place)


def write_disk(out: Path, root: Path, size: str) -> None:
    """Kernel, RAM disk and an ext4 with the tree of `root`, which goes."""
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    shutil.copy2(kernel, out / "vmlinuz")
    (out / "initrd").write_bytes(make_initrd(root, kernel.name.removeprefix("vmlinuz-")))
    run(["mke2fs", "-q", "-t", "ext4", "-d", root, out / "disk.ext4", size])
    shutil.rmtree(root)


def link(path: Path, target: str) -> None:
    """A symbolic link, whatever was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def forget_old(cache: Path, kind: str) -> None:
    """Disks of earlier code go; a machine that still runs from one keeps its file open."""
    images = sorted(cache.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
    for path in images[:-_KEPT_IMAGES]:
        shutil.rmtree(path, ignore_errors=True)
