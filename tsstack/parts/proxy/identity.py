"""A daemon that tells nginx who a client is: the target of its auth subrequests.

Run as `python -P -m tsstack.parts.proxy.identity --socket PATH --allow FILE --tailscaled SOCKET`.

nginx sends the service's key and the client's address and port; tailscaled's whois says whose it is; the
allow list decides. Whatever fails, the answer is no. Answers: 204 with X-Tailscale-User, -Name, -Node and
-Tags, or 403 with the reason. The allow list is read again when the file behind its path changes.

Who matches: `tag:x` matches nodes with that tag; a login matches the node's user, letter case aside,
unless the node is tagged (a tagged node is nobody's, whoever enrolled it). Headscale's local users have
logins without a domain: `alice@` matches exactly `alice` and `alice@`, never `alice@example.com`, which
could be somebody of another domain.

Where tailscaled hands over the connections of its services, it connects from loopback and a PROXY header
says who the client is. Every program of this host could write such a header. So the claim counts only when
the connecting socket is tailscaled's user's or root's, and when tailscaled does not know the connection as
that of a peer whose bytes it merely passes on (userspace networking: then the header is the peer's).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from email.charset import QP, Charset
from email.header import Header
from pathlib import Path
from typing import Any

from tsstack.parts.proxy.peers import listener_of, open_proxies, owner_of
from tsstack.system.localapi import LocalApi, LocalApiError

_CACHE_S = 3.0
_CACHE_SIZE = 4096
_WHOIS_S = 3.0
_HEAD_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a client may use a service, why, and who it is."""

    allowed: bool
    reason: str
    user: str = ""
    name: str = ""
    node: str = ""
    tags: tuple[str, ...] = ()


def decide(whois: dict[str, Any] | None, allow: list[str]) -> Decision:
    """Judge the answer of whois (`Node`, `UserProfile`; None for an address of nobody). Pure."""
    if not whois or not isinstance(whois.get("Node"), dict):
        return Decision(False, "not an address of the tailnet")
    node = whois["Node"]
    profile = whois.get("UserProfile") or {}
    tags = tuple(str(tag) for tag in node.get("Tags") or ())
    host = str(node.get("Name") or node.get("ComputedName") or "").rstrip(".")
    if tags:
        matched = next((tag for tag in tags if tag in allow), "")
        reason = f"{matched} is allowed" if matched else f"none of its tags {', '.join(tags)} is allowed"
        return Decision(bool(matched), reason, node=host, tags=tags)
    login = str(profile.get("LoginName") or "")
    wanted = {principal.lower() for principal in allow if not principal.startswith("tag:")}
    spellings = {login.lower()} if "@" in login.rstrip("@") else {f"{login.rstrip('@').lower()}@"}
    allowed = bool(login.rstrip("@")) and not spellings.isdisjoint(wanted)
    reason = f"{login} is {'' if allowed else 'not '}allowed" if login else "it has no user"
    return Decision(allowed, reason, login, str(profile.get("DisplayName") or ""), host)


class Allowances:
    """The allow list of each service, from a JSON file that may be replaced at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._services: dict[str, list[str]] = {}

    def of(self, service: str) -> list[str] | None:
        """Who may use the service; None for an unknown one. Raises OSError or ValueError: then nobody may."""
        status = self._path.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            read = json.loads(self._path.read_text(encoding="utf-8"))
            self._services = {str(key): [str(one) for one in each] for key, each in read["services"].items()}
            self._seen = seen
        return self._services.get(service)

    def forget(self) -> None:
        """Read the file again at the next question."""
        self._seen = None


class Doorkeeper:
    """Answers the subrequests. Keeps what whois said for a few seconds."""

    def __init__(self, allowances: Allowances, api: LocalApi) -> None:
        self._allowances = allowances
        self._api = api
        self._known: dict[str, tuple[float, dict[str, Any] | None]] = {}

    async def judge(self, service: str, address: str) -> Decision:
        """Never raises: what cannot be found out is a no."""
        try:
            allow = self._allowances.of(service)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            return Decision(False, f"the allow list cannot be read: {error}")
        if allow is None:
            return Decision(False, "the service has no allow list")
        try:
            return decide(await self._whois(address), allow)
        except LocalApiError as error:
            return Decision(False, f"tailscaled cannot be asked: {error.message}")

    async def doubt(self, peer: tuple[str, int], own_port: int) -> str:
        """Why a PROXY header from `peer` must not be believed; empty when it may be. Never raises."""
        try:
            return await asyncio.to_thread(self._doubt, peer, own_port)
        except (LocalApiError, OSError, ValueError) as error:
            return f"who sent its PROXY header cannot be found out: {error}"

    def _doubt(self, peer: tuple[str, int], own_port: int) -> str:
        address, port = peer
        owner = owner_of(address, port, address, own_port)
        if owner is None:
            return "the connection is gone"
        pid, uid = listener_of(self._api.path)
        if owner not in {0, uid}:
            return f"a program of the local user {owner} claims to be this client"
        if flags := open_proxies(pid):
            return f"tailscaled runs with {flags[0]}, so any local program could claim to be this client"
        if self._api.whois(f"{address}:{port}") is not None:
            return "the PROXY header is the client's own"
        return ""

    async def _whois(self, address: str) -> dict[str, Any] | None:
        now_s = time.monotonic()
        known = self._known.get(address)
        if known is not None and now_s < known[0]:
            return known[1]
        answer = await asyncio.to_thread(self._api.whois, address)
        if len(self._known) >= _CACHE_SIZE:
            self._known.clear()
        self._known[address] = (now_s + _CACHE_S, answer)
        return answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from nginx, which keeps it open for many questions."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = _fields(head)
                service = fields.get("x-tsstack-service", "")
                address, port = fields.get("x-tsstack-address", ""), fields.get("x-tsstack-port", "")
                where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                doubt = await self._doubt_of(fields, (address, port))
                decision = Decision(False, doubt) if doubt else await self.judge(service, where)
                _log(service, where, decision)
                writer.write(_answer(decision))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return
        finally:
            writer.close()

    async def _doubt_of(self, fields: dict[str, str], client: tuple[str, str]) -> str:
        """Doubt about a client that is not the connection's own peer; a peer speaks for itself."""
        peer = (fields.get("x-tsstack-peer-address", ""), fields.get("x-tsstack-peer-port", ""))
        if peer in (("", ""), client):
            return ""
        try:
            return await self.doubt((peer[0], int(peer[1])), int(fields.get("x-tsstack-own-port", "")))
        except ValueError:
            return "the connection's own address is not known"


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _answer(decision: Decision) -> bytes:
    if not decision.allowed:
        body = f"{decision.reason}\n".encode()
        head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body
    fields = {
        "X-Tailscale-User": decision.user,
        "X-Tailscale-Name": decision.name,
        "X-Tailscale-Node": decision.node,
        "X-Tailscale-Tags": ",".join(decision.tags),
    }
    lines = "".join(f"{name}: {_field(value)}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 204 No Content\r\n{lines}\r\n".encode("ascii")


def _field(value: str) -> str:
    """A header's value: ASCII as it is, other letters as RFC 2047 words, nothing that ends a line."""
    clean = "".join(character for character in value if character.isprintable())
    if clean.isascii():
        return clean
    words = Charset("utf-8")
    words.header_encoding = QP
    return Header(clean, words).encode(maxlinelen=0)


def _log(service: str, where: str, decision: Decision) -> None:
    word = "allow" if decision.allowed else "deny"
    line = {"decision": word, "service": service, "client": where, "reason": decision.reason}
    sys.stderr.write(json.dumps({**line, "node": decision.node, "user": decision.user}) + "\n")
    sys.stderr.flush()


async def run_daemon(path: Path, allow: Path, tailscaled: Path) -> None:
    """Serve on the unix socket `path` until SIGTERM. The socket appears in one rename, ready to use."""
    allowances = Allowances(allow)
    doorkeeper = Doorkeeper(allowances, LocalApi(tailscaled, timeout_s=_WHOIS_S))
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(doorkeeper.serve, staged, limit=_HEAD_BYTES)
    # nginx's workers run as another user; all that the socket gives away is what any user may ask whois.
    staged.chmod(0o666)
    staged.rename(path)
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    loop.add_signal_handler(signal.SIGINT, done.set)
    loop.add_signal_handler(signal.SIGHUP, allowances.forget)
    async with server:
        await done.wait()


def main() -> None:
    """The command line of the daemon."""
    parser = argparse.ArgumentParser(prog="tsstack-identity", description="Answers nginx who a client is.")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--allow", type=Path, required=True)
    parser.add_argument("--tailscaled", type=Path, required=True)
    words = parser.parse_args()
    asyncio.run(run_daemon(words.socket, words.allow, words.tailscaled))


if __name__ == "__main__":
    main()
