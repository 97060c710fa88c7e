"""What is to be probed, and what there is to say beside the samples. Data and no effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tsstack.monitor.sample import Path, ProbeKind

Family = Literal[0, 4, 6]
Pace = Literal["fast", "slow"]
TIMEOUT = "timeout"
"""The `error` of a sample whose answer did not come in time."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One question that is asked again and again, and the path that its answer judges.

    `host` is an address or a name; for the tailnet's pings a node's name or tailnet address; for `dns`
    the resolver (empty: the system's). Each kind uses the fields that it needs.
    """

    path: Path
    kind: ProbeKind
    host: str = ""
    port: int = 0
    socket: str = ""
    """For `tcp`: a unix socket to connect to, instead of `host` and `port`."""
    url: str = ""
    """For `https`: the page, `http://` or `https://`."""
    name: str = ""
    """For `dns`: the name that must resolve."""
    family: Family = 0
    """4 or 6 takes addresses of that family alone; 0 takes the first that the resolver gives."""
    from_address: str = ""
    """The local address that its packets carry; empty: the kernel chooses."""
    timeout_s: float = 1.0
    judges: bool = True
    """False: its outcome is no sample, it only tells whether the path is direct or relayed."""
    reaches: bool = False
    """For `tcp`: it asks for the host and not for the service, so a refusal is an answer too."""
    others: tuple[Probe, ...] = ()
    """Asked all at once when this one fails: an answer of any of them shows that the path works."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= 120:
            raise ValueError(f"a probe waits more than 0 and at most 120 s, not {self.timeout_s:g}")
        if any(other.path != self.path or other.others for other in self.others):
            raise ValueError("the others of a probe are of its own path and have no others")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should know, said once until it is over: a name that does not resolve, a right
    that is missing. When it is over, `over` says so, with the same `about` and `message`.
    """

    about: str
    """A path's key, or a word for what concerns all: `icmp`, `tailscaled`."""
    message: str
    hint: str = ""
    over: bool = False
