"""What signals may do to a change of the host."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tsstack.errors import TsstackError

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(TsstackError):
    """SIGINT or SIGTERM arrived in the middle of a change."""


@contextmanager
def signals_undo() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted once, so that the change is undone; SIGHUP is ignored.

    A terminal that goes away must not tear the change it asked for; --confirm is there to undo it.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        ignore_interrupts()  # a second one must not tear the undoing that the first one asked for
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    with _restored(*_INTERRUPTS, signal.SIGHUP):
        for number in _INTERRUPTS:
            signal.signal(number, interrupt)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        yield


def ignore_interrupts() -> None:
    """Until `signals_undo` ends."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No signal that can be ignored ends what is done in here: an undoing that is torn helps nobody."""
    with _restored(*_INTERRUPTS, signal.SIGHUP):
        ignore_interrupts()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        yield


@contextmanager
def _restored(*numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
