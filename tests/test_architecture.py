"""The house's walls: which import may go where, each with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tsstack"

# From the top down; a module may import from its own layer's package and from lower ones.
LAYERS = {
    "cli": 8,
    "tui": 7,
    "doctor": 7,
    "status": 6,
    "bench": 6,
    "explain": 5,
    "switch": 5,
    "monitor": 5,
    "lab": 5,
    "prove": 4,
    "parts": 3,
    "model": 2,
    "system": 1,
}
BOTTOM = {"errors", "assets"}

# The rest of `explain` decides: it asks neither the kernel nor the disk.
EXPLAIN_EFFECTS = {
    "__init__",
    "agent",
    "kernel_copy",
    "netlink",
    "others",
    "packet",
    "places",
    "surroundings",
    "world",
}

# What decides is pure: the same file and facts give the same answer on every machine.
PURE_BANS = {
    "subprocess": "only system/command.py starts programs",
    "socket": "effects belong to host.py",
    "asyncio": "effects belong to host.py and the daemons",
    "requests": "effects belong to host.py",
    "psutil": "facts are gathered at the edge and passed in",
    "nftables": "effects belong to host.py",
    "click": "only cli speaks to people",
    "textual": "only tui draws",
    "time": "time is passed in",
    "datetime": "time is passed in",
    "random": "an answer must be repeatable",
    "os": "the environment is passed in as facts",
}

# The monitor's judgement: everything of it that neither probes nor acts.
MONITOR_JUDGEMENT = (
    "bursts",
    "choice",
    "detect",
    "failover",
    "holddown",
    "quality",
    "reasons",
    "standby",
    "turn",
    "verdict",
    "windows",
    *("probes/dns_message", "probes/echo", "probes/probe", "probes/targets", "probes/wheel"),
)

# What a benchmark's figures mean, and what is asked next; the rest of it measures.
BENCH_JUDGEMENT = ("figures", "fitness", "grades", "iperf", "kernels", "mtu_search", "peers", "wire")


# What nginx is asked, and which answers are right; `prove/vhosts.py` and what it starts ask.
VHOST_JUDGEMENT = ("handshakes", "hosting", "lies", "lists", "places", "questions", "strangers")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_assets" not in path.parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def is_pure(path: Path) -> bool:
    relative = path.relative_to(PACKAGE)
    return (
        (relative.parts[0] == "model" and relative.name not in {"loader.py", "document.py"})
        or (relative.parts[0] == "parts" and relative.name == "desired.py")
        or (relative.parts[0] == "explain" and relative.stem not in EXPLAIN_EFFECTS)
        or (relative.parts[0] == "doctor" and len(relative.parts) == 2 and relative.stem != "examination")
        or relative.as_posix()
        in {
            "switch/plan.py",
            "switch/ways.py",
            "switch/arrivals.py",
            "switch/behind.py",
            "switch/carriers.py",
            "switch/kernel_ways.py",
            *(f"monitor/{name}.py" for name in MONITOR_JUDGEMENT),
            *(f"bench/{name}.py" for name in BENCH_JUDGEMENT),
            "prove/expected.py",
            *(f"prove/{name}.py" for name in VHOST_JUDGEMENT),
        }
    )


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downward(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0]
    if own not in LAYERS:
        assert relative.stem in BOTTOM | {"__init__", "__main__"}, f"{relative} stands in no layer"
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] != "tsstack" or len(parts) < 2 or parts[1] in BOTTOM or parts[1].startswith("__"):
            continue
        assert own in LAYERS, f"{relative}:{line} imports {name}: the bottom layer imports nothing of ours"
        assert parts[1] in LAYERS, f"{relative}:{line} imports {name}, which stands in no layer"
        assert parts[1] == own or LAYERS[parts[1]] < LAYERS[own], f"{relative}:{line} imports {name} upward"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_parts_never_import_each_other(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if relative.parts[0] != "parts" or len(relative.parts) < 3:
        return
    for name, line in imports(path):
        parts = name.split(".")
        if parts[:2] == ["tsstack", "parts"] and len(parts) > 2:
            assert parts[2] in {"part", relative.parts[1]}, (
                f"{relative}:{line} imports {name}: desired() sees the whole stack, so no part needs another"
            )


@pytest.mark.parametrize("path", [p for p in modules() if is_pure(p)], ids=lambda path: path.name)
def test_what_decides_is_pure(path: Path) -> None:
    for name, line in imports(path):
        reason = PURE_BANS.get(name.split(".")[0])
        assert reason is None, f"{path.relative_to(PACKAGE)}:{line} imports {name}: {reason}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_one_module_starts_programs(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() == "system/command.py":
        return
    for name, line in imports(path):
        assert name.split(".")[0] != "subprocess", f"{path.relative_to(PACKAGE)}:{line} imports subprocess"


def test_only_the_command_line_prints_and_exits() -> None:
    for path in modules():
        if path.relative_to(PACKAGE).parts[0] in {"cli", "tui"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"print", "exit", "quit"}, f"{path}:{node.lineno} {node.func.id}()"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.exit":
                raise AssertionError(f"{path}:{node.lineno} exits")


def test_modules_stay_readable() -> None:
    for path in modules():
        assert len(path.read_text().splitlines()) <= 500, f"{path} is past 500 lines: split it"


def test_no_module_is_a_drawer_for_everything() -> None:
    banned = {"utils", "helpers", "manager", "base", "misc", "common"}
    for path in modules():
        assert path.stem not in banned, f"{path}: name it for what it holds"


def test_the_walls_would_catch_a_breach(tmp_path: Path) -> None:
    breach = tmp_path / "breach.py"
    breach.write_text("import subprocess\nfrom tsstack.cli import main\n")
    assert ("subprocess", 1) in list(imports(breach))
    assert ("tsstack.cli.main", 2) in list(imports(breach))
