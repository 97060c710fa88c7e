"""How the console scripts end whatever they are given, and what a redrawn screen is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstack.cli import glyphs, output
from tsstack.cli.completion import SCRIPTS
from tsstack.cli.main import run
from tsstack.cli.script import run_script, watch
from tsstack.errors import CheckFailed

START = "from tsstack.cli.{} import main; main()"
WATCHING = [module for name, (module, _) in SCRIPTS.items() if name != "tsstack"]


def start(module: str, *words: str, redirect: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START.format(module), *words]
    if redirect:
        command = ["bash", "-c", f'exec "$@" {redirect}', "-", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("module", [*WATCHING, "ts_status"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "soon"])
def test_an_impossible_pace_is_refused(module: str, seconds: str) -> None:
    done = start(module, f"--watch={seconds}")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", [*WATCHING, "ts_status"])
def test_a_closed_stdout_changes_no_exit_code(module: str) -> None:
    """A traceback ended with 1, which a check plugin takes for a warning."""
    told, shut = start(module), start(module, redirect=">&-")
    assert "Traceback" not in shut.stderr
    assert shut.returncode == told.returncode


def test_a_verb_with_a_closed_stdout_has_no_traceback() -> None:
    done = start("main", "generations", redirect=">&- 2>&-")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [[], ["--watch=0.2"]], ids=["once", "watched"])
@pytest.mark.parametrize("module", ["ts_status", "fw_status"])
def test_a_reader_that_leaves_changes_no_exit_code(module: str, words: list[str]) -> None:
    told, left = start(module), start(module, *words, redirect="> >(exec 0<&-; sleep 0.1)")
    assert left.returncode == told.returncode
    assert "Traceback" not in left.stderr


@pytest.mark.parametrize("shell", [">/dev/full", ">&-"])
def test_ts_status_that_cannot_write_ends_without_a_traceback(shell: str) -> None:
    done = start("ts_status", redirect=shell)
    assert done.returncode in ({3} if "full" in shell else {0, 1, 2})
    assert "Traceback" not in done.stderr
    assert ("No space left" in done.stderr) == ("full" in shell)


def test_a_screen_that_is_redrawn_fits_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 5)))
    monkeypatch.setattr(glyphs.sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(glyphs, "redraws", lambda _: True)
    text = "\n".join(f"line {number}" for number in range(20))
    lines = glyphs.redrawn(text).split("\n")
    assert lines[0] == "\033[H\033[?7l\033[Kline 0", "a line that is too wide may not wrap"
    assert lines[3] == "\033[K  and 17 more lines: make the window higher"
    assert lines[4:] == ["\033[?7h\033[J"]
    assert "more lines" not in glyphs.redrawn("one\ntwo\n")


@given(st.integers(2, 30), st.integers(0, 40))
def test_of_lines_in_their_order_the_newest_have_the_room(rows: int, count: int) -> None:
    out = glyphs.Terminal(colour=False, unicode=True, width=80)
    lines = [f"line {number}" for number in range(count)]
    shown = glyphs.newest(lines, rows, out)
    assert len(shown) == min(rows, count)
    assert shown[-1:] == lines[-1:]
    if count > rows:
        assert shown[0] == f"{count - rows + 1} lines before: make the window higher"
        assert shown[1:] == lines[count - rows + 1 :]


def test_a_dumb_terminal_gets_one_screen_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(glyphs.sys, "stdout", Screen())
    monkeypatch.setenv("TERM", "dumb")
    assert not glyphs.redraws(sys.stdout)
    monkeypatch.setenv("TERM", "xterm")
    assert glyphs.redraws(sys.stdout)


def test_a_fault_of_ours_is_told_whole_and_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 would be a warning to a check plugin, 3 is that nothing can be told."""

    @click.command()
    def broken() -> None:
        raise KeyError("zones")

    monkeypatch.setattr(sys, "argv", ["broken"])
    assert run_script(broken, "broken") == 3
    assert "KeyError: 'zones'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "code"),
    [(KeyError("zones"), 3), (CheckFailed("no"), 3), (OSError("disk"), 3), (KeyboardInterrupt(), 130)],
)
def test_a_doctor_that_cannot_tell_has_found_nothing(
    fault: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr("tsstack.doctor.examination.examine", broken)
    assert run(["doctor"]) == code
    assert bool(capsys.readouterr().err) == (code == 3)


def test_words_that_the_doctor_does_not_know_are_no_error_of_the_host() -> None:
    assert run(["doctor", "--nonsense"]) == 3
    assert run(["generations", "--nonsense"]) == 2


class Turns:
    """Draws in turn what it was given, raises what is an error, and ends as Ctrl-C does."""

    def __init__(self, *turns: str | Exception) -> None:
        self.turns = [*turns]

    def __call__(self) -> tuple[str, str]:
        if not self.turns:
            raise KeyboardInterrupt
        turn = self.turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        return turn, "ok"


GONE = CheckFailed("no monitor listens", hint="start it")


def test_who_stops_answering_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(Turns("one", GONE, "two"), 0.001) == "ok"
    assert capsys.readouterr().out == "one\n\nno monitor listens: waiting for it\n\ntwo\n\n"
    with pytest.raises(CheckFailed):
        watch(Turns(GONE, "two"), 0.001)


@pytest.mark.parametrize("in_place", [False, True])
def test_json_is_a_line_for_each_whatever_takes_it(
    in_place: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tsstack.cli.script.redraws", lambda _: in_place)
    watch(Turns('{"a": 1}', GONE, "", '{"a": 2}'), 0.001, as_json=True)
    first, lost, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert (lost["error"]["message"], lost["error"]["hint"]) == ("no monitor listens", "start it")


def test_colour_is_for_terminals_that_take_it_and_people_who_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        def isatty(self) -> bool:
            return True

    for no_color, term, wanted in (("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(output.sys, "stdout", Screen())
        assert output.colour() is wanted


@pytest.mark.parametrize("name", ["кухня", "\ud800"])
def test_a_name_that_the_locale_has_no_letters_for_ends_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "iso-8859-1", errors="strict"))
    output.open_closed_streams()
    output.result(f"peer {name}.")
    sys.stdout.flush()
    assert written.getvalue() == f"peer {'?' * len(name)}.\n".encode()


@pytest.mark.parametrize("module", WATCHING)
@pytest.mark.parametrize("redirect", [">/dev/full", "| true"])
def test_an_error_that_cannot_be_printed_is_no_warning(module: str, redirect: str, tmp_path: Path) -> None:
    """It ended with 1 and a traceback; a check plugin takes 1 for a warning."""
    nowhere = {"ts_quality": "--socket", "ts_monitor_logs": "--socket", "ts_benchmark": "--tailscaled"}
    words = [nowhere[module], str(tmp_path / "none")] if module in nowhere else []
    script = f'"$@" --json {redirect}; exit ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", script, "-", sys.executable, "-c", START.format(module), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert "Traceback" not in done.stderr
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize(
    ("environment", "utf8"),
    [
        ({}, False),
        ({"LANG": "C"}, False),
        ({"LC_CTYPE": "C"}, False),
        ({"LC_CTYPE": "POSIX"}, False),
        ({"LC_ALL": "C", "LANG": "C.UTF-8"}, False),
        ({"LANG": "xx_XX.ISO-8859-1"}, False),
        ({"LANG": "C.UTF-8"}, True),
        ({"LC_CTYPE": "C.UTF-8"}, True),
        ({"LANG": "xx_XX.UTF-8"}, True),
    ],
)
def test_signs_are_those_of_the_locale_that_the_user_gave(environment: dict[str, str], utf8: bool) -> None:
    """Python itself puts UTF-8 into LC_CTYPE where it finds the C locale (PEP 538)."""
    words = "from tsstack.cli.glyphs import terminal; print(terminal().unicode)"
    done = subprocess.run(
        [sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{utf8}\n"


def test_a_dashboard_that_is_ended_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    """No alternate screen, no mouse reports, the cursor there."""
    own, its = pty.openpty()
    command = [sys.executable, "-c", START.format("main"), "top", "--state", str(tmp_path)]
    environment = {"TERM": "xterm-256color", "LANG": "C.UTF-8"}
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    said = b""
    try:
        while b"tsstack top" not in said and b"generations" not in said:
            said += os.read(own, 65536)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # EIO: it has closed its end
            while data := os.read(own, 65536):
                said += data
        assert process.wait(10) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        os.close(own)
    for mode in (b"1049", b"1000", b"1006"):
        assert said.rindex(b"\x1b[?" + mode + b"l") > said.rindex(b"\x1b[?" + mode + b"h")
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")


def test_a_line_of_whatever_command_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]0;PWNED\x07b\x1b[2Jc\rd\x9b2Je"
    output.result(f"{click.style('sent', fg='green')}\t{hostile}\nnext")
    output.chatter(hostile)
    told = capsys.readouterr()
    assert told.out == "sent\ta?]0;PWNED?b?[2Jc?d?2Je\nnext\n"
    assert output._harmless("\x1b[32msent\x1b[0m") == "\x1b[32msent\x1b[0m"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told.err)
