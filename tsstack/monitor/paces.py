"""Which paths are probed at the quick pace now, and having it so."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from tsstack.monitor.book import Book
from tsstack.monitor.probes.prober import Prober
from tsstack.monitor.verdict import Limits

_USUAL_NODES = 2  # the node in use and the next one


def quick_paths(
    nodes: Iterable[str], witnesses: Iterable[str], paths: Iterable[str], *, calm: bool, settled: bool
) -> frozenset[str]:
    """The keys of the paths to be probed quickly.

    `nodes` are those that the decision names, `witnesses` the targets that always tell of the way in use.
    Not `calm`: the witnesses are silent, so all targets are asked. Not `settled` (blocked, or a move is
    open), or more nodes than usual: the bare uplink is asked too, where it is probed at all.
    """
    exits = {f"exit:{name.lower()}" for name in nodes}
    quick = exits | set(witnesses)
    if not calm:
        quick |= {key for key in paths if key.startswith("target:")}
    if not (calm and settled) or len(exits) > _USUAL_NODES:
        quick |= {key for key in paths if key.startswith("direct:")}
    return frozenset(quick)


@dataclass
class Paces:
    """What is in force; the prober and the judges are told of changes alone."""

    prober: Prober
    book: Book
    quick: frozenset[str] = frozenset()

    def put(self, quick: Set[str], limits: Limits) -> None:
        """Probe just these paths quickly from now on."""
        for key in self.quick ^ quick:
            fast = key in quick
            self.prober.set_pace(key, "fast" if fast else "slow")
            self.book.set_pace(key, limits.probe_s if fast else limits.interval_s)
        self.quick = frozenset(quick)
