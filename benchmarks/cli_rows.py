"""The rows of benchmarks/cli, each measured beside its alternative."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cli_terminal import Terminal
from hosts import CHECKOUT, PYTHON, Broken
from report import Row, Series

TS_STATUS_TARGET_RATIO = 3.0
HELP_TARGET_S = 0.120
FIRST_PAINT_TARGET_S = 0.500
DASHBOARD_TARGET_S = 0.150
"""Processor time in a second: 15 % of a core."""
MANY = 1000
FEW = 12
PACE_S = 0.1
_BARE = "python -c pass"

Command = tuple[float, float]
"""Wall time and processor time."""


def measure(runs: int, *, report: Callable[[str], None], watch_s: float = 10.0) -> list[Row]:
    """All rows. Raises Broken when a measured command fails."""
    rows: list[Row] = []
    report(f"{FEW} peers: ts-status, --help")
    with daemons(FEW) as folder:
        rows += _command_rows(folder, runs, f"{FEW} peers")
    report(f"{MANY} peers: ts-status, the dashboard")
    with daemons(MANY) as folder:
        rows += _many_rows(folder, runs)
        rows += _paint_rows(folder, runs)
        rows += _dashboard_rows(folder, watch_s, runs)
    return rows


@contextmanager
def daemons(count: int) -> Iterator[Path]:
    """A folder with the sockets of cli_daemons for so many peers."""
    folder = Path(tempfile.mkdtemp(prefix="tsstack-cli-"))
    argv = [str(PYTHON), str(Path(__file__).with_name("cli_daemons.py")), str(folder), str(count)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment())
    try:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise Broken("the daemons did not start")
        yield folder
    finally:
        process.communicate(timeout=10)
        shutil.rmtree(folder)


def places(folder: Path) -> list[str]:
    """The options that lead to a folder's sockets."""
    return [f"--{name}={folder / name}" for name in ("state", "run", "tailscaled", "monitor")]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8"}


def _script(name: str, module: str, folder: Path) -> str:
    """The console script: the installed one, or one with the same words where this checkout has none yet."""
    installed = PYTHON.with_name(name)
    if installed.exists():
        return str(installed)
    script = folder / name
    script.write_text(
        f"#!{PYTHON}\nimport sys\nfrom {module} import main\n\nif __name__ == '__main__':\n"
        "    sys.exit(main())\n"
    )
    script.chmod(0o755)
    return str(script)


def _timed(argv: Sequence[str], codes: Sequence[int] = (0,)) -> Command:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start_s = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, check=False, env=_environment())
    wall_s = time.perf_counter() - start_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise Broken(f"{argv[0]} ended with {done.returncode}: {done.stderr[-300:].decode()}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s


def _interleave(runs: int, commands: Mapping[str, Callable[[], Command]]) -> dict[str, Series]:
    """Each command `runs` times, in turns, so that a busy machine hurts all alike; the first is lost."""
    turns = [{name: command() for name, command in commands.items()} for _ in range(runs + 1)][1:]
    return {
        name: Series(tuple(turn[name][0] for turn in turns), tuple(turn[name][1] for turn in turns))
        for name in commands
    }


def _commands(folder: Path) -> dict[str, Callable[[], Command]]:
    status = [_script("ts-status", "tsstack.cli.ts_status", folder), *places(folder)]
    found: dict[str, Callable[[], Command]] = {
        "status": lambda: _timed(status, (0, 1, 2)),
        "bare": lambda: _timed([str(PYTHON), "-c", "pass"]),
    }
    engine = next(Path.home().glob(".cache/tsstack/engines/tailscale-*/tailscale"), None) or shutil.which(
        "tailscale"
    )
    if engine:
        theirs = [str(engine), f"--socket={folder / 'tailscaled'}", "status"]
        found["tailscale"] = lambda: _timed(theirs)
    return found


def _command_rows(folder: Path, runs: int, what: str) -> list[Row]:
    helped = [_script("tsstack", "tsstack.cli.main", folder), "--help"]
    series = _interleave(runs, {**_commands(folder), "help": lambda: _timed(helped)})
    return [
        *_status_rows(series, what, TS_STATUS_TARGET_RATIO),
        Row("tsstack --help", series["help"], _BARE, series["bare"], target_s=HELP_TARGET_S),
    ]


def _many_rows(folder: Path, runs: int) -> list[Row]:
    return _status_rows(_interleave(runs, _commands(folder)), f"{MANY} peers", None)


def _status_rows(series: Mapping[str, Series], what: str, target: float | None) -> list[Row]:
    note = "" if "tailscale" in series else "no tailscale here"
    return [
        Row(f"ts-status, {what}", series["status"], _BARE, series["bare"], target_ratio=target),
        Row(
            f"ts-status, {what}",
            series["status"],
            "tailscale status",
            series.get("tailscale", Series()),
            note=note,
        ),
    ]


def _top(folder: Path) -> list[str]:
    script = _script("tsstack", "tsstack.cli.main", folder)
    return [script, "top", *places(folder), f"--history={folder / 'none'}"]


def _paint_rows(folder: Path, runs: int) -> list[Row]:
    """From the start of the process to the first words on the screen, and to the first peer."""
    painted, told, cpu = [], [], []
    for _ in range(runs + 1):
        with Terminal(_top(folder), _environment()) as terminal:
            painted.append(terminal.wait_for(b"overview"))
            cpu.append(terminal.cpu_s())
            told.append(terminal.wait_for(b"peer-1"))
    first = Series(tuple(painted[1:]), tuple(cpu[1:]))
    bare = _interleave(runs, {"bare": lambda: _timed([str(PYTHON), "-c", "pass"])})["bare"]
    imports = "import textual.app; import textual.scroll_view"
    alone = _interleave(runs, {"alone": lambda: _timed([str(PYTHON), "-c", imports])})["alone"]
    return [
        Row("tsstack top, first paint", first, _BARE, bare, target_s=FIRST_PAINT_TARGET_S),
        Row("tsstack top, first paint", first, "import textual alone", alone),
        Row("tsstack top, its figures", Series(tuple(told[1:])), "import textual alone", alone),
    ]


def _dashboard_rows(folder: Path, watch_s: float, runs: int) -> list[Row]:
    """Processor time in each second, while everything on the screen changes ten times in it."""
    rows = []
    watch = [_script("ts-status", "tsstack.cli.ts_status", folder), *places(folder), "--watch", str(PACE_S)]
    beside = Series(tuple(_share(watch, b"all is well|looked at|broken", b"", watch_s, 2)))
    for tab, key in (("overview", b""), ("links", b"2"), ("firewall", b"5")):
        argv = [*_top(folder), "--every", str(PACE_S)]
        shares = Series(tuple(_share(argv, b"overview", key, watch_s, max(2, runs // 3))))
        what = f"{tab}, {MANY} peers, {1 / PACE_S:.0f} updates/s: cpu in a second"
        rows.append(Row(what, shares, "ts-status --watch 0.1", beside, target_s=DASHBOARD_TARGET_S))
    argv = _top(folder)
    still = Series(tuple(_share(argv, b"overview", b"", watch_s, 2)))
    rows.append(Row(f"overview, {MANY} peers, as it comes (1 update/s): cpu in a second", still))
    return rows


def _share(argv: Sequence[str], words: bytes, key: bytes, watch_s: float, times: int) -> list[float]:
    found = []
    for _ in range(times):
        with Terminal(argv, _environment()) as terminal:
            if b"|" in words:
                terminal.watch(1.0)
            else:
                terminal.wait_for(words)
            terminal.watch(1.5)
            terminal.press(key)
            terminal.watch(0.5)
            before_s, start_s = terminal.cpu_s(), time.perf_counter()
            if not terminal.watch(watch_s):
                raise Broken(f"{argv[0]} painted nothing")
            found.append((terminal.cpu_s() - before_s) / (time.perf_counter() - start_s))
    return found


__all__ = ["CHECKOUT", "measure"]
