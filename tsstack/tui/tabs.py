"""The tabs: which views they show where, and which keys do something there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.binding import Binding, BindingType
from textual.containers import Vertical

from tsstack.status.figures import WINDOW_S
from tsstack.status.words import span
from tsstack.tui.cells import Line, Signs
from tsstack.tui.grid import Grid
from tsstack.tui.painted import Panel
from tsstack.tui.views import bars, events, exits, firewall, generations, links, overview, services
from tsstack.tui.views.bars import Key

if TYPE_CHECKING:
    from textual.widget import Widget

    from tsstack.tui.app import Dashboard
    from tsstack.tui.frame import Frame

_INSET = 4
"""Columns that a box and its padding take."""
_BARS, _BORDER, _LEAST_GRID = 3, 2, 5
"""Lines of the header, the tabs and the keys; of a box's border; of a grid with its border and two rows."""


class Tab(Vertical):
    """One tab: a grid, with panels around it."""

    name_: ClassVar[str]
    title: ClassVar[str]
    keys: ClassVar[tuple[Key, ...]] = ()
    """For the footer, before those that every tab has."""

    def __init__(self, signs: Signs) -> None:
        super().__init__(id=f"tab-{self.name_.replace(' ', '-')}")
        self.signs = signs
        self.grid = Grid(end=signs.end)
        self.grid.add_class("box")
        self.details = Panel(classes="box")

    def compose(self) -> Iterator[Widget]:
        """The grid, and below it more of the row that the cursor is on."""
        self.grid.border_title = self.title
        yield self.grid
        yield self.details

    def on_grid_moved(self) -> None:
        """The details are those of the row under the cursor."""
        self.board.call_later(self.board.redraw)

    @property
    def board(self) -> Dashboard:
        """The dashboard that this is a tab of."""
        return cast("Dashboard", self.app)

    @property
    def room(self) -> int:
        """Columns for a line in a box."""
        return max(20, self.app.size.width - _INSET)

    def draw(self, frame: Frame) -> None:
        """Show this frame."""
        raise NotImplementedError

    @property
    def details_room(self) -> int:
        """Lines for the details: a third of the screen, or what the grid's rows leave."""
        height = self.app.size.height
        left = height - _BARS - len(self.board.banner.lines) - 2 * _BORDER - 1 - self.grid.count
        return max(0, min(height - 12, max(9, height // 3, left)))

    def show_details(self, lines: Sequence[Line]) -> None:
        """Below the grid; nothing where there is nothing, or no room for it."""
        most = self.details_room
        self.details.set_class(not lines or most < 3, "-none")
        self.details.show(_at_most(lines, most))


class Overview(Tab):
    """This host in a few lines, what should be looked at, its peers."""

    name_ = "overview"
    title = "peers"
    keys = (Key("w", "what is wrong", "app.on_tab('remarks')"),)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("w", "remarks", "what is wrong")]

    def __init__(self, signs: Signs) -> None:
        super().__init__(signs)
        self.summary = Panel(classes="box", id="summary")
        self.remarks = Panel(classes="box -none", id="remarks")

    def compose(self) -> Iterator[Widget]:
        """The host, the remarks, the peers."""
        self.summary.border_title = "this host"
        self.remarks.border_title = "to be looked at"
        self.grid.border_title = self.title
        yield self.summary
        yield self.remarks
        yield self.grid

    def draw(self, frame: Frame) -> None:
        """Show this frame."""
        room = self.app.size.height - _BARS - len(self.board.banner.lines) - 2 * _BORDER - _LEAST_GRID
        summary, said = overview.host_and_remarks(frame, self.signs, self.room, room)
        self.summary.show(summary)
        self.remarks.set_class(not said, "-none")
        self.remarks.show(said)
        self.grid.show(overview.peers(frame, self.signs))
        known = frame.status["peers"]
        online = sum(peer["online"] for peer in known)
        old = frame.as_of("tailscaled")
        _title(self.grid, f"peers{old}: {online} of {len(known)} online" if known else "peers")

    def action_remarks(self) -> None:
        """All that should be looked at, over the whole screen."""
        self.board.show_remarks()


class Links(Tab):
    """Every path that is watched."""

    name_ = "links"
    title = "links"
    keys = (Key("w", "window", "app.on_tab('window')"),)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("w", "window", "window")]

    def __init__(self, signs: Signs) -> None:
        super().__init__(signs)
        self.window = 1

    def action_window(self) -> None:
        """The figures of the next window."""
        self.window = (self.window + 1) % 3
        self.board.redraw()

    def draw(self, frame: Frame) -> None:
        """Show this frame."""
        self.grid.show(links.links(frame, self.signs, self.window))
        of = links.window_name(frame, self.window)
        _title(self.grid, f"links, figures of the last {of}{frame.as_of('monitor')}" if of else "links")
        room = self.details_room
        self.show_details(links.link_details(frame, self.signs, self.grid.key, self.room, room))


class Exits(Tab):
    """The ways out."""

    name_ = "exit nodes"
    title = "exit nodes"
    keys = (
        Key("enter", "use", "app.on_tab('use')"),
        Key("d", "direct", "app.on_tab('direct')"),
        Key("a", "auto", "app.on_tab('automatic')"),
        Key("m", "hold", "app.on_tab('maintenance')"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "use", "use"),
        Binding("d", "direct", "direct"),
        Binding("a", "automatic", "automatic"),
        Binding("m", "maintenance", "maintenance"),
    ]

    def draw(self, frame: Frame) -> None:
        """Show this frame."""
        self.grid.show(exits.exits(frame, self.signs))
        measured = frame.status["monitor"]["state"] is not None
        of = f", figures of the last {span(WINDOW_S)}{frame.as_of('monitor')}" if measured else ""
        _title(self.grid, f"exit nodes{of}")
        self.show_details(exits.exit_details(frame, self.signs, self.room, self.grid.key))

    def on_grid_chosen(self) -> None:
        """Enter uses it."""
        self.action_use()

    def action_use(self) -> None:
        """Use the exit node under the cursor, asked once."""
        if self.grid.key:
            self.board.ask_exit(self.grid.key)

    def action_direct(self) -> None:
        """Use the bare uplink, asked once."""
        self.board.ask_exit(exits.DIRECT)

    def action_automatic(self) -> None:
        """Let the monitor choose."""
        self.board.choose_again()

    def action_maintenance(self) -> None:
        """Hold the monitor, or let it work again."""
        self.board.hold()


class Services(Tab):
    """What the proxy serves."""

    name_ = "services"
    title = "services"

    def draw(self, frame: Frame) -> None:
        """Show this frame."""
        self.grid.show(services.services(frame, self.signs))
        _title(self.grid, f"services, levels{frame.as_of('monitor')}" if frame.remembered else self.title)
        self.show_details(services.service_details(frame, self.signs, self.grid.key))


class Firewall(Tab):
    """Zones, and what is dropped."""

    name_ = "firewall"
    title = "zones"

    def __init__(self, signs: Signs) -> None:
        super().__init__(signs)
        self.drops = Panel(classes="box")

    def compose(self) -> Iterator[Widget]:
        """What is dropped, the zones, more of one of them."""
        self.drops.border_title = "dropped before any zone, and what the kernel logged in 15 min"
        self.grid.border_title = self.title
        yield self.drops
        yield self.grid
        yield self.details

    def draw(self, frame: Frame) -> None:
        """Show this frame."""
        self.grid.show(firewall.zones(frame, self.signs))
        # The zones keep a few rows at any height, then what is dropped has the room, then one zone's ports.
        grid = _BORDER + 1 + min(max(self.grid.count, 2), 3)
        room = self.app.size.height - _BARS - len(self.board.banner.lines) - grid
        lines = firewall.drops(frame, self.signs, self.room)
        most = min(10, max(1, room - _BORDER - len(lines) - _LEAST_GRID))
        lines += firewall.logged(frame, self.signs, self.room, most)
        hidden = len(lines) - max(1, room - _BORDER)
        self.drops.show(lines[:-hidden] if hidden > 0 else lines)
        self.drops.border_subtitle = f"{hidden} more: make the window higher" if hidden > 0 else ""
        lines = firewall.zone_details(frame, self.signs, self.grid.key, self.room)
        left = room - len(self.drops.lines) - 2 * _BORDER
        self.show_details(_at_most(lines, left) if left > 0 else ())


class Events(Tab):
    """What happened, with its reasons."""

    name_ = "events"
    title = "events"
    keys = (Key("f", "filter", "app.on_tab('filter')"),)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("f", "filter", "filter")]

    def __init__(self, signs: Signs) -> None:
        super().__init__(signs)
        self.least = "info"
        self.shown: list[Mapping[str, Any]] = []

    def action_filter(self) -> None:
        """All of them, warnings and worse, critical ones."""
        at = events.SEVERITIES.index(self.least)
        self.least = events.SEVERITIES[(at + 1) % len(events.SEVERITIES)]
        self.board.redraw()

    def draw(self, frame: Frame) -> None:
        """Show this frame's time and the feed's events."""
        feed = self.board.feed
        self.shown = events.at_least(feed.events, self.least)
        why = feed.events_from
        table = events.events(
            self.shown,
            self.signs,
            frame.status["at"],
            stale=bool(why),
            empty=why or "nothing has happened yet",
        )
        self.grid.show(table)
        of = {"info": "", "warning": ", warnings and worse", "critical": ", critical"}[self.least]
        _title(self.grid, f"events{of}{': of the history, no monitor tells' if why and self.shown else ''}")
        event = self.shown[self.grid.row] if self.grid.row < len(self.shown) else None
        self.show_details(events.event_details(event, self.signs, self.room))


class Generations(Tab):
    """What this host was told to be."""

    name_ = "generations"
    title = "generations"
    keys = (
        Key("d", "diff", "app.on_tab('difference')"),
        Key("r", "roll back", "app.on_tab('roll_back')"),
        Key("c", "confirm", "app.confirm"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "difference", "differences"),
        Binding("r", "roll_back", "roll back"),
    ]

    def draw(self, frame: Frame) -> None:
        """Show this frame."""
        self.grid.show(generations.generations(frame, self.signs))
        self.show_details(generations.generation_details(frame, self.signs, self.grid.key))

    def on_grid_chosen(self) -> None:
        """Enter shows the differences."""
        self.action_difference()

    def action_difference(self) -> None:
        """How it differs from the live one, or the live one from the one before it."""
        if self.grid.key:
            self.board.show_difference(int(self.grid.key))

    def action_roll_back(self) -> None:
        """Go to it, asked once."""
        if self.grid.key:
            self.board.ask_rollback(int(self.grid.key))


ALL: dict[str, type[Tab]] = {
    each.name_: each for each in (Overview, Links, Exits, Services, Firewall, Events, Generations)
}
if tuple(ALL) != bars.TABS:
    raise AssertionError("the bar names other tabs than there are")


def _at_most(lines: Sequence[Line], most: int) -> Sequence[Line]:
    if len(lines) <= most or most < 2:
        return lines[:most]
    return [*lines[: most - 1], ((f"and {len(lines) - most + 1} lines more", "dim"),)]


def _title(widget: Widget, text: str) -> None:
    """Our own words only: a border's title takes markup."""
    if widget.border_title != text:
        widget.border_title = text
