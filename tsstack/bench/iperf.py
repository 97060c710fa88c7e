"""What iperf3 is asked and what its `--json` says. Pure.

Source: iperf3(1); the fields are those of iperf_api.c, stable since 3.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from tsstack.bench.figures import Direction, Throughput
from tsstack.bench.wire import STREAMS

PORT = 5201


class IperfError(ValueError):
    """No result, in iperf3's own words."""


def argv(
    address: str, direction: Direction, span_s: int, *, interface: str = "", port: int = PORT
) -> list[str]:
    """The words that run one test: it ends by itself after `span_s` seconds of load.

    With `interface` it sends by that one alone (iperf3 from 3.12 on).
    """
    words = ["iperf3", "--client", address, "--port", str(port), "--time", str(span_s), "--json"]
    words += ["--parallel", str(STREAMS)]
    words += ["--connect-timeout", "2000"]
    words += ["--bind-dev", interface] if interface else []
    return [*words, "--reverse"] if direction == "down" else words


def read_result(text: str, direction: Direction) -> Throughput:
    """One finished test, by what the receiver got. Raises IperfError."""
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise IperfError("iperf3 gave no result") from error
    if not isinstance(parsed, Mapping):
        raise IperfError("iperf3 gave no result")
    if said := parsed.get("error"):
        raise IperfError(str(said).removeprefix("error - ").splitlines()[0][:200])
    end = _mapping(parsed.get("end"))
    received, sent = _mapping(end.get("sum_received")), _mapping(end.get("sum_sent"))
    bits_s, span_s = _number(received.get("bits_per_second")), _number(received.get("seconds"))
    moved = _number(received.get("bytes"))
    if bits_s is None or span_s is None or moved is None:
        raise IperfError("iperf3 told no throughput")
    retransmits = _number(sent.get("retransmits"))
    return Throughput(
        direction=direction,
        engine="iperf3",
        bits_s=bits_s,
        moved_bytes=int(moved),
        span_s=span_s,
        retransmits=None if retransmits is None else int(retransmits),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        return None
    return float(value)
