"""Times that our own delays do not distort: the kernel's stamps on what arrives, and clocks that can step.

SO_TIMESTAMPNS (socket(7)) stamps with CLOCK_REALTIME when the packet comes in, however late we read it.
That clock can be set; so each sending remembers how it stood against CLOCK_MONOTONIC.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable

# linux/asm-generic/socket.h; the socket module does not name it.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
ANCILLARY_BYTES = 64
"""Room for one stamp (and a drop counter) beside a packet."""
_STEP_NS = 2_000_000
_LOOKS, _CLOSE_NS = 5, 5_000
_S = 1e-9

Ancillary = Iterable[tuple[int, int, bytes]]


def boot_s() -> float:
    """Now, in seconds that count sleep too (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def clock_gap_ns() -> int:
    """How far CLOCK_REALTIME stands ahead of CLOCK_MONOTONIC; it changes only when the clock is set.

    Read between two looks at the other clock, and again where something came between those.
    """
    for _ in range(_LOOKS):
        before_ns, real_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after_ns - before_ns < _CLOSE_NS:
            break
    return real_ns - (before_ns + after_ns) // 2


def arrival_ns(ancillary: Ancillary) -> int | None:
    """The kernel's stamp, CLOCK_REALTIME in nanoseconds; None when there is none."""
    for _level, kind, data in ancillary:
        if kind == SO_TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def elapsed_s(
    sent_ns: int, arrived_ns: int | None, *, gap_at_sending_ns: int, gap_ns: int, now_ns: int
) -> float:
    """The time between a sending and an arrival, both CLOCK_REALTIME; never negative.

    `now_ns` is CLOCK_REALTIME now. When the clock was set in between, the arrival may have been stamped
    before or after the step: whichever lies between nothing and the time that really went by is right; when
    both or none do, what went by until now is the honest upper bound.
    """
    step_ns = gap_ns - gap_at_sending_ns
    if arrived_ns is not None and -_STEP_NS <= step_ns <= _STEP_NS:
        return max(arrived_ns - sent_ns, 0) * _S
    went_by_ns = now_ns - sent_ns - step_ns if abs(step_ns) > _STEP_NS else now_ns - sent_ns
    if arrived_ns is None:
        return max(went_by_ns, 0) * _S
    possible = [
        span for span in (arrived_ns - sent_ns, arrived_ns - sent_ns - step_ns) if 0 <= span <= went_by_ns
    ]
    return (possible[0] if len(possible) == 1 else max(went_by_ns, 0)) * _S
