"""What the quick verbs do without: a switch with nothing to do never loads the model or a renderer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FAKES = Path(__file__).resolve().parents[2] / "fakes"
HEAVY = {"pydantic", "pydantic_core", "ruamel", "jinja2", "cryptography", "markupsafe", "psutil"}

# Switches twice through the command line's own verb, with parts whose engine is a folder.
SWITCH = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fake_part import FolderPart
import tsstack.switch.site
from tsstack.cli import change, main
from tsstack.model.facts import Facts, Paths
from tsstack.parts.registry import all_parts
folder = Path(sys.argv[2])
all_parts()
parts = tuple(FolderPart(name, folder / "live", []) for name in ("firewall", "proxy"))
paths = Paths(folder / "etc", folder / "state", folder / "run", folder / "socket")
site = tsstack.switch.site.Site(paths=paths, parts=parts, gather=lambda _: Facts(paths=paths))
change._site = lambda as_json: site
code = main.run(["-c", str(folder / "tsstack.yaml"), "--json", "switch"])
print("modules", json.dumps(sorted(sys.modules)))
sys.exit(code)
"""

HELP = """
import json, sys
from tsstack.cli import main
code = main.run(["--help"])
print("modules", json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def run(script: str, *argv: str | Path) -> tuple[str, set[str]]:
    """What the script printed, and the modules that it had loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said, _, modules = done.stdout.rpartition("modules ")
    return said, set(json.loads(modules))


def test_a_switch_with_nothing_to_do_loads_no_model_and_no_renderer(tmp_path: Path) -> None:
    (tmp_path / "tsstack.yaml").write_text("host: {name: one}\n")
    said, modules = run(SWITCH, FAKES, tmp_path)
    assert json.loads(said)["changed"] is True
    assert "pydantic" in modules, (
        "a switch that renders loads the model, or this test looks at the wrong thing"
    )
    said, modules = run(SWITCH, FAKES, tmp_path)
    assert json.loads(said)["changed"] is False
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    assert not {name for name in modules if name.startswith("tsstack.model.")} - {"tsstack.model.facts"}


def test_every_part_is_there_without_its_renderer(tmp_path: Path) -> None:
    _, modules = run(
        "import json, sys\nfrom tsstack.parts.registry import all_parts\nall_parts()\n"
        "print('modules', json.dumps(sorted(sys.modules)))"
    )
    assert {name.split(".")[0] for name in modules} & HEAVY == set()


def test_help_loads_no_verb() -> None:
    said, modules = run(HELP)
    assert "dry-activate" in said
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    assert not {name for name in modules if name.startswith(("tsstack.switch", "tsstack.parts"))}
