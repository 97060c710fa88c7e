"""The changes of a host in whose middle it is hurt, and the count of what became of it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crash_host import FENCED, SECOND_FENCED, CrashHost
from crash_picture import STATE


@dataclass(frozen=True, slots=True)
class Scene:
    """One change of the host: from what, by which words, to what."""

    name: str
    old: str
    new: str
    words: tuple[str, ...]
    weight: int
    """Its share of a sample."""
    faults: bool = False
    """Calls are made to fail in it, too."""
    reboots: bool = False
    """The host is rebooted before it."""
    joins: bool = False
    """The host becomes a node of the tailnet in it."""
    confirmed: bool = False
    """It waits for a confirmation, so that it may be over and yet not done."""
    boots: str = ""
    """The file that the next boot may bring up though another one is live."""
    begin: Callable[[], None] | None = None
    """What brings the host from `old` to where the scene begins."""
    task: Callable[[], int] | None = None
    """What is run in place of the words."""


@dataclass
class Tally:
    """What was found, by scene and kind of call."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    torn: list[dict[str, Any]] = field(default_factory=list)
    wrong_ends: list[dict[str, Any]] = field(default_factory=list)
    """The host was whole, and the command's exit code or its words were not what they should be."""
    notes: Counter[str] = field(default_factory=Counter)
    missed: int = 0

    def add(self, scene: str, kind: str, state: str) -> None:
        self.counts[(scene, kind, state)] += 1

    def as_json(self) -> dict[str, Any]:
        by = lambda place: {  # noqa: E731
            key: {
                state: sum(n for entry, n in self.counts.items() if entry[place] == key and entry[2] == state)
                for state in ("old", "new", "torn")
            }
            for key in sorted({entry[place] for entry in self.counts})
        }
        totals = {
            state: sum(n for entry, n in self.counts.items() if entry[2] == state)
            for state in ("old", "new", "torn")
        }
        return {
            "points": sum(totals.values()),
            **totals,
            "scenes": by(0),
            "kinds": by(1),
            "not_reached": self.missed,
            "notes": dict(self.notes),
            "torn_points": self.torn,
            "wrong_ends": self.wrong_ends,
        }


def scenes(host: CrashHost) -> list[Scene]:
    """Every way in which a host goes from one generation to another."""
    second = tuple(host.switch("second"))
    waiting = Waiting(host)
    join = (
        [Scene("join the tailnet", "stranger", "first", tuple(host.switch("first")), 1, joins=True)]
        if host.tailscaled
        else []
    )
    return [
        *join,
        Scene("switch", "first", "second", second, 8, faults=True),
        Scene("switch with its proof", "first", "second", tuple(host.proven_switch("second")), 1),
        Scene("first switch", "none", "second", second, 4, faults=True),
        Scene("rollback", "second", "first", ("rollback", "--to", "1"), 3, faults=True),
        Scene("rollback to nothing", "first", "none", ("rollback", "--to", "0"), 2),
        Scene("first switch, with a fallback", FENCED, SECOND_FENCED, second, 2),
        Scene("rollback to the fallback", SECOND_FENCED, FENCED, ("rollback", "--to", "0"), 2),
        Scene("boot of a fallback", FENCED, FENCED, ("recover", "--boot"), 1, reboots=True),
        Scene("boot", "first", "first", ("recover", "--boot"), 2, reboots=True),
        Scene("early firewall", "first", "first", ("recover", "--early"), 1, reboots=True),
        Scene(
            "boot after what waits",
            "first",
            "first",
            ("recover", "--boot"),
            1,
            reboots=True,
            begin=waiting.begin_before_a_reboot,
        ),
        Scene("switch --confirm", "first", "second", (*second, "--confirm", "90s"), 4, confirmed=True),
        Scene(
            "confirm",
            "first",
            "second",
            ("confirm", "--same-session"),
            1,
            confirmed=True,
            begin=waiting.begin,
        ),
        Scene(
            "rollback of what waits",
            "first",
            "second",
            ("rollback",),
            2,
            confirmed=True,
            begin=waiting.begin,
        ),
        Scene(
            "rollback to a number while one waits",
            "first",
            "second",
            ("rollback", "--to", "1"),
            1,
            confirmed=True,
            begin=waiting.begin,
        ),
        Scene("test", "first", "second", tuple(host.switch("second", verb="test")), 2, boots="first"),
        Scene(
            "switch for the next boot",
            "first",
            "second",
            tuple(host.switch("second", verb="boot")),
            1,
            boots="second",
        ),
        Scene("recover", "first", "first", ("recover",), 2, begin=waiting.begin_expired),
        Scene(
            "dead man", "first", "first", ("recover",), 2, begin=waiting.begin_expired, task=waiting.dead_man
        ),
    ]


class Waiting:
    """A switch that waits for its confirmation, to be confirmed or undone in another scene."""

    def __init__(self, host: CrashHost) -> None:
        self.host = host

    def begin(self) -> None:
        """Switch and leave the confirmation open."""
        if (STATE / "pending.json").exists():
            self.host.runner.must("rollback")
        self.host.runner.must(*self.host.switch("second", "--confirm", "90s"))

    def begin_before_a_reboot(self) -> None:
        """The same on a host that is up, and then it is rebooted."""
        self.host.runner.must("recover", "--boot")
        self.begin()
        self.host.reboot()

    def begin_expired(self) -> None:
        """The same with its time over and its dead man gone."""
        self.begin()
        self.host.send_dead_men_home()
        record = STATE / "pending.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "deadline_s": 0.0}))

    def dead_man(self, deadline_s: float = 0.0) -> int:
        """Be the dead man of the change that waits."""
        from tsstack.model.facts import Paths
        from tsstack.switch import deadman

        paths = Paths()
        change = json.loads((STATE / "pending.json").read_text())["id"]
        sys.argv = [
            "deadman", "--state", str(paths.state), "--run", str(paths.run), "--etc", str(paths.etc),
            "--socket", str(paths.tailscale_socket), "--log", str(paths.log), "--id", change,
            "--deadline", f"{deadline_s}",
        ]  # fmt: skip
        return deadman.main()
