"""What fails in an undoing must not keep the rest from its turn."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tsstack.errors import TsstackError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def tried(left: list[str]) -> Iterator[None]:
    """What fails in here is noted in `left`, to be raised at the end."""
    try:
        yield
    except (TsstackError, OSError) as error:
        left.append(str(error))
