"""What the dead man loads, he loads before he says that he stands: later the package may be gone."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tsstack.switch.record import Pending, read_pending, write_pending
from tsstack.system.clock import SystemClock

# Runs the dead man as he is started, and notes what he looks for from the moment on that he is ready.
WATCHED = """
import json, runpy, sys
said, ready = sys.argv.pop(), []
def note(event, words):
    if event == "os.rename" and str(words[1]).endswith(".ready"):
        ready.append("ready")
    elif event == "import" and ready:
        ready.append(words[0])
sys.addaudithook(note)
try:
    runpy.run_module("tsstack.switch.deadman", run_name="__main__", alter_sys=True)
finally:
    open(said, "w").write(json.dumps(ready))
"""
LOADED = """
import json, sys
import tsstack.switch.deadman
from tsstack.switch.loaded import load_libraries
load_libraries()
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""
# Functions that an undoing never comes by, of modules that it needs. Whoever adds one is sure of that.
NEVER_UNDOING = {
    "*": {"desired", "check", "warnings", "changes", "verify"},  # of each part
    "parts.firewall.host": {"_check_without_root"},
    "parts.kernel.desired": {"_links"},
    "parts.kernel.host": {"_try_sysctls", "_check_link"},
    "parts.kernel.sysctl": {"nearest"},
    "parts.proxy.host": {"renew", "root_certificate", "_tidy", "_refuse_unloadable", "_give_back"},
    "parts.proxy.probe": {"client_context"},
    "parts.proxy.supply": {"list_due", "provide_certificates"},
    "parts.tailscale.enrolment": {"read_auth_key"},
    "switch.deadman": {"main"},  # before he is ready
    "switch.facts": {"_code_stamp"},
    "switch.walls": {"walls_for"},
}


def test_from_the_moment_that_he_stands_he_looks_for_no_module(tmp_path: Path) -> None:
    state, run, said = tmp_path / "state", tmp_path / "run", tmp_path / "said"
    for folder in (state / "generations" / "1", run, tmp_path / "etc"):
        folder.mkdir(parents=True)
    (state / "current").symlink_to("generations/1")
    (run / "deadman-another.ready").write_text("0\n")
    now_s = SystemClock().now_s()
    write_pending(state, Pending("mine", "unconfirmed", 1, True, False, 0, deadline_s=now_s + 0.5))
    folders = ("--state", state, "--run", run, "--etc", tmp_path / "etc", "--log", tmp_path / "log")
    change = ("--socket", tmp_path / "none", "--id", "mine", "--deadline", str(now_s + 0.5))
    words = [sys.executable, "-P", "-c", WATCHED, *map(str, (*folders, *change, said))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_pending(state) is None
    assert "was undone" in (run / "deadman.log").read_text()
    assert json.loads(said.read_text()) == ["ready"]


def test_no_module_that_he_needs_loads_another_later() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    ours = {name: Path(file) for name, file in loaded.items() if name.startswith("tsstack.") and file}
    assert {"tsstack.parts.proxy.host", "tsstack.system.localapi", "tsstack.switch.recovery"} <= ours.keys()
    assert {"nftables", "encodings.idna"} <= loaded.keys()
    late = [
        f"{name}.{function} loads {wanted}"
        for name, file in ours.items()
        for function, wanted in late_imports(file.read_text())
        if wanted not in loaded
        and function not in NEVER_UNDOING["*"] | NEVER_UNDOING.get(name.removeprefix("tsstack."), set())
    ]
    assert late == [], "tsstack/switch/loaded.py has to load it, or no undoing comes by: see NEVER_UNDOING"


def late_imports(source: str) -> Iterator[tuple[str, str]]:
    """Each module that a function loads when it runs, with the function."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from ((function.name, each.name) for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield function.name, node.module
                named = (f"{node.module}.{each.name}" for each in node.names)
                yield from ((function.name, each) for each in named if is_module(each))


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a class
        return False


def test_an_import_in_a_function_is_found() -> None:
    source = (
        "import os\ndef f():\n    if 1:\n        from a.b import c\n    import d.e\n    from os import path\n"
    )
    assert sorted(late_imports(source)) == [("f", "a.b"), ("f", "d.e"), ("f", "os"), ("f", "os.path")]
