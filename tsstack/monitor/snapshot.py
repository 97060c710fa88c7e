"""What the monitor knows at one moment, as one frozen value that every reader gets. Pure.

The socket, the metrics, the history, the alerts and the screens all render this and nothing else, so they
agree with each other. Times that people read are seconds since 1970; spans are seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tsstack.monitor.quality import Quality
from tsstack.monitor.reasons import Cause
from tsstack.monitor.sample import Via
from tsstack.monitor.verdict import Level

Severity = Literal["info", "warning", "critical"]
EXIT_NODE = "exit-node"
"""What the events of the failover are about."""
PathKind = Literal["exit", "target", "route", "service", "peer"]


@dataclass(frozen=True, slots=True)
class PathStatus:
    """One path that is watched, with its figures and what is thought of it."""

    key: str
    """As in `sample.Path`, for example `exit:exit-a` or `target:icmp:1.1.1.1`."""
    kind: PathKind
    source: str
    """Key path of the file's line behind it."""
    level: Level
    causes: tuple[Cause, ...]
    since: float
    """Since when the level is so, seconds since 1970."""
    windows: tuple[Quality, ...]
    """One for each of `windows.WINDOWS_S`, in that order."""
    rtt_s: float | None
    """The latest answer's round trip."""
    via: Via = "unknown"
    """For tailnet peers: how the latest answer came."""
    interface: str = ""
    error: str = ""
    """Of the latest probe, empty when it was answered."""
    counted: bool = True
    """Whether the latest probe says something of the path: else it is in no window, and no loss."""


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """An exit node that the file names."""

    name: str
    offered: bool
    """Whether it exists, is approved and offers to be an exit node."""
    level: Level
    """The worse of the way to it and the way through it."""
    barred_s: float = 0.0
    """How much longer it is not to be moved to, after a failed proof; 0: it is not barred."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """Which way out is in use, and why."""

    at: str
    """The node in use by name; empty: the bare uplink."""
    actual: str | None
    """What tailscaled's prefs name; None: tailscaled does not answer."""
    candidates: tuple[CandidateStatus, ...]
    """In the file's order."""
    blocked: bool = False
    manual: str | None = None
    maintenance: bool = False
    moving: bool = False
    """A move is made and its egress is not proven yet."""
    why: tuple[str, ...] = ()
    """The reasons of the latest decision, as sentences."""
    moves: int = 0
    """How many moves were made since the daemon started."""


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A network that the file advertises."""

    network: str
    level: Level
    withdrawn: bool
    """Taken back because its LAN side was dead."""
    back_in_s: float | None = None
    """So long it must yet stay healthy until it is offered again; None: not withdrawn, or not healthy."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something a person should mend, told once when it begins and once when it is over."""

    about: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the monitor knows."""

    at: float
    """When this was taken, seconds since 1970."""
    started: float
    """When the daemon started, seconds since 1970."""
    host: str
    version: str
    paths: tuple[PathStatus, ...]
    exit: ExitStatus | None
    """None when the file names no exit node to use."""
    routes: tuple[RouteStatus, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    """What stands now."""
    probes_sent: int = 0
    probes_lost: int = 0
    samples_behind_s: float = 0.0
    """How late the latest round of probing was: load of the host, or of the daemon."""
    tailscaled: bool | None = None
    """Whether tailscaled answers and has told its peers; None where the file says nothing of it."""
    maintenance: bool = False
    """Whether nothing is changed for maintenance."""

    def path(self, key: str) -> PathStatus | None:
        """The path of that key."""
        return next((each for each in self.paths if each.key == key), None)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values; derived figures (`loss`) are written out for readers."""
        data = asdict(self)
        for path, told in zip(self.paths, data["paths"], strict=True):
            told["causes"] = [{**asdict(cause), "text": str(cause)} for cause in path.causes]
            for window, figures in zip(path.windows, told["windows"], strict=True):
                figures["loss"] = window.loss
        return data


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as the event log keeps it and alerts tell it."""

    at: float
    """Seconds since 1970."""
    code: str
    """Stable: a `reasons.Code`, `path-LEVEL`, `trouble`, `started`, `stopped` or `reloaded`."""
    severity: Severity
    about: str
    """A path's key, `exit-node`, or a word for what concerns all."""
    text: str
    """One sentence with its numbers."""
    data: dict[str, Any]
    """The numbers behind the sentence, JSON values."""
    over: bool = False
    """Whether this ends what an earlier event of the same `about` began: a recovery."""
