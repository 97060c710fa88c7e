"""What the dashboard says of a status: rows, lines, bars; at any width, in UTF-8 or not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tui_bed import (
    CAUSE,
    DROPS,
    EVENTS,
    GENERATIONS,
    NOBODY,
    NOW,
    ROOT,
    UNREADABLE,
    a_host,
    event,
    frames,
    link,
    logged,
    moved_on,
)

from tsstack.status.words import width_of as columns_of
from tsstack.status.words import wrapped
from tsstack.tui.cells import (
    LOST,
    Column,
    Signs,
    fitted,
    heading,
    lay_out,
    row_line,
    say,
    text_of,
    width_of,
)
from tsstack.tui.frame import Permissions, next_frame
from tsstack.tui.views import bars, events, exits, firewall, generations, links, overview, services

UTF8, ASCII = Signs(unicode=True), Signs(unicode=False)


def rows_of(table: Any, width: int = 120) -> list[list[str]]:
    widths = lay_out(table.columns, width)
    return [[text_of(cell) for cell in table.cells(row, widths)] for row in range(len(table.keys))]


def everything(frame: Any, signs: Signs, width: int) -> list[Any]:
    """Every line of every tab."""
    shown = events.at_least(EVENTS, "info")
    tables = [
        overview.peers(frame, signs), links.links(frame, signs, 1), exits.exits(frame, signs),
        services.services(frame, signs), firewall.zones(frame, signs),
        events.events(shown, signs, NOW, stale=False, empty=""), generations.generations(frame, signs),
    ]  # fmt: skip
    lines = [
        *overview.summary(frame, signs, width), *overview.remarks(frame.status, signs, width),
        *links.link_details(frame, signs, "exit:exit-b", width), *exits.exit_details(frame, signs, width),
        *firewall.drops(frame, signs, width), *firewall.logged(frame, signs, width, 4),
        *firewall.zone_details(frame, signs, "dmz", width),
        bars.header(frame, signs, width, NOW), *bars.banner(frame, signs, width, NOW),
    ]  # fmt: skip
    for table in tables:
        widths = lay_out(table.columns, width)
        lines.append(heading(table.columns, widths))
        lines += [
            row_line(table.columns, widths, table.cells(row, widths), signs.end)
            for row in range(len(table.keys))
        ]
    return lines


class TestCells:
    @given(
        st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=9),
        st.integers(1, 200),
    )
    def test_columns_fill_the_width_and_leave_in_their_order(self, given_columns: Any, width: int) -> None:
        columns = [
            Column(str(at), size, grow=grow, leave=leave)
            for at, (size, grow, leave) in enumerate(given_columns)
        ]
        widths = lay_out(columns, width)
        kept = [at for at, size in enumerate(widths) if size]
        assert all(widths[at] >= columns[at].width for at in kept)
        used = sum(widths) + 2 * (len(kept) - 1)
        gone = [columns[at].leave for at, size in enumerate(widths) if not size]
        assert all(columns[at].leave <= min(gone) for at in kept if gone)
        if used > width:
            assert all(columns[at].leave == 0 for at in kept)
        elif any(columns[at].grow for at in kept):
            assert used == width

    @given(st.lists(st.tuples(st.text(), st.just("ok")), max_size=5), st.integers(0, 30))
    def test_nothing_is_wider_than_its_room(self, spans: Any, width: int) -> None:
        line = fitted(tuple((UTF8.words(text), look) for text, look in spans), width)
        assert sum(width_of(text) for text, _ in line) <= width

    @example("\x1f 00", 1)
    @given(st.text(), st.integers(1, 30))
    def test_wrapping_loses_no_word(self, text: str, width: int) -> None:
        lines = wrapped(text, width)
        assert all(columns_of(line) <= width or len(line) == 1 for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")

    def test_a_sparkline_has_its_width_and_shows_what_was_lost(self) -> None:
        line = UTF8.spark((None, 0.01, LOST, 0.02, 0.04), 8)
        assert text_of(line) == "    ▃✕▅█"
        assert [look for text, look in line if "✕" in text] == ["critical"]
        assert text_of(ASCII.spark((0.0, LOST, 0.04), 3)) == "_x#"

    def test_a_row_keeps_the_look_of_each_cell(self) -> None:
        columns = (Column("", 1), Column("a", 6), Column("b", 6, right=True))
        line = row_line(columns, [1, 6, 6], (say("x", "ok"), say("two", "warning"), say("3")))
        assert text_of(line) == "x  two          3"
        assert [(text.strip(), look) for text, look in line] == [("x", "ok"), ("two", "warning"), ("3", "")]

    def test_a_chart_is_highest_where_the_value_is(self) -> None:
        lines = [text_of(line) for line in UTF8.chart((0.01, 0.02, LOST), 4, 2)]
        assert lines == ["  █ ", " ██✕"]

    def test_words_of_others_are_never_markup_and_never_commands(self) -> None:
        name = "[red]x[/] \x1b[31m\x07\u202e"
        assert UTF8.words(name) == "[red]x[/] ?[31m??"
        assert ASCII.words("Küche") == "K?che"


class TestFrame:
    def test_rates_are_what_was_counted_in_the_time(self) -> None:
        frame = frames(a_host(), 10)
        assert frame.rates["dmz/accepted"].packets == pytest.approx(240)
        assert frame.rates["invalid"].packets == pytest.approx(2)
        assert frame.rates["spoofed"].packets == 0

    def test_a_table_that_was_loaded_again_has_no_rate(self) -> None:
        status = a_host()
        before = next_frame(None, moved_on(status, 9), ROOT)
        after = next_frame(before, {**status, "at": NOW + 10}, ROOT)
        assert "dmz/accepted" not in after.rates

    def test_ten_frames_a_second_make_one_value_a_second(self) -> None:
        frame = None
        for tenth in range(31):
            frame = next_frame(frame, {**a_host(), "at": NOW + tenth / 10}, ROOT)
        assert frame is not None
        assert len(frame.rtts["exit:exit-a"]) == 4
        assert frame.rates["dmz/accepted"].packets == 0

    def test_a_probe_without_an_answer_is_lost_and_no_monitor_is_a_gap(self) -> None:
        frame = frames(a_host(), 3)
        assert frame.rtts["service:ollama#0"] == (LOST,) * 4
        away = {**a_host(), "at": NOW + 9}
        away["monitor"] = {"running": False, "wanted": True, "error": "no monitor runs", "state": None}
        assert next_frame(frame, away, ROOT).rtts["service:ollama#0"] == (*(LOST,) * 4, None)

    def test_the_last_words_of_a_monitor_that_refuses_to_answer_stay_too(self) -> None:
        frame = next_frame(None, a_host(), ROOT)
        busy = {**a_host(), "at": NOW + 9}
        busy["monitor"] = {"running": True, "wanted": True, "error": "it refuses", "state": None}
        later = next_frame(frame, busy, ROOT)
        assert later.away["monitor"] == ("it refuses", NOW + 9)
        assert later.status["monitor"]["state"] == frame.status["monitor"]["state"]

    def test_the_last_words_of_a_monitor_that_is_away_stay_with_since_when(self) -> None:
        frame = frames(a_host(), 3)
        away = {**a_host(), "at": NOW + 9}
        away["monitor"] = {"running": False, "wanted": False, "error": "no monitor runs", "state": None}
        away["services"] = [{**service, "level": "unknown", "rtt_s": None} for service in away["services"]]
        later = next_frame(next_frame(frame, away, ROOT), {**away, "at": NOW + 20}, ROOT)
        assert later.away["monitor"] == ("no monitor runs", NOW + 9)
        assert links.links(later, UTF8, 1).stale
        assert len(links.links(later, UTF8, 1).keys) == 8
        assert [row[2] for row in rows_of(services.services(later, UTF8))] == ["dead", "good"]
        back = next_frame(later, {**a_host(), "at": NOW + 30}, ROOT)
        assert not back.away
        assert not links.links(back, UTF8, 1).stale

    def test_the_last_words_of_tailscaled_stay_too(self) -> None:
        frame = frames(a_host(), 3)
        gone = a_host(tailnet={"error": "tailscaled does not answer", "state": "", "name": ""})
        gone["peers"], gone["at"] = [], NOW + 9
        later = next_frame(frame, gone, ROOT)
        told = {text_of(line)[:11].strip(): line for line in overview.summary(later, UTF8, 100)}
        assert text_of(told["tailnet"])[12:].startswith("no answer, as of 08:00:09: Running")
        assert ("no answer", "critical") in told["tailnet"]
        assert overview.peers(later, UTF8).stale
        assert [row[1] for row in rows_of(overview.peers(later, UTF8))] == ["exit-a", "phone", "attic"]
        (line,) = bars.banner(later, UTF8, 100, NOW + 12)
        away = "! tailscaled away since 08:00:09 (3 s): tailscaled does not answer"
        assert text_of(line) == f"{away}; what it said last is dim"
        assert [text_of(line) for line in bars.banner(later, UTF8, 70, NOW + 12)] == [away]
        narrow = [text_of(line) for line in bars.banner(later, UTF8, 60, NOW + 12)]
        assert narrow == ["! tailscaled away since 08:00:09 (3 s): tailscaled does not", "  answer"]
        assert later.status["level"] == "critical"

    def test_a_way_out_that_is_known_to_be_unused_is_not_shown_in_use(self) -> None:
        """tailscaled does not run: no packet leaves by an exit node, whatever it said last."""
        gone = a_host(tailnet={"error": "tailscaled does not answer", "state": ""}, exit={"using": ""})
        gone["exit"]["why"] = ["tailscaled does not run"]
        later = next_frame(frames(a_host(), 3), {**gone, "peers": [], "at": NOW + 9}, ROOT)
        assert [row[0] for row in rows_of(exits.exits(later, UTF8))] == ["", ""]
        assert "the bare uplink" in text_of(exits.exit_details(later, UTF8, 80)[0])
        assert any("the bare uplink" in text_of(line) for line in overview.summary(later, UTF8, 100))

    def test_services_that_are_known_to_be_dead_are_dead_without_a_monitor(self) -> None:
        """nginx does not answer, and the monitor that said `good` is gone: the two go in any order."""
        dead = {"level": "dead", "rtt_s": None, "error": "nginx does not answer"}
        unknown = {"level": "unknown", "rtt_s": None, "error": ""}
        none = {"running": False, "wanted": True, "error": "no monitor runs", "state": None}

        def services_at(second: int, monitor: Any, over: dict[str, Any]) -> Any:
            status = moved_on(a_host(**({"monitor": none} if monitor is None else {})), second)
            status["proxy"] = {**status["proxy"], "running": over is not dead}
            status["services"] = [{**each, **over} for each in status["services"]]
            return status

        frame = frames(a_host(), 3)
        frame = next_frame(frame, services_at(4, None, dead), ROOT)
        assert [row[2] for row in rows_of(services.services(frame, UTF8))] == ["dead", "dead"]
        assert not frame.remembered
        assert (("dead", "critical"),) in services.services(frame, UTF8).cells(0, ())
        frame = next_frame(frame, services_at(5, None, unknown), ROOT)
        assert [row[2] for row in rows_of(services.services(frame, UTF8))] == ["dead", "good"]
        assert (("good", "dim"),) in services.services(frame, UTF8).cells(1, ())
        (line,) = [each for each in overview.summary(frame, UTF8, 100) if "services" in text_of(each)]
        assert "1 of 2 up · down: ollama, as of 08:00:04" in text_of(line)
        frame = next_frame(frame, services_at(6, a_host(), dead), ROOT)
        frame = next_frame(frame, services_at(7, None, unknown), ROOT)
        assert {row[2] for row in rows_of(services.services(frame, UTF8))} == {"dead", "good"}

    def test_what_the_monitor_says_of_the_way_out_goes_on_while_tailscaled_is_away(self) -> None:
        """`m` asks by it: with the old word maintenance could not be ended."""
        status = a_host()
        held = {**status, "exit": {**status["exit"], "maintenance": True}, "at": NOW + 9}
        held["exit"]["known"] = False
        held["tailnet"] = {**status["tailnet"], "error": "tailscaled does not answer", "state": ""}
        held["exit"]["using"], held["exit"]["online"] = "", None
        later = next_frame(frames(status, 3), held, ROOT)
        assert later.status["exit"]["maintenance"] is True
        assert later.status["exit"]["using"] == status["exit"]["using"] != ""

    def test_a_host_that_wants_no_monitor_misses_none(self) -> None:
        none = {"running": False, "wanted": False, "error": "no monitor runs", "state": None}
        assert not next_frame(None, a_host(monitor=none), ROOT).away

    def test_a_frame_is_not_changed_by_the_next(self) -> None:
        frame = frames(a_host(), 5)
        before = (dict(frame.rtts), dict(frame.rates), repr(frame.status))
        next_frame(frame, moved_on(a_host(), 9), ROOT)
        assert (dict(frame.rtts), dict(frame.rates), repr(frame.status)) == before


class TestViews:
    @pytest.mark.parametrize("width", [20, 40, 56, 76, 116, 200])
    @pytest.mark.parametrize("signs", [UTF8, ASCII], ids=["utf-8", "ascii"])
    def test_no_line_is_wider_than_its_room(self, width: int, signs: Signs) -> None:
        frame = frames(a_host(exit={"using": "exit-b", "why": ["because " * 40]}), 5)
        tables_fit = width >= 56
        for line in everything(frame, signs, width):
            size = sum(width_of(text) for text, _ in line)
            assert size <= width or not tables_fit, text_of(line)
            assert signs.unicode or text_of(line).isascii(), text_of(line)

    def test_links_show_the_window_that_was_chosen(self) -> None:
        frame = frames(a_host(), 5)
        ten_s, minute = (rows_of(links.links(frame, UTF8, window)) for window in (0, 1))
        assert ten_s[1][1:8] == ["exit:exit-b", "poor", "35.0 %", "46.0 ms", "64.4 ms", "96.6 ms", "5.1 ms"]
        assert minute[1][3] == "5.8 %"
        assert links.window_name(frame, 2) == "15 min"

    def test_a_link_in_full_says_why_it_is_thought_of_so(self) -> None:
        text = "\n".join(map(text_of, links.link_details(frames(a_host(), 5), UTF8, "exit:exit-b", 100)))
        assert CAUSE["text"] in text
        assert re.search(r"15 min +7 of 1800 \(0.4 %\) +46.0 ms +64.4 ms +96.6 ms +5.1 ms", text)

    @pytest.mark.parametrize(("width", "height"), [(76, 9), (116, 12), (196, 32)])
    def test_a_link_in_full_fits_and_its_chart_takes_the_room(self, width: int, height: int) -> None:
        lines = links.link_details(frames(a_host(), 90), UTF8, "exit:exit-b", width, height)
        text = [text_of(line) for line in lines]
        assert len(lines) <= height
        assert sum("█" in line for line in text) == min(height - 6 - (height > 9), links.CHART_MOST)
        assert all(line.rstrip().endswith("5.1 ms") for line in text[-3:]), "the jitter is cut"
        axis = [line for line in text if line.endswith("now")]
        if height > 9:
            assert axis[0].index("╵ 60 s ago") == width - 60
            assert ("3 min ago" in axis[0]) == (width > 180)

    def test_links_stand_as_in_ts_quality_the_worst_first(self) -> None:
        assert links.links(frames(a_host(), 2), UTF8, 1).keys[:3] == [
            "service:ollama#0", "exit:exit-b", "exit:exit-a",
        ]  # fmt: skip

    def test_a_probe_that_says_nothing_of_its_link_is_no_cross(self) -> None:
        cause = {"rule": "renewed", "seen": 0, "limit": 3, "over_s": 0.0, "text": "judged anew"}
        silent = {"rtt_s": None, "error": "tailscaled does not answer", "counted": False, "causes": [cause]}
        status = a_host()
        status["monitor"]["state"]["paths"] = [link("exit:exit-a", 0.02, "unknown", **silent)]
        status["monitor"]["state"]["exit"]["candidates"][0]["level"] = "unknown"
        frame = frames(status, 5)
        cells = links.links(frame, UTF8, 1).cells(0, [20] * 10)
        assert "✕" not in text_of(cells[-1])
        assert cells[3] == (("0 %", "dim"),)
        text = "\n".join(map(text_of, links.link_details(frame, UTF8, "exit:exit-a", 120)))
        assert "tailscaled does not answer, which says nothing of this link and is not counted" in text
        row = exits.exits(frame, UTF8).cells(0, ())
        assert row[3:5] == ((("0 %", "dim"),), (("20.0 ms", "dim"),))
        assert "judged anew" in text_of(row[7])

    def test_an_exit_node_that_is_worse_than_the_way_to_it_says_so(self) -> None:
        status = a_host()
        status["monitor"]["state"]["exit"]["candidates"][0]["level"] = "dead"
        row = rows_of(exits.exits(frames(status, 1), UTF8))[0]
        assert row[7] == "the way to it is good, the way through it dead"

    def test_nothing_measured_shows_nothing(self) -> None:
        status = a_host()
        window = {"window_s": 60.0, "sent": 0, "lost": 0, "loss": 0.0, "rtt_p50_s": None, "rtt_p95_s": None,
                  "rtt_p99_s": None, "jitter_s": None, "relayed": 0.0}  # fmt: skip
        status["monitor"]["state"]["paths"] = [link("peer:x", 0.0, "unknown", windows=[window], rtt_s=None)]
        (row,) = rows_of(links.links(frames(status, 1), UTF8, 1))
        assert row[:9] == ["○", "peer:x", "unknown", "", "", "", "", "", "direct"]

    def test_exit_nodes_are_the_files_first_and_say_what_bars_them(self) -> None:
        status = a_host()
        status["peers"].append({**status["peers"][0], "name": "other"})
        rows = rows_of(exits.exits(frames(status, 1), UTF8))
        assert [row[1] for row in rows] == ["exit-a", "exit-b", "other"]
        assert [row[0] for row in rows] == ["→", "", ""]
        assert "barred for 34 s more" in rows[1][7]
        assert rows[2][7] == "not in the file"

    def test_an_exit_node_that_the_file_knows_by_its_host_name_has_one_row(self) -> None:
        status = a_host()
        status["peers"][0] |= {"name": "exit-paris", "names": ["exit-paris", "exit-a"]}
        rows = rows_of(exits.exits(frames(status, 1), UTF8))
        assert [row[1] for row in rows] == ["exit-a", "exit-b"]
        assert rows[0][0] == "→"

    def test_a_table_that_nobody_could_compare_is_not_called_whole(self) -> None:
        frame = frames(a_host(firewall={"changed": None}), 1)
        assert "whether it was changed since is not known" in text_of(firewall.drops(frame, UTF8, 100)[0])

    def test_the_exit_node_in_use_is_marked_though_it_is_not_the_first(self) -> None:
        frame = frames(a_host(exit={"using": "exit-b"}), 1)
        assert [row[0] for row in rows_of(exits.exits(frame, UTF8))] == ["", "→"]
        assert text_of(exits.exit_details(frame, UTF8, 80)[0]).endswith("exit-b (not exit-a)")

    def test_exit_nodes_without_a_monitor_are_listed_all_the_same(self) -> None:
        none = {"running": False, "wanted": True, "error": "no monitor runs", "state": None}
        frame = next_frame(None, a_host(monitor=none), ROOT)
        rows = rows_of(exits.exits(frame, UTF8))
        assert [(row[0], row[1], row[2]) for row in rows] == [
            ("→", "exit-a", "○ unknown"),
            ("", "exit-b", "○ unknown"),
        ]

    def test_zones_show_what_is_counted_in_a_second(self) -> None:
        rows = rows_of(firewall.zones(frames(a_host(), 90), UTF8))
        assert rows[0][:6] == ["dmz", "eth0", "1.23M", "240/s", "-", "4.48k"]
        assert rows[0][6].endswith("/s")
        assert rows[2][5:7] == ["-", ""]

    def test_a_firewall_that_only_root_reads_says_so(self) -> None:
        frame = next_frame(None, a_host(firewall={"error": "reading the packet filter needs root"}), NOBODY)
        assert "needs root" in text_of(firewall.drops(frame, UTF8, 80)[0])

    def test_what_the_kernel_logged_is_told_by_source_and_port(self) -> None:
        frame = frames(a_host(), 90)
        lines = [text_of(line).split() for line in firewall.logged(frame, UTF8, 100, 9)]
        assert lines[0] == ["logged", "3.12k", "x", "dmz", "198.51.100.7", "tcp/22", "eth0", "95", "s", "ago"]
        assert lines[3][5:8] == ["eth0", "→", "br-guest"]
        assert len(lines) == len(DROPS)
        few = [text_of(line).strip() for line in firewall.logged(frame, UTF8, 100, 2)]
        assert len(few) == 2
        assert few[1] == "4 more: fw-status"

    @pytest.mark.parametrize(
        ("log", "words"),
        [(None, "not read yet"), (logged(trouble=UNREADABLE), "try with sudo"), (logged(), "nothing")],
        ids=["not yet", "not for this user", "none"],
    )
    def test_where_the_log_says_nothing_it_is_said_why(self, log: Any, words: str) -> None:
        frame = replace(frames(a_host(), 2), logged=log)
        assert words in " ".join(text_of(line) for line in firewall.logged(frame, UTF8, 60, 9))
        none = replace(frame, status=a_host(firewall={"enabled": False}))
        assert firewall.logged(none, UTF8, 60, 9) == []

    def test_events_are_the_newest_first_and_a_recovery_stays_beside_its_beginning(self) -> None:
        shown = events.at_least(EVENTS, "critical")
        # That the exit node is home again ends a warning, which is not shown.
        assert [each["code"] for each in shown] == ["path-good", "path-dead"]
        table = events.events(shown, UTF8, NOW, stale=False, empty="")
        assert [row[1] for row in rows_of(table)] == ["●", "✖"]
        codes = [each["code"] for each in events.at_least(EVENTS, "warning")]
        assert codes == ["home", "path-good", "moved", "path-dead"]

    def test_an_event_that_comes_twice_is_shown_once(self) -> None:
        merged = events.merge(EVENTS, [EVENTS[-1], event(NOW, "moved", "warning", "exit-node", "again")])
        assert len(merged) == len(EVENTS) + 1
        assert [each["at"] for each in merged] == sorted(each["at"] for each in merged)
        many = [event(float(at), "report", "info", "x", "y") for at in range(5000)]
        assert len(events.merge(EVENTS, many)) == events.KEPT

    def test_an_event_in_full_has_the_numbers_behind_it(self) -> None:
        text = "\n".join(map(text_of, events.event_details(EVENTS[2], UTF8, 80)))
        assert re.search(r"took_s +0\.21", text)

    def test_generations_say_which_is_live_and_which_waits(self) -> None:
        pending = {"change": "c7", "generation": 7, "phase": "unconfirmed", "left_s": 42.0}
        frame = next_frame(None, a_host(generation={"pending": pending}), ROOT, GENERATIONS)
        assert [row[3] for row in rows_of(generations.generations(frame, UTF8))] == [
            "live boot pending",
            "",
            "",
        ]

    def test_a_difference_shows_what_would_go_and_come(self) -> None:
        old = {"nginx/a.conf": "one\ntwo\n-- sql\n", "same": "x"}
        new = {"nginx/a.conf": "one\nthree [red]\n", "same": "x", "new": "y"}
        lines = generations.difference(old, new, UTF8)
        assert ("-two", "critical") in [line[0] for line in lines]
        assert ("--- sql", "critical") in [line[0] for line in lines]
        assert ("+three [red]", "ok") in [line[0] for line in lines]
        assert ("+y", "ok") in [line[0] for line in lines]
        assert not any("same" in text_of(line) for line in lines)

    def test_a_thousand_peers_are_only_asked_for_when_they_are_looked_at(self) -> None:
        status = a_host()
        status["peers"] = [{**status["peers"][0], "name": f"peer-{number}"} for number in range(1000)]
        table = overview.peers(next_frame(None, status, ROOT), UTF8)
        assert len(table.keys) == 1000
        status["peers"][3] = None  # had it been looked at before, this would go unnoticed
        with pytest.raises(TypeError):
            table.cells(3, ())


class TestBars:
    @pytest.mark.parametrize("width", [40, 60, 80, 120])
    @pytest.mark.parametrize("tab", bars.TABS)
    def test_the_tabs_fit_and_name_the_one_that_is_open(self, width: int, tab: str) -> None:
        text = "".join(text_of(part.spans) for part in bars.tabs(tab, width))
        assert len(text) <= width
        assert f"{bars.TABS.index(tab) + 1} {tab[:4]}" in text

    @pytest.mark.parametrize("width", [30, 40, 60, 80])
    def test_help_and_the_end_are_always_in_the_bottom_line(self, width: int) -> None:
        keys = [bars.Key(key, f"word {key}", "x") for key in "abcdef"]
        keys += [bars.Key("?", "help", "x"), bars.Key("q", "quit", "x")]
        text = "".join(text_of(part.spans) for part in bars.footer(keys, width)).rstrip()
        assert text.endswith("? help  q quit")
        assert len(text) <= width

    def test_whoever_may_change_nothing_is_told(self) -> None:
        for width in range(30, 60):
            assert re.search(
                r"\s\d\d:\d\d:\d\d $", text_of(bars.header(frames(a_host(), 1), UTF8, width, NOW))
            )
        told = text_of(bars.header(frames(a_host(), 1, NOBODY), UTF8, 80, NOW))
        assert "read-only" in told
        steers = Permissions(steer=True, switch=False)
        assert "no switching" in text_of(bars.header(frames(a_host(), 1, steers), UTF8, 80, NOW))
        assert "read" not in text_of(bars.header(frames(a_host(), 1), UTF8, 80, NOW))

    def test_whoever_may_not_look_is_not_told_that_all_is_well(self) -> None:
        blind = {"error": "reading the packet filter needs root"}
        status = a_host(firewall=blind, services=[])
        status = {**status, "warnings": [], "level": "ok"}
        told = text_of(bars.header(next_frame(None, status, NOBODY), UTF8, 80, NOW))
        assert "all is well, as far as this user may look" in told

    def test_the_countdown_goes_on_between_two_frames(self) -> None:
        pending = {"change": "c8", "generation": 8, "phase": "unconfirmed", "left_s": 42.0}
        frame = next_frame(None, a_host(generation={"pending": pending}), ROOT)
        told = [text_of(bars.banner(frame, UTF8, 100, NOW + after_s)[0]) for after_s in (0, 2)]
        assert told[0] == "! generation 8 is undone in 42 s: c keeps it, r undoes it now"
        assert "in 40 s" in told[1]

    def test_old_figures_are_called_old(self) -> None:
        frame = frames(a_host(), 1)
        assert not bars.banner(frame, UTF8, 80, frame.status["at"] + 1)
        assert "10 s old" in text_of(bars.banner(frame, UTF8, 80, frame.status["at"] + 10)[0])

    def test_before_the_first_frame_it_says_that_it_asks(self) -> None:
        assert "asking" in text_of(bars.header(None, UTF8, 80, NOW))


def test_a_look_is_one_that_there_is() -> None:
    from tsstack.tui.cells import LOOKS

    looks = {look for line in everything(frames(a_host(), 5), UTF8, 100) for _, look in line}
    assert looks <= {"", *LOOKS}
    assert text_of(say("x")) == "x"
