"""A host that goes from file to file by random verbs. Runs inside the private host.

walk_host.py walk FOLDER STEPS SEED     prints the faults and a picture of the end as JSON
walk_host.py fresh FOLDER               the picture of a host that has seen FOLDER/last.yaml alone
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from crash_picture import (
    STATE,
    dead_men,
    links,
    loose_ends,
    nginx_masters,
    own_processes,
    read_sysctls,
    served_digest,
    tree_of,
    wait_for,
)
from crash_process import fork, verb, wait

LINKS = ("eth0", "eth1", "br-guest", "docker0")
ETC = ("/etc/nginx", "/etc/sysctl.d", "/etc/modules-load.d", "/etc/systemd")


def said_by(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def make_links() -> None:
    """The interfaces that the files speak of."""
    for name in LINKS:
        subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name[:8]}-peer"], check=True
        )
        subprocess.run(["ip", "link", "set", name, "up"], check=True)


def picture() -> dict[str, Any]:
    """All that tsstack has made of this host, and what was there before, without generation numbers."""
    current = STATE / "current"
    folder = current.resolve() if current.is_symlink() else STATE / "nothing"
    etc: dict[str, str] = {}
    for place in map(Path, ETC):
        for path in sorted(place.rglob("*")) if place.is_dir() else ():
            if path.is_symlink():
                etc[str(path)] = f"-> {path.readlink()}"
            elif path.is_file():
                etc[str(path)] = path.read_text(errors="replace")
    served, wanted = served_digest(folder)
    queues = json.loads(said_by("tc", "-j", "qdisc", "show") or "[]")
    return {
        "tree": tree_of(folder),
        "table": said_by("nft", "-s", "list", "ruleset"),
        "sysctls": read_sysctls(),
        "etc": etc,
        "tc": sorted(json.dumps({key: queue[key] for key in queue if key != "handle"}) for queue in queues),
        "filters": said_by("tc", "filter", "show"),
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "served": [served, wanted],
        "nginx": [len(nginx_masters())],
        "ports": sorted({line.split()[3] for line in said_by("ss", "-Hltn").splitlines()}),
        "processes": sorted(line.split()[0] for line in own_processes().values() if "identity" in line),
    }


class Walk:
    """Steps of a host, each a verb of the command line."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.files = sorted(folder.glob("file*.yaml"))
        self.chance = random.Random(seed)  # noqa: S311  a sample, no secret
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.last = ""

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> int:
        """A verb in a fork of this process, as the command line would run it."""
        log = self.folder / "run.log"
        done = wait(fork(verb(words), log), log)
        if done.code not in codes or "Traceback" in done.said:
            self.faults.append(
                f"after {self.last}: {' '.join(words)} ended with {done.code}: {done.said[-1500:]}"
            )
        self.last = " ".join(words)
        self.counts[f"{words[0] if words[0] != '-c' else words[2]} -> {done.code}"] += 1
        return done.code

    def switch(self, file: Path, *more: str, codes: tuple[int, ...] = (0, 4)) -> int:
        """A verb for a file; one that is refused (4: an admin would be locked out) must change nothing."""
        before = picture()
        # What the packets prove of such files is the business of another test.
        code = self.run("-c", str(file), *(more or ("switch",)), "--no-prove", codes=codes)
        if code == 4:
            self.compare(before, picture(), f"{self.last}, refused")
        return code

    def step(self) -> None:
        chance = self.chance
        file = chance.choice(self.files)
        live, _ = links()
        match chance.randrange(10):
            case 0 | 1 | 2:
                self.switch(file)
            case 3:
                self.switch(file, "test")
            case 4:
                self.run("-c", str(file), "boot", codes=(0, 4))
            case 5:
                self._confirmed(file)
            case 6:
                self._expired(file)
            case 7 if live > 1:
                # What was undone by itself is no reason to go further back.
                self.run("rollback", codes=(0, 4) if (STATE / "undone").exists() else (0,))
            case 8:
                known = [path.name for path in (STATE / "generations").iterdir() if path.name.isdigit()]
                self.run("rollback", "--to", chance.choice(known or ["0"]))
            case _:
                self._refused()

    def _confirmed(self, file: Path) -> None:
        self.switch(file, "switch", "--confirm", "60s")
        if (STATE / "pending.json").exists():
            words = self.chance.choice((("confirm", "--same-session"), ("rollback",)))
            self.run(*words)
            self.counts[f"waiting, then {words[0]}"] += 1

    def _expired(self, file: Path) -> None:
        before = picture()
        # On a busy machine the second is over before the switch is: the dead man then ends it (-9) first.
        self.switch(file, "switch", "--confirm", "1s", codes=(0, 4, 5, -9))
        if not wait_for(lambda: not (STATE / "pending.json").exists() and not dead_men(), 15.0):
            self.faults.append(f"{self.last}: nobody has undone it after 15 s")
        self.counts["expired"] += 1
        self.compare(before, picture(), f"{self.last}, expired")

    def _refused(self) -> None:
        """A file with a fault in it, or a service at a place that is taken: nothing may change."""
        before = picture()
        bad = self.folder / "bad.yaml"
        text = self.chance.choice(self.files).read_text()
        bad.write_text(text.replace('"name": "one"', '"name": "one", "nmae": 1'))
        self.switch(bad, codes=(3,))
        self.compare(before, picture(), "a refused file")

    def compare(self, before: dict[str, Any], after: dict[str, Any], when: str) -> None:
        self.faults += [f"{when}: {line}" for line in differences(before, after)]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What two pictures differ in, a line each."""
    found = []
    for name, was in one.items():
        now = other[name]
        if was == now:
            continue
        if isinstance(was, dict):
            keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
            found += [f"{name}: {key} is {now.get(key)!r}, not {was.get(key)!r}"[:400] for key in keys]
        else:
            mine, its = (set(_pieces(value)) for value in (was, now))
            found.append(f"{name}: less {sorted(mine - its)[:4]}, more {sorted(its - mine)[:4]}"[:500])
    return found


def _pieces(value: Any) -> list[str]:
    return value.splitlines() if isinstance(value, str) else [str(each) for each in value]


def walk(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """`steps` random steps, then the last file; the counts, the faults and the picture."""
    make_links()
    nothing = picture()
    walker = Walk(folder, seed)
    started_s = time.monotonic()
    for number in range(steps):
        walker.step()
        if number % 10 == 9:
            print(f"{number + 1} steps, {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
        if len(walker.faults) > 20:
            break
    last = walker.chance.choice(walker.files)
    while walker.switch(last) != 0 and len(walker.faults) < 20:
        last = walker.chance.choice(walker.files)
    shutil.copy(last, folder / "last.yaml")
    end = picture()
    loose = loose_ends()
    walker.run("rollback", "--to", "0")
    walker.compare(nothing, picture(), f"{last.name}, then rollback --to 0")
    walker.faults += loose
    return {"faults": walker.faults, "counts": dict(walker.counts), "picture": end}


def fresh(folder: Path) -> dict[str, Any]:
    """A host that nobody has walked on."""
    make_links()
    walker = Walk(folder, 0)
    walker.switch(folder / "last.yaml")
    return {"faults": walker.faults + loose_ends(), "counts": {}, "picture": picture()}


def main() -> int:
    """Answer on stdout."""
    import importlib

    for name in (
        "tsstack.cli.change",
        "tsstack.model.lint",
        "tsstack.parts.proxy.desired",
        "jinja2",
        "nftables",
    ):
        importlib.import_module(name)  # so that every fork begins with it
    what, folder, *numbers = sys.argv[1:]
    said = walk(Path(folder), int(numbers[0]), int(numbers[1])) if what == "walk" else fresh(Path(folder))
    json.dump(said, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
