"""tailscaled's own pings (disco, TSMP, ICMP), many at a time and none in a thread.

The LocalAPI's `ping` blocks until an answer comes or we hang up, so the time limit is ours, and closing the
socket ends it in the daemon too. The round-trip time is the daemon's measure. Only disco answers tell whether
a peer is reached directly; what they told is remembered for the others.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from tsstack.monitor.probes.attempt import READ, Attempt, Calls
from tsstack.monitor.probes.bound import normal
from tsstack.monitor.probes.causes import words_of
from tsstack.monitor.probes.probe import TIMEOUT, Probe
from tsstack.monitor.sample import Path as MonitoredPath

if TYPE_CHECKING:
    from pathlib import Path

    from tsstack.monitor.sample import Via

SILENT = "tailscaled does not answer"
FORBIDDEN = "tailscaled's socket is not permitted"
GARBLED = "tailscaled's answer is garbled"
UNKNOWN = "no such node on the tailnet"
_TYPES = {"disco": "disco", "tsmp": "TSMP", "peer-icmp": "ICMP"}
_LARGEST_BYTES = 64 << 20
_LONGEST_WORDS = 80
_PEERS_AGE_S = 30.0
_PEERS_TRY_S = 3.0
_STATUS = Probe(MonitoredPath("tailscaled", ""), "disco", timeout_s=5.0)

Reply = Callable[[int, bytes], None]


def ping(attempt: Attempt, calls: Calls, daemon: Path) -> None:
    """Begin to ping the attempt's tailnet address."""
    asked = urlencode({"ip": attempt.address, "type": _TYPES[attempt.probe.kind]})
    begun_s = time.monotonic()

    def judge(status: int, body: bytes) -> None:
        answer = _parse(body)
        if status != 200:
            attempt.fail(_words(answer, body) if status else SILENT)
        elif answer is None:
            attempt.fail(GARBLED)
        elif error := answer.get("Err"):
            attempt.fail(str(error)[:_LONGEST_WORDS])
        else:
            latency_s = answer.get("LatencySeconds")
            if not isinstance(latency_s, int | float) or latency_s < 0:
                latency_s = time.monotonic() - begun_s
            attempt.succeed(float(latency_s), via=via_of(answer))

    _request(attempt, calls, daemon, f"POST /localapi/v0/ping?{asked}", judge)


def via_of(answer: Mapping[str, Any]) -> Via:
    """Direct or relayed, by ipnstate.PingResult; TSMP and ICMP answers do not tell."""
    if answer.get("DERPRegionID") or answer.get("PeerRelay"):
        return "relay"
    return "direct" if answer.get("Endpoint") else "unknown"


class Peers:
    """The addresses of the tailnet's nodes by name: a node's DNS label or full name, else its host name.

    Asks the daemon itself, at a sane pace; what was learnt stays good while it does not answer.
    """

    def __init__(self, calls: Calls, daemon: Path) -> None:
        self._calls = calls
        self._daemon = daemon
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._loaded_s: float | None = None
        self._tried_s = -_PEERS_TRY_S
        self.error = ""
        """Why the last question to the daemon failed; empty when it did not."""

    def find(self, name: str, family: Literal[0, 4, 6] = 0) -> str | None:
        """The address of a node; None when it is unknown, or not known yet."""
        try:
            return normal(name)
        except (OSError, UnicodeError):
            pass
        now_s = time.monotonic()
        found = self._addresses.get(name.lower().rstrip("."), ())
        stale = self._loaded_s is None or now_s - self._loaded_s > _PEERS_AGE_S
        if (stale or not found) and now_s - self._tried_s >= _PEERS_TRY_S:
            self._tried_s = now_s
            self._ask()
        fitting = [each for each in found if not family or (":" in each) == (family == 6)]
        return fitting[0] if fitting else None

    @property
    def known(self) -> bool:
        """Whether the daemon has ever told."""
        return self._loaded_s is not None

    def forget_age(self) -> None:
        """Ask again soon: an address did not work any more."""
        self._loaded_s = -_PEERS_AGE_S if self._loaded_s is not None else None

    def _ask(self) -> None:
        attempt = Attempt(_STATUS, "", self._failed)

        def load(status: int, body: bytes) -> None:
            attempt.done = True
            answer = _parse(body)
            if status != 200:
                self.error = _words(answer, body) if status else SILENT
            elif answer is None:
                self.error = GARBLED
            else:
                self.error = ""
                self._loaded_s = time.monotonic()
                self._addresses = addresses_by_name(answer)

        _request(attempt, self._calls, self._daemon, "GET /localapi/v0/status", load)

    def _failed(self, attempt: Attempt) -> None:
        self.error = SILENT if attempt.error == TIMEOUT else attempt.error


def addresses_by_name(status: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """ipnstate.Status as addresses by name. A DNS label is unique on a tailnet; host names fill gaps."""
    found: dict[str, tuple[str, ...]] = {}
    peers = sorted((status.get("Peer") or {}).values(), key=lambda peer: str(peer.get("ID", "")))
    full = [(str(peer.get("DNSName", "")).lower().rstrip("."), peer) for peer in peers]
    labels = [(name.partition(".")[0], peer) for name, peer in full]
    hosts = [(str(peer.get("HostName", "")).lower(), peer) for peer in peers]
    for name, peer in (*full, *labels, *hosts):
        if name and name not in found and peer.get("TailscaleIPs"):
            found[name] = tuple(normal(str(each)) for each in peer["TailscaleIPs"])
    return found


def _request(attempt: Attempt, calls: Calls, daemon: Path, line: str, reply: Reply) -> None:
    """Send a request; `reply` gets status and body, or status 0 when the daemon hangs up early."""
    try:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:  # no descriptor is left
        attempt.fail(words_of(error.errno or 0))
        return
    try:
        opened.connect(str(daemon))
        # As HTTP/1.0 the daemon answers in one piece and closes. A socket that was just made takes 100 bytes.
        head = f"{line} HTTP/1.0\r\nHost: local-tailscaled.sock\r\nContent-Length: 0\r\n\r\n"
        opened.send(head.encode())
    except OSError as error:
        opened.close()
        attempt.fail(_words_of_connect(error))
        return
    calls.add(_Asking(attempt, opened, reply), READ)


def _words_of_connect(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return FORBIDDEN
    if isinstance(error, FileNotFoundError | ConnectionError):
        return SILENT
    return words_of(error.errno or 0)


def _words(answer: Mapping[str, Any] | None, body: bytes) -> str:
    """The daemon's refusal: JSON with `error` for ping, else plain text."""
    said = (answer or {}).get("error") or body.decode(errors="replace").strip() or "tailscaled refused"
    return str(said).splitlines()[0][:_LONGEST_WORDS]


def _parse(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


class _Asking:
    """A request that waits for its answer."""

    def __init__(self, attempt: Attempt, opened: socket.socket, reply: Reply) -> None:
        self.attempt = attempt
        self._socket = opened
        self._reply = reply
        self._received = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> bool:
        try:
            while data := self._socket.recv(1 << 16):
                self._received += data
                if len(self._received) > _LARGEST_BYTES:
                    self.attempt.fail("answer too long")
                    return True
        except BlockingIOError:
            return False
        except OSError as error:
            self.attempt.fail(_words_of_connect(error))
            return True
        head, separator, body = bytes(self._received).partition(b"\r\n\r\n")
        words = head.split(maxsplit=2)
        spoke = bool(separator) and len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit()
        self._reply(int(words[1]) if spoke else 0, body)
        return True

    def close(self) -> None:
        self._socket.close()
