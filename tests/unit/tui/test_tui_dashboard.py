"""The dashboard on a terminal of its own: every key, the mouse, what it does and asks, what it survives."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tui_bed import (
    EVENTS,
    GENERATIONS,
    NOBODY,
    NOW,
    ROOT,
    StillFeed,
    a_host,
    dashboard,
    event,
    frames,
    moved_on,
)

from tsstack.errors import CheckFailed
from tsstack.tui import acts, look
from tsstack.tui.app import Dashboard
from tsstack.tui.dialogs import Dialog
from tsstack.tui.frame import next_frame
from tsstack.tui.grid import Grid
from tsstack.tui.tabs import Tab

SIZE = (100, 30)


def screen_text(app: Dashboard) -> str:
    """All that is on the screen."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def drive(test: Any, app: Dashboard, size: tuple[int, int] = SIZE) -> None:
    """Run `test(app, pilot)` with the dashboard running."""

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await pilot.pause()
            await test(app, pilot)

    asyncio.run(run())


async def told(app: Dashboard, pilot: Any, words: str) -> None:
    """Wait until these words are on the screen: what they come from works in a thread."""
    end = time.monotonic() + 3
    while words not in screen_text(app):
        assert time.monotonic() < end, f"{words!r} is not on the screen:\n{screen_text(app)}"
        await pilot.pause(0.02)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("1", "kernelcore.tail.test"),
        ("2", "target:https:example"),
        ("3", "barred for 34 s more"),
        ("4", "https://ollama.kernelcore.tail.test/"),
        ("5", "firewall.zones.dmz.udp[0]"),
        ("6", "moved from exit-a to exit-b"),
        ("7", "without tsstack"),
    ],
)
def test_each_number_opens_its_tab(key: str, words: str) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press(key)
        await told(app, pilot, words)

    drive(test, dashboard(frames(a_host(), 5)))


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (120, 40)])
def test_what_is_dropped_takes_no_zone_from_the_screen(size: tuple[int, int]) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("5")
        assert app.feed.wants_drops.is_set()
        await told(app, pilot, "dmz  ")
        shown = screen_text(app)
        assert "internal" in shown
        assert "default drop" in shown
        if size[1] >= 24:
            assert "198.51.100.7" in shown
            assert "firewall.zones.dmz" in shown
        await pilot.press("1")
        assert not app.feed.wants_drops.is_set(), "the log is read for whoever looks at it"

    drive(test, dashboard(frames(a_host(), 5)), size)


def test_tab_goes_round_and_shift_tab_back() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        seen = []
        for _ in range(7):
            seen.append(app.open_tab.name_)
            await pilot.press("tab")
        assert len(set(seen)) == 7
        assert app.open_tab.name_ == "overview"
        await pilot.press("shift+tab")
        assert app.open_tab.name_ == "generations"

    drive(test, dashboard(frames(a_host(), 5)))


def test_a_click_on_a_tab_opens_it_and_one_on_a_row_goes_there() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        at = app.bar.text.index("2 links")
        await pilot.click("#tabs", offset=(at + 2, 0))
        await told(app, pilot, "links, figures of the last 60 s")
        grid = app.open_tab.grid
        await pilot.click(grid, offset=(10, 3))
        assert grid.key == "exit:exit-b"
        await told(app, pilot, "12 % lost in 60 s")

    drive(test, dashboard(frames(a_host(), 5)))


def test_two_clicks_on_an_exit_node_ask_whether_to_use_it() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("3")
        await pilot.pause()
        await pilot.click(app.open_tab.grid, offset=(10, 3), times=2)
        await told(app, pilot, "out by exit-b?")
        await pilot.click(app.screen.query_one("Bar"), offset=(12, 0))  # escape leave it
        await pilot.pause()
        assert not isinstance(app.screen, Dialog)

    drive(test, dashboard(frames(a_host(), 1)))


def test_a_click_on_a_key_of_the_bottom_line_does_what_the_key_does() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("2")
        await pilot.pause()
        await pilot.click("#foot", offset=(app.foot.text.index("w window"), 0))
        await told(app, pilot, "figures of the last 15 min")
        await pilot.click("#foot", offset=(app.foot.text.index("? help"), 0))
        await told(app, pilot, "shift+tab")

    drive(test, dashboard(frames(a_host(), 5)))


def test_the_cursor_moves_by_every_key_and_stays_in_sight() -> None:
    status = a_host()
    status["peers"] = [
        {**status["peers"][0], "name": f"peer-{n}", "address": f"10.0.{n // 250}.{n % 250}"}
        for n in range(1000)
    ]

    async def test(app: Dashboard, pilot: Any) -> None:
        grid = app.open_tab.grid

        async def press(*keys: str) -> int:
            await pilot.press(*keys)
            await pilot.pause()
            assert any(f"peer-{grid.row} " in line for line in grid.texts()), "the cursor is out of sight"
            return grid.row

        assert await press("down", "j") == 2
        assert await press("up", "k") == 0
        assert await press("end") == 999
        assert await press("home") == 0
        assert await press("G") == 999
        assert await press("g") == 0
        page = await press("pagedown")
        assert page > 3
        assert await press("pageup") == 0
        assert await press("ctrl+d", "ctrl+u") == 0

    drive(test, dashboard(frames(status, 1)))


def test_the_cursor_stays_on_its_peer_when_others_come_and_go() -> None:
    status = a_host()
    feed = StillFeed(frames(status, 1))

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("down")
        assert app.open_tab.grid.key.endswith("phone")
        more = a_host()
        more["peers"].insert(0, {**more["peers"][0], "name": "aaa", "address": "100.64.0.77"})
        feed.give(next_frame(feed.latest, {**more, "at": NOW + 9}, ROOT))
        await told(app, pilot, "aaa")
        assert app.open_tab.grid.key.endswith("phone")
        assert app.open_tab.grid.row == 2

    drive(test, dashboard(feed.latest, feed=feed))


def test_w_changes_the_window_and_f_the_filter() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("2", "w")
        await told(app, pilot, "figures of the last 15 min")
        await pilot.press("w")
        await told(app, pilot, "figures of the last 10 s")
        await pilot.press("6", "f")
        await told(app, pilot, "events, warnings and worse")
        assert "watching 8 paths" not in screen_text(app)
        await pilot.press("f")
        await told(app, pilot, "events, critical")
        await pilot.press("f")
        await told(app, pilot, "watching 8 paths")

    drive(test, dashboard(frames(a_host(), 5)))


def test_t_goes_through_the_themes_and_without_colour_says_why_not() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        seen = []
        for _ in look.THEMES:
            seen.append(app.theme)
            await pilot.press("t")
        assert tuple(seen) == look.THEMES
        assert app.theme == look.THEMES[0]

    async def plain(app: Dashboard, pilot: Any) -> None:
        await pilot.press("t")
        await told(app, pilot, "NO_COLOR is set")
        assert app.theme == look.PLAIN

    drive(test, dashboard(frames(a_host(), 1)))
    drive(plain, dashboard(frames(a_host(), 1), plain=True))


def test_help_on_a_low_terminal_scrolls_and_shows_how_to_leave() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("question_mark")
        await told(app, pilot, "escape close")
        await pilot.press("end")
        await told(app, pilot, "What was said last by")

    drive(test, dashboard(frames(a_host(), 1)), (60, 16))


def test_help_on_a_small_terminal_is_whole() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("question_mark")
        await told(app, pilot, "escape close")
        seen = screen_text(app)
        for _ in range(40):
            await pilot.press("down")
            seen += screen_text(app)
        words = " ".join(re.sub(r"[^a-z, ]", " ", seen).split())
        for wanted in ("as anywhere", "differences of the generation", "takes all colour", "is shown dim"):
            assert wanted in words

    drive(test, dashboard(frames(a_host(), 1)), (40, 15))


def test_help_is_on_the_question_mark_and_escape_closes_it() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("question_mark")
        await told(app, pilot, "keep the switch that waits for its confirmation")
        await pilot.press("2")  # its own keys alone work
        assert isinstance(app.screen, Dialog)
        await pilot.press("escape")
        assert app.open_tab.name_ == "overview"

    drive(test, dashboard(frames(a_host(), 1)))


def test_a_grid_says_which_of_its_rows_are_in_sight() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("2")
        await told(app, pilot, "1 to 7 of 8")
        await pilot.press("end")
        await told(app, pilot, "2 to 8 of 8")
        await pilot.resize_terminal(80, 40)
        await pilot.pause()
        assert "of 8 " not in screen_text(app)

    drive(test, dashboard(frames(a_host(), 5)), (80, 24))


def test_a_word_in_the_corner_is_ascii_where_all_is() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("t", "c")
        await told(app, pilot, "no switch waits")
        assert screen_text(app).isascii(), [
            line for line in screen_text(app).splitlines() if not line.isascii()
        ]

    drive(test, dashboard(frames(a_host(), 5), unicode=False))


def many_remarks(count: int = 9) -> Any:
    status = a_host()
    status["warnings"] = [
        {"code": f"TS70{at}", "level": "critical" if at < 3 else "warning", "about": "tailnet",
         "message": f"finding {at}", "hint": f"mend {at}"}
        for at in range(count)
    ]  # fmt: skip
    return next_frame(frames(a_host(), 3), {**status, "level": "critical", "at": NOW + 4}, ROOT)


def test_what_is_wrong_has_the_room_first_and_w_shows_all_of_it() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        text = screen_text(app)
        shown = [at for at in range(12) if f"finding {at}" in text]
        assert shown == list(range(7)), "what is well has room that what is wrong needs"
        assert "and 5 more: w shows all" in text
        assert "exit-a" in text  # one peer at least, and the way out
        assert "w what is wrong" in text
        await pilot.press("w")
        await told(app, pilot, "mend 0")
        await pilot.press("end")
        await told(app, pilot, "mend 11")
        await pilot.press("escape")
        await told(app, pilot, "this host")

    drive(test, dashboard(many_remarks(12)), (80, 24))


def test_where_there_is_room_every_remark_has_its_hint() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        text = screen_text(app)
        assert all(f"finding {at}" in text and f"mend {at}" in text for at in range(9))

    drive(test, dashboard(many_remarks()), (120, 40))


def test_p_holds_the_screen_still() -> None:
    feed = StillFeed(frames(a_host(), 1))

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("p")
        feed.give(next_frame(feed.latest, a_host(exit={"using": "exit-b"}), ROOT))
        await told(app, pilot, "paused")
        assert "not exit-a" not in screen_text(app)
        await pilot.press("p")
        await told(app, pilot, "exit-b (not exit-a)")

    drive(test, dashboard(feed.latest, feed=feed))


def test_generations_that_were_never_looked_at_come_though_the_screen_is_held() -> None:
    feed = StillFeed(next_frame(None, a_host(), ROOT))

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("p", "7")
        await told(app, pilot, "not read yet")
        assert feed.wants_generations.is_set()
        feed.give(next_frame(feed.latest, a_host(exit={"using": "exit-b"}), ROOT, GENERATIONS))
        await told(app, pilot, "port tcp/443 is open to dmz")
        await pilot.press("1")
        assert "not exit-a" not in screen_text(app)

    drive(test, dashboard(feed.latest, feed=feed))


@pytest.mark.parametrize("keys", [["q"], ["ctrl+c"], ["question_mark", "ctrl+c"]], ids="+".join)
def test_the_end(keys: list[str]) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press(*keys)
        await pilot.pause()
        assert not app.is_running or app._exit

    drive(test, dashboard(frames(a_host(), 1)))


class Done(list[Any]):
    """What was asked of the monitor or the host."""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """Notes each act instead of doing it, and says so."""
    noted = Done()

    def note(name: str) -> Any:
        def act(*arguments: Any, **more: Any) -> str:
            assert threading.current_thread() is not threading.main_thread(), "the screen would wait for it"
            noted.append((name, *[each for each in arguments if not isinstance(each, Path)], *more.values()))
            return f"{name} is done"

        return act

    for name in (
        "use_exit",
        "choose_exit_again",
        "set_maintenance",
        "roll_back",
        "confirm_switch",
        "undo_switch",
    ):
        monkeypatch.setattr(acts, name, note(name))
    return noted


@pytest.mark.parametrize(
    ("keys", "asked", "answer", "expected"),
    [
        (["3", "down", "enter"], "out by exit-b?", "y", ("use_exit", "exit-b")),
        (["3", "u"], "out by exit-a?", "y", ("use_exit", "exit-a")),
        (["3", "d"], "out by the bare uplink?", "y", ("use_exit", "direct")),
        (["3", "a"], "", "", ("choose_exit_again",)),
        (["3", "m"], "Hold the monitor?", "y", ("set_maintenance", True)),
        (["7", "down", "r"], "Go to generation 6?", "y", ("roll_back", 6, True)),
        (["7", "down", "r"], "Go to generation 6?", "w", ("roll_back", 6, False)),
        (["7", "end", "r"], "the host without tsstack again?", "y", ("roll_back", 0, True)),
    ],
)
def test_what_changes_something_is_asked_once_and_done(
    done: Done, keys: list[str], asked: str, answer: str, expected: Any
) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press(*keys)
        if asked:
            await told(app, pilot, asked)
            assert not done
            await pilot.press(answer)
        await told(app, pilot, "is done")
        assert done == [expected]

    drive(test, dashboard(frames(a_host(), 1)))


@pytest.mark.parametrize("leave", ["escape", "n"])
def test_a_question_that_is_left_does_nothing(done: Done, leave: str) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("3", "u")
        await told(app, pilot, "out by")
        await pilot.press(leave)
        await pilot.pause()
        assert not isinstance(app.screen, Dialog)
        assert not done

    drive(test, dashboard(frames(a_host(), 1)))


@pytest.mark.parametrize("keys", [["3", "u"], ["3", "d"], ["3", "a"], ["3", "m"], ["7", "down", "r"]])
def test_without_permission_it_reads_and_says_so(done: Done, keys: list[str]) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        assert "read-only" in screen_text(app)
        await pilot.press(*keys)
        await told(app, pilot, "that is for root")
        assert not isinstance(app.screen, Dialog)
        assert not done

    drive(test, dashboard(frames(a_host(), 1, NOBODY)))


def test_a_switch_that_waits_is_on_every_tab_and_can_be_kept_or_undone(done: Done) -> None:
    pending = {"change": "c7", "generation": 7, "phase": "unconfirmed", "left_s": 42.0}
    frame = next_frame(None, a_host(generation={"pending": pending}), ROOT, GENERATIONS)

    async def test(app: Dashboard, pilot: Any) -> None:
        for key in "1234567":
            await pilot.press(key)
            await told(app, pilot, "generation 7 is undone in 42 s")
        await pilot.press("c")
        await told(app, pilot, "Keep generation 7?")
        await pilot.press("y")
        await told(app, pilot, "confirm_switch is done")
        await pilot.press("r")
        await told(app, pilot, "Undo the switch to generation 7 now?")
        await pilot.press("y")
        await told(app, pilot, "undo_switch is done")
        assert done == [("confirm_switch", "c7"), ("undo_switch", "c7")]

    drive(test, dashboard(frame))


def waiting(**more: Any) -> Any:
    pending = {"change": "c7", "generation": 7, "phase": "unconfirmed", "left_s": 42.0, **more}
    return next_frame(None, a_host(generation={"pending": pending}), ROOT, GENERATIONS)


def test_a_screen_that_is_held_still_asks_about_no_switch_that_is_over(done: Done) -> None:
    feed = StillFeed(waiting())

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("p")
        feed.give(next_frame(feed.latest, a_host(), ROOT, GENERATIONS))
        for key in "rc":
            await pilot.press(key)
            await pilot.pause()
            assert not isinstance(app.screen, Dialog)
        await told(app, pilot, "back go to the generations")
        assert not done

    drive(test, dashboard(feed.latest, feed=feed))


def test_another_switch_than_the_one_asked_about_is_not_kept(done: Done) -> None:
    feed = StillFeed(waiting())

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("c")
        await told(app, pilot, "Keep generation 7?")
        feed.give(waiting(generation=8))
        await pilot.press("y")
        await told(app, pilot, "confirm_switch is done")
        assert done == [("confirm_switch", "c7")]  # which refuses to keep another: test_switch_transaction

    drive(test, dashboard(feed.latest, feed=feed))


@pytest.mark.parametrize(
    ("more", "key", "words"),
    [
        ({"phase": "activating", "left_s": None}, "c", "is at work, or was cut off"),
        ({"phase": "unknown", "generation": 0, "left_s": None}, "c", "record cannot be"),
        ({"phase": "unknown", "generation": 0, "left_s": None}, "r", "record cannot be"),
    ],
)
def test_what_could_only_be_refused_is_not_asked(
    done: Done, more: dict[str, Any], key: str, words: str
) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press(key)
        await told(app, pilot, words)
        assert not isinstance(app.screen, Dialog)
        assert not done

    drive(test, dashboard(waiting(**more)))


def test_c_without_a_switch_that_waits_says_so() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("c")
        await told(app, pilot, "no switch waits")

    drive(test, dashboard(frames(a_host(), 1)))


def test_a_refusal_is_told_with_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> str:
        raise CheckFailed("exit-b offers no [exit]", hint="approve it")

    monkeypatch.setattr(acts, "use_exit", refuse)

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("3", "u")
        await told(app, pilot, "out by")
        await pilot.press("y")
        await told(app, pilot, "exit-b offers no [exit] (approve it)")

    drive(test, dashboard(frames(a_host(), 1)))


def test_the_screen_goes_on_while_something_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def slow(*_: Any, **__: Any) -> str:
        assert let_go.wait(10)
        return "at last"

    monkeypatch.setattr(acts, "roll_back", slow)

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("7", "down", "r")
        await told(app, pilot, "Go to generation 6?")
        await pilot.press("y")
        await told(app, pilot, "rolling back")
        await pilot.press("2")
        await told(app, pilot, "target:icmp:1.1.1.1")
        let_go.set()
        await told(app, pilot, "at last")

    drive(test, dashboard(frames(a_host(), 1)))


def test_differences_are_shown_in_full_and_scroll(tmp_path: Path) -> None:
    for number, port in ((7, "443"), (6, "80")):
        folder = tmp_path / "generations" / str(number) / "nginx"
        folder.mkdir(parents=True)
        (folder / "a.conf").write_text(
            "".join(f"line {n}\n" for n in range(60)) + f"listen {port}; # [red]\n"
        )
        (folder.parent / "manifest.json").write_text("{}")
    feed = StillFeed(frames(a_host(), 1), tmp_path)

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("7", "down", "enter")
        await told(app, pilot, "-listen 443; # [red]")
        await told(app, pilot, "+listen 80; # [red]")
        await pilot.press("escape")
        await told(app, pilot, "without tsstack")
        await pilot.press("up", "d")
        await told(app, pilot, "from 6 to the live 7")
        await told(app, pilot, "+listen 443; # [red]")

    drive(test, dashboard(feed.latest, feed=feed))


def test_words_of_others_are_no_markup_anywhere() -> None:
    status = a_host()
    status["peers"][0]["name"] = "[red]x[/red]"
    status["host"] = "[bold]host[/]"
    feed = StillFeed(frames(status, 2))
    feed.events = (*EVENTS, event(NOW, "x", "warning", "[b]about[/b]", "[link=x]text[/link] \x1b[2J"))

    async def test(app: Dashboard, pilot: Any) -> None:
        await told(app, pilot, "[red]x[/red]")
        await told(app, pilot, "[bold]host[/]")
        await pilot.press("6")
        await told(app, pilot, "[b]about[/b]")
        await told(app, pilot, "[link=x]text[/link] ?[2J")

    drive(test, dashboard(feed.latest, feed=feed))


def test_new_frames_are_drawn_as_they_come_and_only_the_newest_counts() -> None:
    feed = StillFeed(frames(a_host(), 1))

    async def test(app: Dashboard, pilot: Any) -> None:
        def work() -> None:
            for second in range(2, 40):
                feed.give(next_frame(feed.latest, moved_on(a_host(), second), ROOT))

        await pilot.press("5")
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            await pilot.pause(0.01)
        thread.join()
        await told(app, pilot, "718")  # invalid: 640 and 2 a second

    drive(test, dashboard(feed.latest, feed=feed))


@pytest.mark.parametrize("size", [(80, 24), (60, 20), (40, 12), (30, 8), (200, 60)])
def test_every_tab_lives_on_a_terminal_of_any_size(size: tuple[int, int]) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        for key in "1234567":
            await pilot.press(key)
            await pilot.pause()
            grid = app.open_tab.grid
            if size[1] >= 20:
                assert grid.page_rows >= 2, f"{app.open_tab.name_} has no room for its rows"
                assert grid.key.split()[-1] in "\n".join(grid.texts()) or app.open_tab.name_ == "events"

    drive(test, dashboard(frames(a_host(), 5)), size)


@pytest.mark.parametrize("size", [(40, 12), (60, 16), (80, 20), (80, 24)])
def test_what_has_no_room_in_the_firewall_tab_is_not_gone_without_a_word(size: tuple[int, int]) -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("5")
        await told(app, pilot, "default drop")
        rows = [line.strip("│ ") for line in screen_text(app).splitlines()]
        logged = any(row.startswith("logged") and "198.51.100.7" in row for row in rows)
        assert logged != any("more: make the window higher" in row for row in rows)

    drive(test, dashboard(frames(a_host(), 5)), size)


def test_a_terminal_that_changes_its_size_is_drawn_anew() -> None:
    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("2")
        await pilot.resize_terminal(60, 20)
        await pilot.pause()
        assert max(map(len, screen_text(app).splitlines())) <= 60
        await pilot.resize_terminal(140, 40)
        await told(app, pilot, "jitter")

    drive(test, dashboard(frames(a_host(), 5)))


def test_before_the_first_frame_every_key_is_safe() -> None:
    feed = StillFeed(None)
    feed.events = ()

    async def test(app: Dashboard, pilot: Any) -> None:
        for key in "1234567":
            await pilot.press(key, "enter", "u", "a", "m", "d", "r", "c", "w", "f", "escape")
        await pilot.press("1")
        feed.give(frames(a_host(), 1))
        await told(app, pilot, "kernelcore")

    drive(test, dashboard(None, feed=feed))


def test_a_tick_and_the_last_news_find_no_tab_at_the_end() -> None:
    """The widgets go before the timers do: quitting in that moment ended with a traceback."""

    async def test(app: Dashboard, pilot: Any) -> None:
        await app.query(Tab).remove()
        app.redraw()
        await asyncio.sleep(1.2)  # a tick

    drive(test, dashboard(frames(a_host(), 5)))


def test_a_tab_without_a_row_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    status = a_host(services=[])
    status["services"] = []
    drawn: list[int] = []
    redraw = Dashboard.redraw
    monkeypatch.setattr(Dashboard, "redraw", lambda app: (drawn.append(1), redraw(app))[1])

    async def test(app: Dashboard, pilot: Any) -> None:
        await pilot.press("4")
        await told(app, pilot, "has no services")
        before = len(drawn)
        await pilot.pause(0.2)
        assert len(drawn) <= before + 1

    drive(test, dashboard(frames(status, 1)))


def test_only_lines_that_changed_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    status = a_host()
    status["peers"] = [
        {**status["peers"][0], "name": f"peer-{n}", "address": f"10.0.{n // 250}.{n % 250}"}
        for n in range(1000)
    ]
    feed = StillFeed(frames(status, 1))

    async def test(app: Dashboard, pilot: Any) -> None:
        drawn: list[tuple[int, int]] = []
        monkeypatch.setattr(Grid, "refresh_lines", lambda _, start, count=1: drawn.append((start, count)))
        peers = [dict(peer) for peer in status["peers"]]
        peers[1]["rtt_s"], peers[900]["rtt_s"] = 0.5, 0.5
        feed.give(next_frame(feed.latest, {**moved_on(status, 1), "peers": peers}, ROOT))
        await pilot.pause()
        assert drawn == [(2, 1)], "the second row alone has changed and is in sight"

    drive(test, dashboard(feed.latest, feed=feed))
