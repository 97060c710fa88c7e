"""A host whose parts are folders, and a shorthand for switching it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fake_part import FakeClock, FolderPart

from tsstack.model.facts import Facts, Paths
from tsstack.switch.generations import Store
from tsstack.switch.lock import host_lock
from tsstack.switch.plan import Plan
from tsstack.switch.site import Site
from tsstack.switch.transaction import Mode, Outcome, Transaction, Wanted, prepare

ONE = {"firewall/table": "one\n", "proxy/conf": "one\n"}
TWO = {"firewall/table": "one\n", "proxy/conf": "two\n", "tailscale/prefs": "two\n"}

FOR_GOOD = Mode()


class Host:
    """A site in a folder with three parts, and a shorthand for switching it."""

    def __init__(self, folder: Path) -> None:
        self.journal: list[str] = []
        self.live = folder / "live"
        self.parts = [
            FolderPart(name, self.live, self.journal) for name in ("firewall", "tailscale", "proxy")
        ]
        self.clock = FakeClock()
        self.facts = Facts(paths=Paths(folder / "etc", folder / "state", folder / "run", folder / "socket"))
        self.site = Site(
            paths=self.facts.paths, parts=tuple(self.parts), clock=self.clock, gather=lambda _: self.facts
        )

    @property
    def store(self) -> Store:
        return self.site.store

    def switch(
        self,
        tree: dict[str, str],
        mode: Mode = FOR_GOOD,
        guard: Callable[[Path, Plan], None] = lambda _, __: None,
        wanted: Wanted | None = None,
    ) -> Outcome:
        with host_lock(self.site.paths.state, self.clock):
            prepare(self.site)
            return Transaction(self.site, wanted or Wanted(tree), self.facts, mode, guard).run()

    def listing(self) -> dict[str, str]:
        if not self.live.is_dir():
            return {}
        return {
            p.relative_to(self.live).as_posix(): p.read_text() for p in self.live.rglob("*") if p.is_file()
        }


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""
