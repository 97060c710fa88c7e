"""What comes over the screen: a question that is asked once, help, the differences of two generations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from tsstack.status.words import wrapped
from tsstack.tui.cells import Line, say
from tsstack.tui.painted import Bar, Panel
from tsstack.tui.views.bars import Key, footer

if TYPE_CHECKING:
    from textual.widget import Widget


_NAMES = {"?": "question_mark"}
"""Keys that Textual calls otherwise."""


_WIDTH, _INSET, _AROUND = 66, 7, 5
"""Columns for the lines of a dialog where there is room; columns and lines that its box takes."""


class Dialog(ModalScreen[str]):
    """Lines with keys below them; gives the key's word, or an empty one when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n,q", "leave", "leave"),
        Binding("ctrl+c", "app.quit", "quit", show=False, priority=True),
    ]

    def __init__(self, title: str, lines: Sequence[Line], keys: Sequence[Key]) -> None:
        super().__init__()
        self.add_class("dialog")
        self._title, self._lines, self._keys = title, lines, keys
        self.panel = Panel()
        self.bar = Bar()
        for key in keys:
            self._bindings.bind(_NAMES.get(key.key, key.key), key.action.removeprefix("screen."), key.word)

    def compose(self) -> Iterator[Widget]:
        """A box in the middle."""
        with Vertical() as box:
            box.border_title = self._title
            yield self.panel
            yield self.bar

    def on_mount(self) -> None:
        """Fill it."""
        self.panel.can_focus = True
        self.on_resize()
        self.bar.show(footer(self._keys, 200))
        self.panel.focus()

    def on_resize(self) -> None:
        """The lines broken to what there is."""
        self.panel.styles.max_height = max(1, self.app.size.height - _AROUND)
        self.panel.show(within(self._lines, min(_WIDTH, self.app.size.width * 94 // 100 - _INSET)))

    def action_leave(self) -> None:
        """Nothing is done."""
        self.dismiss("")

    def action_answer(self, word: str) -> None:
        """That is done."""
        self.dismiss(word)


def within(lines: Sequence[Line], width: int) -> list[Line]:
    """The lines broken to a width: the last span of each, below itself, or below all where that is narrow."""
    found: list[Line] = []
    for line in lines:
        *before, (text, look) = line
        indent = sum(len(each) for each, _ in before)
        if indent + len(text) <= width:
            found.append(line)
            continue
        if indent > width // 2:
            label = "".join(each for each, _ in before)
            looks = before[-1][1] if before else look
            found += [((part, looks),) for part in wrapped(label.rstrip(), width)]
            before, indent = [], 2
        first, *more = wrapped(text, width - indent)
        found.append(
            (*before, (first, look)) if before or indent == 0 else ((" " * indent, ""), (first, look))
        )
        found += [((" " * indent, ""), (rest, look)) for rest in more]
    return found


def question(title: str, lines: Sequence[Line], answers: Sequence[tuple[str, str, str]]) -> Dialog:
    """A question: each answer is a key, what it does, and the word that the dialog gives for it."""
    keys = [Key(key, what, f"screen.answer('{word}')") for key, what, word in answers]
    return Dialog(title, lines, [*keys, Key("escape", "leave it", "screen.leave")])


_HELP = (
    ("1 ... 7", "open a tab; tab and shift+tab go through them"),
    ("up, down, j, k", "a row; page up and down, home, end as anywhere"),
    ("enter", "use the exit node; differences of the generation"),
    ("w", "overview: all that is wrong; links: next window"),
    ("f", "events: all, warnings and worse, critical"),
    ("u, d, a", "exit nodes: use it, bare uplink, automatic"),
    ("m", "exit nodes: the monitor changes nothing for now"),
    ("d, r", "generations: differences, roll back to it"),
    ("c", "keep the switch that waits for its confirmation"),
    ("p", "pause: the screen stands still"),
    ("t", "the next theme; NO_COLOR=1 takes all colour away"),
    ("?, q", "this help; the end"),
)


def help_screen() -> Dialog:
    """All keys."""
    lines: list[Line] = [((f"{keys:<16}", "accent"), (words, "")) for keys, words in _HELP]
    lines += [
        say(""),
        say("The mouse works: tabs, rows, the keys below, the wheel.", "dim"),
        say("Whatever changes the host is asked once; to take a choice back is not.", "dim"),
        say("What was said last by someone who is away is shown dim.", "dim"),
    ]
    return Dialog("keys", lines, [Key("escape", "close", "screen.leave"), Key("?", "close", "screen.leave")])


class Difference(Dialog):
    """A long text over the whole screen, its lines as they are."""

    INSET = 4
    """Columns that its box takes."""

    def on_resize(self) -> None:
        """All of them."""
        self.panel.show(self._lines)

    def __init__(self, title: str, lines: Sequence[Line]) -> None:
        super().__init__(title, lines, [Key("escape", "close", "screen.leave")])
