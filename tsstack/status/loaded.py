"""nginx's own processes: whether its master lives, and when it last loaded its configuration, and with it the
certificates: when its youngest worker began.

A reload makes new workers (nginx.org, "Controlling nginx"). So no handshake is needed to see that what is on
disk is not what clients get.
"""

from __future__ import annotations

import os
import time

_STARTED = 19  # proc_pid_stat(5): field 22, counted behind the name in parentheses
_PID_FILE = "/run/nginx.pid"


def loaded_at(main_config: str, run: str, *, proc: str = "/proc") -> float | None:
    """Seconds since 1970; None where that cannot be told.

    `main_config`: the distribution's nginx.conf; empty where nginx runs on our own, with its pid in `run`.
    """
    try:
        master = int(_text(_pid_file(main_config) if main_config else f"{run}/nginx.pid"))
        workers = _text(f"{proc}/{master}/task/{master}/children").split()
        ticks = max(
            int(_text(f"{proc}/{worker}/stat").rpartition(")")[2].split()[_STARTED]) for worker in workers
        )
    except (OSError, ValueError, IndexError):
        return None
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def count_orphans(main_config: str, run: str, *, proc: str = "/proc") -> int:
    """How many workers serve on although their master is dead; 0 too where that cannot be told."""
    try:
        noted = int(_text(_pid_file(main_config) if main_config else f"{run}/nginx.pid"))
    except (OSError, ValueError):
        return 0
    if noted <= 0 or _is_master(f"{proc}/{noted}/cmdline"):
        return 0
    # Only where something is wrong: the looks of the processes cost more than all before.
    from tsstack.parts.proxy.engine import workers_of_session

    return len(workers_of_session(noted))


def _is_master(cmdline: str) -> bool:
    """Whether it is one, or may be one that is hidden from this user."""
    try:
        return _text(cmdline).startswith("nginx: master process")
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _pid_file(main_config: str) -> str:
    for line in _text(main_config).splitlines():
        words = line.partition("#")[0].replace(";", " ").split()
        if len(words) == 2 and words[0] == "pid":
            return words[1]
    return _PID_FILE


def _text(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(65536).decode("utf-8", "replace")
