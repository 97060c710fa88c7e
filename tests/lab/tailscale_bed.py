"""A throwaway control server and bare nodes: what enrolment needs, and no more.

One Headscale in a namespace with a bridge, tailscaled in namespaces of their own behind it. Every name
holds the process id, so test runs side by side do not meet. `close()` removes all of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tsstack.lab.engines import prepare
from tsstack.model.facts import Facts, Paths
from tsstack.model.stack import Stack
from tsstack.parts.part import Snapshot, Tree
from tsstack.parts.tailscale.host import PART, TailscalePart
from tsstack.system.localapi import LocalApi

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
CONTROL = "10.77.0.1"

CONFIG = """
server_url: http://{control}:8080
listen_addr: {control}:8080
metrics_listen_addr: 127.0.0.1:9090
grpc_listen_addr: 127.0.0.1:50443
unix_socket: {folder}/hs.sock
noise: {{private_key_path: {folder}/noise.key}}
prefixes: {{v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}}
disable_check_updates: true
derp:
  server:
    enabled: true
    region_id: 999
    region_code: hs
    region_name: embedded
    verify_clients: false
    stun_listen_addr: {control}:3478
    private_key_path: {folder}/derp.key
    ipv4: {control}
  urls: []
  auto_update_enabled: false
database: {{type: sqlite, sqlite: {{path: {folder}/db.sqlite, write_ahead_log: true}}}}
policy: {{mode: file, path: {folder}/policy.hujson}}
dns: {{magic_dns: true, base_domain: tail.test, override_local_dns: false, nameservers: {{global: []}}}}
node: {{ephemeral: {{inactivity_timeout: 70s}}}}
logtail: {{enabled: false}}
"""
POLICY = {
    "tagOwners": {"tag:server": ["lab@"], "tag:exit": ["lab@"]},
    "grants": [{"src": ["*"], "dst": ["*", "autogroup:internet"], "ip": ["*"]}],
    "ssh": [
        {"action": "accept", "src": ["lab@"], "dst": ["tag:server", "autogroup:self"], "users": ["root"]}
    ],
    "autoApprovers": {"exitNode": ["tag:exit"], "routes": {"192.168.15.0/24": ["tag:exit"]}},
}


@functools.cache
def engines() -> dict[str, Path]:
    """The lab's engines, built if they must be. A missing one fails the test: there is no skipping."""
    return prepare(lambda _: None)


def engine(name: str) -> str:
    return str(engines()[name])


def sh(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}{done.stdout}"
    return done.stdout


def stack_of(name: str, **tailscale: Any) -> Stack:
    """A file that speaks of tailscale alone; `extra` holds other sections."""
    extra = tailscale.pop("extra", {})
    section = {"login_server": f"http://{CONTROL}:8080", **tailscale}
    return Stack.model_validate(
        {"host": {"name": name, "tailnet": "tail.test"}, "tailscale": section, **extra}
    )


def eventually(what: Callable[[], T], *, within_s: float = 10.0) -> T:
    deadline = time.monotonic() + within_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        time.sleep(0.05)
    return value


class Node:
    """A namespace with a tailscaled that knows nothing yet."""

    def __init__(self, bed: Bed, name: str, number: int) -> None:
        self.bed, self.name, self.namespace = bed, name, f"{bed.prefix}{name}"
        self.folder = bed.folder / name
        self.folder.mkdir()
        self.socket = self.folder / "ts.sock"
        self.resolv = self.folder / "resolv.conf"
        self.resolv.write_text("nameserver 192.0.2.53\n")
        self._wire(number)
        self.start()
        self.api = LocalApi(self.socket)
        self.generations = 0
        self.reports: list[str] = []
        self.taps: list[socket.socket] = []

    def _wire(self, number: int) -> None:
        port = f"v{os.getpid() % 100000}{self.name}"[:15]
        sh("ip", "netns", "add", self.namespace)
        sh(
            "ip",
            "-n",
            self.bed.hub,
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "eth0",
            "netns",
            self.namespace,
        )
        sh("ip", "-n", self.bed.hub, "link", "set", port, "master", "br0", "up")
        for words in (
            ("addr", "add", f"10.77.0.{10 + number}/24", "dev", "eth0"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", CONTROL),
        ):
            sh("ip", "-n", self.namespace, *words)

    def start(self) -> None:
        """Let tailscaled run, with the state that it has."""
        self.socket.unlink(missing_ok=True)
        self.process = self._start()

    def stop(self) -> None:
        """End tailscaled."""
        _end(self.process)

    def _start(self) -> subprocess.Popen[bytes]:
        # The daemon rewrites resolv.conf: it gets a private copy in the mount namespace of this exec.
        script = (
            f'mount --bind {self.resolv} /etc/resolv.conf && exec "$@" >>{self.folder}/tailscaled.log 2>&1'
        )
        daemon = [
            engine("tailscaled"), f"--statedir={self.folder}", f"--state={self.folder}/tailscaled.state",
            f"--socket={self.socket}", "--tun=tailscale0", "--port=41641", "--no-logs-no-support",
            "--encrypt-state=false",
        ]  # fmt: skip
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "sh", "-c", script, "sh", *daemon],
            env={
                **os.environ,
                "TS_DEBUG_FIREWALL_MODE": "nftables",
                "TS_DISABLE_PORTMAPPER": "1",
                "TS_PANIC_IF_HIT_MAIN_CONTROL": "1",
                "TS_DEBUG_USE_DERP_HTTP": "1",
            },
        )
        eventually(self.socket.exists)
        return process

    @property
    def facts(self) -> Facts:
        return Facts(paths=Paths(tailscale_socket=self.socket, state=self.folder / "lib"))

    def log(self) -> str:
        return (self.folder / "tailscaled.log").read_text(errors="replace")

    def inside(self, work: Callable[[], T]) -> T:
        """Run `work` in this node's network namespace (setns(2) is per thread) and return its outcome."""
        outcome: list[Any] = []
        failure: list[BaseException] = []

        def enter() -> None:
            with Path(f"/run/netns/{self.namespace}").open() as handle:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(handle.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001  handed to the test below
                failure.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        value: T = outcome[0]
        return value

    def stage(self, stack: Stack) -> tuple[Tree, Path]:
        """Render a file for this node into a generation of its own."""
        self.generations += 1
        folder = self.folder / "generations" / str(self.generations)
        tree = PART.desired(stack, self.facts)
        for path, text in tree.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return tree, folder

    def key_file(self, key: str) -> dict[str, str]:
        """`auth_key:` for a key in a file of its own."""
        path = self.folder / "key"
        path.write_text(key + "\n")
        return {"file": str(path)}

    def switch(self, stack: Stack, part: TailscalePart = PART) -> tuple[Tree, Snapshot]:
        """Observe, check, activate, verify; returns the tree and what was seen before."""
        tree, generation = self.stage(stack)
        before = part.observe(tree, self.facts)
        part.check(generation, self.facts)
        self.inside(lambda: part.activate(generation, self.facts, self.reports.append))
        part.verify(generation, self.facts)
        return tree, before

    def tapped(self) -> tuple[Facts, list[str]]:
        """Facts whose socket passes everything on to the daemon, and the request lines that came by."""
        lines: list[str] = []
        path = self.folder / f"tap{len(list(self.folder.glob('tap*')))}.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        self.taps.append(listener)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=self._pass_on, args=(client, lines), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        return Facts(paths=Paths(tailscale_socket=path, state=self.folder / "lib")), lines

    def _pass_on(self, client: socket.socket, lines: list[str]) -> None:
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
            request = client.recv(1 << 20)
            lines.append(request.split(b"\r\n", 1)[0].decode().rpartition(" ")[0])
            daemon.connect(str(self.socket))
            daemon.sendall(request)
            while data := daemon.recv(1 << 16):
                client.sendall(data)

    def tailscale(self, *words: str) -> str:
        return sh(engine("tailscale"), f"--socket={self.socket}", *words)

    def close(self) -> None:
        for tap in self.taps:
            tap.close()
        _end(self.process)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)


class Bed:
    """Headscale at 10.77.0.1 in a namespace; `node()` adds bare nodes, `key()` preauth keys."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tsb"))
        self.folder.chmod(0o755)  # another user must reach the sockets, as on a real host
        self.prefix = f"tsb{secrets.token_hex(3)}"  # several may live in one process
        self.hub = f"{self.prefix}hub"
        self.nodes: list[Node] = []
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self._up()
        except BaseException:
            self.close()
            raise

    def _up(self) -> None:
        self.config = self.folder / "hs.yaml"
        self.config.write_text(CONFIG.format(control=CONTROL, folder=self.folder))
        (self.folder / "policy.hujson").write_text(json.dumps(POLICY))
        sh("ip", "netns", "add", self.hub)
        sh("ip", "-n", self.hub, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", self.hub, "addr", "add", f"{CONTROL}/24", "dev", "br0")
        for link in ("lo", "br0"):
            sh("ip", "-n", self.hub, "link", "set", link, "up")
        with (self.folder / "hs.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.hub, engine("headscale"), "-c", str(self.config), "serve"],
                stdout=log,
                stderr=log,
            )
        eventually((self.folder / "hs.sock").exists)
        self.user = self.headscale("users", "create", "lab")["id"]

    def headscale(self, *words: str) -> Any:
        return json.loads(sh(engine("headscale"), "-c", str(self.config), *words, "-o", "json"))

    def key(self, *, tags: str = "", expiry: str = "1h", reusable: bool = False) -> str:
        """A fresh key, for one node unless `reusable`."""
        owner = ["--reusable"] if reusable else []
        owner += ["--tags", tags] if tags else []
        made = self.headscale("preauthkeys", "create", "-u", str(self.user), "-e", expiry, *owner)
        return str(made["key"])

    def registered(self, hostname: str) -> dict[str, Any] | None:
        """Headscale's own record of a node."""
        nodes = self.headscale("nodes", "list") or []
        return next((node for node in nodes if node["name"] == hostname), None)

    def node(self) -> Node:
        number = len(self.nodes)
        node = Node(self, f"n{number}", number)
        self.nodes.append(node)
        return node

    def close(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.close()
        if self.process is not None:
            _end(self.process)
        subprocess.run(["ip", "netns", "del", self.hub], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
