"""The host that is killed again and again: brought to a generation, judged, and brought back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crash_disk import Disk
from crash_picture import (
    NGINX_PID,
    RUN,
    STATE,
    Picture,
    boot_tree,
    dead_men,
    links,
    loose_ends,
    own_processes,
    read_sysctls,
    take_picture,
    tree_of,
    wait_for,
)
from crash_process import Broken, Ended, Runner, load_everything
from crash_tailnet import KEY, Tailscaled

POWER_CUTS = ("power cut", "power cut that spares names")
FILES = Path("/etc/tsstack")
_FIRST = """
host: {name: one, tailnet: tail.test}
%s
proxy:
  tls: off
  names: path
  listen: [127.0.0.1]
  http_port: 8088
  services:
    web: {upstream: 8000}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [8088]}
    internal: {interfaces: [tailscale0]}
kernel: {sysctl: {net.ipv4.tcp_fin_timeout: 31, net.ipv4.tcp_keepalive_time: 1200}}
"""
_SECOND = """
host: {name: one, tailnet: tail.test}
%s
proxy:
  tls: off
  names: path
  listen: [127.0.0.1]
  http_port: 8088
  services:
    shop: {upstream: [8001, "127.0.0.1:8002 backup"]}
    db: {upstream: 5432, protocol: tcp, port: 5433}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [8088, 9000], udp: [9001]}
    internal: {interfaces: [tailscale0], services: [ssh]}
    lan: {interfaces: [eth1]}
  forward:
    - {from: internal, to: lan, services: [https]}
kernel: {sysctl: {net.ipv4.tcp_fin_timeout: 37, net.ipv4.ip_forward: 1, net.ipv4.tcp_syn_retries: 4}}
"""

_FENCE = """
host: {name: one}
firewall:
  zones:
    lan: {interfaces: [eth1], tcp: [22]}
"""
FENCED, SECOND_FENCED = "fenced", "second fenced"
"""A host of no generation on which the fallback stands, and one of the second file that keeps one."""
_EMPTY = {"none", "stranger", FENCED}

_TAILSCALE = """
tailscale:
  login_server: http://10.77.0.1:8080
  auth_key: {file: %s}
  accept_dns: false
"""
_SECOND_TAILSCALE = """
  accept_routes: true
  operator: nobody
  advertise: {snat: false}
"""
# tsstack itself is asked this often whether it would change anything: it takes as long as all the rest.
_ASK_EVERY = 4


@dataclass
class Verdict:
    """What became of the host after a point."""

    state: str
    """`old`, `new` or `torn`."""
    faults: list[str] = field(default_factory=list)


class CrashHost:
    """Two files, `first` and `second`, and what a host looks like that is wholly one of them, or none.

    Generation 1 is made of the first file; what else there is goes when a point is over. With a
    `tailscaled` the files speak of it, too, and its settings are judged.
    """

    def __init__(
        self, folder: Path, disk: Disk, tailscaled: Tailscaled | None = None, *, thrifty: bool = False
    ) -> None:
        self.runner = Runner(folder)
        self.disk = disk
        self.tailscaled = tailscaled
        FILES.mkdir(parents=True, exist_ok=True)
        self.files = {"first": FILES / "first.yaml", "second": FILES / "second.yaml"}
        common = _TAILSCALE % KEY if tailscaled else ""
        self.files["first"].write_text(_FIRST % common)
        more = common.rstrip() + _SECOND_TAILSCALE if tailscaled else ""
        self.files["second"].write_text(_SECOND % more)
        self.files[SECOND_FENCED] = self.files["second"]
        self.fence = FILES / "fence.yaml"
        self.fence.write_text(_FENCE)
        self.bare_sysctls = read_sysctls()
        self.pictures: dict[str, Picture] = {}
        self.judged = 0
        load_everything(self.runner, self.switch("second"))
        self._learn(1 if thrifty else 2)

    def look(self) -> Picture:
        """What the host is now."""
        return take_picture(self.tailscaled.prefs() if self.tailscaled else {})

    def switch(self, name: str, *more: str, verb: str = "switch") -> list[str]:
        """The command line that makes the host so; `test` until the next boot, `boot` from then on."""
        return ["-c", str(self.files[name]), verb, "--no-prove", *more]

    def proven_switch(self, name: str) -> list[str]:
        """The same with the proof before it, which touches nothing and takes its time."""
        return ["-c", str(self.files[name]), "switch"]

    def words_for(self, name: str) -> list[str]:
        """The command line that says of the host what it is already, and mends what died since."""
        return ["rollback", "--to", "0"] if name in _EMPTY else self.switch(name)

    def _learn(self, times: int) -> None:
        """Take the pictures that all later ones are held against; twice shows that they are stable."""
        for _ in range(times):
            self.scrub()
            names = ("first", "second", "none", "first", FENCED, SECOND_FENCED, "first")
            for name in (*names, "stranger", "first") if self.tailscaled else names:
                self.become(name)
                picture = self.look()
                if name in self.pictures and (faults := picture.differences(self.pictures[name])):
                    raise Broken(f"{name} is not the same each time: {faults}")
                self.pictures[name] = picture
                if faults := loose_ends():
                    raise Broken(f"{name}: {faults}")
        trees = {picture.tree for picture in self.pictures.values()}
        if len(trees) != 5 or not self.pictures["first"].table or self.pictures["first"].masters != 1:
            raise Broken(f"the pictures do not tell one file from the other: {self.pictures}")

    def become(self, name: str) -> None:
        """Bring the host to a file, or to `none`, by tsstack's own verbs, and forget other generations.

        A `stranger` is a host without tsstack that has not joined the tailnet.
        """
        current, _ = links()
        folder = STATE / "generations"
        self._fence(name in {FENCED, SECOND_FENCED})
        if name in _EMPTY:
            if current:
                self.runner.must("rollback", "--to", "0")
            if name == "stranger" and self.tailscaled:
                self.tailscaled.leave()
        elif name == "first" and (folder / "1").is_dir():
            if links() != (1, 1):
                self.runner.must("rollback", "--to", "1")
        elif current <= 0 or tree_of(folder / str(current)) != self._tree(name):
            self.runner.must(*self.switch(name))
        self.forget()
        self.disk.settle()

    def _fence(self, wanted: bool) -> None:
        is_there = (STATE / "fallback").is_symlink()
        if wanted and not is_there:
            self.runner.must("fallback", "set", str(self.fence))
        elif is_there and not wanted:
            self.runner.must("fallback", "remove")

    def _tree(self, name: str) -> str:
        return self.pictures[name].tree.partition("+")[0] if name in self.pictures else ""

    def forget(self) -> None:
        """Remove the generations that nothing points at but the first, so that numbers stay small."""
        used = {0, 1, *links()}
        for path in (STATE / "generations").iterdir():
            if path.name.isdigit() and int(path.name) not in used:
                shutil.rmtree(path)
        (STATE / "inputs.json").unlink(missing_ok=True)

    def judge(self, allowed: Sequence[str], boots: str = "") -> Verdict:
        """Whether the host is wholly one of `allowed`: (old, new). A host in motion gets a second to rest.

        `boots`: the file that the next boot may bring up though another one is live.
        """
        try:
            verdict = self._judge(allowed, boots)
        except (OSError, ValueError) as error:
            return Verdict("torn", [f"what is there cannot be read: {error}"])
        deadline_s = time.monotonic() + 1.0
        while verdict.state == "torn" and time.monotonic() < deadline_s:
            time.sleep(0.1)
            verdict = self._judge(allowed, boots)
        return verdict

    def _judge(self, allowed: Sequence[str], boots: str) -> Verdict:
        boots_tree = self._tree(boots) if boots else ""
        faults = loose_ends(boots_tree)
        picture = self.look()
        by_tree = {self.pictures[name].tree: name for name in allowed}
        name = by_tree.get(picture.tree)
        if name is None:
            return Verdict("torn", [*faults, f"the files behind current are none of {allowed}"])
        faults += picture.differences(self.pictures[name])
        faults += self._wrong_memory()
        self.judged += 1
        if not faults and self.judged % _ASK_EVERY == 0:
            faults += self._what_tsstack_says(name)
        is_new = list(allowed).index(name) == 1 or (boots == allowed[1] and boot_tree() == boots_tree)
        return Verdict("torn" if faults else "new" if is_new else "old", faults)

    def _wrong_memory(self) -> list[str]:
        """What is remembered of the live generation must not make a later switch do nothing."""
        try:
            remembered = json.loads((STATE / "inputs.json").read_text())
        except FileNotFoundError:
            return []
        except ValueError:
            return ["inputs.json is torn"]
        number = remembered["generation"]
        if not (STATE / "generations" / str(number)).is_dir():
            return [f"inputs.json remembers generation {number}, which is not there"]
        return []

    def _what_tsstack_says(self, name: str) -> list[str]:
        """tsstack itself must find nothing to do for the file that the host is wholly of."""
        if name in _EMPTY:
            return []
        done = self.runner.run("-c", str(self.files[name]), "--json", "dry-activate")
        if done.code != 0:
            return [f"dry-activate ended with {done.code}: {done.said}"]
        parts = json.loads(done.said[done.said.index("{") :])["parts"]
        return [f"tsstack would still change: {parts}"] if parts else []

    def end_processes(self, *, only: str = "") -> None:
        """SIGKILL to all that runs here beside the harness; `only`: where the command line holds this.

        Again until none is left: a master starts a worker anew before its own signal comes.
        """

        def kill_round() -> bool:
            pids = [
                pid
                for pid, line in own_processes().items()
                if line and pid != os.getpid() and only in line and not _is_ours(line)
            ]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        if not wait_for(kill_round, 10.0):
            raise Broken(f"some processes do not end: {own_processes()}")

    def reboot(self, *, unsynced: bool = False, names: bool = False) -> None:
        """What a reboot takes away: processes, the kernel's tables and values, /run; and another boot id.

        `unsynced`: it takes what the disk had not been told to keep as well; `names`: but for names.
        """
        self.end_processes()
        if unsynced:
            self.disk.cut(names=names)
        NGINX_PID.unlink(missing_ok=True)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        shutil.rmtree(RUN, ignore_errors=True)
        self._reset_sysctls()
        for name, key in (("pending.json", "boot_id"), ("kernel-before.json", "scope")):
            path = STATE / name
            if path.exists() and path.read_bytes():  # empty: a cut that tsstack should have been ready for
                path.write_text(json.dumps({**json.loads(path.read_text()), key: "the boot before"}))
        self.disk.settle()
        if self.tailscaled:
            self.tailscaled.start()

    def _reset_sysctls(self) -> None:
        # Forwarding first: it takes others with it.
        for path, value in sorted(self.bare_sysctls.items(), key=lambda each: "forward" not in each[0]):
            if Path(path).read_text().strip() != value:
                Path(path).write_text(value)

    def send_dead_men_home(self) -> int:
        """End the dead men that a killed command has left; return how many there were."""
        men = dead_men()
        for pid in men:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not dead_men(), 2.0)
        for ready in RUN.glob("deadman-*.ready"):
            ready.unlink()
        return len(men)

    def scrub(self) -> None:
        """Make the host as bare as it was at the beginning, whatever happened to it."""
        self.end_processes()
        self.disk.mend()
        NGINX_PID.unlink(missing_ok=True)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        self._reset_sysctls()
        shutil.rmtree(RUN, ignore_errors=True)
        for path in STATE.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in ("conf.d", "modules-enabled"):
            for path in (Path("/etc/nginx") / name).iterdir():
                if "tsstack" in path.name:
                    path.unlink()
        if self.tailscaled:
            self.tailscaled.leave()
        self.runner.must(*self.switch("first"))

    def recover(self, how: str, words: Sequence[str]) -> Ended:
        """What comes after a kill: `recover`, the same command once more, a `reboot`, or a `power cut`."""
        if how == "recover":
            return self.runner.run("recover")
        if how == "again":
            return self.runner.run(*words)
        self.reboot(unsynced=how.startswith("power cut"), names=how == POWER_CUTS[1])
        return self.runner.run("recover", "--boot")


def _is_ours(line: str) -> bool:
    return "sleep infinity" in line or "crash_" in line or line.startswith("strace ")
