"""What a probe says: one value for each attempt, good or bad. Everything else of the monitor reads these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

ProbeKind = Literal["icmp", "tcp", "https", "dns", "disco", "tsmp", "peer-icmp"]
Via = Literal["direct", "relay", "unknown"]


@dataclass(frozen=True, slots=True)
class Path:
    """Something whose quality is followed: a target, a peer or a way out, seen through one interface.

    `key` is stable across restarts and is what history, metrics and events name it by, for example
    `exit:exit-a`, `target:icmp:1.1.1.1`, `route:192.168.15.0/24` or `service:wiki#0`.
    """

    key: str
    source: str
    """Key path of the file's line that asks for it, for example `monitor.targets[0]`."""
    interface: str = ""
    """The interface that its packets are bound to; empty: whatever the routes say."""


class Sample(NamedTuple):
    """The outcome of one probe. A failure is a value: `rtt_s` is None and `error` says why.

    A tuple, as a frozen dataclass takes five times as long to make, and one is made for each answer.
    """

    path: str
    """The key of its Path."""
    kind: ProbeKind
    sent_s: float
    """Monotonic time of sending (CLOCK_BOOTTIME, so that sleep counts), seconds."""
    rtt_s: float | None
    """Round-trip time, seconds; None when it was lost, refused or timed out."""
    error: str = ""
    """Empty, `timeout`, or the cause in a few words that stay the same for the same cause."""
    via: Via = "unknown"
    """For tailnet peers: whether the answer came directly or through a relay."""
    took_s: float | None = None
    """For pages: until the status line came, with TLS and the server's own time, seconds. Their `rtt_s` is
    the round trip of the TCP handshake alone, which says more of the path."""

    @property
    def ok(self) -> bool:
        """Whether an answer came."""
        return self.rtt_s is not None
