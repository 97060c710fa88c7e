"""A part whose engine is a folder: activation copies rendered files there. Failures can be injected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import ApplyFailed, CheckFailed, RollbackFailed
from tsstack.model.facts import Facts
from tsstack.parts.part import Change, Report, Snapshot, Tree

if TYPE_CHECKING:
    from tsstack.model.stack import Stack


class FolderPart:
    """The live host is `live/`: one file for each rendered file."""

    def __init__(self, name: str, live: Path, journal: list[str]) -> None:
        self.name = name
        self.folder = name
        self.live = live / name
        self.journal = journal
        self.fail_at: set[str] = set()
        self.warning = ""
        self.needs_files = False
        """Whether nothing of it comes back without the generation's files, as of nginx."""

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        return {f"{self.folder}/name.txt": f"{stack.host.name}\n"}

    def check(self, generation: Path, facts: Facts) -> None:
        self.journal.append(f"check {self.name}")
        if "check" in self.fail_at:
            raise CheckFailed(f"{self.name} refuses")

    def _listing(self) -> dict[str, str]:
        if not self.live.is_dir():
            return {}
        return {f"{self.folder}/{path.name}": path.read_text() for path in sorted(self.live.iterdir())}

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        return {"files": dict(self._listing())}

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        files = snapshot["files"]
        assert isinstance(files, dict)
        paths = sorted({*files, *tree})
        return tuple(
            Change(path, str(files[path]) if path in files else None, tree.get(path))
            for path in paths
            if files.get(path) != tree.get(path)
        )

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        self.journal.append(f"activate {self.name}")
        self._write({path.name: path.read_text() for path in sorted((generation / self.folder).glob("*"))})
        if "activate" in self.fail_at:
            raise ApplyFailed(f"{self.name} broke half way")

    def verify(self, generation: Path, facts: Facts) -> None:
        self.journal.append(f"verify {self.name}")
        if "verify" in self.fail_at:
            raise ApplyFailed(f"{self.name} does not answer")

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        return (self.warning,) if self.warning else ()

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        self.journal.append(f"restore {self.name}")
        if "restore" in self.fail_at:
            raise RollbackFailed(f"{self.name} cannot be brought back")
        files = snapshot["files"]
        assert isinstance(files, dict)
        self._write({Path(path).name: str(text) for path, text in files.items()})

    def needs_generation(self, snapshot: Snapshot) -> bool:
        return self.needs_files

    def _write(self, files: dict[str, str]) -> None:
        self.live.mkdir(parents=True, exist_ok=True)
        for path in self.live.iterdir():
            if path.name not in files:
                path.unlink()
        for name, text in files.items():
            (self.live / name).write_text(text)
        if not files:
            self.live.rmdir()


class FakeClock:
    """Time that passes only when someone sleeps."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s

    def unix_s(self) -> float:
        return 1_700_000_000.0 + self.time_s

    def sleep(self, duration_s: float) -> None:
        self.time_s += duration_s
