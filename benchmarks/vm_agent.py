"""The tests' hand inside a machine: runs programs, writes files and looks at the host, when it is told to.

JSON lines over a virtio serial port. Each request has an `id`, which every line of its answer repeats:

    {"id": 1, "do": "run", "argv": [...], "stdin": "..."}   ->  {"id": 1, "line": "..."}, more lines,
                                                                {"id": 1, "code": 0, "out": "..."}
    {"id": 1, "do": "verb", "argv": [...]}                      the same for a verb of tsstack, see vm_verbs
    {"id": 2, "do": "write", "path": "/x", "text": "..."}   ->  {"id": 2, "code": 0}
    {"id": 3, "do": "look"}                                 ->  {"id": 3, "code": 0, "seen": {...}}
    {"id": 3, "do": "look_at_host"}                             the same where there is no tsstack

`line` is a line of the program's stderr, as soon as it comes. Runs as root, from the beginning of a boot.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

OPEN_PORT, CLOSED_PORT = 2222, 2223
"""Both are listened at; the test's files open the one and not the other."""
_CHATTER = {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME": "/root"}


class Agent:
    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()

    def say(self, **words: Any) -> None:
        data = json.dumps(words).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._port, data) :]

    def serve(self) -> None:
        buffer = b""
        self.say(hello=Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        while True:
            data = os.read(self._port, 65536)
            if not data:  # nobody is connected at the other end
                time.sleep(0.05)
                continue
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                try:
                    request = json.loads(line)
                except ValueError:
                    continue  # the rest of what was said before this boot
                threading.Thread(target=self._answer, args=(request,), daemon=True).start()

    def _answer(self, request: dict[str, Any]) -> None:
        number = request["id"]
        try:
            answer = getattr(self, f"do_{request['do']}")(request)
        except Exception as error:  # noqa: BLE001  whoever asked has to hear of it
            answer = {"code": 255, "out": f"{type(error).__name__}: {error}"}
        self.say(id=number, **answer)

    def do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        process = subprocess.Popen(
            request["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_CHATTER,
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(request.get("stdin") or "")
        process.stdin.close()
        out = self._pass_on(request["id"], process.stdout, process.stderr)
        return {"code": process.wait(), "out": out}

    def _pass_on(self, number: int, stdout: IO[str], stderr: IO[str]) -> str:
        """Say each line of `stderr` as it comes; return all of `stdout`."""
        out: list[str] = []
        reader = threading.Thread(target=lambda: out.append(stdout.read()), daemon=True)
        reader.start()
        for line in stderr:
            self.say(id=number, line=line.rstrip("\n"))
        reader.join()
        return out[0]

    def do_verb(self, request: dict[str, Any]) -> dict[str, Any]:
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.connect("/run/vm-verbs.sock")
            socket.send_fds(server, [json.dumps(request["argv"]).encode()], [out_end, err_end])
            os.close(out_end)
            os.close(err_end)
            with os.fdopen(out, errors="replace") as stdout, os.fdopen(err, errors="replace") as stderr:
                said = self._pass_on(request["id"], stdout, stderr)
            answer: dict[str, Any] = json.loads(server.recv(65536))
        return {**answer, "out": said}

    def do_write(self, request: dict[str, Any]) -> dict[str, Any]:
        path = Path(request["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(request["text"])
        path.chmod(request.get("mode", 0o644))
        if request.get("sync"):
            os.sync()
        return {"code": 0}

    def do_read(self, request: dict[str, Any]) -> dict[str, Any]:
        path = Path(request["path"])
        return {"code": 0, "text": path.read_text() if path.exists() else None}

    def do_look(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"code": 0, "seen": look()}

    def do_look_at_host(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"code": 0, "seen": look_at_host()}


def look() -> dict[str, Any]:
    """The host as it is. Nothing here asks tsstack's own observers."""
    import crash_picture

    state, (current, boot) = crash_picture.STATE, crash_picture.links()
    live = state / "current"
    return look_at_host() | {
        "current": current,
        "boot": boot,
        "tree": crash_picture.tree_of(live.resolve()) if live.is_symlink() else "",
        "generations": generations(),
        "names": sorted(_files(state, without=("generations", "tls")) | _files(Path("/run/tsstack"))),
        "loose_ends": crash_picture.loose_ends(),
        "dead_men": len(crash_picture.dead_men()),
        "dead_units": _lines(
            "systemctl", "list-units", "--all", "--plain", "--no-legend", "tsstack-deadman-*"
        ),
        "early": _unit("tsstack-early.service"),
        "late": _unit("tsstack-boot.service"),
        "links_us": links_up_us(),
    }


def look_at_host() -> dict[str, Any]:
    """What tsstack can change of a host."""
    import crash_picture

    return {
        "table": _lines("nft", "-s", "list", "table", "inet", "tsstack"),
        "sysctls": {
            name: value
            for name, value in crash_picture.read_sysctls().items()
            if "/tailscale0/" not in name and not name.endswith("/tcp_fastopen_key")  # new at each boot
        },
        "etc": _files(Path("/etc")),
        "masters": len(crash_picture.nginx_masters()),
        "prefs": prefs(),
        "dns": [line for what in ("dns", "domain") for line in _lines("resolvectl", what, "tailscale0")],
        "queues": [line for line in _lines("tc", "qdisc", "show", "dev", "tailscale0") if "tbf" in line],
    }


def _files(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Every file below `folder` with a digest, every link with its target."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in without]
        for name in (*names, *folders):
            path = Path(place, name)
            if path.is_symlink():
                found[str(path)] = f"-> {path.readlink()}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def generations() -> dict[str, str]:
    """The digest of each generation's files, by its number."""
    import crash_picture

    folder = crash_picture.STATE / "generations"
    found = folder.iterdir() if folder.is_dir() else ()
    return {path.name: crash_picture.tree_of(path) for path in found if path.name.isdigit()}


def prefs() -> dict[str, Any]:
    """tailscaled's settings, as it says them itself; without its keys."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
            local.settimeout(10)
            local.connect("/run/tailscale/tailscaled.sock")
            local.sendall(b"GET /localapi/v0/prefs HTTP/1.0\r\nHost: local-tailscaled.sock\r\n\r\n")
            reply = b""
            while data := local.recv(65536):
                reply += data
        found: dict[str, Any] = json.loads(reply.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError) as error:
        return {"unreachable": f"{type(error).__name__}: {error}"}
    # Without a name of its own the node has the machine's.
    found["Hostname"] = found.get("Hostname") or socket.gethostname()
    return {name: value for name, value in found.items() if name not in {"Config", "InternalExitNodePrior"}}


def links_up_us() -> list[int]:
    """When networkd saw eth0 come up or find a carrier, in microseconds since the kernel started."""
    words = ["journalctl", "-b", "-o", "json", "--no-pager", "-u", "systemd-networkd"]
    said = subprocess.run(words, capture_output=True, text=True, env=_CHATTER, check=False).stdout
    entries = [json.loads(line) for line in said.splitlines()]
    return [
        int(entry.get("_SOURCE_MONOTONIC_TIMESTAMP", entry["__MONOTONIC_TIMESTAMP"]))
        for entry in entries
        if "eth0: " in str(entry["MESSAGE"])
        and ("Link UP" in entry["MESSAGE"] or "Gained carrier" in entry["MESSAGE"])
    ]


def _lines(*words: str) -> list[str]:
    done = subprocess.run(words, capture_output=True, text=True, env=_CHATTER, check=False)
    return done.stdout.splitlines()


def _unit(name: str) -> dict[str, str]:
    """A unit's result, and when its program began and ended, in microseconds since the kernel started."""
    properties = "Result,ActiveState,NRestarts,ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic"
    return dict(line.split("=", 1) for line in _lines("systemctl", "show", "-p", properties, name))


def listen(port: int) -> None:
    """Greet everyone who connects; what the firewall lets through is seen so."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        with listener.accept()[0] as client:
            client.sendall(b"hello\n")


def main() -> None:
    for port in (OPEN_PORT, CLOSED_PORT):
        threading.Thread(target=listen, args=(port,), daemon=True).start()
    while not (found := list(Path("/dev").glob("vport*"))):
        time.sleep(0.02)
    Agent(os.open(found[0], os.O_RDWR)).serve()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
