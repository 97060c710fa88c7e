"""Starts, restarts and stops the identity daemon."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.errors import ApplyFailed, CommandFailed
from tsstack.system.command import run, start
from tsstack.system.files import write_durably
from tsstack.system.processes import process_start

if TYPE_CHECKING:
    from tsstack.model.facts import Facts

UNIT = "tsstack-identity"
# No service has a dot in its key, so none has a log of this name.
LOG = "tsstack.identity.log"
_WAIT_S = 10.0
_TRANSIENT = "/run/systemd/transient/"  # systemd.unit(5), the load path
_CODE = ("identity.py", "peers.py")

_unnoted: dict[Path, dict[str, Any]] = {}
"""By its state file, a daemon that we have started and of whom a full disk took no note: only we know."""


def is_running(facts: Facts) -> bool:
    """Whether the daemon runs with the code and the arguments that it should have, and answers."""
    record = _record(facts)
    try:
        stamp = _stamp(facts)
    except FileNotFoundError:  # the package is being exchanged: who runs can only stay
        stamp = str(record.get("stamp"))
    return (
        record.get("stamp") == stamp
        and (facts.systemd or process_start(record.get("pid", 0)) == record.get("start"))
        and _answers(_socket(facts))
    )


def answers(facts: Facts) -> bool:
    """Whether a daemon answers at all, with whatever code and arguments it runs."""
    return _answers(_socket(facts))


def ensure_running(facts: Facts) -> None:
    """Start the daemon, or restart one of other code or arguments. Idempotent. Raises ApplyFailed."""
    if is_running(facts):
        _note(facts)
        return
    try:
        stamp = _stamp(facts)
    except OSError as error:  # nothing has been stopped yet
        raise ApplyFailed(f"the identity daemon cannot be started: {error}") from error
    old, before = _record(facts), _inode(_socket(facts))
    try:
        if facts.systemd:
            pid = _start_unit(facts)
        else:
            pid = start(_words(facts), log=facts.paths.log / LOG, cwd=Path("/"))
    except CommandFailed as error:
        raise ApplyFailed(f"the identity daemon did not start: {error.message}") from error
    _unnoted[_state(facts)] = {"pid": pid, "start": process_start(pid), "stamp": stamp}
    _note(facts)
    deadline_s = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline_s:
        # The new daemon puts its socket in the old one's place in one rename: no moment without an answer.
        if _inode(_socket(facts)) != before and _answers(_socket(facts)):
            if not facts.systemd:
                _end(old)
            return
        time.sleep(0.01)
    raise ApplyFailed(
        "the identity daemon does not answer",
        hint=f"see {facts.paths.log / LOG} or `journalctl -u {UNIT}`",
    )


def _note(facts: Facts) -> None:
    """Write down what is not yet."""
    path = _state(facts)
    if path in _unnoted:
        with suppress(OSError):
            write_durably(path, json.dumps(_unnoted[path]))
            del _unnoted[path]


def ensure_stopped(facts: Facts) -> None:
    """End the daemon and remove its socket. Idempotent."""
    record = _record(facts)
    if facts.systemd and record:
        run(["systemctl", "stop", UNIT], timeout_s=30, check=False)
    else:
        _end(record)
    _socket(facts).unlink(missing_ok=True)
    _state(facts).unlink(missing_ok=True)
    _unnoted.pop(_state(facts), None)


def was_started(facts: Facts) -> bool:
    """Whether we have a daemon at all, answering or not."""
    return _state(facts).exists()


def _start_unit(facts: Facts) -> int:
    """A unit of the host's own when there is one (it restarts by itself at boot), else a transient one."""
    file = run(["systemctl", "show", "--value", "--property=FragmentPath", UNIT], timeout_s=30).stdout.strip()
    if file and not file.startswith(_TRANSIENT):
        run(["systemctl", "restart", UNIT], timeout_s=30)
    else:
        if file:  # with the words that it was started with, maybe of another version
            run(["systemctl", "stop", UNIT], timeout_s=30)
        run(
            [
                "systemd-run",
                "--quiet",
                "--collect",
                f"--unit={UNIT}",
                "--property=Restart=always",
                *_words(facts),
            ],
            timeout_s=30,
        )
    shown = run(["systemctl", "show", "--value", "--property=MainPID", UNIT], timeout_s=30).stdout.strip()
    return int(shown or "0")


def _words(facts: Facts) -> list[str]:
    # -P: the folder that we happen to stand in must not provide modules (python(1)).
    return [
        sys.executable, "-P", "-m", "tsstack.parts.proxy.identity",
        "--socket", str(_socket(facts)),
        "--allow", str(facts.paths.current / "nginx" / "identity.json"),
        "--tailscaled", str(facts.paths.tailscale_socket),
    ]  # fmt: skip


def _stamp(facts: Facts) -> str:
    parts = _words(facts)
    for name in _CODE:
        status = Path(__file__).with_name(name).stat()
        parts += [str(status.st_mtime_ns), str(status.st_size)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _socket(facts: Facts) -> Path:
    return facts.paths.run / "identity.sock"


def _state(facts: Facts) -> Path:
    return facts.paths.run / "identity.state"


def _record(facts: Facts) -> dict[str, Any]:
    if _state(facts) in _unnoted:
        return _unnoted[_state(facts)]
    try:
        record = json.loads(_state(facts).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _answers(path: Path) -> bool:
    """Whether something accepts on the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _end(record: dict[str, Any]) -> None:
    """SIGTERM to the process of the record, if it still is that one, and wait for its end."""
    pid = record.get("pid", 0)
    if not pid or not record.get("start") or process_start(pid) != record["start"]:
        return
    with suppress(ProcessLookupError):  # it ended by itself in between, which is all that is asked for
        os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline_s and process_start(pid) == record["start"]:
        if _is_zombie(pid):
            return
        time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
