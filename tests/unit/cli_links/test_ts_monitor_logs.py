"""`ts-monitor-logs` as it is run: from the history, with the monitor, followed, and in a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from watched_links import Watching, path, served, state, write_history

from tsstack.cli import ts_monitor_logs
from tsstack.cli.event_lines import EventLines, standing_lines
from tsstack.cli.glyphs import Terminal
from tsstack.cli.script import run_script
from tsstack.cli.ts_monitor_logs import command
from tsstack.monitor.client import Client
from tsstack.monitor.episodes import Episodes
from tsstack.monitor.snapshot import Event, Severity

NOW = round(time.time(), 3)
ROOT = Path(__file__).resolve().parents[3]
_ESCAPES = re.compile(r"\033\[[0-9;]*m")


def event(
    before_s: float, code: str, severity: Severity, about: str, text: str, *, over: bool = False
) -> Event:
    return Event(NOW - before_s, code, severity, about, text, {}, over)


EVENTS = [
    event(90000, "started", "info", "monitor", "watches 3 paths by exit-a"),
    event(7000, "path-suspect", "warning", "exit:exit-a", "is suspect: 3 probes lost in a row (limit 3)"),
    event(6997, "path-dead", "critical", "exit:exit-a", "is dead: no answer for 3.1 s"),
    event(6990, "moved", "warning", "exit-node", "moves to exit-b: exit-a no answer for 3.1 s"),
    event(6000, "path-good", "info", "exit:exit-a", "is good again: answers well", over=True),
    event(5000, "home", "info", "exit-node", "goes home to exit-a", over=True),
    event(300, "path-dead", "critical", "service:wiki#0", "is dead: no answer for 90.0 s"),
]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("history") / "history.db"
    write_history(file, [(NOW - 20, "exit:exit-a", 0.02, "good")], EVENTS)
    return file


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Watching]:
    now = state(path("exit:exit-a"), path("service:wiki#0", "dead", None, since=NOW - 300), at=NOW)
    with served(tmp_path / "m.sock", Watching(now, EVENTS[-3:])) as watching:
        yield watching


@pytest.fixture
def run(tmp_path: Path, history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*words: str, history: Path = history) -> tuple[int, list[str], str]:
        at = ["--socket", str(tmp_path / "m.sock"), "--history", str(history)]
        monkeypatch.setattr(sys, "argv", ["ts-monitor-logs", *at, *words])
        code = run_script(command, "ts-monitor-logs")
        out = capsys.readouterr()
        return code, out.out.splitlines(), out.err

    return run


def test_each_event_with_how_long_it_lasted(run, monitor: Watching) -> None:
    code, lines, err = run()
    assert (code, err) == (2, "")
    assert [line[21:] for line in lines] == [
        "info      monitor: watches 3 paths by exit-a",
        "warning   exit:exit-a: is suspect: 3 probes lost in a row (limit 3) (lasted 3s)",
        "critical  exit:exit-a: is dead: no answer for 3.1 s (lasted 16m37s)",
        "warning   exit-node: moves to exit-b: exit-a no answer for 3.1 s (lasted 33m10s)",
        "over      exit:exit-a: is good again: answers well (lasted 16m40s)",
        "over      exit-node: goes home to exit-a (lasted 33m10s)",
        "critical  service:wiki#0: is dead: no answer for 90.0 s (stands)",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)


def test_it_needs_no_monitor(run) -> None:
    code, lines, err = run()
    assert (code, len(lines)) == (2, 7)
    assert "this is from the history" in err


def test_of_a_monitor_that_does_not_answer_it_cannot_be_told(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stood when it last wrote is shown, and is no word of now."""
    monkeypatch.setattr(ts_monitor_logs, "Client", lambda path: Client(path, timeout_s=0.1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(tmp_path / "m.sock"))
        hung.listen()
        code, lines, err = run()
    assert (code, len(lines)) == (3, 7)
    assert "the monitor did not answer within 0.1 s: this is from the history" in err


def test_without_either_it_cannot_be_told(run, tmp_path: Path) -> None:
    code, lines, err = run(history=tmp_path / "none.db")
    assert (code, lines) == (3, [])
    assert "no monitor listens on" in err


def test_a_monitor_without_a_readable_history_tells_what_it_remembers(
    run, monitor: Watching, tmp_path
) -> None:
    code, lines, err = run(history=tmp_path / "none.db")
    assert (code, len(lines)) == (2, 3)
    assert "only what the running monitor remembers" in err


def test_what_is_not_written_yet_is_shown_once(run, monitor: Watching) -> None:
    late = event(1, "trouble", "warning", "socket", "a request could not be answered")
    monitor.listeners.recent.append(late)
    lines = run()[1]
    assert len(lines) == 8
    assert "a request could not be answered" in lines[-1]


def test_choosing(run, monitor: Watching) -> None:
    assert len(run("-n", "2")[1]) == 2
    assert len(run("-n", "0")[1]) == 0
    assert len(run("--since", "110m")[1]) == 3
    assert len(run("--since", "1w", "-n", "1")[1]) == 1
    code, lines, _ = run("--about", "exit-node")
    assert (code, len(lines)) == (0, 2), "what stands of other things is not asked about"
    assert len(run("--about", "exit")[1]) == 5
    code, lines, _ = run("--severity", "critical")
    assert (code, [line[21:29] for line in lines]) == (2, ["critical", "over    ", "critical"])
    assert run("--about", "wiki", "--severity", "critical")[0] == 2


def test_a_thing_of_which_nothing_is_told_is_no_error(run, monitor: Watching) -> None:
    assert run("--about", "exit:exit-a", "--since", "1m")[:2] == (0, [])
    assert run("--about", "tailscaled")[:2] == (0, [])


def test_an_unknown_thing_is_an_error_with_the_nearest(run, monitor: Watching) -> None:
    code, lines, err = run("--about", "exit-nod3")
    assert (code, lines) == (3, [])
    assert "the nearest: exit-node" in err


def test_the_exit_code_is_what_stands(run, monitor: Watching) -> None:
    assert run("-n", "1")[0] == 2
    monitor.now = state(path("exit:exit-a"), path("service:wiki#0", "poor", since=NOW - 3), at=NOW)
    time.sleep(0.3)
    assert run()[0] == 1
    monitor.now = state(path("exit:exit-a"), at=NOW)
    time.sleep(0.3)
    code, lines, _ = run()
    assert code == 0, "the file names it no longer: nothing stands"
    assert "stands" not in lines[-1]


def test_json_is_an_object_a_line(run, monitor: Watching) -> None:
    code, lines, _ = run("--json")
    told = [json.loads(line) for line in lines]
    assert code == 2
    assert set(told[0]) == {
        *("at", "code", "severity", "about", "text", "data", "over", "lasted_s", "stands"),
    }
    assert told[4]["lasted_s"] == pytest.approx(1000)
    assert (told[-1]["stands"], told[-1]["lasted_s"]) == (True, None)


@pytest.mark.parametrize(
    "words", [["--severity", "bad"], ["--since", "x"], ["-f", "--watch", "1"], ["-n", "-1"]]
)
def test_what_is_wrongly_asked_is_said(run, words: list[str]) -> None:
    code, lines, err = run(*words)
    assert (code, lines) == (3, [])
    assert "Error" in err


def follower(socket: Path, history: Path, *words: str) -> subprocess.Popen[str]:
    code = "from tsstack.cli.ts_monitor_logs import main; main()"
    at = ["--socket", str(socket), "--history", str(history)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *at, "-f", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # A shell starts its background jobs with SIGINT ignored, and that is inherited (signal(7)).
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  one thread
    )


def test_it_follows_through_a_restart_of_the_monitor(tmp_path: Path, history: Path) -> None:
    socket = tmp_path / "m.sock"
    now = state(path("exit:exit-a"), path("service:wiki#0", "dead", None), at=NOW)
    first = Watching(now, EVENTS[-3:])
    with served(socket, first):
        process = follower(socket, history, "-n", "1")
        assert process.stdout is not None
        assert process.stderr is not None
        assert "service:wiki#0" in process.stdout.readline()
        end = time.monotonic() + 10
        while not first.listeners.subscribers:
            assert time.monotonic() < end, "nobody subscribed"
            time.sleep(0.02)
        again = event(-1, "path-good", "info", "service:wiki#0", "is good again", over=True)
        first.tell(again)
        assert "over      service:wiki#0: is good again (lasted 5m1s)" in process.stdout.readline()
    assert "waiting for it" in process.stderr.readline()
    meanwhile = event(-2, "started", "info", "monitor", "watches again")
    with served(socket, Watching(now, [*EVENTS[-3:], again, meanwhile])) as second:
        assert "watches again" in process.stdout.readline()
        assert "answers again" in process.stderr.readline()
        second.tell(event(-3, "path-dead", "critical", "exit:exit-a", "is dead"))
        assert process.stdout.readline().rstrip().endswith("exit:exit-a: is dead")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 2
    process.stdout.close()
    process.stderr.close()


def test_what_is_followed_obeys_the_choice(tmp_path: Path, history: Path) -> None:
    socket = tmp_path / "m.sock"
    with served(socket, Watching(state(path("exit:exit-a"), at=NOW), EVENTS)) as watching:
        process = follower(socket, history, "-n", "0", "--severity", "warning", "--json")
        assert process.stdout is not None
        end = time.monotonic() + 10
        while not watching.listeners.subscribers:
            assert time.monotonic() < end, "nobody subscribed"
            time.sleep(0.02)
        watching.tell(
            event(-1, "proven", "info", "exit-node", "reaches the internet"),
            event(-2, "path-poor", "warning", "exit:exit-a", "is poor"),
        )
        assert json.loads(process.stdout.readline())["text"] == "is poor"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.parametrize("width", [60, 80, 99, 100, 140])
@pytest.mark.parametrize("unicode", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, unicode: bool) -> None:
    long = event(1, "trouble", "warning", "target:https:https://" + "a" * 90, "w" * 50 + " words" * 40)
    for colour in (False, True):
        for full in (False, True):
            out = Terminal(colour=colour, unicode=unicode, width=width)
            told = Episodes([*EVENTS, long]).told
            lines = [*EventLines(out, piped=False, full=full).lines(told)]
            lines += standing_lines([each for each in told if each.stands], out, NOW)
            plain = [_ESCAPES.sub("", line) for line in lines]
            assert max(map(len, plain)) <= width
            assert unicode or all(line.isascii() for line in plain)
            assert ("\033" in "".join(lines)) == colour
            if full:
                assert "".join(plain).count("words") == 40


@pytest.fixture
def utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_it_looks_like_this() -> None:
    day = 1_800_014_400.0  # noon
    told = Episodes(
        [
            Event(day - 43300, "path-dead", "critical", "exit:exit-a", "is dead: no answer for 3.1 s", {}),
            Event(day, "path-good", "info", "exit:exit-a", "is good again: answers well", {}, over=True),
            Event(day + 60, "moved", "warning", "exit-node", "moves to exit-b", {}),
        ]
    ).told
    lines = [*EventLines(Terminal(colour=False, unicode=True, width=100), piped=False).lines(told)]
    assert [line.rstrip("─ ") for line in lines] == [
        "── Thursday 14 January 2027",
        "23:58:20 ✖ critical   12h1m  exit:exit-a  is dead: no answer for 3.1 s",
        "── Friday 15 January 2027",
        "12:00:00 ● over       12h1m  exit:exit-a  is good again: answers well",
        "12:01:00 ▲ warning   stands  exit-node    moves to exit-b",
    ]
    narrow = [*EventLines(Terminal(colour=False, unicode=False, width=60), piped=False).lines(told[:1])]
    assert narrow == [
        "-- Thursday 14 January 2027 " + "-" * 32,
        "23:58:20 X critical   12h1m  exit:exit-a",
        "           is dead: no answer for 3.1 s",
    ]
    stands = standing_lines(told[2:], Terminal(colour=False, unicode=True, width=80), day + 120)
    assert stands == ["still stands", "▲ warning, for 1m: exit-node moves to exit-b"]


def test_words_of_others_reach_no_terminal_as_commands() -> None:
    evil = event(1, "trouble", "warning", "a\033[2J", "b\r\n\033]0;x\007")
    for piped in (False, True):
        out = Terminal(colour=False, unicode=True, width=100)
        assert all(line.isprintable() for line in EventLines(out, piped=piped).lines(Episodes([evil]).told))
