"""tailscaled's LocalAPI: HTTP over a unix socket.

Reading needs no rights; changing needs root, tailscaled's own user or its operator. An auth key goes
into the body of one request and nowhere else: no message of this module holds a request's body.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from tsstack.errors import TsstackError
from tsstack.system.unix_http import Garbled, exchange, parse_head, parse_reply, request

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]
PingKind = Literal["disco", "TSMP", "ICMP", "peerapi"]

# ipn/backend.go, NotifyWatchOpt: the first message carries the state, the prefs, the health.
WATCH_STATE = 1 << 1
WATCH_PREFS = 1 << 2
WATCH_HEALTH = 1 << 7
# ipn/backend.go, State: the bus sends numbers, the status words.
STATES = ("NoState", "InUseOtherUser", "NeedsLogin", "NeedsMachineAuth", "Stopped", "Starting", "Running")

_CHUNK_BYTES = 1 << 16


class LocalApiError(TsstackError):
    """tailscaled could not be asked, or refused; `status` is the HTTP status, 0 without an answer.

    Callers map it to the error of their own moment (CheckFailed, ApplyFailed).
    """

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class LocalApiAway(LocalApiError):
    """No tailscaled runs: nobody listens on its socket, or there is none."""


class LocalApiTimeout(LocalApiError):
    """No answer, or not the awaited event, within the time limit."""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class LocalApi:
    """One tailscaled, by its socket. Holds no connection: each call makes its own.

    Every method raises LocalApiError, which names the socket when nothing answers there.
    """

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self.path = path
        self.timeout_s = timeout_s

    def status(self, *, peers: bool = True) -> Json:
        """ipnstate.Status; without peers it is small whatever the tailnet's size."""
        return self._json("GET", "status" if peers else "status?peers=false")

    def prefs(self) -> Json:
        """All prefs by their names in ipn/prefs.go. No private key is among them."""
        return self._json("GET", "prefs")

    def patch_prefs(self, changes: Mapping[str, Any]) -> Json:
        """Set the named prefs in one step, leave the others; returns all prefs as they are then."""
        masked = {**changes, **{f"{name}Set": True for name in changes}}
        return self._json("PATCH", "prefs", masked)

    def check_prefs(self, prefs: Mapping[str, Any]) -> None:
        """Let the daemon judge full prefs without taking them. Raises LocalApiError with its words."""
        answer = self._json("POST", "check-prefs", prefs)
        if error := answer.get("Error"):
            raise LocalApiError(str(error), status=200)

    def start(self, auth_key: str, prefs: Mapping[str, Any]) -> None:
        """Restart the daemon's state machine with full prefs and, if not empty, a key to log in with.

        Prefs that are missing here become zero, so pass all that `prefs()` gave, edited. Returning says
        nothing about success: watch the state and the health.
        """
        self._call("POST", "start", {"AuthKey": auth_key, "UpdatePrefs": dict(prefs)})

    def login_interactive(self) -> None:
        """Begin the login that `start` prepared. Returning says nothing about success."""
        self._call("POST", "login-interactive")

    def logout(self, *, timeout_s: float = 10.0) -> None:
        """Tell the control server that this node is gone, then forget its key and its prefs.

        Without the server this fails and the node stays: see `forget`.
        """
        self._call("POST", "logout", timeout_s=timeout_s)

    def forget(self) -> None:
        """Drop the current profile, its key and its prefs, and tell nobody: works without a network.

        The server keeps the node as one that is offline. Without a profile there is nothing to do.
        """
        profile = self._json("GET", "profiles/current").get("ID")
        if profile:
            self._call("DELETE", f"profiles/{quote(str(profile), safe='')}")

    def whois(self, address: str) -> Json | None:
        """Who owns `IP` or `IP:PORT` (`Node`, `UserProfile`, `CapMap`); None when nobody does."""
        try:
            return self._json("GET", f"whois?{urlencode({'addr': address})}")
        except LocalApiError as error:
            if error.status == 404:
                return None
            raise

    def ping(self, ip: str, kind: PingKind = "disco", *, timeout_s: float = 1.0) -> Json:
        """One probe of a peer: ipnstate.PingResult, whose `Err` is empty here.

        The daemon would wait for ever; LocalApiTimeout comes after `timeout_s`.
        """
        answer = self._json("POST", f"ping?{urlencode({'ip': ip, 'type': kind})}", timeout_s=timeout_s)
        if error := answer.get("Err"):
            raise LocalApiError(f"ping {ip}: {error}", status=200)
        return answer

    def cert_pair(self, domain: str, *, timeout_s: float = 90.0) -> tuple[str, str]:
        """Certificate chain and private key of this node's own name, both PEM; may ask ACME first."""
        path = f"cert/{quote(domain, safe='')}?type=pair"
        text = self._call("GET", path, timeout_s=timeout_s).body.decode()
        start = text.find("-----BEGIN CERTIFICATE-----")
        if start <= 0:
            raise LocalApiError(f"tailscaled gave no certificate for {domain}")
        return text[start:], text[:start]

    def serve_config(self) -> tuple[Json, str]:
        """ipn.ServeConfig and its ETag; an empty mapping when nothing is served."""
        reply = self._call("GET", "serve-config")
        return self._parse(reply, "serve-config") or {}, reply.headers.get("etag", "")

    def set_serve_config(self, config: Mapping[str, Any], etag: str) -> None:
        """Replace the serve config if it still is what `etag` stands for (else `status` is 412)."""
        self._call("POST", "serve-config", config, headers={"If-Match": etag} if etag else {})

    def udp_gro_warning(self) -> str:
        """What tailscaled has to say about UDP GRO forwarding on the uplink; empty when all is well."""
        return str(self._json("GET", "check-udp-gro-forwarding").get("Warning", ""))

    def set_udp_gro(self) -> str:
        """Let tailscaled tune UDP GRO forwarding on the uplink; returns its warning, empty if it went."""
        return str(self._json("POST", "set-udp-gro-forwarding").get("Warning", ""))

    def watch(self, *, timeout_s: float, mask: int = WATCH_STATE | WATCH_HEALTH) -> Iterator[Json]:
        """The messages of the daemon's bus (ipn.Notify), the first at once, until `timeout_s` is over.

        Raises LocalApiTimeout then, and LocalApiError when the daemon goes away.
        """
        deadline = time.monotonic() + timeout_s
        with self._connection(timeout_s) as connection:
            connection.sendall(self._request("GET", f"watch-ipn-bus?mask={mask}", None, {}))
            buffer = b""
            in_head = True
            while True:
                if in_head and b"\r\n\r\n" in buffer:
                    head, buffer = buffer.split(b"\r\n\r\n", 1)
                    self._refuse_bad_status(_head(head), "watch-ipn-bus")
                    in_head = False
                if not in_head and b"\n" in buffer:
                    line, buffer = buffer.split(b"\n", 1)
                    if line.strip():
                        yield self._parse(_Reply(200, {}, line), "watch-ipn-bus")
                    continue
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise LocalApiTimeout(f"nothing happened at tailscaled within {timeout_s:g} s")
                connection.settimeout(left_s)
                try:
                    data = connection.recv(_CHUNK_BYTES)
                except TimeoutError:
                    continue
                if not data:
                    raise LocalApiError(
                        "tailscaled closed its event stream", hint="see `journalctl -u tailscaled`"
                    )
                buffer += data

    def wait_for(
        self,
        predicate: Callable[[Json], bool],
        *,
        timeout_s: float,
        mask: int = WATCH_STATE | WATCH_HEALTH,
    ) -> Json:
        """The first bus message for which `predicate` holds; the state as it is now comes first.

        Raises LocalApiTimeout after `timeout_s`, and whatever `predicate` raises.
        """
        for message in self.watch(timeout_s=timeout_s, mask=mask):
            if predicate(message):
                return message
        raise AssertionError("watch() ends only by raising")

    def _json(self, method: str, path: str, body: object = None, *, timeout_s: float | None = None) -> Json:
        return self._parse(self._call(method, path, body, timeout_s=timeout_s), path)

    def _parse(self, reply: _Reply, path: str) -> Json:
        try:
            parsed = json.loads(reply.body or b"null")
        except ValueError as error:
            raise LocalApiError(
                f"tailscaled's answer to {_endpoint(path)} is cut off or not JSON", status=reply.status
            ) from error
        return parsed if isinstance(parsed, dict) else {}

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> _Reply:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        with self._explained(limit_s):
            received = exchange(
                str(self.path), self._request(method, path, body, headers or {}), timeout_s=limit_s
            )
        if not received:
            raise LocalApiError(
                "tailscaled closed the connection without an answer", hint="see `journalctl -u tailscaled`"
            )
        try:
            reply = _Reply(*parse_reply(received))
        except Garbled as error:
            raise LocalApiError(f"asked for {_endpoint(path)} on {self.path}: {error}") from error
        self._refuse_bad_status(reply, path)
        return reply

    def _refuse_bad_status(self, reply: _Reply, path: str) -> None:
        if reply.status < 300:
            return
        text = _error_text(reply)
        hint = ""
        if reply.status == 403:
            hint = "run as root, or as the user named in tailscale.operator"
        elif reply.status == 412:
            hint = "somebody else changed it meanwhile; run the command again"
        raise LocalApiError(f"tailscaled refused {_endpoint(path)}: {text}", status=reply.status, hint=hint)

    @contextmanager
    def _connection(self, timeout_s: float) -> Iterator[socket.socket]:
        """A connected socket."""
        with (
            self._explained(timeout_s),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        ):
            connection.settimeout(timeout_s)
            connection.connect(str(self.path))
            yield connection

    @contextmanager
    def _explained(self, timeout_s: float) -> Iterator[None]:
        """What the operating system says becomes a sentence with a hint."""
        try:
            yield
        except TimeoutError as error:
            raise LocalApiTimeout(f"tailscaled did not answer within {timeout_s:g} s") from error
        except PermissionError as error:
            raise LocalApiError(
                f"this user may not open tailscaled's socket {self.path}", hint="run as root"
            ) from error
        except OSError as error:
            away = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
            raise (LocalApiAway if away else LocalApiError)(
                f"tailscaled does not answer on {self.path}: {error.strerror or error}",
                hint="systemctl start tailscaled",
            ) from error

    @staticmethod
    def _request(method: str, path: str, body: object, headers: Mapping[str, str]) -> bytes:
        data = b"" if body is None else json.dumps(body).encode()
        return request(method, f"/localapi/v0/{path}", "local-tailscaled.sock", data, dict(headers))


def _endpoint(path: str) -> str:
    return path.partition("?")[0]


def _head(head: bytes) -> _Reply:
    try:
        return _Reply(*parse_head(head), b"")
    except Garbled as error:
        raise LocalApiError("what listens on tailscaled's socket does not speak HTTP") from error


def _error_text(reply: _Reply) -> str:
    """The daemon's own words: plain text, or JSON with `Error` (prefs) or `error` (ping)."""
    text = reply.body.decode(errors="replace").strip()
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        text = str(parsed.get("Error") or parsed.get("error") or text)
    return text or f"status {reply.status}"
