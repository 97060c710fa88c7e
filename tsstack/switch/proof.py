"""A staged generation is proven with packets before anything of the host is touched.

The throwaway world is made while the engines check and the guard asks, so that a switch waits for little
more than the packets. Only what a switch changes is proven: the rules, the vhosts, or both.
"""

from __future__ import annotations

import zlib
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
    from tsstack.prove.vhosts import Answer

Finish = Callable[[], None]
"""Wait for the proof. Raises CheckFailed for what differs."""

Prover = Callable[[Path, Plan, "Facts"], AbstractContextManager[Finish | None]]
"""Begins the proof of a staged generation; None where there is nothing to prove."""

NO_PROVE_HINT = "or use --no-prove: the host is then changed without a proof"
IPV4_ALONE = "this kernel has no IPv6, so nothing of it was sent"
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
        from tsstack.prove.proof import has_table
        from tsstack.prove.vhosts import has_vhosts

        with ExitStack() as stack:
            finishes: list[Finish] = []
            # Where nothing was made of what the file asks for there is no change to see, either.
            for is_made in (has_table, has_vhosts):
                is_made(self.load().stack, staged)
            if "firewall" in plan.names:
                finishes += self._begin_rules(stack, staged, facts)
            if "proxy" in plan.names and self._changes_vhosts(staged):
                finishes += self._begin_vhosts(stack, staged, facts)

            def finish() -> None:
                for each in finishes:
                    each()

            yield finish if finishes else None

    def _begin_rules(self, stack: ExitStack, staged: Path, facts: Facts) -> Iterator[Finish]:
        from tsstack.prove.plan import QUICK
        from tsstack.prove.proof import FILE, Experiment, has_table

        loaded = self.load()
        if not has_table(loaded.stack, staged):
            return
        # Other rules, other packets; the same rules, the same ones again.
        seed = zlib.crc32((staged / FILE).read_bytes())
        with _explained():
            experiment = stack.enter_context(
                Experiment(loaded.stack, facts, staged, seed=seed, limits=QUICK, asked=self.asked())
            )

        def finish() -> None:
            with _explained():
                proof = experiment.run()
            refuse_rows(proof.mismatches, loaded)
            alone = "" if proof.ipv6 else f"; {IPV4_ALONE}"
            self.report(f"{proof.checks} packets: the rules do what the file says{alone}")

        yield finish

    def _begin_vhosts(self, stack: ExitStack, staged: Path, facts: Facts) -> Iterator[Finish]:
        from tsstack.prove.vhosts import VhostExperiment, has_vhosts

        loaded = self.load()
        if not has_vhosts(loaded.stack, staged):
            return
        with _explained():
            experiment = stack.enter_context(VhostExperiment(loaded.stack, facts, staged))

        def finish() -> None:
            with _explained():
                hearing = experiment.run()
            refuse_answers(hearing.mismatches, loaded)
            self.report(f"{hearing.checks} requests: nginx answers as the file says")

        yield finish

    def _changes_vhosts(self, staged: Path) -> bool:
        """Whether nginx would load another text: a certificate that is due changes none of it."""
        if self.live is None:
            return True
        # What is TCP alone stands in main.conf.
        names = ("nginx/http.conf", "nginx/main.conf", "nginx/nginx.conf")
        return any(_text(staged / name) != _text(self.live / name) for name in names)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


@contextmanager
def _explained() -> Iterator[None]:
    """Say of a machine where nothing can be proven how to go on."""
    from tsstack.prove.world import NoWorld

    try:
        yield
    except NoWorld as error:
        raise CheckFailed(
            f"the change cannot be proven on this machine: {error.message}",
            hint=f"{error.hint}; {NO_PROVE_HINT}" if error.hint else NO_PROVE_HINT.removeprefix("or "),
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


def refuse_answers(answers: tuple[Answer, ...], loaded: LoadedStack) -> None:
    """Raise CheckFailed with the requests: what the file says of each, and where, and what answered."""
    if not answers:
        return
    told = [
        f"{each.question}: {_place(each.question.key, loaded)}{each.question.key} says "
        f"{each.question.expected}, seen is {each.seen}"
        for each in answers[:_SHOWN]
    ]
    more = f"; and {len(answers) - _SHOWN} more requests" if len(answers) > _SHOWN else ""
    raise CheckFailed(
        f"nginx would not answer as the file says, so nothing was changed: {'; '.join(told)}{more}",
        hint=f"`tsstack prove` shows all of it; {NO_PROVE_HINT}",
    )


def _place(path: str, loaded: LoadedStack) -> str:
    file, line, column = loaded.place(path)
    return f"{file}:{line}:{column}: " if line else ""


def _says(row: Row, loaded: LoadedStack) -> str:
    place = _place(row.path, loaded)
    return f"{place}{row.path} says {row.expected.outcome}, the kernel does {row.seen}"
