"""What the failover is told, what it remembers, and what it asks for: the types around `decide`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tsstack.monitor.holddown import Record
from tsstack.monitor.reasons import Cause, Reason
from tsstack.monitor.verdict import Verdict

if TYPE_CHECKING:
    from tsstack.model.stack import Stack

DIRECT = ""
"""The name of the bare uplink: no exit node."""

PROOF_S = 5.0
"""A move whose egress is not proven within this of when tailscaled took the node failed."""

TAKE_S = 15.0
"""A move that tailscaled has not taken within this failed: on a slow host a request takes seconds."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the file asks for."""

    use: tuple[str, ...]
    """The candidates by name, in order of preference."""
    otherwise: Literal["block", "direct"] = "block"
    restore_after_s: float = 120.0
    failover: bool = True
    """False: report only, no action ever."""
    repair_drift: bool = True
    """Set prefs again that someone else changed; False: report it and wait."""

    @classmethod
    def of(cls, stack: Stack) -> Policy | None:
        """From the file; None if it names no exit node to use."""
        exit_node = stack.tailscale.exit_node if stack.tailscale else None
        if exit_node is None:
            return None
        from tsstack.model.sections import Monitor

        monitor = stack.monitor or Monitor()
        return cls(
            use=exit_node.use,
            otherwise=exit_node.otherwise,
            restore_after_s=monitor.restore_after_s,
            failover=monitor.failover,
            repair_drift=monitor.failover,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An exit node that the file names, as it is seen now."""

    name: str
    peer: Verdict
    """The way to the node itself."""
    egress: Verdict | None = None
    """The targets as seen through this very node: measured while it is in use, or reported by itself.

    Of a node that is not in use and reports nothing: None, or a verdict whose level is unknown.
    """
    offered: bool = True
    """Whether it exists, is approved, and offers to be an exit node."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether the internet was reached through a node after a move to it."""

    move: int
    """The number of the move."""
    ok: bool
    detail: str = ""
    unknown: bool = False
    """It could not be tried: what was in the way is this host's own."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at the moment of a decision."""

    candidates: tuple[Candidate, ...]
    """In any order; one that is missing counts as not offered."""
    actual: str | None
    """The exit node that tailscaled's prefs name; DIRECT: none; None: tailscaled does not answer."""
    proof: Proof | None = None
    direct: Verdict | None = None
    """The targets as seen through the bare uplink, where that is measured."""
    answers: bool = True
    """Whether tailscaled has just answered. While it hangs every way through it seems dead."""
    settled: bool = True
    """Whether tailscaled has told its peers for a moment. Just after its start it knows few or none of them,
    and reaches none: that speaks against nobody."""
    silent: str = ""
    """Why `actual` is None."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move whose proof is open."""

    number: int
    to: str
    back: str
    """Where the first move of this row came from."""
    started_s: float
    tried: tuple[str, ...] = ()
    """Where this row of moves led already, without proof."""
    taken_s: float | None = None
    """When tailscaled was seen to use `to`; the proof's time runs from then."""
    left: str = DIRECT
    """What was in use before it."""
    sent_s: float | None = None
    """When tailscaled was last asked to use `to`; None: to be asked at once."""
    retry: bool = False
    """A trial of a barred node while nothing passes."""
    poor: tuple[Cause, ...] | None = None
    """What `back` was poor in when it was left, nothing where it was good; None: nothing passed there."""


@dataclass(frozen=True, slots=True)
class State:
    """All that `decide` remembers between two calls. Times: the monotonic clock, seconds."""

    at: str
    """The node in use, DIRECT for none."""
    blocked: bool = False
    """No candidate works and `otherwise` is `block`: `at` stays set, so nothing leaves by the uplink."""
    manual: str | None = None
    """The choice made by hand; None: automatic."""
    maintenance: bool = False
    move: Move | None = None
    number: int = 0
    """Of the latest move."""
    moves: tuple[float, ...] = ()
    """When the latest moves were made."""
    records: Mapping[str, Record] = field(default_factory=dict)
    drift_since_s: float | None = None
    repairs: tuple[float, ...] = ()
    repairing: tuple[str, float] | None = None
    """What prefs named when they were last set again, and when; until they are as decided."""
    said: tuple[tuple[str, str], ...] = ()
    """Code and name of the reasons of the decision before, so that only what is new is news."""

    def record(self, name: str) -> Record:
        """What a candidate did so far."""
        return self.records.get(name) or Record()

    def as_json(self) -> dict[str, Any]:
        """What must survive a restart: the place, the choice by hand, and the hold-downs."""
        return {
            "at": self.at,
            "blocked": self.blocked,
            "manual": self.manual,
            "maintenance": self.maintenance,
            "number": self.number,
            "moves": list(self.moves),
            "records": {name: asdict(each) for name, each in self.records.items()},
        }


def state_from_json(saved: Mapping[str, Any], now_s: float) -> State:
    """What `as_json` gave, on the same boot's clock; ValueError if it cannot be that.

    Times after `now_s` are of an earlier boot: they are forgotten, bars with them.
    """
    try:
        records = {}
        for name, each in dict(saved["records"]).items():
            record = Record(**each)
            if (record.fell_s or 0.0) > now_s or (record.home_s or 0.0) > now_s:
                record = Record(relapses=record.relapses)
            records[str(name)] = record
        manual = saved["manual"]
        return State(
            at=str(saved["at"]),
            blocked=bool(saved["blocked"]),
            manual=None if manual is None else str(manual),
            maintenance=bool(saved["maintenance"]),
            number=int(saved["number"]),
            moves=tuple(float(each) for each in saved["moves"] if float(each) <= now_s),
            records=records,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the kept state of the failover cannot be read: {error!r}") from error


@dataclass(frozen=True, slots=True)
class UseExit:
    """Set this exit node in tailscaled's prefs."""

    node: str
    move: int
    """The number of the move; 0 when prefs are only set again."""


@dataclass(frozen=True, slots=True)
class GoDirect:
    """Set no exit node: traffic leaves by the uplink. Only ever with `otherwise: direct`."""

    move: int


@dataclass(frozen=True, slots=True)
class Block:
    """See to it that nothing leaves by the uplink: this exit node stays set, whether it works or not."""

    node: str


@dataclass(frozen=True, slots=True)
class ProveEgress:
    """Reach the targets through the node just moved to, with new connections, and report a Proof."""

    node: str
    move: int
    by_s: float


@dataclass(frozen=True, slots=True)
class FreeFlows:
    """Drop the conntrack entries of flows that left by this node, and no others."""

    left: str


Action = UseExit | GoDirect | Block | ProveEgress | FreeFlows


@dataclass(frozen=True, slots=True)
class Decision:
    """What `decide` answers."""

    state: State
    actions: tuple[Action, ...]
    """To be done in this order."""
    reasons: tuple[Reason, ...]
    """Why things stand as they do now."""
    news: tuple[Reason, ...] = ()
    """Those reasons that were not so at the decision before: what the event log and alerts tell."""
    fast: frozenset[str] = frozenset()
    """Nodes to be probed at `probe`; all others at `interval`."""
    confirm: frozenset[str] = frozenset()
    """Nodes to be probed at `probe` too, until it is clear whether they are dead."""
