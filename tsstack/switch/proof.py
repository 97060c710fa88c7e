"""A staged generation is proven with packets before anything of the host is touched.

The throwaway world is made while the engines check and the guard asks, so that a switch waits for little
more than the packets. Only what a switch changes is proven: the rules, the vhosts, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed
from tsstack.switch.plan import Plan

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.loaded import LoadedStack
    from tsstack.prove.expected import Packet
    from tsstack.prove.proof import Row

Finish = Callable[[], None]
"""Wait for the proof. Raises CheckFailed for what differs."""

Prover = Callable[[Path, Plan, "Facts"], AbstractContextManager[Finish | None]]
"""Begins the proof of a staged generation; None where there is nothing to prove."""

NO_PROVE_HINT = "or use --no-prove: the host is then changed without a proof"
_SHOWN = 3


@contextmanager
def no_proof(_: Path, __: Plan, ___: Facts) -> Iterator[Finish | None]:
    """A change that is not proven: a rollback to what was live before, or one by --no-prove."""
    yield None


@dataclass(frozen=True)
class Proving:
    """The proof of what a file asks for.

    `load` reads the file; `asked` gives the packets that the guard has judged and that are sent as well.
    """

    load: Callable[[], LoadedStack]
    asked: Callable[[], Iterable[Packet]]
    report: Callable[[str], None]
    live: Path | None = None
    """The live generation: what it has in common with the new one is not proven again."""

    @contextmanager
    def begin(self, staged: Path, plan: Plan, facts: Facts) -> Iterator[Finish | None]:
        """Begin to prove what `plan` changes. A `Prover`. Raises CheckFailed where no proof is possible."""
        with ExitStack() as stack:
            finishes: list[Finish] = []
            if "firewall" in plan.names:
                finishes += self._begin_rules(stack, staged, facts)

            def finish() -> None:
                for each in finishes:
                    each()

            yield finish if finishes else None

    def _begin_rules(self, stack: ExitStack, staged: Path, facts: Facts) -> Iterator[Finish]:
        from tsstack.prove.plan import QUICK
        from tsstack.prove.proof import Experiment, has_table

        loaded = self.load()
        if not has_table(loaded.stack, staged):
            return
        with _explained():
            experiment = stack.enter_context(
                Experiment(loaded.stack, facts, staged, limits=QUICK, asked=self.asked())
            )

        def finish() -> None:
            with _explained():
                proof = experiment.run()
            refuse_rows(proof.mismatches, loaded)
            self.report(f"{proof.checks} packets: the rules do what the file says")

        yield finish


@contextmanager
def _explained() -> Iterator[None]:
    """Say of a machine where nothing can be proven how to go on."""
    from tsstack.prove.world import NoWorld

    try:
        yield
    except NoWorld as error:
        raise CheckFailed(
            f"the change cannot be proven on this machine: {error.message}",
            hint=f"{error.hint}; {NO_PROVE_HINT}",
        ) from error


def refuse_rows(rows: tuple[Row, ...], loaded: LoadedStack) -> None:
    """Raise CheckFailed with the packets: what the file says of each, and where, and what the kernel did."""
    if not rows:
        return
    told = [
        f"{row.packet} (from {row.source} to {row.target}): {_says(row, loaded)}" for row in rows[:_SHOWN]
    ]
    more = f"; and {len(rows) - _SHOWN} more packets" if len(rows) > _SHOWN else ""
    raise CheckFailed(
        f"the rules would not do what the file says, so nothing was changed: {'; '.join(told)}{more}",
        hint=f"this is tsstack's fault, not your file's: `tsstack prove` shows all of it; {NO_PROVE_HINT}",
    )


def _says(row: Row, loaded: LoadedStack) -> str:
    file, line, column = loaded.place(row.expected.path)
    place = f"{file}:{line}:{column}: " if line else ""
    return f"{place}{row.expected.path} says {row.expected.action}, the kernel does {row.seen}"
