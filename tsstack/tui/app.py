"""`tsstack top`: the dashboard. It draws what the feed has; nothing here waits for anybody."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.filter import ANSIToTruecolor
from textual.message import Message
from textual.scrollbar import ScrollBar, ScrollBarRender

from tsstack.errors import TsstackError
from tsstack.tui import acts, dialogs, look
from tsstack.tui.cells import Line, Signs, say
from tsstack.tui.painted import Bar, Panel
from tsstack.tui.tabs import ALL, Overview, Tab
from tsstack.tui.views import bars
from tsstack.tui.views.bars import Key
from tsstack.tui.views.exits import DIRECT
from tsstack.tui.views.overview import remarks

if TYPE_CHECKING:
    from rich.style import Style
    from textual.filter import LineFilter
    from textual.widget import Widget

    from tsstack.status.shape import Pending
    from tsstack.tui.feed import Feed
    from tsstack.tui.frame import Frame

_EVERYWHERE = (
    Key("t", "theme", "app.theme_next"),
    Key("p", "pause", "app.pause"),
    Key("?", "help", "app.help"),
    Key("q", "quit", "app.quit"),
)


class _PlainScrollBar(ScrollBarRender):
    """A scroll bar of blanks, for terminals without UTF-8."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


class Dashboard(App[None]):
    """The whole screen: a header, the tabs, what is away, one tab, the keys."""

    CSS = look.CSS
    ENABLE_COMMAND_PALETTE = False
    TITLE = "tsstack top"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"tab('{name}')", name, show=False) for number, name in enumerate(ALL, 1)),
        Binding("tab,right", "tab_by(1)", "next tab", show=False, priority=True),
        Binding("shift+tab,left", "tab_by(-1)", "tab before", show=False, priority=True),
        Binding("c", "confirm", "confirm"),
        Binding("r", "undo", "undo", show=False),
        Binding("t", "theme_next", "theme"),
        Binding("p", "pause", "pause"),
        Binding("question_mark", "help", "help"),
        Binding("q,ctrl+c", "quit", "quit"),
    ]

    class News(Message):
        """The feed has something new."""

    def __init__(
        self,
        feed: Feed,
        signs: Signs,
        *,
        theme: str = look.THEMES[0],
        plain: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Colours of the terminal itself are the ones that Textual can leave out (NO_COLOR) altogether.
        super().__init__(ansi_color=True if plain else None)
        self.feed = feed
        self.signs = signs
        self.clock = clock
        self._drawn: Frame | None = None
        self._told = False
        self._paused = False
        self._plain = plain
        self._looks: tuple[str, Mapping[str, Style]] = ("", {})
        for each in look.OWN:
            self.register_theme(each)
        self.theme = look.PLAIN if plain else theme
        self.head, self.bar, self.foot = Panel(id="head"), Bar(id="tabs"), Bar(id="foot")
        self.banner = Panel(id="banner", classes="-none")
        self.overview = Overview(signs)

    @property
    def looks(self) -> Mapping[str, Style]:
        """The looks in the colours of the theme."""
        if self._looks[0] != self.theme:
            ansi = self.current_theme.ansi
            self._looks = (self.theme, look.styles(self.theme_variables, ansi=ansi, plain=self._plain))
        return self._looks[1]

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Without the one that turns the terminal's colours into others: the themes that use any keep them.

        It goes over every piece of text of every line, each time that one is drawn.
        """
        return [each for each in super().get_line_filters() if not isinstance(each, ANSIToTruecolor)]

    def compose(self) -> Iterator[Widget]:
        """What every screen has, and the overview; other tabs are made when they are opened."""
        yield self.head
        yield self.bar
        yield self.banner
        yield self.overview
        yield self.foot

    def on_mount(self) -> None:
        """Begin to listen to the feed."""
        self.screen.set_class(not self.signs.unicode, "-ascii")
        self.screen.set_class(self._plain, "-plain")
        ScrollBar.renderer = ScrollBarRender if self.signs.unicode else _PlainScrollBar
        self._open(self.overview)
        self.feed.on_news = self._tell
        self.set_interval(1.0, self._tick)
        # A thread that is not the main one gets no signals; a terminal that is gone needs no restoring.
        with suppress(RuntimeError, ValueError, NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminated)

    def _terminated(self) -> None:
        """End as a signal would have it, with the terminal as it was before."""
        self.feed.stop()
        self.exit(return_code=128 + signal.SIGTERM)

    def _tell(self) -> None:
        """In a thread of the feed's: one message until it is read, however much is new."""
        if not self._told:
            self._told = True
            self.post_message(self.News())

    def on_dashboard_news(self) -> None:
        """Draw what is new."""
        self._told = False
        drawn, latest = self._drawn, self.feed.latest
        if not self._paused:
            self._drawn = latest
        elif latest and latest.generations is not None and drawn and drawn.generations is None:
            # They are read when their tab is opened: it does not stay empty for that.
            self._drawn = replace(drawn, generations=latest.generations)
        if self._drawn is not drawn or not self._paused:
            self.redraw()

    def _tick(self) -> None:
        """The clock, ages and countdowns go on when nothing is new."""
        if self.overview.is_attached:  # not so for a moment at the end
            self._draw_bars()

    @property
    def open_tab(self) -> Tab:
        """The tab that is shown."""
        return self.query_one("Tab.-open", Tab)

    def redraw(self) -> None:
        """Draw the frame anew: another tab, another size, other choices."""
        if not self.overview.is_attached:
            return  # it ends: its widgets go before its timer and the last message do
        if self._drawn is None:
            self._drawn = self.feed.latest
        self._draw_bars()
        if self._drawn is not None:
            self.open_tab.draw(self._drawn)

    def _draw_bars(self) -> None:
        width, now = self.size.width, self.clock()
        frame = self._drawn
        self.head.show([bars.header(frame, self.signs, width, now)])
        lines = bars.banner(frame, self.signs, width - 2, now, self.feed.failed)
        if self._paused:
            lines.insert(0, say("paused: p goes on", "warning"))
        self.banner.set_class(not lines, "-none")
        taller = len(lines) != len(self.banner.lines)
        self.banner.show(lines)
        tab = self.open_tab
        if taller and frame is not None:
            tab.draw(frame)  # it has another height
        self.bar.show(bars.tabs(tab.name_, width))
        self.foot.show(bars.footer((*tab.keys, *_EVERYWHERE), width))

    def on_resize(self) -> None:
        """Everything has a new width."""
        self.call_after_refresh(self.redraw)

    async def action_tab(self, name: str) -> None:
        """Open a tab."""
        self._open(await self._tab(name))

    async def _tab(self, name: str) -> Tab:
        made = [tab for tab in self.query(Tab) if tab.name_ == name]
        if made:
            return made[0]
        tab = ALL[name](self.signs)
        await self.mount(tab, before=self.foot)
        return tab

    def _open(self, tab: Tab) -> None:
        for other in self.query(Tab):
            other.set_class(other is tab, "-open")
        if tab.name_ == "generations":
            self.feed.wants_generations.set()
        if tab.name_ == "firewall":
            self.feed.wants_drops.set()
        else:
            self.feed.wants_drops.clear()
        # At once, so that a key that follows quickly is not lost.
        self.screen.set_focus(tab.grid, scroll_visible=False)
        self.redraw()

    async def action_tab_by(self, step: int) -> None:
        """Open the next tab, or the one before."""
        names = list(ALL)
        await self.action_tab(names[(names.index(self.open_tab.name_) + step) % len(names)])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a dialog is open, its keys alone work."""
        return action in {"quit", "theme_next"} or not isinstance(self.screen, dialogs.Dialog)

    async def action_on_tab(self, action: str) -> None:
        """What a key of the bottom line does when it is clicked."""
        await self.open_tab.run_action(action)

    def action_theme_next(self) -> None:
        """Other colours."""
        if self._plain:
            self.say_so("NO_COLOR is set: there is one theme, without colour")
            return
        self.theme = look.theme_after(self.theme)
        self.say_so(f"theme: {self.theme}")

    def action_pause(self) -> None:
        """Hold the screen still, or let it go on."""
        self._paused = not self._paused
        if not self._paused:
            self._drawn = self.feed.latest
        self.redraw()

    def action_help(self) -> None:
        """All keys."""
        self.push_screen(self._dressed(dialogs.help_screen()))

    def say_so(self, text: str, severity: str = "information") -> None:
        """A short word in the corner."""
        self.notify(self.signs.words(text), severity=severity, markup=False, timeout=5)  # type: ignore[arg-type]

    def _dressed(self, dialog: dialogs.Dialog) -> dialogs.Dialog:
        dialog.set_class(not self.signs.unicode, "-ascii")
        dialog.set_class(self._plain, "-plain")
        return dialog

    def _may(self, what: str) -> bool:
        """Whether this user may; says so where not."""
        frame = self._drawn
        if frame is None or not getattr(frame.permissions, what):
            who = "root" if what == "switch" else "root or the monitor's user"
            self.say_so(f"read-only: that is for {who}; try sudo tsstack top", "warning")
            return False
        return True

    def _do(self, act: Callable[[], str]) -> None:
        """Do something in a thread, and say what came of it."""

        def work() -> None:
            try:
                said, severity = act(), "information"
            except TsstackError as error:
                said = f"{error.message} ({error.hint})" if error.hint else error.message
                severity = "error"
            except Exception as error:  # noqa: BLE001  a fault of ours; here it would end unheard
                said, severity = f"{type(error).__name__}: {error}", "error"
            self._from_thread(self.say_so, said, severity)

        _in_thread(work)

    def _from_thread(self, do: Callable[..., None], *arguments: Any) -> None:
        """Do it on the screen, if that is still there."""
        with suppress(RuntimeError):
            self.call_from_thread(do, *arguments)

    def _ask(self, dialog: dialogs.Dialog, then: Mapping[str, Callable[[], str]], doing: str = "") -> None:
        def answered(word: str | None) -> None:
            if word:
                if doing:
                    self.say_so(doing)
                self._do(then[word])

        self.push_screen(self._dressed(dialog), answered)

    def ask_exit(self, name: str) -> None:
        """Use an exit node, asked once."""
        if not self._may("steer"):
            return
        way = "the bare uplink" if name == DIRECT else self.signs.words(name)
        lines: list[Line] = [
            (("Send this host's traffic out by ", ""), (way, "accent"), ("?", "")),
            say("It stays so, good or bad, until `a` lets the monitor choose again.", "dim"),
        ]
        dialog = dialogs.question("exit node", lines, [("y", "use it", "use")])
        self._ask(dialog, {"use": lambda: acts.use_exit(self.feed.places.monitor, name)})

    def choose_again(self) -> None:
        """Let the monitor choose: it undoes a choice, so it is not asked."""
        if self._may("steer"):
            self._do(lambda: acts.choose_exit_again(self.feed.places.monitor))

    def hold(self) -> None:
        """Maintenance on, asked once; or off."""
        if not self._may("steer") or self._drawn is None:
            return
        monitor = self.feed.places.monitor
        if self._drawn.status["exit"]["maintenance"]:
            self._do(lambda: acts.set_maintenance(monitor, on=False))
            return
        lines = [
            say("Hold the monitor? It goes on watching and telling, and changes nothing,"),
            say("whatever happens, until `m` ends that."),
        ]
        dialog = dialogs.question("maintenance", lines, [("y", "hold it", "on")])
        self._ask(dialog, {"on": lambda: acts.set_maintenance(monitor, on=True)})

    def _pending(self) -> Pending | None:
        """The switch that is not over: as it is now, not as a screen that is held still shows it."""
        return self.feed.latest.status["generation"]["pending"] if self.feed.latest else None

    def action_confirm(self) -> None:
        """Keep the switch that waits for its confirmation."""
        pending = self._pending()
        if pending is None:
            self.say_so("no switch waits for its confirmation")
        elif pending["phase"] == "activating":
            self.say_so(f"the switch to generation {pending['generation']} is at work, or was cut off")
        elif self._may("switch") and not self._is_unreadable(pending):
            number, change = pending["generation"], pending["change"]
            lines: list[Line] = [
                say(f"Keep generation {number}?"),
                say("Could you open a new session to this host? That is what this confirms.", "dim"),
            ]
            dialog = dialogs.question("confirm", lines, [("y", "keep it", "keep")])
            self._ask(dialog, {"keep": lambda: acts.confirm_switch(change)})

    def _is_unreadable(self, pending: Pending) -> bool:
        """Whether nothing is known of it; says so where it is."""
        unreadable = pending["phase"] in {"unknown", "damaged"}
        if unreadable:
            self.say_so("a switch is not over, and its record cannot be read: tsstack recover", "warning")
        return unreadable

    def action_undo(self) -> None:
        """Undo the switch that waits for its confirmation."""
        pending = self._pending()
        if pending is None:
            self.say_so("no switch waits for its confirmation; to roll back go to the generations: 7")
        else:
            self.ask_rollback(pending["generation"])

    def ask_rollback(self, number: int) -> None:
        """Go to a generation, or undo the switch that waits, asked once."""
        latest = self.feed.latest
        if not self._may("switch") or latest is None:
            return
        pending = self._pending()
        if pending is not None:
            if self._is_unreadable(pending):
                return
            asked = pending["change"]
            lines = [say(f"Undo the switch to generation {pending['generation']} now?")]
            dialog = dialogs.question("roll back", lines, [("y", "undo it", "undo")])
            self._ask(dialog, {"undo": lambda: acts.undo_switch(asked)}, "rolling back ...")
            return
        if number == latest.status["generation"]["current"]:
            self.say_so(f"generation {number} is live already")
            return
        what = "the host without tsstack" if number == 0 else f"generation {number}"
        lines = [
            say(f"Make this host {what} again?" if number == 0 else f"Go to {what}?"),
            say(f"y: undone by itself in {acts.CONFIRM_S} s unless `c` keeps it.", "dim"),
            say("w: at once and for good.", "dim"),
        ]
        answers = [("y", f"go, {acts.CONFIRM_S} s to confirm", "try"), ("w", "go for good", "go")]
        self._ask(
            dialogs.question("roll back", lines, answers),
            {
                "try": lambda: acts.roll_back(number, confirm=True),
                "go": lambda: acts.roll_back(number, confirm=False),
            },
            "rolling back ...",
        )

    def show_difference(self, number: int) -> None:
        """How a generation differs from the live one; the live one from the one before it."""
        if self._drawn is None:
            return
        live = self._drawn.status["generation"]["current"]
        base, title = live, f"from the live {live} to {number}"
        if number == live:
            older = [each.number for each in self._drawn.generations or () if each.number < live]
            base = max(older, default=live)
            title = f"from {base} to the live {live}" if older else f"{live} is the oldest that is kept"

        def work() -> None:
            from tsstack.tui.views.generations import difference

            try:
                old, new = acts.read_trees(self.feed.places.state, base, number)
            except TsstackError as error:
                self._from_thread(self.say_so, error.message, "error")
                return
            lines = difference(old, new, self.signs)
            self._from_thread(self._show_text, title, lines)

        _in_thread(work)

    def show_remarks(self) -> None:
        """All that should be looked at."""
        if self._drawn is not None:
            status, width = self._drawn.status, self.size.width - dialogs.Difference.INSET
            lines = remarks(status, self.signs, width) or [say("All is well.", "dim")]
            self.push_screen(self._dressed(dialogs.Difference("to be looked at", lines)))

    def _show_text(self, title: str, lines: list[Line]) -> None:
        shown = lines or [say("They are the same.", "dim")]
        self.push_screen(self._dressed(dialogs.Difference(title, shown)))

    async def action_quit(self) -> None:
        """The end."""
        self.feed.stop()
        self.exit()


def _in_thread(work: Callable[[], None]) -> None:
    """Nobody waits for it at the end: what it has started elsewhere lives on."""
    threading.Thread(target=work, daemon=True).start()
