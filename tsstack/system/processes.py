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
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The second field is the name in parentheses and may hold anything; count from its end.
    return stat.rpartition(")")[2].split()[19]
