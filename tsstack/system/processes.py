"""What tells one process from another."""

from __future__ import annotations

from pathlib import Path


def process_start(pid: int) -> str:
    """When process `pid` started, in clock ticks since boot; empty when there is no such process.

    A pid with its start is one process for good, a pid alone is given away again. Source:
    proc_pid_stat(5), field 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the last by proc(5), hidepid
        return ""
    # The second field is the name in parentheses and may hold anything; count from its end.
    return stat.rpartition(")")[2].split()[19]


def network_of(process: int | str) -> int:
    """A number that processes of one network namespace share, and of two never (`thread-self`: our own).

    The namespace's own link, /proc/PID/ns/net, is shown to nobody who may not trace the process (proc(5)),
    and a service in a sandbox may not. Files of /proc/PID/net are: each namespace has its own, with inodes
    of their own (fs/proc/proc_net.c, fs/proc/generic.c). Raises OSError when there is no such process.
    """
    return Path(f"/proc/{process}/net/dev").stat().st_ino
