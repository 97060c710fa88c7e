"""A host of its own on this machine: private network, /etc, /run and /var/lib."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
for place in /etc /var/lib /var/log; do
  mine=/run/.private$place
  mkdir -p $mine/upper $mine/work
  mount -t overlay overlay -o "lowerdir=$place,upperdir=$mine/upper,workdir=$mine/work" $place
done
mount -t sysfs sysfs /sys
ip link set lo up
rm -rf /var/lib/tsstack /run/tsstack
mkdir -p /etc/tsstack
touch /run/.ready
exec sleep infinity
"""


class PrivateHost:
    """Runs commands inside; `close` ends everything that was started there."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", _SETUP],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        self.pid = 0
        while time.monotonic() < deadline:
            children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/root/run/.ready").exists():
                self.pid = int(children[0])
                return
            time.sleep(0.01)
        raise RuntimeError("the private host did not come up")

    def argv(self, *words: str | Path) -> list[str]:
        # The PID namespace is there to end everything with the holder; /proc stays the machine's, so
        # processes inside are not entered into it, or their own pid would not be found in /proc.
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", *map(str, words)]

    def run(
        self, *words: str | Path, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*words), capture_output=True, text=True, check=False, timeout=timeout_s, env=self.env()
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def popen(self, *words: str | Path, **how: object) -> subprocess.Popen[str]:
        return subprocess.Popen(self.argv(*words), text=True, env=self.env(), **how)  # type: ignore[call-overload,no-any-return]

    def tsstack(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(Path(sys.executable).with_name("tsstack"), *words, check=check)

    def env(self) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
        return {**keep, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}

    def path(self, inside: str | Path) -> Path:
        """The same file, seen from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str | Path, text: str) -> Path:
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)
        return Path(inside)

    def close(self) -> None:
        namespace = Path(f"/proc/{self.pid}/ns/net").readlink()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    if (process / "ns" / "net").readlink() == namespace and int(process.name) != self.pid:
                        os.kill(int(process.name), signal.SIGKILL)
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue
        self.holder.kill()
        self.holder.wait()
