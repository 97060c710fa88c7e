"""A dead man whom nobody hears: his log, his notes and the folder of both take nothing."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import ONE, TWO, Host

from tsstack.switch import deadman
from tsstack.switch.record import read_pending
from tsstack.switch.transaction import Mode


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    for name in ("arm", "require_guard"):
        monkeypatch.setattr(f"tsstack.switch.deadman.{name}", lambda *_, **__: None)
    host = Host(tmp_path)
    host.switch(ONE)
    return host


def test_what_cannot_be_said_or_noted_keeps_nothing_from_being_undone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run folder takes neither a folder nor a word, and who is told has gone."""

    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    host.switch(TWO, Mode(confirm_s=60))
    pending = read_pending(host.site.paths.state)
    assert pending is not None
    run = host.site.paths.run
    shutil.rmtree(run, ignore_errors=True)
    run.symlink_to("/proc/full")  # where nothing can be made
    (host.site.paths.state / ".undone.999999999.new").mkdir()  # left over, and cannot be unlinked
    host.site = replace(host.site, report=full)
    assert "was undone" in deadman.watch(host.site, pending.id, pending.deadline_s or 0.0)
    assert host.listing() == ONE
    assert read_pending(host.site.paths.state) is None


def test_who_cannot_note_that_he_stands_stands_over_a_change_that_waits_alone(host: Host) -> None:
    """When he is armed it has not begun: then it never does."""
    run = host.site.paths.run
    shutil.rmtree(run, ignore_errors=True)
    run.symlink_to("/proc/full")
    with pytest.raises(OSError):
        deadman._note_guard(host.site, "to be armed")
    host.switch(TWO, Mode(confirm_s=60))
    pending = read_pending(host.site.paths.state)
    assert pending is not None
    with pytest.raises(OSError):
        deadman._note_guard(host.site, "another")
    deadman._note_guard(host.site, pending.id)
    (host.site.paths.state / "pending.json").write_text("torn")
    deadman._note_guard(host.site, pending.id)


def test_he_says_to_stderr_what_his_log_does_not_take(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    deadman.print_line(tmp_path / "log", "one \udcff")
    assert (tmp_path / "log").read_text() == "one \\udcff\n"
    for log in (Path("/dev/full"), tmp_path / "missing" / "log", tmp_path):
        deadman.print_line(log, "two")
    assert capfd.readouterr().err == "two\n" * 3
