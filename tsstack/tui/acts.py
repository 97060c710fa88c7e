"""What the dashboard does on request. Each blocks, so each runs in a thread, and says what came of it.

All raise TsstackError with a reason for people.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsstack.errors import TsstackError

CONFIRM_S = 60
"""How long a rollback from here waits for its confirmation."""
# At this limit it would be killed in the middle: only for one that hangs.
_SWITCH_S = 3600.0
_TSSTACK = "from tsstack.cli.main import main; main()"


def use_exit(monitor: Path, name: str) -> str:
    """Use an exit node from now on, or `direct`."""
    from tsstack.monitor.client import Client

    done = Client(monitor).ask("exit-node", use=name)
    return f"{name}: {done['note']}" if done.get("note") else f"{name} is used until `a` ends that"


def choose_exit_again(monitor: Path) -> str:
    """Let the monitor choose again."""
    from tsstack.monitor.client import Client

    done = Client(monitor).ask("exit-node", auto=True)
    return str(done.get("note") or "the monitor chooses the exit node")


def set_maintenance(monitor: Path, *, on: bool) -> str:
    """Let the monitor change nothing, or let it work again."""
    from tsstack.monitor.client import Client

    Client(monitor).ask("maintenance", on=on)
    return "maintenance: the monitor changes nothing" if on else "maintenance is over"


def roll_back(number: int, *, confirm: bool) -> str:
    """Go to another generation, by a process of its own: it lives on when the dashboard ends."""
    words = ["rollback", "--to", str(number), *(["--confirm", f"{CONFIRM_S}s"] if confirm else [])]
    done = _tsstack(*words)
    if not done["changed"]:
        return f"generation {done['generation']} is live already"
    wait = ": c keeps it" if done["awaits_confirmation"] else ""
    return f"generation {done['generation']} is live{wait}"


def confirm_switch(change: str) -> str:
    """Keep a switch, if that very one still waits for its confirmation."""
    done = _tsstack("confirm", "--pending", change)
    return f"generation {done['generation']} is confirmed"


def undo_switch(change: str) -> str:
    """Undo a switch, if that very one still waits for its confirmation."""
    done = _tsstack("rollback", "--pending", change)
    return f"undone: generation {done['generation']} is live"


def _tsstack(*words: str) -> Mapping[str, Any]:
    """What a verb of `tsstack` says as JSON."""
    from tsstack.system.command import run

    # Never from the folder that we happen to stand in (-P): this is root's.
    done = run([sys.executable, "-P", "-c", _TSSTACK, "--json", *words], timeout_s=_SWITCH_S, check=False)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TsstackError(f"tsstack {words[0]} ended with {done.returncode}: {said}") from None
    if "error" in told:
        raise TsstackError(told["error"]["message"], hint=told["error"]["hint"] or "")
    return dict(told)


def read_trees(state: Path, *numbers: int) -> list[dict[str, str]]:
    """The rendered files of each of these generations."""
    from tsstack.switch.generations import Store

    try:
        return [Store(state).tree(number) for number in numbers]
    except (OSError, UnicodeDecodeError) as error:
        raise TsstackError(f"the generation cannot be read: {error}") from error
