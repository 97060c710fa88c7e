"""A table that draws only the rows on the screen, and of those only the ones that have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from tsstack.tui.cells import Cells, Table, dimmed, heading, lay_out, row_line, say
from tsstack.tui.painted import Painted

if TYPE_CHECKING:
    from textual import events

_NOTHING = Table((), (), lambda _, __: ())


class Grid(Painted, can_focus=True):
    """Rows under a heading that stays, with a cursor that stays on its row wherever that goes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "page up", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "page down", show=False),
        Binding("home,g", "first", "first", show=False),
        Binding("end,G", "last", "last", show=False),
        Binding("enter", "choose", "choose", show=False),
    ]

    class Moved(Message):
        """The cursor is on another row, or what it is on has left."""

        def __init__(self, grid: Grid) -> None:
            super().__init__()
            self.grid = grid

        @property
        def control(self) -> Grid:
            """The grid."""
            return self.grid

    class Chosen(Moved):
        """Enter, or two clicks, on the cursor's row."""

    def __init__(self, *, id: str | None = None, end: str = "…") -> None:
        super().__init__(id=id)
        self._table = _NOTHING
        self._end = end
        self._widths: list[int] = []
        self._laid_for = -1
        self._cursor = 0
        self._drawn: dict[int, Cells] = {}
        """The cells of each row on the screen as it was drawn."""

    @property
    def row(self) -> int:
        """Where the cursor is."""
        return self._cursor

    @property
    def key(self) -> str:
        """What the cursor is on; empty when there is nothing."""
        keys = self._table.keys
        return keys[self._cursor] if self._cursor < len(keys) else ""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self._table.keys)

    @property
    def page_rows(self) -> int:
        """Rows that are on the screen."""
        return max(0, self.size.height - 1)

    def show(self, table: Table) -> None:
        """Show these rows instead. The cursor stays on its key, or at its place when that has left."""
        key, before = self.key, self._table
        self._table = table
        if table.columns != before.columns or self._laid_for != self._room:
            self._lay_out()
            self.refresh()
        if len(table.keys) != len(before.keys):
            self.virtual_size = Size(0, len(table.keys) + 1)
        if table.stale != before.stale or not table.keys:
            self.refresh()
        self._keep_cursor(key)
        self._refresh_changed()
        self._count_rows()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Other rows are in sight."""
        super().watch_scroll_y(old_value, new_value)
        self._count_rows()

    def _count_rows(self) -> None:
        """In the border: which rows are in sight, where that is not all of them."""
        rows = self._visible()
        text = f"{rows.start + 1} to {rows.stop} of {self.count}" if len(rows) < self.count else ""
        if self.border_subtitle != text:
            self.border_subtitle = text

    def _keep_cursor(self, key: str) -> None:
        keys = self._table.keys
        at = self._cursor
        if key != (keys[at] if at < len(keys) else ""):
            # A cursor that nobody has moved from the top stays there: news comes in above.
            at = 0 if at == 0 else keys.index(key) if key in keys else min(at, max(0, len(keys) - 1))
            self._go(at, follow=False)
            self.post_message(self.Moved(self))

    def _visible(self) -> range:
        start = self.scroll_offset.y
        return range(start, min(len(self._table.keys), start + self.page_rows))

    def _refresh_changed(self) -> None:
        visible = self._visible()
        drawn = {}
        for row in visible:
            cells = self._table.cells(row, self._widths)
            drawn[row] = cells
        changed = [row for row in {*drawn, *self._drawn} if drawn.get(row) != self._drawn.get(row)]
        self._drawn = drawn
        for start, count in _runs(sorted(changed)):
            self.refresh_lines(start + 1, count)

    @property
    def _room(self) -> int:
        """Columns for a row, without the scroll bar's."""
        return self.scrollable_content_region.width

    def _lay_out(self) -> None:
        self._laid_for = self._room
        self._widths = lay_out(self._table.columns, self._laid_for)
        self._drawn = {}

    def on_resize(self) -> None:
        """Columns come and go with the width; the cursor stays in sight."""
        self._lay_out()
        self._in_sight()
        self._count_rows()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The heading, then the rows from where they are scrolled to."""
        table = self._table
        if y == 0 and self._laid_for != self._room:  # a scroll bar has come or gone
            self._lay_out()
        width = self._laid_for  # Textual fills up what is left; to ask for the size of each line costs more
        if y == 0:
            return self.strip_of(heading(table.columns, self._widths), width)
        row = self.scroll_offset.y + y - 1
        if row >= len(table.keys):
            empty = say(table.empty, "dim") if y == 1 and not table.keys else ()
            return self.strip_of(empty, width)
        cells = self._drawn.get(row)
        if cells is None:
            cells = self._drawn[row] = table.cells(row, self._widths)
        line = row_line(table.columns, self._widths, cells, self._end)
        base = None
        if row == self._cursor:
            base = self.ground("cursor")
        return self.strip_of(dimmed(line) if table.stale else line, width, base)

    def _go(self, row: int, *, follow: bool = True) -> None:
        row = max(0, min(row, len(self._table.keys) - 1))
        if row != self._cursor:
            self.refresh_line(self._cursor + 1)
            self._cursor = row
            self.refresh_line(row + 1)
            if follow:
                self.post_message(self.Moved(self))
        if follow:
            self._in_sight()

    def _in_sight(self) -> None:
        top, rows = self.scroll_offset.y, self.page_rows
        if self._cursor < top:
            self._scroll(self._cursor)
        elif rows and self._cursor >= top + rows:
            self._scroll(self._cursor - rows + 1)

    def _scroll(self, row: int) -> None:
        self.scroll_to(y=row, animate=False)

    def action_move(self, rows: int) -> None:
        """The cursor up or down."""
        self._go(self._cursor + rows)

    def action_page(self, pages: int) -> None:
        """The cursor a page up or down."""
        self._go(self._cursor + pages * max(1, self.page_rows - 1))

    def action_first(self) -> None:
        """The cursor to the first row."""
        self._go(0)

    def action_last(self) -> None:
        """The cursor to the last row."""
        self._go(len(self._table.keys) - 1)

    def action_choose(self) -> None:
        """Say that the cursor's row is chosen."""
        if self.key:
            self.post_message(self.Chosen(self))

    def on_click(self, event: events.Click) -> None:
        """The cursor to the row under the mouse; two clicks choose it."""
        at = event.get_content_offset(self)  # None on the border
        row = self.scroll_offset.y + at.y - 1 if at is not None and at.y else len(self._table.keys)
        if row < len(self._table.keys):
            self._go(row)
            if event.chain == 2:
                self.action_choose()

    def texts(self) -> Sequence[str]:
        """What is on the screen, without looks: the heading, then the rows in sight."""
        return [self.render_line(y).text.rstrip() for y in range(self.size.height)]


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Rows that follow each other, as where they begin and how many they are."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs
