"""The screen of `ts-status`: what it says, at any width, in colour or not, in UTF-8 or not."""

from __future__ import annotations

import io
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from status_bed import NOW, a_state, a_status

from tsstack.cli import ts_status
from tsstack.cli.glyphs import Terminal, terminal
from tsstack.cli.status_screen import status_lines
from tsstack.status.words import command_lines, width_of, wrapped

PLAIN = Terminal(colour=False, unicode=False, width=80)
COLOUR = Terminal(colour=True, unicode=True, width=80)
_SGR = re.compile(r"\033\[[0-9;]*m")


@pytest.mark.parametrize("how", ["blocked", "stuck"])
def test_beside_a_way_that_leads_nowhere_no_candidate_is_said_to_come_next(how: str) -> None:
    lines = status_lines(a_status(exit={how: True}), PLAIN)
    (row,) = [line for line in lines if line.startswith("  exit node")]
    assert "exit-b" not in row


def test_one_screen_says_all() -> None:
    assert status_lines(a_status(), PLAIN) == [
        "* kernelcore: all is well",
        "  tailnet     Running - kernelcore.tail.test - 100.64.0.2 - fd7a:115c:a1e0::2",
        "  offers      exit node, 192.168.15.0/24, 10.9.0.0/24",
        "  exit node   exit-a, then exit-b",
        "              exit-a is good",
        "  peers       2 of 3 online: 1 direct, 1 relay",
        "                exit-a    100.64.0.3       direct         12.0 ms  exit node",
        "                phone     100.64.0.4       relay by lab",
        "  services    1 of 1 take connections; certificates for 80 days",
        "              * wiki  https://wiki.kernelcore.tail.test/  1.2 ms",
        "  firewall    1 zone; dropped: 3 unzoned",
        "                dmz  eth0                  accepted 12.3k, refused 42",
        "  links       * 2 good",
        "  generation  7, made 2 h ago /etc/tsstack/tsstack.yaml",
    ]


def test_a_remark_has_its_code_its_words_and_what_to_do() -> None:
    lines = status_lines(a_status(generation={"boot": 6}), PLAIN)
    assert lines[0] == "! kernelcore: to be looked at (1)"
    assert lines[-2:] == [
        "  ! TS753 generation: the next boot brings up generation 6, not 7",
        "      tsstack switch    # makes what the file says permanent",
    ]


def test_where_the_window_is_low_what_is_wrong_comes_before_what_is_well() -> None:
    status = a_status(generation={"boot": 6}, exit={"using": "exit-b"})
    whole, wrong = status_lines(status, PLAIN), ["TS710", "TS753"]
    assert status_lines(status, PLAIN, rows=len(whole)) == whole
    for rows in range(6, len(whole)):
        lines = status_lines(status, PLAIN, rows=rows)
        assert len(lines) == rows
        assert lines[0] == whole[0]
        assert [line.split()[1] for line in lines[1:] if line.startswith("  ! TS")] == wrong
        assert lines[-1] == f"  and {len(whole) - rows + 1} lines more: make the window higher"
    # Each part has its first line before any has its second.
    shown = status_lines(status, PLAIN, rows=14)[1:-1]
    labels = [line.split()[0] for line in shown if line[:2] == "  " and line[2] not in " !"]
    assert labels == ["tailnet", "exit", "peers", "services", "firewall", "links", "generation"]
    assert status_lines(status, PLAIN, rows=3)[1].startswith("  ! TS710")


def test_services_that_need_a_look_come_first() -> None:
    well = a_status()["services"][0]
    others = (
        {"name": "well"}, {"name": "slow", "level": "poor"}, {"name": "half", "dead_upstreams": 1},
        {"name": "gone", "level": "dead"},
    )  # fmt: skip
    lines = status_lines(a_status(services=[{**well, **each} for each in others]), PLAIN)
    first = next(at for at, line in enumerate(lines) if line.startswith("  services"))
    assert [line.split()[1] for line in lines[first + 1 : first + 5]] == ["gone", "half", "slow", "well"]


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    status = a_status(
        exit={"why": ["because " * 30], "using": "exit-b"},
        tailnet={"health": ["words " * 40 + "x" * 200]},
        monitor={"running": False, "error": "no monitor runs", "state": None},
    )
    status["services"][0]["url"] = "https://" + "a" * 200
    lines = status_lines(status, Terminal(colour=False, unicode=True, width=width))
    assert max(map(len, lines)) <= width, [line for line in lines if len(line) > width]


@pytest.mark.parametrize("width", [-9, 0, 1, 4, 8, 20])
def test_a_pane_that_is_too_narrow_for_words_has_the_screen_all_the_same(width: int) -> None:
    status = a_status(tailnet={"state": "NeedsLogin", "key_expires": NOW - 1})
    text = "".join(status_lines(status, Terminal(colour=False, unicode=True, width=width))).replace(" ", "")
    assert "TS706" in text


def test_columns_of_nought_are_as_if_nobody_had_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert terminal(piped=77).width == 77


def test_colour_adds_nothing_but_colour() -> None:
    status = a_status(exit={"maintenance": True})
    plain = Terminal(colour=False, unicode=True, width=80)
    painted = status_lines(status, COLOUR)
    assert [_SGR.sub("", line) for line in painted] == status_lines(status, plain)
    assert any("\033[33m" in line for line in painted)


def test_without_utf8_all_is_ascii() -> None:
    text = "\n".join(status_lines(a_status(exit={"maintenance": True}), PLAIN))
    assert text.isascii()


def test_what_others_say_does_nothing_to_the_terminal() -> None:
    status = a_status(tailnet={"health": ["\033[2Jgone\r\n\x07"], "name": "\033]0;title\x07"})
    status["peers"][0]["name"] = "\033[31mred"
    assert "\033" not in "".join(status_lines(status, PLAIN))
    assert "\r" not in "".join(status_lines(status, PLAIN))


def test_a_thousand_peers_are_counted_and_all_are_listed_when_asked() -> None:
    status = a_status()
    status["peers"] = [{**status["peers"][0], "name": f"peer-{number}"} for number in range(1000)]
    assert len(status_lines(status, PLAIN)) < 40
    assert len(status_lines(status, PLAIN, everything=True)) > 1000


def test_where_the_monitor_is_away_services_are_not_called_up() -> None:
    status = a_status(monitor={"running": False, "error": "no monitor runs", "state": None})
    status["services"][0]["level"] = "unknown"
    text = "\n".join(status_lines(status, PLAIN))
    assert "not watched: no monitor runs" in text
    assert "links       no monitor runs" in text


def test_where_nginx_is_dead_no_service_is_called_up() -> None:
    text = "\n".join(status_lines(a_status(proxy={"running": False, "error": "no answer"}), PLAIN))
    assert "services    none is served: nginx does not answer" in text
    assert "1 of 1 take connections" not in text


def test_what_a_user_may_not_read_is_no_reason_to_call_all_well() -> None:
    hidden = a_status(
        firewall={"loaded": None, "changed": None, "error": "reading the packet filter needs root"}
    )
    assert status_lines(hidden, PLAIN)[0] == "* kernelcore: all is well, as far as this user may look"


def test_nothing_watched_is_said() -> None:
    text = "\n".join(status_lines(a_status(monitor={"state": a_state()}), PLAIN))
    assert "nothing is watched" in text


def test_a_fix_that_is_too_long_stays_a_command_that_can_be_pasted() -> None:
    tailnet = {"state": "NeedsLogin", "key_expires": NOW - 1, "id": "7"}
    lines = status_lines(a_status(tailnet=tailnet), Terminal(colour=False, unicode=True, width=40))
    at = next(number for number, line in enumerate(lines) if "headscale" in line)
    assert [line.strip() for line in lines[at : at + 4]] == [
        "headscale nodes expire -i 7 \\",
        "--disable",
        "# on http://hs.test:8080: the key",
        "# is good again and does not end",
    ]


@given(st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=8), st.integers(14, 60))
def test_a_broken_command_is_the_same_to_a_shell(words: list[str], width: int) -> None:
    """A backslash at the end of a line takes both away; leading blanks part words (POSIX shell, 2.2.1)."""
    lines = command_lines(" ".join(words), width)
    assert all(len(line) <= width for line, _ in lines)
    pasted = "\n".join(line if goes_on else f"      {line}" for line, goes_on in lines)
    assert pasted.replace("\\\n", "").split() == words


def test_a_list_of_routes_that_is_longer_than_the_screen_stays_one_word() -> None:
    offers = [{"route": f"10.{n}.0.0/16", "approved": False, "withdrawn": False} for n in range(12)]
    lines = status_lines(a_status(tailnet={"offers": offers, "id": "7"}), PLAIN)
    at = next(number for number, line in enumerate(lines) if "headscale" in line)
    pasted = "\n".join(lines[at:]).replace("\\\n", "")
    assert ",".join(offer["route"] for offer in offers) in pasted


def test_a_peer_that_the_monitor_finds_dead_is_not_called_relayed() -> None:
    status = a_status()
    peers = [{**status["peers"][1], "answers": False}]
    text = "\n".join(status_lines({**status, "peers": peers}, PLAIN))
    assert "1 of 1 online: 1 silent" in text
    assert "relay" not in text.partition("peers")[2].partition("services")[0]


def test_every_peer_that_is_online_is_counted() -> None:
    status = a_status()
    peers = [{**status["peers"][1], "way": "unknown"}, status["peers"][0]]
    text = "\n".join(status_lines({**status, "peers": peers}, PLAIN))
    assert "2 of 2 online: 1 direct, 1 unknown" in text


def test_in_a_pipe_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """grep(1) finds nothing behind three dots."""
    drift = "x " * 100 + "end"
    out = io.StringIO()
    monkeypatch.setattr(ts_status, "gather", lambda _: a_status(exit={"why": [drift]}))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.delenv("COLUMNS", raising=False)
    ts_status.run([])
    assert drift in out.getvalue()


def test_a_name_that_the_locale_has_no_letters_for_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "iso-8859-1", errors="strict"))
    status = a_status()
    status["peers"][0]["name"] = "кухня"
    monkeypatch.setattr(ts_status, "gather", lambda _: status)
    assert ts_status.run([]) == 0
    assert b" ????? " in written.getvalue()


def test_of_many_peers_those_that_need_a_look_are_shown_and_the_rest_is_told() -> None:
    status = a_status(exit={"using": "exit-z"})
    direct, relayed = status["peers"][:2]
    peers = [{**direct, "name": f"p{number:02}", "names": []} for number in range(25)]
    peers += [{**relayed, "name": f"r{number}", "names": []} for number in range(3)]
    peers += [
        {**direct, "name": "mute", "names": [], "answers": False},
        {**direct, "name": "exit-z", "names": ["exit-z"]},
    ]
    status["peers"] = peers
    lines = status_lines(status, PLAIN)
    at = next(number for number, line in enumerate(lines) if line.startswith("  peers"))
    assert [line.split()[0] for line in lines[at + 1 : at + 7]] == ["mute", "exit-z", "r0", "r1", "r2", "p00"]
    assert lines[at + 13].strip() == "and 18 more: ts-status --all"
    whole = status_lines(status, PLAIN, everything=True)
    assert not any("more: ts-status" in line for line in whole)
    assert [line.split()[0] for line in whole[at + 1 : at + 31]] == [peer["name"] for peer in peers]


@pytest.mark.parametrize(
    ("words", "whole"), [([], False), (["--all"], True), (["--watch"], False)], ids=["once", "all", "watched"]
)
def test_on_a_terminal_it_is_one_screen(
    words: list[str], whole: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = a_status(
        generation={"boot": 6}, exit={"using": "exit-b"}, monitor={"running": False, "state": None}
    )
    monkeypatch.setattr(ts_status, "gather", lambda _: status)
    monkeypatch.setattr("tsstack.cli.glyphs.screen_rows", lambda: 12)
    monkeypatch.setattr("time.sleep", _interrupted)
    ts_status.run(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("kernelcore: to be looked at (3)")
    assert (len(lines) <= 12) is not whole
    if not whole:
        how = "make the window higher" if words else "ts-status --all"
        assert lines[-1].endswith(f"lines more: {how}")


def _interrupted(_: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("設定", 4), ("ｱ", 1), ("e\u0301", 1), ("…●", 2)])
def test_a_text_has_the_columns_of_its_signs(text: str, width: int) -> None:
    assert width_of(text) == width


@given(st.text(st.sampled_from("a設e\u0301 "), max_size=40), st.integers(2, 20))
def test_wide_signs_are_cut_and_wrapped_by_columns(text: str, width: int) -> None:
    terminal = Terminal(colour=False, unicode=True, width=80)
    assert width_of(terminal.clip(text, width)) <= width
    lines = wrapped(text, width)
    assert max(map(width_of, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_table_stands_straight_beside_wide_names() -> None:
    status = a_status()
    for peer, name in zip(status["peers"], ("設定設定設定", "phone"), strict=False):
        peer["name"] = name
    lines = status_lines(status, Terminal(colour=False, unicode=True, width=80))
    ends = {width_of(line[: line.index("100.64.0.")]) for line in lines if "  100.64.0." in line}
    assert len(ends) == 1
    assert "\n".join(status_lines(status, PLAIN)).isascii()
