"""`ts-quality` as it is run: by the real socket and a real history, and without either."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from watched_links import Row, Watching, path, served, state, write_history

from tsstack.cli.script import run_script
from tsstack.cli.ts_quality import command
from tsstack.monitor.reasons import Cause
from tsstack.monitor.snapshot import Trouble

NOW = time.time()
_KEYS = ("exit:exit-a", "exit:exit-b", "target:icmp:1.1.1.1", "service:wiki#0")


def rows(end: float = NOW, span_s: int = 7200, key: str = "exit:exit-a") -> list[Row]:
    """Two hours of four links; `key` was dead for ten minutes, an hour before the end."""
    found: list[Row] = []
    for at in range(int(end) // 10 * 10 - span_s, int(end) // 10 * 10, 10):
        for each in _KEYS:
            dead = each == key and 3600 <= end - at < 4200
            found.append((at, each, None if dead else 0.02, "dead" if dead else "good"))
    return found


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("history") / "history.db"
    write_history(file, rows())
    return file


PATHS = (
    path("exit:exit-a", rtt_s=0.021, relayed=0.25),
    path("exit:exit-b", "poor", 0.3, loss=0.2, causes=(Cause("loss", 0.2, 0.05, 12),), since=NOW - 12),
    path("target:icmp:1.1.1.1"),
    path("service:wiki#0", "unknown", None),
)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Watching]:
    with served(tmp_path / "m.sock", Watching(state(*PATHS, at=NOW))) as watching:
        yield watching


@pytest.fixture
def run(tmp_path: Path, history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*words: str, history: Path = history) -> tuple[int, str, str]:
        at = ["--socket", str(tmp_path / "m.sock"), "--history", str(history)]
        monkeypatch.setattr(sys, "argv", ["ts-quality", *at, *words])
        monkeypatch.setenv("COLUMNS", "100")
        code = run_script(command, "ts-quality")
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_the_running_monitor_and_the_last_hour(run, monitor: Watching) -> None:
    code, out, err = run()
    assert (code, err) == (1, "")
    lines = out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("  PATH"))
    assert lines[head + 1].split()[1] == "exit:exit-b", "the worst is the first"
    assert re.search(r"exit:exit-b +poor +20% +300 +390 +600 +30.0 +- \S+", out)
    assert "lost 20 % over 12 s (limit 5 %)" in out
    assert re.search(r"exit:exit-a +good +0% 21.0 27.3 42.0 +2.1 +25%", out)


def test_the_exit_code_is_that_of_what_is_shown(run, monitor: Watching) -> None:
    assert run("exit-a")[0] == 0
    assert run("wiki")[0] == 0, "what is not measured yet is no fault"
    assert run("exit-b")[0] == 1
    monitor.now = state(replace(PATHS[0], level="dead"), PATHS[1])
    time.sleep(0.3)  # a state is shown for a quarter of a second
    assert run()[0] == 2
    assert run("exit-b")[0] == 1


def test_a_day_from_the_history(run, monitor: Watching) -> None:
    code, out, err = run("--since", "90m", "exit", "--json")
    assert (code, err) == (1, "")
    told = json.loads(out)
    paths = {each["key"]: each for each in told["paths"]}
    assert list(paths) == ["exit:exit-a", "exit:exit-b"]
    exit_a = paths["exit:exit-a"]
    assert (exit_a["level"], exit_a["worst"]) == ("good", "dead")
    assert exit_a["bad"]["bad_s"] == pytest.approx(600, abs=15)
    assert exit_a["figures"]["loss"] == pytest.approx(1 / 9, abs=0.01)
    assert len(exit_a["series"]["loss"]) == 60
    assert sum(each == "dead" for each in exit_a["series"]["worst"]) in {6, 7, 8}
    assert (told["from"], told["window_s"], told["level"]) == ("monitor", None, "poor")
    table = run("--since", "90m", "exit")[1]
    assert re.search(r"exit:exit-a +good dead +9m5\ds|exit:exit-a +good dead +10m", table)


def test_a_span_that_reaches_beyond_the_history_is_told(run, monitor: Watching) -> None:
    assert "the history begins" in run("--since", "7d")[2]
    assert run("--since", "90m")[2] == ""


def test_the_keys_of_json_stay(run, monitor: Watching) -> None:
    told = json.loads(run("--json", "--window", "15m")[1])
    assert set(told) == {
        *("at", "from", "host", "window_s", "since", "until", "level", "kinds", "paths", "notes", "troubles"),
        "status",
    }
    assert told["kinds"]["exit"] == {"poor": 1, "good": 1}
    each = told["paths"][0]
    assert set(each) == {
        *("key", "kind", "level", "since", "causes", "source", "interface", "via", "error", "figures"),
        *("worst", "bad", "series", "others_serve"),
    }
    assert set(each["figures"]) == {
        *("window_s", "span_s", "sent", "lost", "loss", "rtt_p50_s", "rtt_p95_s", "rtt_p99_s", "jitter_s"),
        "relayed",
    }
    assert set(each["series"]) == {
        *("since", "step_s", "loss", "rtt_p50_s", "rtt_p95_s", "rtt_p99_s", "worst")
    }
    assert each["figures"]["window_s"] == 900


def test_of_the_worst_json_has_no_more_either(run, monitor: Watching) -> None:
    told = json.loads(run("--json", "--worst", "1")[1])
    assert [each["key"] for each in told["paths"]] == ["exit:exit-b"]
    assert told["paths"][0]["series"]


def test_each_window_has_its_own_figures(run, monitor: Watching) -> None:
    for window, seconds in (("10s", 10), ("1m", 60), ("15m", 900)):
        assert json.loads(run("--json", "--window", window)[1])["paths"][0]["figures"]["window_s"] == seconds


def test_without_a_monitor_the_history_is_shown_and_that_is_said(run) -> None:
    code, out, err = run()
    assert code == 3, "how it is now nobody knows"
    assert "no monitor listens on" in err
    assert "the history, which ends" in err
    assert re.search(r"exit:exit-a +good +0% 19.9", out)
    told = json.loads(run("--json")[1])
    assert (told["from"], len(told["paths"])) == ("history", 4)
    assert told["notes"]
    assert told["host"] == os.uname().nodename
    assert told["level"] == "unknown", "the exit code says so too"
    assert re.match(r"[?○] unknown now, \w+ when the monitor ended", out)


def test_the_history_does_not_end_in_the_future(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step that is kept was not over when the monitor ended."""
    file = tmp_path / "ended.db"
    end = time.time() // 10 * 10 + 10
    write_history(file, rows(end, 600))
    _, _, err = run(history=file)
    told = re.search(r"which ends ([\d-]+ [\d:]+)", err)
    assert told is not None
    assert time.mktime(time.strptime(told[1], "%Y-%m-%d %H:%M:%S")) <= time.time()


def test_without_a_monitor_the_level_is_that_of_the_end(run, tmp_path: Path) -> None:
    file = tmp_path / "ended.db"
    end = NOW - 9 * 86400
    write_history(file, [*rows(end, 600), *((end - 10 * n, "exit:gone", None, "dead") for n in range(5))])
    code, out, _ = run(history=file)
    assert code == 3
    assert "✖ exit:gone" in out or "X exit:gone" in out
    code, out, _ = run("--since", "2h", history=file)
    assert (code, out.splitlines()[-1]) == (3, "nothing was measured in that time")


def test_without_either_it_cannot_be_told(run, tmp_path: Path) -> None:
    code, out, err = run(history=tmp_path / "none.db")
    assert (code, out) == (3, "")
    assert "no monitor listens on" in err
    assert "no history at" in err
    assert "tsstack units install --monitor" in err
    code, out, _ = run("--json", history=tmp_path / "none.db")
    assert (code, json.loads(out)["error"]["kind"]) == (3, "NotRunning")


def test_a_monitor_without_a_history_is_shown_all_the_same(run, monitor: Watching, tmp_path: Path) -> None:
    code, out, err = run(history=tmp_path / "none.db")
    assert code == 1
    assert "exit:exit-b" in out
    assert "no course of the last hour: there is no history" in err
    assert run("--since", "1h", history=tmp_path / "none.db")[0] == 3


def test_a_word_that_names_nothing_is_an_error_with_the_nearest(run, monitor: Watching) -> None:
    code, _, err = run("exit-a", "wikki")
    assert code == 3
    assert "no path has 'wikki' in its name" in err
    assert "the nearest: service:wiki#0" in err


def test_what_is_watched_no_longer_is_shown_for_its_span(run, monitor: Watching) -> None:
    monitor.now = state(PATHS[0])
    time.sleep(0.3)
    code, out, _ = run("--since", "90m")
    assert code == 0
    assert re.search(r"exit:exit-b +unknown good", out)
    assert "exit:exit-b" not in run()[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "soon"], "90m, 24h or 7d"),
        (["--since", "0h"], "90m, 24h or 7d"),
        (["--worst", "0"], "--worst"),
        (["--worst", "3", "--all"], "either --worst or --all"),
        (["--plot", "x.svg", "--watch", "1"], "--plot draws once"),
        (["--plot", "x.gif"], "FILE.svg or FILE.png"),
        (["--window", "2m"], "--window"),
        (["--window", "1m", "--since", "1h"], "leave --window out"),
    ],
)
def test_what_is_wrongly_asked_is_said(run, words: list[str], said: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (3, "")
    assert said in err


def test_a_plot_in_svg_is_well_formed_and_has_every_path(run, monitor: Watching, tmp_path: Path) -> None:
    monitor.now = state(*PATHS, path('service:<&"\x1b>#0'))
    time.sleep(0.3)
    file = tmp_path / "day.svg"
    code, _, err = run("--since", "2h", "--plot", str(file))
    assert code == 1
    assert f"wrote {file}" in err
    root = ElementTree.parse(file).getroot()  # noqa: S314  our own file
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"exit:exit-a", "exit:exit-b", "target:icmp:1.1.1.1", 'service:<&"?>#0'} <= set(texts)
    assert "prefers-color-scheme: dark" in file.read_text()
    assert list(root.iter("{http://www.w3.org/2000/svg}polyline"))


def test_png_without_pillow_says_what_to_install(
    run, monitor: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    file = tmp_path / "day.png"
    code, out, err = run("--plot", str(file))
    assert (code, out, file.exists()) == (3, "", False)
    assert "pipx install '.[plot]' in a checkout" in err


def test_help_teaches(run) -> None:
    for word in ("-h", "--help"):
        code, out, _ = run(word)
        assert code == 0
        assert "ts-quality --since 24h" in out
        assert "Exit code: 0" in out


def test_what_cannot_be_measured_is_no_all_clear(run, tmp_path: Path) -> None:
    """Not measured yet is well; not measured because tailscaled hangs is not."""
    trouble = Trouble("tailscaled", "tailscaled does not answer", "systemctl restart tailscaled")
    blind = [path("exit:exit-a", "unknown", None), path("service:wiki#0")]
    for troubles, expected in (((), 0), ((trouble,), 1)):
        with served(tmp_path / "m.sock", Watching(state(*blind, troubles=troubles))):
            code, _, err = run()
        assert (code, "tailscaled does not answer" in err) == (expected, bool(troubles))
    with served(tmp_path / "m.sock", Watching(state(path("exit:exit-a"), troubles=(trouble,)))):
        assert run()[0] == 1, "as ts-status has it (TS744)"


HOSTILE = "\x1b]0;PWNED\x07\x1b[2J\x1b[31mall is well"


def test_what_others_say_does_nothing_to_the_terminal(run, tmp_path: Path) -> None:
    """A web hook's answer gets into a trouble by the alert command that prints it."""
    trouble = Trouble("monitor.alerts[0]", f"alerts are not sent: HTTP 500 {HOSTILE}", "")
    with served(tmp_path / "m.sock", Watching(state(path("exit:exit-a"), troubles=(trouble,)))):
        _, out, err = run()
    assert "all is well" in err
    assert "\x1b" not in out + err
    assert "\x07" not in out + err


def test_a_filter_does_not_make_a_dead_upstream_worse(run, tmp_path: Path) -> None:
    upstreams = (path("service:wiki#0"), path("service:wiki#1", "dead", None), path("service:db#0"))
    with served(tmp_path / "m.sock", Watching(state(*upstreams))):
        code, out, _ = run("wiki#1", "--json")
        _, other, _ = run("db", "--json")
    told = json.loads(out)
    assert (code, told["status"], told["level"]) == (1, "warning", "dead")
    assert told["paths"][0]["others_serve"] is True
    assert json.loads(other)["paths"][0]["others_serve"] is False
