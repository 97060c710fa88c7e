"""The dead man: a process of its own that undoes an unconfirmed change when its time is up.

It is armed before the first change. Where systemd runs it is a transient unit, out of the session that
runs the switch; elsewhere it is a process in a session of its own. Either way neither SIGHUP nor
SIGKILL of the command reaches it, and should it die itself, the pending record is judged by the next
command and by the next boot.

The unit stands behind the walls of the boot unit. They must not cost the undoing: where systemd cannot
build them, and where the undoing fails behind them, a dead man without walls does the work.

Nor must what he loads or says: the package may be gone by then, and the disk of his log and notes full.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed, LockedError
from tsstack.model.facts import Paths
from tsstack.switch.lock import host_lock
from tsstack.switch.record import Pending, read_pending
from tsstack.switch.recovery import describe, note_if_over, recover, stop_holder, undo
from tsstack.switch.site import Site
from tsstack.switch.walls import walls_for
from tsstack.system import command
from tsstack.system.files import write_durably
from tsstack.system.processes import process_start

_ARM_TIMEOUT_S = 10.0
_RESTART_S = 2.0
"""Within this systemd has started a dead man anew who was killed (see `arm`)."""
_HAND_OVER_S, _LONGEST_HAND_OVER_S = 30.0, 600.0
"""So long a successor may need to come up: the machine may be slower than it was when it was armed."""
_UNDOING_S = 30.0
RECORD_S = 60.0
"""So long a dead man waits for the record of his change: its command may have been killed before it."""
_NOTHING = "nothing to do: the change was confirmed or undone"
_NOBODY = "0\n"
_WALLED = "--walled"
_STDERR = 2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


def _ready_file(paths: Paths, change: str) -> Path:
    return paths.run / f"deadman-{change}.ready"


def arm(site: Site, pending: Pending, *, systemd: bool) -> None:
    """Start the dead man for `pending` and return once it stands guard.

    Raises CheckFailed when it does not come up: then nothing may be changed.
    """
    paths = site.paths
    words = _words(paths, pending.id, pending.deadline_s or 0.0)
    try:
        paths.run.mkdir(parents=True, exist_ok=True)
        write_durably(_ready_file(paths, pending.id), _NOBODY)  # where that does not fit, nor would his note
        if systemd and _arm_behind_walls(site, pending.id, words):
            return
        if systemd:
            _start_unit(f"{_unit(pending.id)}-bare", words)
        else:
            started = command.start(words, log=paths.run / "deadman.log")
    except (CommandFailed, OSError) as error:
        raise CheckFailed(f"the dead man cannot be armed: {error}", hint="nothing was changed") from error
    try:
        _await_guard(site, pending.id)
    except CheckFailed:  # he who comes up after all would guard nothing until the deadline
        if systemd:
            command.run(["systemctl", "stop", f"{_unit(pending.id)}-bare"], check=False)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(started, signal.SIGTERM)
        raise


def _arm_behind_walls(site: Site, change: str, words: Sequence[str]) -> bool:
    """Whether he stands guard there. An older systemd may not know a wall, a container may allow none."""
    try:
        _start_unit(_unit(change), [*words, _WALLED], walls_for(site.paths))
        _await_guard(site, change)
    except (CheckFailed, CommandFailed, OSError) as error:  # not Interrupted, which ends the switch
        site.report(f"the dead man stands without walls: {describe(error)}")
        command.run(["systemctl", "stop", _unit(change)], check=False)
        return False
    return True


def _await_guard(site: Site, change: str, *, besides: int = 0, within_s: float = _ARM_TIMEOUT_S) -> None:
    """Return once one stands who is not the process `besides`. Raises CheckFailed when nobody comes up."""
    give_up_s, ready = site.clock.now_s() + within_s, _ready_file(site.paths, change)
    while not _stands(ready) or _noted(ready)[0] == besides:
        if site.clock.now_s() > give_up_s:
            raise CheckFailed(
                f"the dead man did not come up within {within_s:g} s", hint=_where_to_look(site.paths)
            )
        site.clock.sleep(0.01)


def _where_to_look(paths: Paths) -> str:
    return f"see {paths.run / 'deadman.log'} or journalctl -u 'tsstack-deadman-*'"


def _unit(change: str) -> str:
    return f"tsstack-deadman-{change}"


def _words(paths: Paths, change: str, deadline_s: float) -> list[str]:
    return [
        sys.executable,
        "-P",  # the folder that we happen to stand in must not provide modules (python(1))
        "-m",
        "tsstack.switch.deadman",
        *("--state", str(paths.state), "--run", str(paths.run), "--etc", str(paths.etc)),
        *("--socket", str(paths.tailscale_socket), "--log", str(paths.log)),
        *("--id", change, "--deadline", f"{deadline_s}"),
    ]


def _start_unit(name: str, words: Sequence[str], walls: Iterable[str] = ()) -> None:
    """Raises CommandFailed when systemd does not take it, or cannot build the walls (Type=exec)."""
    settings = ("Type=exec", "Restart=on-failure", "RestartSec=100ms", "StartLimitIntervalSec=0", *walls)
    properties = [f"--property={each}" for each in settings]
    # The manager's own path need not lead to the engines (NixOS): what has found them here does.
    path = f"--setenv=PATH={command.environment()['PATH']}"
    command.run(["systemd-run", "--collect", f"--unit={name}", *properties, path, *words])


def require_guard(site: Site, change: str) -> None:
    """Raise ApplyFailed when nobody stands guard over a change that waits for its confirmation.

    He may have been killed since he was armed (the kernel's OOM killer); systemd brings him back.
    """
    give_up_s = site.clock.now_s() + _RESTART_S
    while not _stands(_ready_file(site.paths, change)):
        if site.clock.now_s() > give_up_s:
            raise ApplyFailed(
                "the dead man is gone: nobody would undo the change if it is not confirmed",
                hint=_where_to_look(site.paths),
            )
        site.clock.sleep(0.02)


def _noted(ready: Path) -> tuple[int, str]:
    """Who stood guard last: pid and start; 0 when nobody did."""
    try:
        pid_text, _, start = ready.read_text(encoding="ascii").strip().partition(" ")
        return int(pid_text), start
    except (FileNotFoundError, ValueError):
        return 0, ""


def _stands(ready: Path) -> bool:
    pid, start = _noted(ready)
    return pid != 0 and process_start(pid) == start != ""


def stands(site: Site, change: str) -> bool:
    """Whether somebody stands guard over a change."""
    return _stands(_ready_file(site.paths, change))


def disarm(site: Site, change: str) -> None:
    """Send the dead man of a change home. Harmless when there is none."""
    ready = _ready_file(site.paths, change)
    pid, start = _noted(ready)
    if pid not in {0, os.getpid()} and process_start(pid) == start != "":
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(OSError):  # a note that stays names nobody who lives
        ready.unlink(missing_ok=True)


def watch(site: Site, change: str, deadline_s: float, *, walled: bool = False) -> str:
    """Wait for the deadline, then undo the change if it is still pending; say what was done.

    The command that made the change may hang with the lock in its hand: past the deadline it is ended. The
    change may never have come, where the command was ended as it armed us: then there is nothing to wait for.
    Of what cannot be undone behind walls nobody knows whether they are the cause: it is handed over, to one
    who is given more time to come up at each try.
    """
    lonely_s, expected = site.clock.now_s() + RECORD_S, True
    while (left_s := deadline_s - site.clock.now_s()) > 0:
        if expected and site.clock.now_s() > lonely_s:
            found = _is_pending(site, change)
            if found is False:
                return _NOTHING
            expected = found is None
        # CLOCK_BOOTTIME goes on during suspend and sleep(3) does not: look again at least each second.
        site.clock.sleep(min(left_s, 1.0))
    pause_s, patience_s = _FIRST_PAUSE_S, _HAND_OVER_S
    while True:
        try:
            return _end_change(site, change)
        except Exception as error:  # noqa: BLE001  no one else is on guard, so nothing may end him
            # Someone keeps the lock, or a part cannot be brought back yet, or worse.
            if walled and _hand_over(site, change, deadline_s, patience_s):
                return f"{describe(error)}; one without walls goes on"
            site.report(f"{describe(error)}; trying again in {pause_s:g} s")
        site.clock.sleep(pause_s)
        pause_s, patience_s = min(2 * pause_s, _LONGEST_PAUSE_S), min(2 * patience_s, _LONGEST_HAND_OVER_S)


def _hand_over(site: Site, change: str, deadline_s: float, patience_s: float) -> bool:
    """Whether one without walls stands now, or has done it. The package that he needs may be gone.

    He who does not come up is sent home, or systemd would start him ten times a second until he does.
    """
    bare = f"{_unit(change)}-bare"
    try:
        try:
            _start_unit(bare, _words(site.paths, change, deadline_s))
        except CommandFailed:
            if not _is_up(bare):  # one of another try, whom nobody could judge then
                raise
        try:
            _await_guard(site, change, besides=os.getpid(), within_s=patience_s)
        except CheckFailed:
            waits = _is_pending(site, change)
            if waits:  # where nobody can tell it may be he who holds the lock
                command.run(["systemctl", "stop", bare], check=False)
            if waits is not False:
                raise
    except Exception as error:  # noqa: BLE001  no one else is on guard, so nothing may end him
        site.report(f"nobody takes over: {describe(error)}")
        return False
    return True


def _is_up(unit: str) -> bool:
    """Whether systemd runs it, or is about to."""
    state = command.run(["systemctl", "show", "--value", "--property=ActiveState", unit], check=False)
    return state.stdout.strip() in {"active", "activating"}


def _is_pending(site: Site, change: str) -> bool | None:
    """Whether it is; None: nobody can tell now.

    Asked with the lock, as whoever clears a record that the disk then keeps has moved it away for a moment.
    """
    try:
        with host_lock(site.paths.state, site.clock):
            pending = read_pending(site.paths.state)
    except Exception:  # noqa: BLE001  no one else is on guard, so nothing may end him
        return None
    return pending is not None and pending.id == change


def _end_change(site: Site, change: str) -> str:
    pending = read_pending(site.paths.state)
    if pending is None or pending.id != change:
        return _NOTHING
    # Who undoes it already is given the time for it.
    wait_s = _UNDOING_S if pending.waited else 0.2
    try:
        with host_lock(site.paths.state, site.clock, wait_s=wait_s):
            return _judge(site, change)
    except LockedError:
        stop_holder(pending)
    with host_lock(site.paths.state, site.clock, wait_s=10.0):
        return _judge(site, change)


def _judge(site: Site, change: str) -> str:
    pending = read_pending(site.paths.state)
    if pending is None or pending.id != change:
        return _NOTHING
    if pending.phase == "activating" and not pending.waited:
        reason = "its command did not finish in time"
        try:
            undo(site, pending)
        finally:
            note_if_over(site, pending, reason)
        return f"generation {pending.target} was undone: {reason}"
    done = recover(site)
    return f"generation {done.target} was undone: {done.reason}" if done else "still within its time"


def main() -> int:
    """Entry point of the dead man's process."""
    import argparse

    parser = argparse.ArgumentParser()
    for name in ("state", "run", "etc", "socket", "log", "id", "deadline"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument(_WALLED, action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from tsstack.switch.loaded import load_libraries

    load_libraries()
    paths = Paths(
        Path(options.etc), Path(options.state), Path(options.run), Path(options.socket), Path(options.log)
    )
    site = Site(paths=paths, report=lambda line: print_line(paths.run / "deadman.log", line))
    _note_guard(site, options.id)
    try:
        said = watch(site, options.id, float(options.deadline), walled=options.walled)
    finally:
        ready = _ready_file(paths, options.id)
        with contextlib.suppress(OSError):
            if _noted(ready)[0] == os.getpid():  # else it is his who took over
                ready.unlink(missing_ok=True)
    site.report(said)
    return 0


def _note_guard(site: Site, change: str) -> None:
    """Say that we stand guard. Raises OSError where that cannot be said and the change has not begun.

    Then it never will. Of one that waits already (its dead man was killed) we are the only guard.
    """
    try:
        start = process_start(os.getpid())
        write_durably(_ready_file(site.paths, change), f"{os.getpid()} {start}\n")
    except OSError as error:
        if not _has_begun(site, change):
            raise
        site.report(f"on guard, but nobody can be told: {error}")


def _has_begun(site: Site, change: str) -> bool:
    """Not asked with the lock: who arms us has it."""
    try:
        pending = read_pending(site.paths.state)
    except Exception:  # noqa: BLE001  a record that cannot be read is there
        return True
    return pending is not None and pending.id == change


def print_line(log: Path, line: str) -> None:
    """Append one line to the dead man's log; what that does not take goes to stderr (systemd: the journal).

    Raises nothing: what cannot be said must be done all the same.
    """
    data = f"{line}\n".encode(errors="backslashreplace")
    with contextlib.suppress(OSError), log.open("ab", buffering=0) as file:
        if file.write(data) == len(data):
            return
    with contextlib.suppress(OSError):
        if select.select([], [_STDERR], [], 0)[1]:  # a journal that hangs must not hold him up
            os.write(_STDERR, data)


if __name__ == "__main__":
    raise SystemExit(main())
