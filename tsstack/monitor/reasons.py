"""Why something was judged or done, as data with its numbers; the sentences are made from them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Rule = Literal["failures", "silence", "loss", "latency", "shift", "recovering", "unmeasured", "renewed"]


@dataclass(frozen=True, slots=True)
class Cause:
    """One rule that speaks against a path: what was seen, over how long, and where its limit stands."""

    rule: Rule
    seen: float
    """`failures`: probes in a row. `silence`, `latency`, `shift`, `recovering`: seconds. `loss`: a share.
    `unmeasured`, `renewed`: answers so far."""
    limit: float
    """In the unit of `seen`; for `shift` the level before."""
    over_s: float = 0.0
    """The time that this was seen over, seconds."""

    def __str__(self) -> str:
        return _SEEN[self.rule](self)


def _unmeasured(it: Cause) -> str:
    if it.over_s:
        return f"not measured for {it.over_s:.0f} s"
    return f"{it.seen:.0f} of {it.limit:.0f} answers yet" if it.seen else "not measured yet"


_SEEN: dict[Rule, Callable[[Cause], str]] = {
    "failures": lambda it: f"{it.seen:.0f} probes lost in a row (limit {it.limit:.0f})",
    "silence": lambda it: f"no answer for {it.seen:.1f} s (its bursts last up to {it.limit:.1f} s)",
    "loss": lambda it: f"lost {percent(it.seen)} over {it.over_s:.0f} s (limit {percent(it.limit)})",
    "latency": lambda it: f"{ms(it.seen)} over {it.over_s:.0f} s (limit {ms(it.limit)})",
    "shift": lambda it: f"went from {ms(it.limit)} to {ms(it.seen)}",
    "recovering": lambda it: f"answers again for {it.seen:.0f} s",
    "unmeasured": _unmeasured,
    "renewed": lambda it: f"judged anew, {it.seen:.0f} of {it.limit:.0f} answers: older figures do not count",
}


Code = Literal[
    "moved", "home", "proven", "unproven", "returned", "blocked", "unblocked", "direct",
    "stays", "nothing-better", "held", "waiting",
    "asks", "settling", "manual", "maintenance", "report-only", "no-daemon", "drift", "repaired", "fought",
    "withdrawn", "restored", "backup", "primary",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compared:
    """A path that was looked at for a decision, with its latest figures."""

    name: str
    level: str
    loss: float | None = None
    rtt_s: float | None = None
    causes: tuple[Cause, ...] = ()

    def __str__(self) -> str:
        if self.causes:
            return f"{self.name} {', '.join(map(str, self.causes))}"
        if self.loss is None:
            return f"{self.name} {self.level}"
        rtt = f", {ms(self.rtt_s)}" if self.rtt_s is not None else ""
        return f"{self.name} lost {percent(self.loss)}{rtt}"


@dataclass(frozen=True, slots=True)
class Homeward:
    """The file's first candidate while another is in use: how it does, and what is missing for the return."""

    compared: Compared
    offered: bool
    hold_s: float
    """So long it must be well."""
    left_s: float | None
    """How much of that is left; None while it is not well."""
    barred_s: float = 0.0
    """How much longer it is left alone after a failed proof."""

    def __str__(self) -> str:
        it = self.compared
        text = f"{it.name} is {it.level}" if self.offered else f"{it.name} offers no exit"
        figures = str(it).removeprefix(it.name).strip()
        if self.offered and it.level not in {figures, "unknown"}:
            text += f", {figures}"
        if self.left_s is None:
            text += f", and must be well for {self.hold_s:.0f} s before the way leads back"
        elif self.left_s > 0:
            text += f", and must be well for {self.left_s:.0f} s more of {self.hold_s:.0f} s"
        else:
            text += ", and is gone back to once it answers and loses little"
        return text + (f"; its proof failed, {self.barred_s:.0f} s more" if self.barred_s else "")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a decision fell as it did. `code` is stable; `name` is what it is about."""

    code: Code
    name: str
    compared: tuple[Compared, ...] = ()
    """What was held against what, the path in use first."""
    wait_s: float | None = None
    """How long until this can change by itself, seconds."""
    detail: str = ""
    home: Homeward | None = None
    """Of a stay away from home."""

    def __str__(self) -> str:
        text = _SENTENCES[self.code].format(name=self.name or "the direct path")
        if self.detail:
            text += f" ({self.detail})"
        if self.home is not None:
            return f"{text}: {self.home}"
        if self.wait_s is not None:
            text += f", {self.wait_s:.0f} s more"
        if self.compared:
            text += ": " + "; ".join(map(str, self.compared))
        return text

    def as_json(self) -> dict[str, Any]:
        """As JSON values, with the sentence beside the numbers."""
        return {**asdict(self), "text": str(self)}


_SENTENCES: dict[Code, str] = {
    "moved": "moves to {name}",
    "home": "goes home to {name}",
    "proven": "{name} reaches the internet",
    "unproven": "{name} does not reach the internet",
    "returned": "goes back to {name}",
    "blocked": "no candidate works: blocked, {name} stays set",
    "unblocked": "{name} works again",
    "direct": "no candidate works: leaves by the uplink, as `otherwise: direct` says",
    "stays": "stays with {name}",
    "nothing-better": "stays with {name}, nothing better is measured",
    "held": "stays with {name}, the hold-down runs",
    "waiting": "waits for the proof of {name}",
    "manual": "stays with {name}, chosen by hand",
    "maintenance": "maintenance: nothing is changed",
    "report-only": "would leave {name}, but `failover: false`",
    "asks": "{name} fails: tailscaled is asked first whether it hangs",
    "settling": "{name}: tailscaled has just begun to tell its peers, that is waited for",
    "no-daemon": "nothing is decided without tailscaled",
    "drift": "prefs differ from what was decided for {name}",
    "repaired": "prefs differed and are set to {name} again",
    "fought": "prefs are changed again and again by someone else: {name} is not set any more",
    "withdrawn": "{name} is withdrawn, its side is dead",
    "restored": "{name} is offered again",
    "backup": "{name} goes to its backup",
    "primary": "{name} goes to its first upstream again",
}


def percent(share: float) -> str:
    """A share as people read it: 0.31 is `31 %`, 0.004 is `0.4 %`."""
    value = share * 100
    return f"{value:.0f} %" if value >= 10 or value == round(value) else f"{value:.1f} %"


def ms(seconds: float) -> str:
    """A round-trip time as people read it."""
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
