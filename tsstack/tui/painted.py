"""The widgets that everything on the dashboard is drawn with: a panel of lines, a bar of clickable parts.

They draw line by line (Textual's line API) and only lines that have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tsstack.tui.cells import Line, width_of

if TYPE_CHECKING:
    from textual import events

    from tsstack.tui.views.bars import Part


class Painted(ScrollView):
    """Draws lines of spans, in the looks that the app has for them.

    Not by component classes: of so many, each widget's would be looked up anew with every change of a class.
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._mixed: dict[tuple[Style, str], Style] = {}
        self._own: Style | None = None

    def strip_of(self, line: Line, width: int, base: Style | None = None) -> Strip:
        """The line in exactly `width` columns, on the widget's own colours or on `base`."""
        ground = base or self._own
        if ground is None:
            ground = self._own = self.rich_style
        segments = [Segment(text, self._painted(ground, look) if look else ground) for text, look in line]
        length = sum(width_of(text) for text, _ in line)
        strip = Strip(segments, length)
        return strip.adjust_cell_length(width, ground) if length != width else strip

    def _painted(self, ground: Style, look: str) -> Style:
        """The look over `ground`."""
        found = self._mixed.get((ground, look))
        if found is None:
            looks: Mapping[str, Style] = self.app.looks  # type: ignore[attr-defined]
            found = self._mixed[ground, look] = ground + looks[look]
        return found

    def ground(self, look: str) -> Style:
        """The widget's own colours with those of a look under them."""
        return self._painted(self.rich_style, look)

    def notify_style_update(self) -> None:
        """Another theme, or a focus that has come or gone."""
        self._mixed, self._own = {}, None
        super().notify_style_update()


class Panel(Painted, can_focus=False):
    """Lines of text; scrolls when it may be focused and has more than it shows."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: Sequence[Line] = ()

    @property
    def lines(self) -> Sequence[Line]:
        """What is shown."""
        return self._lines

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines instead."""
        if lines == self._lines:
            return
        before, self._lines = self._lines, lines
        if len(before) != len(lines):
            self.virtual_size = Size(0, len(lines))
            self.refresh(layout=True)
            return
        for number, (old, new) in enumerate(zip(before, lines, strict=True)):
            if old != new:
                self.refresh_line(number)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many lines as there are."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        at = y + self.scroll_offset.y
        line = self._lines[at] if at < len(self._lines) else ()
        return self.strip_of(line, self.size.width)

    def action_scroll_end(self) -> None:
        """To the last line."""
        self.scroll_to(y=self.max_scroll_y, animate=False)


class Bar(Painted, can_focus=False):
    """One line whose parts do something when they are clicked."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._parts: Sequence[Part] = ()

    @property
    def text(self) -> str:
        """What is shown, without looks."""
        return "".join(text for part in self._parts for text, _ in part.spans)

    def show(self, parts: Sequence[Part]) -> None:
        """Show these parts instead."""
        if parts != self._parts:
            self._parts = parts
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """The line."""
        line = tuple(span for part in self._parts for span in part.spans) if y == 0 else ()
        return self.strip_of(line, self.size.width)

    async def on_click(self, event: events.Click) -> None:
        """Do what the part under the mouse does."""
        at = 0
        for part in self._parts:
            at += sum(width_of(text) for text, _ in part.spans)
            if event.x < at:
                if part.action:
                    event.stop()
                    await self.run_action(part.action)
                return
