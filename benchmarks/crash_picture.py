"""What a host is: every file, the kernel's table and parameters, and what nginx answers to new clients.

Two pictures are equal if the host is wholly the same generation. Nothing here asks tsstack's own
observers: a fault of theirs must not hide one of a switch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/tsstack")
RUN = Path("/run/tsstack")
ETC = (Path("/etc/nginx"), Path("/etc/sysctl.d"), Path("/etc/modules-load.d"))
NGINX_PID = Path("/run/nginx.pid")
HTTP = ("127.0.0.1", 8088)
STREAM = ("127.0.0.1", 5433)
_PATHS = ("/web/", "/shop/", "/nothing/")
# Values that the kernel changes by itself, or that only take.
_MOVING = {"nf_conntrack_count", "flush", "fib_sync_mem"}
# tailscaled sets it when it needs it.
_MOVING |= {"src_valid_mark"}
# May be there or not: what the live generation was rendered from, room set aside, the dead man's diary.
# A note for people of what was undone last. And the name of a record that is cleared, on a disk that failed
# at that very moment: no one reads it. And the folder that fallbacks lie in.
_OPTIONAL = {
    ".pending.json.over", "inputs.json", "reserve", "deadman.log", "proxy.json", "firewall.json", "undone",
    "fallbacks", "proxy-held",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """What can be seen of a host from outside. `tree` is the digest of the files behind `current`; behind a
    plus sign that of the fallback's, if there is one."""

    tree: str
    table: str
    sysctls: dict[str, str] = field(repr=False)
    etc: dict[str, str] = field(repr=False)
    answers: tuple[str, ...]
    masters: int
    names: frozenset[str] = field(repr=False)
    prefs: dict[str, Any] = field(repr=False)
    """tailscaled's settings; empty where it is not part of the host."""

    def differences(self, other: Picture) -> list[str]:
        """What is not as in `other`, a line each."""
        found = []
        for name in ("tree", "answers", "masters"):
            if getattr(self, name) != getattr(other, name):
                found.append(f"{name}: {getattr(self, name)!r}, not {getattr(other, name)!r}")
        if self.table != other.table:
            found.append(f"table: {_first_difference(self.table, other.table)}")
        for name in ("sysctls", "etc", "prefs"):
            mine, its = getattr(self, name), getattr(other, name)
            for key in sorted({*mine, *its}):
                if mine.get(key) != its.get(key):
                    found.append(f"{name}: {key} is {mine.get(key)!r}, not {its.get(key)!r}")
        missing = other.names - self.names - _OPTIONAL
        extra = self.names - other.names - _OPTIONAL
        found += [f"missing: {name}" for name in sorted(missing)]
        found += [f"left over: {name}" for name in sorted(extra)]
        return found


def take_picture(prefs: dict[str, Any]) -> Picture:
    """Look at the host that we are in; `prefs` are tailscaled's."""
    current, fallback = STATE / "current", STATE / "fallback"
    folder = current.resolve() if current.is_symlink() else STATE / "generations" / "0"
    return Picture(
        tree=tree_of(folder) + (f"+{tree_of(fallback.resolve())}" if fallback.is_symlink() else ""),
        table=_nft("-s", "list", "table", "inet", "tsstack"),
        sysctls=read_sysctls(),
        etc=_read_etc(),
        answers=(*(_ask(path) for path in _PATHS), _ask_stream()),
        masters=len(nginx_masters()),
        names=frozenset(_names()),
        prefs=prefs,
    )


def tree_of(folder: Path) -> str:
    """One digest over the rendered files of a generation."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent != folder:
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def read_sysctls() -> dict[str, str]:
    """Every parameter of this network namespace, but those of an interface that comes and goes."""
    found = {}
    for place, _, names in os.walk("/proc/sys/net"):
        if place.endswith("/tailscale0"):
            continue
        for name in names:
            if name not in _MOVING:
                try:
                    found[f"{place}/{name}"] = Path(place, name).read_text().strip()
                except OSError:
                    continue  # it only takes, or belongs to the machine outside
    return found


def _read_etc() -> dict[str, str]:
    found = {}
    for folder in ETC:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_symlink():
                found[str(path)] = f"-> {path.readlink()}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def _names() -> list[str]:
    """What lies in our own folders, but for the numbers that generations have."""
    found = [path.name for folder in (STATE, RUN) if folder.is_dir() for path in folder.iterdir()]
    inside = [path for path in (STATE / "generations").iterdir()] if (STATE / "generations").is_dir() else []
    return found + [f"generations/{path.name}" for path in inside if not path.name.isdigit()]


def _nft(*words: str) -> str:
    return subprocess.run(["nft", *words], capture_output=True, text=True, check=False).stdout


def _exchange(path: str) -> tuple[str, str]:
    try:
        with socket.create_connection(HTTP, timeout=5) as connection:
            host = "one.tail.test"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            reply = b""
            while data := connection.recv(65536):
                reply += data
    except OSError as error:
        return type(error).__name__, ""
    head, _, body = reply.decode(errors="replace").partition("\r\n\r\n")
    return head.partition("\r\n")[0], body


def _ask(path: str) -> str:
    """The status line of a new connection."""
    return f"{path} {_exchange(path)[0]}"


def _ask_stream() -> str:
    try:
        with socket.create_connection(STREAM, timeout=5):
            return "stream accepted"
    except OSError as error:
        return f"stream {type(error).__name__}"


def served_digest(generation: Path) -> tuple[str, str]:
    """What nginx says that it serves, asked three times, and what the generation says that it should."""
    plan = generation / "nginx" / "plan.json"
    if not plan.is_file():
        return "", ""
    facts: dict[str, Any] = json.loads(plan.read_text())
    if not facts.get("status"):
        return "", ""
    host, _, port = str(facts["status"]).rpartition(":")
    answers = set()
    for _ in range(3):
        try:
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(f"GET /generation HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                reply = b""
                while data := connection.recv(65536):
                    reply += data
            answers.add(reply.decode(errors="replace").partition("\r\n\r\n")[2].strip())
        except OSError as error:
            answers.add(type(error).__name__)
    return ", ".join(sorted(answers)), str(facts["digest"])


def own_processes() -> dict[int, str]:
    """The processes of this network namespace: pid -> command line."""
    own = Path("/proc/self/ns/net").readlink()
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "ns" / "net").readlink() == own:
                    line = (process / "cmdline").read_bytes()
                    found[int(process.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:  # it ended meanwhile
                continue
    return found


def nginx_masters() -> list[int]:
    """The pids of nginx's masters here."""
    return [pid for pid, line in own_processes().items() if line.startswith("nginx: master process")]


def dead_men() -> list[int]:
    """The pids of the dead men here."""
    return [pid for pid, line in own_processes().items() if "tsstack.switch.deadman" in line]


def links() -> tuple[int, int]:
    """The generations that `current` and `boot` name; -1 for a link that names none."""
    return _number("current"), _number("boot")


def _number(name: str) -> int:
    link = STATE / name
    if not link.is_symlink():
        return -1 if link.exists() else 0
    number = link.readlink().name
    return (
        int(number)
        if number.isdigit() and (STATE / "generations" / number / "manifest.json").exists()
        else -1
    )


def boot_tree() -> str:
    """The digest of the files that the next boot would bring up; empty: none."""
    boot = STATE / "boot"
    return tree_of(boot.resolve()) if boot.is_symlink() else ""


def loose_ends(boots: str = "") -> list[str]:
    """What no finished change leaves behind, whatever its generation.

    `boots`: the digest of what the next boot may bring up beside that which is live.
    """
    found = []
    if (STATE / "pending.json").exists():
        found.append("a pending record is left")
    current, boot = links()
    if current < 0 or boot < 0:
        found.append(f"a link names no generation: current {current}, boot {boot}")
    elif current != boot and (not boots or boot_tree() != boots):
        found.append(f"the next boot would bring up another generation: current {current}, boot {boot}")
    for folder in (STATE / "generations").iterdir():
        if folder.name.isdigit() and not all(
            (folder / name).is_file() for name in ("manifest.json", "source.yaml")
        ):
            found.append(f"generation {folder.name} is not whole")
    if current > 0:
        served, wanted = served_digest(STATE / "generations" / str(current))
        if served != wanted:
            found.append(f"nginx serves {served or 'nothing'}, not {wanted}")
    masters = nginx_masters()
    if masters and (not NGINX_PID.exists() or NGINX_PID.read_text().strip() != str(masters[0])):
        found.append(f"nginx's pid file does not name its master {masters[0]}")
    with (STATE / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found.append("somebody holds the lock")
    return found


def wait_for(condition: Any, limit_s: float) -> bool:
    """Whether `condition()` came true in time."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


def _first_difference(mine: str, other: str) -> str:
    pairs = zip([*mine.splitlines(), "(end)"], [*other.splitlines(), "(end)"], strict=False)
    for left, right in pairs:
        if left != right:
            return f"{left.strip()!r}, not {right.strip()!r}"
    return "the same lines in another number"
