"""The staged nginx configuration, run in a throwaway network and asked by name.

nginx runs on a scratch copy of the generation: its logs, its run folder and its keys lie there, its
upstreams are stand-ins (`backends`). It has the listening addresses that it will have on the host, all in a
network namespace of its own. Nothing of the host's nginx is touched, no real upstream is called.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.prove import netlink
from tsstack.prove.backends import Backends, stand_in_address
from tsstack.prove.client import Client
from tsstack.prove.hosting import ask_everyone
from tsstack.prove.listening import open_sockets
from tsstack.prove.lists import compare_lists, compare_sockets
from tsstack.prove.places import Socket, addresses_of, names_of_host, sockets_of, vhosts_of
from tsstack.prove.questions import NETWORK_4, NETWORK_6, Asked, Question
from tsstack.prove.strangers import names_written
from tsstack.prove.vouching import Vouched
from tsstack.prove.world import NoWorld
from tsstack.system import command
from tsstack.system.namespaces import Offshoot
from tsstack.system.scratch import Scratch

if TYPE_CHECKING:
    from tsstack.parts.proxy.plan import Plan

CLIENT = "(a client)"
_FILES = ("http.conf", "main.conf", "nginx.conf")
_ALLOWED = Path("nginx/identity.json")
_FOLDERS = ("tls", "run", "log")
_UPSTREAM = re.compile(r"^(\s+server )([^\s;]+)((?: [^;]*)?;)$", re.MULTILINE)
_REFUSAL = re.compile(r"\[emerg\]\s*(?:\d+#\d+:\s*)?(.*)")
# One process, that ends with us. Who has only a user namespace has no other user to become there.
_ALONE = "daemon off; master_process off; user root root;"
# The kernel ends it with us, but not if we were gone before it was asked to (prctl(2): PR_SET_PDEATHSIG).
_WHILE_WE_LIVE = '[ "$PPID" = "$0" ] && exec "$@"'
_PATIENCE_S = 60
_AT_LEAST_EACH_SECOND = 20
"""So many questions a slow machine has answered."""
_START_S = 15.0
_TRUSTED = "ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, and what was seen: the endpoint that it came to, or words for what went wrong."""

    question: Asked
    seen: str

    @property
    def agrees(self) -> bool:
        """Whether it is what the file says."""
        return self.question.agrees(self.seen)


@dataclass(frozen=True, slots=True)
class Hearing:
    """All that was asked, and how many names were asked without a TLS handshake of their own."""

    answers: tuple[Answer, ...]
    duration_s: float = 0.0
    shared_handshakes: int = 0

    @property
    def checks(self) -> int:
        """How many questions were asked."""
        return len(self.answers)

    @property
    def mismatches(self) -> tuple[Answer, ...]:
        """The answers that are not what the file says."""
        return tuple(each for each in self.answers if not each.agrees)

    @property
    def matrix(self) -> list[dict[str, str]]:
        """A row for each question, as `prove --json` prints it."""
        return [
            {
                "from": CLIENT,
                "to": each.question.key.removeprefix("proxy.services").removeprefix(".") or "(no service)",
                "packet": str(each.question),
                "expected": each.question.expected,
                "seen": each.seen,
                "path": each.question.key,
            }
            for each in self.answers
        ]


def has_vhosts(stack: Stack, generation: Path) -> bool:
    """Whether there is a proxy to ask. Raises CheckFailed where that is not what the file asks for."""
    asked, made = stack.proxy is not None, (generation / "nginx" / "nginx.conf").exists()
    if asked != made:
        does = "asks for a proxy, and nothing was made" if asked else "asks for no proxy, and one was made"
        raise CheckFailed(f"the file {does}", hint="this is tsstack's fault, not your file's")
    return asked


class VhostExperiment:
    """nginx on a staged generation, started and asked in the background while others work.

    Raises NoWorld, or CheckFailed when its folders cannot be made.
    """

    def __init__(self, stack: Stack, facts: Facts, generation: Path) -> None:
        from tsstack.parts.proxy.plan import read_plan

        self._started_s = time.monotonic()
        self._stack, self._facts, self._generation = stack, facts, generation
        plan = read_plan(generation)
        if plan is None:
            raise CheckFailed(f"{generation / 'nginx'} has no plan.json", hint="switch again")
        written = names_written((generation / "nginx" / "http.conf").read_text(encoding="utf-8"))
        self._questions = tuple(ask_everyone(stack, facts, written))
        self._folder = Scratch()
        scene = _Scene(self._folder.path, generation, plan, facts, _secured_hosts(stack))
        addresses = addresses_of(stack, facts)
        try:
            self._agent = Offshoot(lambda _, out: _hold(scene, addresses, self._questions, out))
        except OSError as error:
            self._folder.close()
            raise NoWorld(error.strerror or str(error)) from error

    def run(self) -> Hearing:
        """Wait for the answers. Raises NoWorld, or CheckFailed when nginx does not come up there."""
        told = self._agent.output.read()
        if not told:
            raise NoWorld(self._agent.last_words())
        answer = json.loads(told)
        if "refused" in answer:
            raise CheckFailed(
                f"nginx does not come up with the new configuration: {answer['refused']}",
                hint="`tsstack check` tells more",
            )
        sockets = {Socket(*each) for each in answer["sockets"]}
        facts = [
            *compare_sockets(sockets_of(self._stack, self._facts), sockets),
            *compare_lists(self._stack, (self._generation / _ALLOWED).read_text(encoding="utf-8")),
        ]
        return Hearing(
            (
                *(Answer(each, seen) for each, seen in zip(self._questions, answer["seen"], strict=True)),
                *(Answer(fact, seen) for fact, seen in facts),
            ),
            time.monotonic() - self._started_s,
            answer["shared"],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._agent.close()
        self._folder.close()


@dataclass(frozen=True)
class _Scene:
    """A scratch copy of a generation, to be written and run."""

    scratch: Path
    generation: Path
    plan: Plan
    facts: Facts
    secured: tuple[str, ...] = ()
    """The names of upstreams that speak TLS."""

    def write(self) -> tuple[list[str], int]:
        """Write it all. Returns the endpoints of the upstreams and the port of their stand-ins."""
        for folder in _FOLDERS:
            (self.scratch / folder).mkdir()
        taken = {each.port for each in self.plan.listeners}
        port = next(number for number in range(7, 1 << 16) if number not in taken)
        endpoints: dict[str, int] = {}

        def stand_in(match: re.Match[str]) -> str:
            if match[2] == f"unix:{self._moved(self.facts.paths.run)}/identity.sock":
                return match[0]
            number = endpoints.setdefault(match[2], len(endpoints))
            return f"{match[1]}{stand_in_address(number)}:{port}{match[3]}"

        for name in _FILES:
            text = (self.generation / "nginx" / name).read_text(encoding="utf-8")
            text = _UPSTREAM.sub(stand_in, self._relocate(text))
            (self.scratch / name).write_text(text, encoding="utf-8")
        return list(endpoints), port

    def _moved(self, folder: Path) -> Path:
        paths = self.facts.paths
        names = {paths.tls: "tls", paths.run: "run", paths.log: "log"}
        return self.scratch / names[folder]

    def _relocate(self, text: str) -> str:
        paths = self.facts.paths
        text = text.replace(f"{paths.etc}/{_TRUSTED}", f"{self.scratch}/tls/upstreams.crt")
        # Longest first: one of the folders may lie within another.
        for folder in sorted((paths.tls, paths.run, paths.log), key=lambda each: -len(str(each))):
            text = text.replace(f"{folder}/", f"{self._moved(folder)}/")
        return text.replace("worker_processes auto;", "worker_processes 1;")

    def place_certificates(self) -> tuple[list[Path], bool]:
        """Put a pair at every place that nginx loads one from: the host's own where it can be read.

        Others are made for the names that the plan says, by an authority that lives as long as the proof.
        Returns the certificates, and whether all that the file names are there themselves.
        """
        from tsstack.parts.proxy.authority import is_due, issue
        from tsstack.parts.proxy.pem import is_plain

        placed, named = [], True
        for each in self.plan.certificates:
            certificate, key = Path(self._relocate(each.certificate)), Path(self._relocate(each.key))
            sources = (each.source_certificate, each.source_key)
            if each.kind == "files" and all(map(is_plain, sources)):
                certificate.symlink_to(sources[0])
                key.symlink_to(sources[1])
            elif each.kind != "files" and not is_due(each, time.time()) and os.access(each.key, os.R_OK):
                certificate.symlink_to(each.certificate)
            else:
                named = named and each.kind != "files"
                pair, _, _ = issue(
                    self.scratch / "tls", self.plan.tailnet, each.names, datetime.datetime.now(datetime.UTC)
                )
                for path in {certificate, key}:
                    path.write_bytes(pair)
            placed.append(certificate)
        return placed, named


def _hold(scene: _Scene, addresses: Iterable[str], questions: Sequence[Question], out: BinaryIO) -> None:
    """In the world: start nginx, ask, tell."""
    signal.alarm(_PATIENCE_S + len(questions) // _AT_LEAST_EACH_SECOND)
    endpoints, port = scene.write()
    certificates, named = scene.place_certificates()
    vouched = Vouched(scene.scratch / "tls", scene.secured) if scene.secured else None
    _give_addresses(addresses)
    backends = Backends(endpoints, port, scene.scratch / "run" / "identity.sock", vouched)
    log = scene.scratch / "log" / "start.log"
    words: list[str | Path] = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _WHILE_WE_LIVE, str(os.getpid())]
    nginx = command.start([*words, "nginx", "-g", _ALONE, "-c", scene.scratch / "nginx.conf"], log=log)
    try:
        refused = _wait_until_up(nginx, scene.scratch / "run" / "nginx.pid", log)
        told = (
            {"refused": refused}
            if refused
            else _ask_all(Client(backends, certificates, named=named), backends, questions)
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(nginx, signal.SIGKILL)
    out.write(json.dumps(told).encode())


def _ask_all(client: Client, backends: Backends, questions: Sequence[Question]) -> dict[str, Any]:
    seen = client.ask_all(questions)
    sockets = [(each.protocol, each.address, each.port) for each in open_sockets(backends.own)]
    return {"seen": seen, "sockets": sockets, "shared": client.shared}


def _secured_hosts(stack: Stack) -> tuple[str, ...]:
    upstreams = [
        each for vhost in vhosts_of(stack) if vhost.scheme != "tcp" for each in vhost.service.upstream
    ]
    hosts = [each.host for each in upstreams if each.scheme == "https"]
    return tuple(dict.fromkeys(name for host in hosts for name in names_of_host(host) if name))


def _give_addresses(addresses: Iterable[str]) -> None:
    """The addresses that nginx has on the host, and the networks of its clients."""
    netlink.raise_link("lo")
    lo = socket.if_nametoindex("lo")
    given = [_packed(text) for text in addresses if text not in {"127.0.0.1", "::1"}]
    netlink.give_addresses((each, len(each) * 8, lo) for each in given)
    clients = [NETWORK_4, *([NETWORK_6] if any(":" in each for each in addresses) else [])]
    netlink.apply_messages(
        netlink.own_network_message(_packed(network), prefix, lo) for network, prefix in clients
    )


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _wait_until_up(nginx: int, pid_file: Path, log: Path) -> str:
    """Return once nginx has all of its sockets; why not, if it ends before, or does not get there."""
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        if os.waitpid(nginx, os.WNOHANG) != (0, 0):
            said = log.read_text(encoding="utf-8", errors="replace")
            found = _REFUSAL.findall(said)
            return found[-1] if found else (said.strip().splitlines() or ["it gave no reason"])[-1]
        # It is written behind the last listen(2) (nginx, src/core/nginx.c: ngx_create_pidfile).
        if pid_file.exists():
            return ""
        time.sleep(0.005)
    return f"it was not up after {_START_S:.0f} s"
