"""What a killed command had begun to write goes with the next one; a record is cleared wholly or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tsstack.errors import RollbackFailed
from tsstack.model.facts import Paths
from tsstack.switch import record
from tsstack.switch.leftovers import remove_leftovers
from tsstack.switch.record import Pending, clear_pending, read_pending, write_pending

# proc(5): pids end at 2^22, so nobody has this one.
GONE = 2**22 + 1
PENDING = Pending("a1", "activating", target=2, new_generation=True, set_boot=True, previous_current=1)


def paths_below(folder: Path) -> Paths:
    etc, state, run = (folder / name for name in ("etc", "state", "run"))
    for each in (etc / "nginx" / "conf.d", state, run):
        each.mkdir(parents=True)
    return Paths(etc=etc, state=state, run=run)


def test_staged_files_of_the_dead_are_removed_and_no_others(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    dead = [paths.state / f".pending.json.{GONE}.new", paths.run / f".proxy.json.{GONE}.new"]
    in_etc = paths.etc / "nginx" / "conf.d" / f".tsstack.conf.{GONE}.new"
    kept = [
        paths.run / f".deadman-1.ready.{os.getpid()}.new",
        paths.state / "inputs.json",
        paths.etc / "nginx" / "conf.d" / f".own.conf.{GONE}.new",
    ]
    for path in (*dead, in_etc, *kept):
        path.touch()
    remove_leftovers(paths, everywhere=False)
    assert not any(path.exists() for path in dead)
    assert in_etc.exists()
    remove_leftovers(paths, everywhere=True)
    assert not in_etc.exists()
    assert all(path.exists() for path in kept)


def test_a_record_whose_clearing_is_not_durable_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nobody could bring the links back, once undoing fails for the same reason."""
    write_pending(tmp_path, PENDING)

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(record, "fsync_folder", fail)
        with pytest.raises(RollbackFailed, match="Input/output error"):
            clear_pending(tmp_path)
    assert read_pending(tmp_path) == PENDING
    clear_pending(tmp_path)
    assert not list(tmp_path.iterdir())
    clear_pending(tmp_path)
