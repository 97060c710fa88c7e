"""Completion: of every console script, tried in a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tsstack.cli.completion import SCRIPTS, SHELLS, command_of, completion_script

ROOT = Path(__file__).resolve().parents[3]


def test_every_console_script_is_completed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(declared) == {*SCRIPTS, "ts-status"}
    for name, (module, _) in SCRIPTS.items():
        assert declared[name] == f"tsstack.cli.{module}:main"
        assert command_of(name).callback is not None or name == "tsstack"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_all_of_them(shell: str) -> None:
    script = completion_script(shell)
    for name in (*SCRIPTS, "ts-status"):
        assert name in script
    assert "%" not in script


def completed(words: str, tmp_path: Path) -> list[str]:
    """What a real bash offers for the last of `words`."""
    for name, (module, _) in SCRIPTS.items():
        program = tmp_path / name
        program.write_text(f"#!{sys.executable}\nfrom tsstack.cli.{module} import main\nmain()\n")
        program.chmod(0o755)
    (tmp_path / "tsstack.bash").write_text(completion_script("bash"))
    listed = words.split(" ")
    code = f"""
        source {tmp_path}/tsstack.bash
        how=$(complete -p {listed[0]})
        if [[ $how == *" -F "* ]]; then
            COMP_WORDS=({" ".join(f"'{word}'" for word in listed)}); COMP_CWORD={len(listed) - 1}
            $(sed 's/.* -F \\([^ ]*\\) .*/\\1/' <<< "$how") {listed[0]}
            printf '%s\\n' "${{COMPREPLY[@]}}"
        else
            compgen ${{how#complete }} -- '{listed[-1]}'
        fi
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tsstack sw", ["switch"]),
        ("tsstack monitor ma", ["maintenance"]),
        ("tsstack monitor maintenance o", ["on", "off"]),
        ("tsstack switch --conf", ["--confirm", "--config"]),
        ("tsstack completion b", ["bash"]),
        ("fw-status --ru", ["--rules"]),
        ("nginx-logs --er", ["--errors"]),
        ("tsstack top --theme no", ["nord"]),
    ],
)
def test_words_are_completed_in_a_real_bash(words: str, expected: list[str], tmp_path: Path) -> None:
    assert sorted(completed(words, tmp_path)) == sorted(expected)


def test_ts_status_is_completed_without_starting_it(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(completion_script("bash"))
    how = "how=$(complete -p ts-status); how=${how% *}; eval compgen ${how#complete } -- --j"
    code = f"source {tmp_path}/c; {how}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[:1] == ["--json"], done.stderr
