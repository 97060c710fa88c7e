"""What is said of a program that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsstack.errors import CommandFailed
from tsstack.system import command


def test_the_last_line_of_stderr_is_told() -> None:
    with pytest.raises(CommandFailed, match=r"^sh ended with 3: cannot do it$"):
        command.run(["sh", "-c", "echo said; echo first >&2; echo 'cannot do it' >&2; exit 3"])


def test_json_is_told_whole_since_its_last_line_is_a_brace() -> None:
    with pytest.raises(CommandFailed, match=r'^sh ended with 4: \{ "error": "no way in" \}$'):
        command.run(["sh", "-c", 'printf \'{\n  "error": "no way in"\n}\n\'; exit 4'])


def test_a_program_that_is_not_for_this_user_is_told_as_such(tmp_path: Path) -> None:
    program = tmp_path / "tailscale"
    program.write_text("#!/bin/sh\n")
    for start in (command.run, command.popen):
        with pytest.raises(CommandFailed, match="may not be run by this user") as failure:
            start([str(program)])
        assert failure.value.hint
