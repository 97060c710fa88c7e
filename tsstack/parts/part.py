"""The shape that everything shares which tsstack manages on a host.

The flow of one value: the file -> `Stack` (model) -> `desired`, a tree of rendered files (pure) ->
staged as part of a generation on disk -> `check` by the real engine -> `activate`, which reads nothing
but the generation's files -> `verify` with new connections. Rolling back is activating an older
generation's files, or `restore` of what `observe` saw, so it needs no network, no secrets and no
rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # a no-op switch never loads the model, which is what makes it quick
    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

Tree = Mapping[str, str]
"""Rendered files: path below the generation's folder (`nftables/tsstack.nft`) -> text."""

Snapshot = dict[str, JsonValue]
"""What a part saw of the live host: JSON, no secrets, enough for `restore` to bring it back."""

Report = Callable[[str], None]
"""Takes one line of progress for people."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that activation would change. `before` or `after` is None when there is no such thing."""

    subject: str
    before: str | None = None
    after: str | None = None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.subject}: {self.after}" if self.after else f"+ {self.subject}"
        if self.after is None:
            return f"- {self.subject}: {self.before}" if self.before else f"- {self.subject}"
        return f"~ {self.subject}: {self.before or 'none'} -> {self.after or 'none'}"


class Part(Protocol):
    """One subsystem of the host.

    A part owns one folder of the generation (`folder`) and reads only that when it acts. Nothing in a
    tree, a snapshot or a change may hold a secret.
    """

    @property
    def name(self) -> str:
        """The part's name in progress, diffs and records: `firewall`."""

    @property
    def folder(self) -> str:
        """Its folder in a generation: `nftables`."""

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        """The files this part wants, every path below `folder`. Pure and deterministic.

        An empty tree means that the file does not ask for this part: what tsstack had made of it is
        removed, what others made is left alone.
        """

    def check(self, generation: Path, facts: Facts) -> None:
        """Let the real engine judge the staged files in `generation`, changing nothing.

        Raises CheckFailed with the engine's words and, where it can be told, the place in the file.
        """

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        """Things a person should know after a switch to `generation` that are no failure.

        One sentence each, saying what to do. Shown and kept in the record. Changes nothing.
        """

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        """What is live now. Changes nothing; raises CheckFailed when the engine cannot be asked.

        `tree` is what is about to be made, so that the snapshot covers everything that its activation
        may touch, beside all that an earlier activation has touched.
        """

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        """What `activate` would change. Pure; empty means that there is nothing to do."""

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        """Make the host as the files in `generation` say. Idempotent.

        Raises ApplyFailed; the caller then restores. May be killed at any point: `restore` of the
        snapshot taken before, or another `activate`, must bring the host to a whole state from there.
        """

    def verify(self, generation: Path, facts: Facts) -> None:
        """Ask the live host, with new connections, whether it is as the files say. Raises ApplyFailed."""

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        """Bring back what `observe` saw. Idempotent. Raises RollbackFailed saying what is left."""


@runtime_checkable
class StandsAlone(Protocol):
    """A part of which something may stand on the host although no generation asks for it."""

    def stands_alone(self, facts: Facts) -> bool:
        """Whether it does, or should: it is then looked at by every change."""


@runtime_checkable
class NeedsGeneration(Protocol):
    """A part of which `restore` may need the files of the generation that is live again by then."""

    def needs_generation(self, snapshot: Snapshot) -> bool:
        """Whether what this snapshot saw cannot come back without them. Raises nothing, whoever wrote it."""


@runtime_checkable
class StepsAside(Protocol):
    """A part that lives in a program of the distribution's, which must come up at boot without it.

    What ours needs (an address of the tailnet, a name) may not be there then, and what others have in the
    same program must not wait for it.
    """

    def step_aside(self, facts: Facts) -> bool:
        """Leave that program to the others until the next `activate`. Returns whether it was in it."""


@runtime_checkable
class SaysUnmet(Protocol):
    """A part that knows of things that the file asks for and this host cannot do, without it being a failure.

    Every verb that reports says them, also where there is nothing to change: `warnings` comes only after an
    activation.
    """

    def unmet(self, tree: Tree, snapshot: Snapshot, facts: Facts) -> tuple[str, ...]:
        """One sentence each, saying what to do; `tree` may be empty. Quick: from what `observe(tree)` saw."""
