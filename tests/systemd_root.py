"""A Debian host with a real systemd as its first process, in namespaces of its own.

The root comes from debootstrap, once per list of packages, and is cached. Each host gets it as the lower
layer of an overlay whose upper layer lies in memory, so that hosts are fresh and leave nothing. The
checkout and the Python that runs the tests are there read-only, at the same paths. Where that is the
distribution's own (in /usr, which a host has for itself) the host is of the same release and has it too.

    from systemd_root import systemd_host  # the fixture

    def test_x(systemd_host):
        systemd_host.run("systemctl", "is-active", "systemd-resolved")
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tsstack" / "roots"

PACKAGES = [
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "dbus",
    "nftables",
    "nginx-light",
    "libnginx-mod-stream",
    "iproute2",
    "iputils-ping",
    "ethtool",
    "conntrack",
    "procps",
    "curl",
    "openssl",
    "ca-certificates",
    "kmod",
    "libffi8",
    "libsqlite3-0",
    "libreadline8",
    "libncursesw6",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "zlib1g",
    "libgdbm6",
]

DISTRIBUTIONS_PYTHON = sys.base_prefix == "/usr"

# Units that act on the machine rather than on the host, or wait for hardware that is not there.
MASKED = [
    "systemd-sysctl",
    "systemd-modules-load",
    "systemd-binfmt",
    "systemd-udevd",
    "systemd-udev-trigger",
    "console-getty",
    "systemd-random-seed",
    "systemd-networkd-wait-online",
    "systemd-timesyncd",
    "nginx",
    "nftables",
    "systemd-networkd",
]

# Runs as the first process of the new namespaces. $1 the cached root, $2 an empty folder, the rest are
# folders to show read-only.
_BOOT = r"""
set -eu
lower=$1 place=$2; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
root=$place/root
mount -t overlay -o "lowerdir=$lower,upperdir=$place/upper,workdir=$place/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
for node in null zero full random urandom tty net/tun; do
  [ -e "/dev/$node" ] || continue
  : > "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"
done
for folder; do
  mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"
  mount -o remount,bind,ro "$root$folder"
done
mkdir -p "$root/.old"
cd "$root"
pivot_root . .old
umount -l /.old
hostname tsstack-test
ip link set lo up
exec env -i container=lxc PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd systemd.log_target=console </dev/null
"""


def prepare_root(suite: str = "bookworm", extra: Sequence[str] = ()) -> Path:
    """The cached root of `suite`; made when there is none, which takes about a minute and the network.

    `extra` are packages beside PACKAGES.
    """
    packages = [*PACKAGES, *extra]
    stamp = zlib.crc32(" ".join([*packages, *MASKED]).encode())
    root = CACHE / f"{suite}-{stamp:08x}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            staged = Path(tempfile.mkdtemp(prefix=f".{suite}-", dir=CACHE))
            try:
                staged.chmod(0o755)
                made = subprocess.run(
                    [
                        "debootstrap",
                        "--variant=minbase",
                        f"--include={','.join(packages)}",
                        suite,
                        str(staged),
                        # debootstrap's own default without it
                        *([mirror] if (mirror := os.environ.get("TSSTACK_DEBIAN_MIRROR")) else []),
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
                _settle(staged)
                staged.rename(root)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    return root


def prepare_own_root() -> Path:
    """The cached root that the tests' own Python works in."""
    return prepare_root(own_release(), ["python3"]) if DISTRIBUTIONS_PYTHON else prepare_root()


def own_release() -> str:
    """This machine's, by its code name (os-release(5))."""
    text = Path("/etc/os-release").read_text()
    return next(
        line.partition("=")[2].strip('"')
        for line in text.splitlines()
        if line.startswith("VERSION_CODENAME=")
    )


def _settle(root: Path) -> None:
    for unit in MASKED:
        link = root / "etc/systemd/system" / f"{unit}.service"
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    (root / "etc/machine-id").write_text("")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("/run/systemd/resolve/stub-resolv.conf")


def _cgroup2() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise AssertionError("a mounted cgroup2 hierarchy is needed to boot systemd")


class SystemdHost:
    """One booted host. `pid` is its systemd, as this machine counts."""

    def __init__(self, root: Path) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="tsstack-systemd-"))
        self._cgroup = _cgroup2() / self._place.name
        self._cgroup.mkdir()
        shown = [str(CHECKOUT), *([] if DISTRIBUTIONS_PYTHON else [sys.base_prefix])]
        self.log = self._place.with_suffix(".log")
        with self.log.open("w") as log:
            self._unshare = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    # The cgroup namespace starts at the group that one is in when it is made.
                    'echo $$ > "$0/cgroup.procs"; exec unshare -m -u -i -n -p -C --fork '
                    '--kill-child sh -c "$@"',
                    str(self._cgroup),
                    _BOOT,
                    "boot",
                    str(root),
                    str(self._place),
                    *shown,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.pid = 0
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self, timeout_s: float = 60.0) -> None:
        until = time.monotonic() + timeout_s
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        state = ""
        while time.monotonic() < until:
            assert self._unshare.poll() is None, self.log.read_text()[-3000:]
            found = children.read_text().split()
            self.pid = int(found[0]) if found else 0
            if self.pid and Path(f"/proc/{self.pid}/comm").read_text().strip() == "systemd":
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in {"running", "degraded"}:
                    return
            time.sleep(0.1)
        raise AssertionError(f"systemd did not come up ({state}): {self.log.read_text()[-3000:]}")

    def run(
        self, *argv: str | Path, check: bool = True, stdin: str | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host, with its PATH and a C locale."""
        words = ["nsenter", "-a", "-t", str(self.pid), "env", "-i", "LC_ALL=C.UTF-8", "HOME=/root"]
        words += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *map(str, argv)]
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode} {done.stdout} {done.stderr}"
        return done

    def python(self, script: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `script` with the tests' own Python, tsstack importable, on the host."""
        return self.run(sys.executable, "-B", "-", *argv, stdin=script, check=check)

    def path(self, path: str) -> Path:
        """Where a file of the host lies for us.

        Not for /proc/sys/net: that shows the network of whoever asks, so from here it is this machine's.
        """
        assert not path.startswith("/proc"), "use run(): /proc answers for the one who asks"
        return Path(f"/proc/{self.pid}/root/{path.lstrip('/')}")

    def stop(self) -> None:
        """End the host and all that runs in it; it leaves nothing. May be called twice."""
        if self.pid and self._unshare.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # the first process takes its whole namespace along
        elif self._unshare.poll() is None:
            self._unshare.kill()
        self._unshare.wait(timeout=30)
        until = time.monotonic() + 10
        while self._cgroup.exists():
            for group in sorted(self._cgroup.rglob("*/"), key=lambda path: -len(path.parts)):
                if group.is_dir():
                    group.rmdir()
            try:
                self._cgroup.rmdir()
            except OSError:  # the last processes are still going
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        shutil.rmtree(self._place, ignore_errors=True)
        self.log.unlink(missing_ok=True)


@pytest.fixture
def systemd_host() -> Iterator[SystemdHost]:
    """A fresh Debian with systemd and systemd-resolved running, in an empty network."""
    host = SystemdHost(prepare_own_root())
    try:
        yield host
    finally:
        host.stop()
