"""Advertised routes whose LAN side is dead are taken back, and offered again after. Upstreams are told of.

nginx itself goes to a backup upstream; of those only the event is ours. `standby.decide_standby` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from tsstack.monitor.holddown import Record
from tsstack.monitor.reasons import Reason
from tsstack.monitor.snapshot import RouteStatus
from tsstack.monitor.standby import Kind, StandbyState, Switched, Watched, back_in_s, decide_standby
from tsstack.monitor.verdict import Verdict

if TYPE_CHECKING:
    from tsstack.monitor.settings import Settings

Judge = Callable[[str], Verdict]
"""A path's key to its verdict."""


class Withdrawal:
    """What is withdrawn now. `turn` decides; `wanted` says what tailscaled is to advertise."""

    def __init__(self, settings: Settings) -> None:
        self.state = StandbyState()
        self._returning: set[str] = set()
        self._taken_up = False
        """What is off was kept by an earlier run, and nobody has looked yet what became of it since."""
        self.update(settings)

    def update(self, settings: Settings) -> None:
        """The file, read anew."""
        self.routes, self._standbys = settings.routes, settings.standbys
        self._acts = settings.failover
        judged = {each.path.key for each in settings.planned}
        self._judged = frozenset(each for each in settings.routes if f"route:{each}" in judged)

    def turn(
        self, judge: Judge, now_s: float, *, restore_after_s: float, act: bool, heard: bool = True
    ) -> tuple[tuple[Switched, ...], tuple[Reason, ...]]:
        """Decide anew; returns what is to be switched now, and why.

        `act` False (maintenance): nothing is. Of routes nothing either while tailscaled is not `heard`: what
        cannot be done would be told as done.
        """
        watched = [Watched("route", each, judge(f"route:{each}")) for each in self.routes]
        for each in self._standbys:
            watched.append(Watched("upstream", each.service, judge(each.first), judge(each.backup)))
        acting: tuple[Kind, ...] = (("route", "upstream") if heard else ("upstream",)) if act else ()
        if not self._acts:
            acting = ()
        self.state, switched, reasons = decide_standby(
            self.state, tuple(watched), now_s, restore_after_s=restore_after_s, act=acting
        )
        self._returning |= {each.name for each in switched if each.kind == "route" and each.on}
        if not (act and heard):
            return switched, reasons
        back = self._stranded()
        compared = [judge(f"route:{each}").compared(each) for each in back]
        return (
            (*switched, *(Switched("route", each, on=True) for each in back)),
            (*reasons, *(Reason("restored", each.name, (each,)) for each in compared)),
        )

    def _stranded(self) -> tuple[str, ...]:
        """What the file, read anew, gives no way back to: nothing shows its health any more, or we may only
        report. It is given back as it was taken; a side that is dead can be withdrawn by hand.
        """
        kept = self._judged if self._acts else frozenset()
        off = [name for kind, name in self.state.off if kind == "route" and name not in kept]
        return tuple(each for each in sorted(off) if self.offer(each))

    def wanted(self, advertised: tuple[str, ...]) -> tuple[str, ...] | None:
        """What to advertise instead of `advertised`; None when nothing is to be changed.

        Only routes of the file are touched: one that is withdrawn goes (even when something offered it
        again), one that is restored comes back.
        """
        if self._taken_up:
            self._taken_up = False
            # Offered while no monitor ran: somebody wanted it so. A side that is dead yet is judged anew.
            for each in {*advertised} & set(self.routes):
                self.offer(each)
        off = {name for kind, name in self.state.off if kind == "route"}
        self._returning -= {*advertised} - off
        back = (self._returning - off) & set(self.routes)
        wanted = tuple(sorted({*(each for each in advertised if each not in off), *back}))
        return wanted if wanted != tuple(sorted(advertised)) else None

    def offer(self, network: str) -> bool:
        """Offer a route again at once, its relapses forgotten; whether it was withdrawn."""
        key: tuple[Kind, str] = ("route", network)
        if key not in self.state.off:
            return False
        records = {each: record for each, record in self.state.records.items() if each != key}
        self.state = StandbyState(self.state.off - {key}, records)
        self._returning.add(network)
        return True

    def statuses(self, judge: Judge, now_s: float, *, restore_after_s: float) -> tuple[RouteStatus, ...]:
        """Every advertised route as readers see it."""
        return tuple(
            self._status(each, judge(f"route:{each}"), now_s, restore_after_s) for each in self.routes
        )

    def _status(self, network: str, verdict: Verdict, now_s: float, restore_after_s: float) -> RouteStatus:
        key: tuple[Kind, str] = ("route", network)
        if key not in self.state.off:
            return RouteStatus(network, verdict.level, withdrawn=False)
        record = self.state.records.get(key) or Record()
        return RouteStatus(
            network,
            verdict.level,
            withdrawn=True,
            back_in_s=back_in_s(verdict, record, restore_after_s, now_s),
        )

    def export(self) -> dict[str, object]:
        """What must survive a restart, as JSON values."""
        return {
            "off": sorted([kind, name] for kind, name in self.state.off),
            "records": [
                [kind, name, asdict(record)] for (kind, name), record in sorted(self.state.records.items())
            ],
        }

    def restore(self, saved: object, now_s: float) -> None:
        """Take up what `export` gave; times after `now_s` are of an earlier boot. Raises ValueError."""
        try:
            off: set[tuple[Kind, str]] = {(_kind(kind), str(name)) for kind, name in saved["off"]}  # type: ignore[index]
            records = {}
            for kind, name, fields in saved["records"]:  # type: ignore[index]
                record = Record(**fields)
                if max(record.fell_s or 0.0, record.home_s or 0.0) > now_s:
                    record = Record(relapses=record.relapses)
                records[_kind(kind), str(name)] = record
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"what was kept of the routes cannot be read: {error!r}") from error
        self.state = StandbyState(frozenset(off), records)
        self._taken_up = True


def _kind(text: object) -> Kind:
    if text == "route":
        return "route"
    if text == "upstream":
        return "upstream"
    raise ValueError(f"no such kind: {text!r}")
