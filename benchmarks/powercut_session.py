"""A lab, one or two machines on it, and a run of cuts whose results lie in a folder as they come."""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from powercut_host import Host
from powercut_scenes import KINDS, Cut, NotMade, make_cut
from vm_debian import SEATS
from vm_image import prepare_image

from tsstack.lab.lab import Lab, take_down


class Session:
    """A lab with prepared hosts; all of it goes at the end. `folder` keeps results and torn machines."""

    def __init__(self, folder: Path, *, machines: int = 2, own_clock: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._name = f"pc{os.getpid()}-{secrets.token_hex(2)}"
        self._scratch = Path(tempfile.mkdtemp(prefix="tsstack-vm-"))
        self._lock = threading.Lock()
        self.hosts: list[Host] = []
        try:
            image = prepare_image()
            self.lab = Lab.up(name=self._name)
            self.hosts = [
                Host(self.lab, seat, image, self._scratch / seat.name, own_clock=own_clock)
                for seat in SEATS[:machines]
            ]
            _each([host.prepare for host in self.hosts])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for host in self.hosts:
            host.stop()
        take_down(name=self._name)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, numbers: Iterable[int], seed: int, *, resume: bool = False) -> list[Cut]:
        """Make the cuts of these numbers; with `resume` those of an earlier run count as made."""
        results = self.folder / "cuts.jsonl"
        if not resume:
            results.unlink(missing_ok=True)
            for place in self.folder.glob("torn-*"):
                shutil.rmtree(place)
        known = [Cut(**json.loads(line)) for line in _lines(results)]
        made = {cut.number: cut for cut in known}
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        failed: dict[int, str] = {}
        wanted = list(numbers)
        for number in wanted:
            if number not in made:
                todo.put(number)

        def work(host: Host) -> None:
            while True:
                try:
                    number = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    cut, verdict = make_cut(host, number, seed)
                except NotMade as error:
                    print(f"{number:4} was not made, {error}", file=sys.stderr)
                    with self._lock:
                        if number in failed:
                            raise
                        failed[number] = str(error)
                    todo.put(number)
                    continue
                cut.not_made_first = failed.get(number, "")
                with self._lock:
                    made[number] = cut
                    with results.open("a") as out:
                        out.write(json.dumps(asdict(cut)) + "\n")
                    print(describe(cut), file=sys.stderr)
                if cut.faults:
                    self._keep(host, cut, verdict.seen, verdict.journal)

        _each([lambda host=host: work(host) for host in self.hosts])  # type: ignore[misc]
        return [made[number] for number in wanted if number in made]

    def _keep(self, host: Host, cut: Cut, seen: dict[str, Any], journal: str) -> None:
        """What was torn: the disk (backed by the image), its boot's journal, what was seen and wanted."""
        place = self.folder / f"torn-{cut.number}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(host.machine.disk, place / host.machine.disk.name)
        (place / "journal.txt").write_text(journal)
        found = {"cut": asdict(cut), "seen": seen, "pictures": host.pictures}
        (place / "found.json").write_text(json.dumps(found, indent=1))


def _each(tasks: list[Any]) -> None:
    """All of them at once; the first failure is raised when all have ended."""
    failures: list[BaseException] = []

    def guarded(task: Any) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001  raised below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def describe(cut: Cut) -> str:
    """One cut as a line."""
    faults = "".join(f"\n     {fault}" for fault in cut.faults)
    return f"{cut.number:4} {cut.kind}, from {cut.start}: cut {cut.moment}: {cut.state}{faults}"


def summarize(cuts: list[Cut], seed: int) -> dict[str, Any]:
    """Counts by kind and in all."""
    states = Counter((cut.kind, cut.state) for cut in cuts)
    kinds = {
        kind: {state: states[(kind, state)] for state in ("old", "new", "torn")}
        for kind in KINDS
        if any(cut.kind == kind for cut in cuts)
    }
    totals = {state: sum(counts[state] for counts in kinds.values()) for state in ("old", "new", "torn")}
    whole = [cut for cut in cuts if not cut.faults]
    return {
        "cuts": len(cuts),
        **totals,
        "seed": seed,
        "kinds": kinds,
        "knocks": sum(cut.knocks for cut in cuts),
        "firewall_before_link_s": min((cut.spared_us for cut in whole), default=0) / 1e6,
        "duration_s": sum(cut.duration_s for cut in cuts),
        "made_again": [f"{cut.number}: {cut.not_made_first}" for cut in cuts if cut.not_made_first],
        "torn_cuts": [asdict(cut) for cut in cuts if cut.faults],
    }


def show(found: dict[str, Any], folder: Path) -> None:
    """The counts as a table, then each torn host with its moment."""
    rows = [("power cut in", "cuts", "old", "new", "torn")]
    for kind, counts in found["kinds"].items():
        rows.append((kind, *map(str, (sum(counts.values()), *counts.values()))))
    for name, *numbers in rows:
        print(name.ljust(24), *(number.rjust(6) for number in numbers))
    print()
    for why in found["made_again"]:
        print(f"was made at the second try only, {why}")
    for cut in found["torn_cuts"]:
        print(f"TORN {describe(Cut(**cut))}\n     kept in {folder}/torn-{cut['number']}")
    print(
        f"{found['cuts']} cuts (seed {found['seed']}): {found['old']} old, {found['new']} new, "
        f"{found['torn']} torn; {found['knocks']} knocks at closed ports while it booted; the firewall "
        f"stood at least {found['firewall_before_link_s']:.2f} s before the first link"
    )
