"""The hosts that are measured: one in namespaces of its own, foomuuri's Debian, and a node of the lab."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CHECKOUT = Path(__file__).resolve().parents[1]
AGENT = Path(__file__).with_name("agent.py")
PYTHON = CHECKOUT / ".venv" / "bin" / "python"
TSSTACK = CHECKOUT / ".venv" / "bin" / "tsstack"
STATE = "/var/lib/tsstack"

sys.path.insert(0, str(CHECKOUT / "tests" / "fakes"))
from private_host import PrivateHost  # noqa: E402


class Broken(Exception):
    """A measured command failed; its words are in the message."""


class Unavailable(Exception):
    """An alternative cannot be had here; the row says why."""


@dataclass(frozen=True, slots=True)
class Run:
    """One whole process: on the clock, on the processor (with all it waited for), and what it printed."""

    wall_s: float
    cpu_s: float
    stdout: str


class MeasuredHost:
    """A host in which commands are timed, by an agent that stays there until `close`."""

    def __init__(self, *enter: str | Path) -> None:
        """`enter` is the command line that runs what follows it in the host."""
        self._agent = subprocess.Popen(
            [*map(str, enter), str(PYTHON), str(AGENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )

    def run(self, *argv: str | Path) -> Run:
        """Time one command in the host. Raises Broken when it fails."""
        answer = self._ask({"argv": [str(word) for word in argv]})
        if "failed" in answer:
            raise Broken(answer["failed"])
        return Run(**answer)

    def picture(self) -> Any:
        """All that a switch may touch there: two pictures are equal if nothing was touched."""
        return self._ask({"picture": [STATE, "/etc/nginx", "/etc/sysctl.d"]})

    def still_picture(self) -> Any:
        """A picture once nothing moves by itself any more: nginx's old workers end a while after a reload."""
        for _ in range(30):
            before = self.picture()
            time.sleep(1.0)
            if self.picture() == before:
                return before
        raise Broken("the host does not come to rest")

    def _ask(self, question: object) -> Any:
        assert self._agent.stdin is not None
        assert self._agent.stdout is not None
        try:
            self._agent.stdin.write(json.dumps(question) + "\n")
            self._agent.stdin.flush()
        except BrokenPipeError as error:
            raise Broken("the agent in the host has ended") from error
        line = self._agent.stdout.readline()
        if not line:
            raise Broken("the agent in the host has ended")
        return json.loads(line)

    def close(self) -> None:
        """End the agent."""
        with self._agent:
            assert self._agent.stdin is not None
            self._agent.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def differences(before: Any, after: Any) -> list[str]:
    """What differs between two pictures: paths, or the name of the engine that was touched."""
    files = before["files"].keys() | after["files"].keys()
    touched = sorted(path for path in files if before["files"].get(path) != after["files"].get(path))
    return [*touched, *(engine for engine in ("table", "nginx") if before[engine] != after[engine])]


def _environment() -> dict[str, str]:
    """As a user's shell has it, but for the SSH session: the guard would read the model because of it.

    Without PYTHON*: bytecode is written by the run that is not counted, as an installed package has it.
    """
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("SSH_", "PYTHON"))}
    return {**keep, "PATH": f"{TSSTACK.parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}


class OwnHost(MeasuredHost):
    """A host in namespaces of its own. Its state lies on this machine's disk, so that fsync costs."""

    def __init__(self) -> None:
        self._disk = Path(tempfile.mkdtemp(prefix="tsstack-benchmark-"))
        self._private = PrivateHost()
        self._private.run("mkdir", "-p", STATE)
        self._private.run("mount", "--bind", self._disk, STATE)
        # The uplink that the files name: a switch refuses one that is not there.
        self._private.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0-peer")
        super().__init__(*self._private.argv())

    def write(self, name: str, text: str) -> Path:
        """A file in the host's /etc/tsstack; returns its path there."""
        return Path(self._private.write(f"/etc/tsstack/{name}", text))

    def copy_out(self, inside: str) -> str:
        """The text of one of the host's files."""
        return str(self._private.path(inside).read_text())

    def close(self) -> None:
        super().close()
        self._private.close()
        shutil.rmtree(self._disk, ignore_errors=True)


class LabHost(MeasuredHost):
    """The node `kernelcore` of a lab that is up for this run alone. Raises Unavailable."""

    def __init__(self) -> None:
        self._name = f"benchmark-{os.getpid()}"
        done = self._lab("up")
        if done.returncode != 0:
            raise Unavailable(f"tsstack lab up: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        super().__init__(TSSTACK, "lab", "exec", "--name", self._name, "kernelcore", "--")

    def _lab(self, verb: str) -> subprocess.CompletedProcess[str]:
        argv = [str(TSSTACK), "lab", verb, "--name", self._name]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def close(self) -> None:
        super().close()
        done = self._lab("down")
        if done.returncode != 0:
            raise Broken(f"tsstack lab down: {done.stderr}")


class FoomuuriHost(MeasuredHost):
    """Debian 13 with its foomuuri, chrooted in network and mount namespaces of its own."""

    # $1 the cached root, $2 a folder on disk for what is written, $3 foomuuri.conf; then the command
    _SETUP = """
set -e
root=$2/root
mount --make-rprivate /
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/run/foomuuri"
ip link set lo up
cp "$3" "$root/etc/foomuuri/foomuuri.conf"
shift 3
exec "$@"
"""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._disk = Path(tempfile.mkdtemp(prefix="tsstack-foomuuri-"))
        for folder in ("root", "upper", "work"):
            (self._disk / folder).mkdir()
        configuration = Path(__file__).with_name("foomuuri.conf")
        setup: list[str | Path] = [self._SETUP, "foomuuri", root, self._disk, configuration]
        super().__init__("unshare", "--mount", "--net", "sh", "-c", *setup)

    def foomuuri(self, verb: str) -> Run:
        """Time `foomuuri VERB` in Debian 13."""
        return self.run("chroot", self._disk / "root", "foomuuri", verb)

    def versions(self) -> str:
        """Which foomuuri, nft and Python are measured."""
        words = ["dpkg-query", "-W", "-f", "${Package} ${Version}, ", "foomuuri", "nftables", "python3"]
        return subprocess.run(
            ["chroot", str(self._root), *words], capture_output=True, text=True, check=True
        ).stdout.rstrip(", ")

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._disk, ignore_errors=True)


def prepare_foomuuri(suite: str = "trixie") -> Path:
    """The cached root of a Debian that has foomuuri; made when there is none. Raises Unavailable.

    The mirror is whichever this machine's apt uses for Debian.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tsstack" / "roots"
    root = cache / f"{suite}-foomuuri"
    if root.is_dir():
        return root
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        raise Unavailable("a Debian root with foomuuri needs root and mmdebstrap")
    cache.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{suite}-foomuuri-", dir=cache))
    try:
        staged.chmod(0o755)
        packages = "--include=foomuuri,nftables,iproute2"
        made = subprocess.run(
            ["mmdebstrap", "--variant=minbase", packages, suite, str(staged), *_mirror()],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise Unavailable(f"mmdebstrap: {(made.stderr.strip().splitlines() or ['failed'])[-1]}")
        staged.rename(root)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return root


def _mirror() -> Sequence[str]:
    """Where apt on this machine gets Debian's main archive; empty leaves it to mmdebstrap."""
    asked = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(LABEL) $(COMPONENT)",
        "Created-By: Packages",
    ]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    found = [line.split()[0] for line in said.splitlines() if line.split()[1:] == ["Debian", "main"]]
    return found[:1]
