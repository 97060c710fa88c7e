"""Folders of one task: gone at its end, and swept when it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tsstack.system import scratch
from tsstack.system.scratch import Scratch


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_YOUNG_S", 0.0)


def killed_task(tmp_path: Path) -> Path:
    """The folder of a task that was killed with a key in it."""
    program = (
        "import sys, time\n"
        "from tsstack.system.scratch import Scratch\n"
        "folder = Scratch().path\n"
        "(folder / 'key.pem').write_text('secret')\n"
        "print(folder, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
    assert folder.is_dir()
    return folder


def test_it_is_ours_alone_and_gone_at_the_end() -> None:
    with Scratch() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("x")
    assert not folder.exists()


def test_what_a_killed_task_left_goes_with_the_next_task(tmp_path: Path) -> None:
    left = killed_task(tmp_path)
    with Scratch():
        assert not left.exists()


def test_the_folder_of_a_living_task_stays() -> None:
    with Scratch() as first, Scratch():
        assert first.is_dir()


def test_a_folder_that_was_just_made_is_left_to_its_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed_task(tmp_path)
    monkeypatch.setattr(scratch, "_YOUNG_S", 60.0)
    with Scratch():
        assert left.is_dir()


def test_what_another_user_laid_there_is_not_touched(tmp_path: Path) -> None:
    theirs = tmp_path / "tsstack-task-theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    away = tmp_path / "elsewhere"
    away.mkdir()
    (tmp_path / "tsstack-task-link").symlink_to(away)
    with Scratch():
        assert theirs.is_dir()
        assert away.is_dir()
