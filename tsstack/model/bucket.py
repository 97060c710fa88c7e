"""What the kernel's token bucket (tc-tbf(8)) can hold. Pure.

tc and the kernel count a limit in three integers: the rate in whole bytes per second, 64 bit wide
(TCA_TBF_RATE64); the queue in 32 bits of bytes (struct tc_tbf_qopt, `limit`); and the burst as the time
that it takes at the rate, in 32 bits of ticks of 64 ns (`buffer`; PSCHED_SHIFT in pkt_sched.h), which tc
makes of whole microseconds (tc/tc_core.c: tc_calc_xmittime). What is above is cut off without a word.
"""

from __future__ import annotations

_U32 = 2**32 - 1
_TICKS_PER_S = 1_000_000_000 / 64
_LEAST_BURST_BYTES = 4096


def default_burst_bytes(rate_bps: int) -> int:
    """10 ms at the rate, and never less than 4096: a bucket below one packet would let nothing pass."""
    return max(rate_bps // 8 // 100, _LEAST_BURST_BYTES)


def held_burst_bytes(rate_bps: int, burst_bytes: int) -> int:
    """What is left of a burst when its time is rounded down to microseconds."""
    return int(burst_bytes * 8e6 / rate_bps) * rate_bps // 8_000_000


def why_not_held(rate_bps: int, burst_bytes: int | None, latency_s: float) -> tuple[str, str]:
    """Why the kernel would hold another limit than this, and what to write; two empty texts if it is held.

    `burst_bytes` of None is the default.
    """
    rate = rate_bps // 8  # bytes per second
    burst = burst_bytes or default_burst_bytes(rate_bps)
    if rate == 0:
        return "the kernel counts whole bytes per second, and this is less than one", "write 1kbit or more"
    if burst / rate * _TICKS_PER_S > _U32:
        longest_s = int(_U32 / _TICKS_PER_S)
        most = rate * longest_s // 1024
        return (
            f"a burst of {burst} bytes takes {burst / rate:.0f} s at this rate; {longest_s} s are the most",
            "write 1kbit or more"
            if burst_bytes is None
            else f"write burst: {most}kb or less, or a higher rate",
        )
    queue = rate * latency_s + burst
    if queue > _U32:
        room_s = (_U32 - burst) / rate
        if room_s < 0.001:
            return (
                f"a burst of {burst} bytes fills the queue, which holds {_U32} bytes at most",
                "write a lower rate" if burst_bytes is None else "write a smaller burst, or a lower rate",
            )
        return (
            f"{latency_s:g} s at this rate are a queue of {int(queue)} bytes; {_U32} are the most",
            f"write latency: {int(room_s * 1000)}ms or less, or a lower rate",
        )
    return "", ""
