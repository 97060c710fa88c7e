"""Names of targets as addresses, by the system's own resolver (getaddrinfo(3): hosts file, DNS, MagicDNS).

That call blocks for as long as DNS is silent and cannot be ended, so it runs in two threads of our own, which
die with the process. An address that is in use stays in use while the resolver still names it; while it
fails, the old addresses stay good.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tsstack.monitor.probes.bound import FAMILIES, normal

Lookup = Callable[[str, int], tuple[str, ...]]
"""Name and family (0, 4 or 6) to addresses; raises OSError or UnicodeError."""

FRESH_S = 60.0
AGAIN_S = 10.0
_THREADS = 2


def look_up(name: str, family: int) -> tuple[str, ...]:
    """What getaddrinfo(3) says, in its order. Blocks. Raises socket.gaierror, or UnicodeError for no name."""
    found = socket.getaddrinfo(name, None, FAMILIES.get(family, socket.AF_UNSPEC), socket.SOCK_STREAM)
    return tuple(dict.fromkeys(normal(str(entry[4][0])) for entry in found))


@dataclass(slots=True)
class _Entry:
    in_use: str = ""
    error: str = ""
    ask_again_s: float = 0.0
    asked: bool = False


class Names:
    """What names resolve to. For one event loop's thread; `close` lets the threads end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, lookup: Lookup = look_up) -> None:
        self._loop = loop
        self._lookup = lookup
        self._entries: dict[tuple[str, int], _Entry] = {}
        self._questions: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0
        self._closed = False

    def find(self, name: str, family: int = 0) -> tuple[str, str]:
        """The address to use and the resolver's complaint; both empty while nothing is known yet.

        Never blocks; begins to ask anew when what is known has become old.
        """
        try:
            literal = normal(name)
        except (OSError, UnicodeError):
            pass
        else:
            return literal, ""
        entry = self._entries.setdefault((name, family), _Entry())
        if not entry.asked and time.monotonic() >= entry.ask_again_s:
            entry.asked = True
            self._ask((name, family))
        return entry.in_use, entry.error

    def keep_only(self, wanted: set[tuple[str, int]]) -> None:
        """Forget all names but these."""
        for key in self._entries.keys() - wanted:
            del self._entries[key]

    def close(self) -> None:
        """Ask no more. A thread that the resolver still holds ends when it lets go, or with the process."""
        self._closed = True
        for _ in range(self._threads):
            self._questions.put(None)

    def _ask(self, key: tuple[str, int]) -> None:
        self._waiting += 1
        if self._threads < min(self._waiting, _THREADS):
            self._threads += 1
            threading.Thread(target=self._serve, name="names", daemon=True).start()
        self._questions.put(key)

    def _serve(self) -> None:
        while (key := self._questions.get()) is not None and not self._closed:
            try:
                addresses, error = self._lookup(*key), ""
            except socket.gaierror as failure:
                addresses, error = (), _words(failure)
            except (OSError, UnicodeError):
                addresses, error = (), "does not resolve"
            try:
                self._loop.call_soon_threadsafe(self._learn, key, addresses, error)
            except RuntimeError:  # the loop was closed meanwhile
                return

    def _learn(self, key: tuple[str, int], addresses: tuple[str, ...], error: str) -> None:
        self._waiting -= 1
        entry = self._entries.get(key)
        if entry is None or self._closed:
            return
        entry.asked = False
        entry.error = error
        entry.ask_again_s = time.monotonic() + (AGAIN_S if error else FRESH_S)
        if addresses and entry.in_use not in addresses:
            entry.in_use = addresses[0]


def _words(failure: socket.gaierror) -> str:
    """Stable words for the resolver's verdict: no such name, or no answer at all."""
    if failure.errno in {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}:
        return "does not resolve"
    if failure.errno == socket.EAI_AGAIN:
        return "does not resolve: no answer from DNS"
    return "does not resolve"
