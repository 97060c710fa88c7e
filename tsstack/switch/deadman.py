"""The dead man: a process of its own that undoes an unconfirmed change when its time is up.

It is armed before the first change. Where systemd runs it is a transient unit, out of the session that
runs the switch; elsewhere it is a process in a session of its own. Either way neither SIGHUP nor
SIGKILL of the command reaches it, and should it die itself, the pending record is judged by the next
command and by the next boot.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed, LockedError, RollbackFailed
from tsstack.model.facts import Paths
from tsstack.switch.lock import host_lock
from tsstack.switch.record import Pending, read_pending
from tsstack.switch.recovery import recover, stop_holder, undo
from tsstack.switch.site import Site
from tsstack.system import command
from tsstack.system.files import write_durably
from tsstack.system.processes import process_start

_ARM_TIMEOUT_S = 10.0
_RESTART_S = 2.0
"""Within this systemd has started a dead man anew who was killed (see `arm`)."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


def _ready_file(paths: Paths, change: str) -> Path:
    return paths.run / f"deadman-{change}.ready"


def arm(site: Site, pending: Pending, *, systemd: bool) -> None:
    """Start the dead man for `pending` and return once it stands guard.

    Raises CheckFailed when it does not come up: then nothing may be changed.
    """
    paths = site.paths
    paths.run.mkdir(parents=True, exist_ok=True)
    ready = _ready_file(paths, pending.id)
    argv = [
        sys.executable,
        "-P",  # the folder that we happen to stand in must not provide modules (python(1))
        "-m",
        "tsstack.switch.deadman",
        *("--state", str(paths.state), "--run", str(paths.run), "--etc", str(paths.etc)),
        *("--socket", str(paths.tailscale_socket), "--log", str(paths.log)),
        *("--id", pending.id, "--deadline", f"{pending.deadline_s}"),
    ]
    try:
        if systemd:
            unit = f"tsstack-deadman-{pending.id}"
            properties = ("--collect", "--property=Restart=on-failure", "--property=RestartSec=100ms")
            command.run(["systemd-run", "--quiet", f"--unit={unit}", *properties, *argv])
        else:
            command.start(argv, log=paths.run / "deadman.log")
    except (CommandFailed, OSError) as error:
        raise CheckFailed(f"the dead man cannot be armed: {error}", hint="nothing was changed") from error
    give_up_s = site.clock.now_s() + _ARM_TIMEOUT_S
    while not ready.exists():
        if site.clock.now_s() > give_up_s:
            raise CheckFailed(
                f"the dead man did not come up within {_ARM_TIMEOUT_S:g} s",
                hint=f"see {paths.run / 'deadman.log'} or journalctl -u 'tsstack-deadman-*'",
            )
        site.clock.sleep(0.01)


def require_guard(site: Site, change: str) -> None:
    """Raise ApplyFailed when nobody stands guard over a change that waits for its confirmation.

    He may have been killed since he was armed (the kernel's OOM killer); systemd brings him back.
    """
    give_up_s = site.clock.now_s() + _RESTART_S
    while not _stands(_ready_file(site.paths, change)):
        if site.clock.now_s() > give_up_s:
            raise ApplyFailed(
                "the dead man is gone: nobody would undo the change if it is not confirmed",
                hint=f"see {site.paths.run / 'deadman.log'} or journalctl -u 'tsstack-deadman-*'",
            )
        site.clock.sleep(0.02)


def _stands(ready: Path) -> bool:
    try:
        pid_text, _, start = ready.read_text(encoding="ascii").strip().partition(" ")
    except FileNotFoundError:
        return False
    return process_start(int(pid_text)) == start != ""


def disarm(site: Site, change: str) -> None:
    """Send the dead man of a change home. Harmless when there is none."""
    ready = _ready_file(site.paths, change)
    try:
        pid_text, _, start = ready.read_text(encoding="ascii").strip().partition(" ")
    except FileNotFoundError:
        return
    pid = int(pid_text)
    if pid != os.getpid() and process_start(pid) == start != "":
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            start = ""
    ready.unlink(missing_ok=True)


def watch(site: Site, change: str, deadline_s: float) -> str:
    """Wait for the deadline, then undo the change if it is still pending; say what was done.

    The command that made the change may hang with the lock in its hand: past the deadline it is ended.
    """
    while (left_s := deadline_s - site.clock.now_s()) > 0:
        # CLOCK_BOOTTIME goes on during suspend and sleep(3) does not: look again at least each second.
        site.clock.sleep(min(left_s, 1.0))
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return _end_change(site, change)
        except (CheckFailed, RollbackFailed) as error:
            # Someone keeps the lock, or a part cannot be brought back yet. No one else is on guard.
            site.report(f"{error.message}; trying again in {pause_s:g} s")
        site.clock.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _end_change(site: Site, change: str) -> str:
    pending = read_pending(site.paths.state)
    if pending is None or pending.id != change:
        return "nothing to do: the change was confirmed or undone"
    try:
        with host_lock(site.paths.state, site.clock, wait_s=0.2):
            return _judge(site, change)
    except LockedError:
        stop_holder(pending)
    with host_lock(site.paths.state, site.clock, wait_s=10.0):
        return _judge(site, change)


def _judge(site: Site, change: str) -> str:
    pending = read_pending(site.paths.state)
    if pending is None or pending.id != change:
        return "nothing to do: the change was confirmed or undone"
    if pending.phase == "activating":
        undo(site, pending)
        return f"generation {pending.target} was undone: its command did not finish in time"
    done = recover(site)
    return f"generation {done.target} was undone: {done.reason}" if done else "still within its time"


def main() -> int:
    """Entry point of the dead man's process."""
    import argparse

    parser = argparse.ArgumentParser()
    for name in ("state", "run", "etc", "socket", "log", "id", "deadline"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    paths = Paths(
        Path(options.etc), Path(options.state), Path(options.run), Path(options.socket), Path(options.log)
    )
    log = (paths.run / "deadman.log").open("a", encoding="utf-8")
    site = Site(paths=paths, report=lambda line: print_line(log.fileno(), line))
    ready = _ready_file(paths, options.id)
    write_durably(ready, f"{os.getpid()} {process_start(os.getpid())}\n")
    try:
        said = watch(site, options.id, float(options.deadline))
    finally:
        ready.unlink(missing_ok=True)
    print_line(log.fileno(), said)
    return 0


def print_line(descriptor: int, line: str) -> None:
    """Append one line to the dead man's log."""
    os.write(descriptor, f"{line}\n".encode())


if __name__ == "__main__":
    raise SystemExit(main())
