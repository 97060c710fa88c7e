"""Runs inside a measured host: times commands there, and takes pictures of what a switch may touch.

A line of JSON in, a line of JSON out:

    {"argv": [...]}        -> {"wall_s", "cpu_s", "stdout"}, or {"failed"} with the command's words
    {"picture": [folder]}  -> {"files", "table", "nginx"}
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run(argv: list[str]) -> dict[str, Any]:
    """Time one whole process: on the clock, and on the processor with all that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_s = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - started_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        return {"failed": f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"}
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall_s, "cpu_s": cpu_s, "stdout": done.stdout}


def picture(folders: list[str]) -> dict[str, Any]:
    """Inode, size and time of change of every file, the table with its handles, nginx's processes.

    The lock is left out: its holder writes its pid into it. A table that is replaced gets new handles; a
    reloaded nginx gets new workers.
    """
    files = {}
    for folder in map(Path, folders):
        for path in sorted([folder, *folder.rglob("*")]) if folder.exists() else ():
            if path.name != "lock":
                status = path.lstat()
                files[str(path)] = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    table = subprocess.run(
        ["nft", "-a", "-s", "list", "table", "inet", "tsstack"], capture_output=True, text=True, check=False
    )
    return {"files": files, "table": table.stdout, "nginx": nginx_processes()}


def nginx_processes() -> dict[str, str]:
    """pid -> start time (proc(5), field 22) of the nginx processes in our own network namespace."""
    own = Path("/proc/self/ns/net").readlink()
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            name, _, fields = (process / "stat").read_text().rpartition(")")
            if name.endswith("(nginx") and (process / "ns" / "net").readlink() == own:
                found[process.name] = fields.split()[19]
        except OSError:  # it ended meanwhile
            continue
    return found


def main() -> None:
    """Answer until the other side closes."""
    for line in sys.stdin:
        asked = json.loads(line)
        answer = run(asked["argv"]) if "argv" in asked else picture(asked["picture"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
