"""Values with units, as people write them: `20r/s`, `500M`, `10mbit`, `30s`, `5%`.

Each parser takes what YAML delivers (a string or a number) and raises ValueError with what is allowed.
The annotated types carry the unit in their name and a JSON Schema that editors can check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

# Digits are [0-9] in all patterns of the model: `\d` would take those of every script.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# nginx(8) sizes: k, m, g are powers of 1024.
_SIZE = re.compile(r"([0-9]{1,15})([kKmMgG]?)")
_SIZE_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

# tc(8), "UNITS": kbit, mbit, gbit are powers of 1000 bits per second.
_BANDWIDTH = re.compile(r"([0-9]{1,12})(bit|kbit|mbit|gbit)")
_BANDWIDTH_BPS = {"bit": 1, "kbit": 1000, "mbit": 1000**2, "gbit": 1000**3}

# tc(8) again: sizes in bits for a token bucket (`burst 32kbit`) or in bytes (`32kb`, `32k`).
_BURST = re.compile(r"([0-9]{1,12})(bit|kbit|mbit|b|k|kb|m|mb)")
_BURST_BYTES = {
    "bit": 1 / 8,
    "kbit": 1000 / 8,
    "mbit": 1000**2 / 8,
    "b": 1,
    "k": 1024,
    "kb": 1024,
    "m": 1024**2,
    "mb": 1024**2,
}

_RATE = re.compile(r"([0-9]{1,7})r/([sm])")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")


def parse_duration_s(value: Any) -> float:
    """`500ms`, `30s`, `2m`, `1h`, `7d` as seconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration with its unit is needed: 500ms, 30s, 2m, 1h or 7d")
    return float(match[1]) * _DURATION_S[match[2]]


def duration_text(seconds: float) -> str:
    """Seconds as the file writes them, in the largest unit that gives a whole number."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= length_s and seconds % length_s == 0:
            return f"{int(seconds // length_s)}{unit}"
    return f"{seconds * 1000:g}ms"


def parse_size_bytes(value: Any) -> int:
    """`500M`, `64k`, `1G` or a plain number of bytes, as bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size is needed: bytes, or with a unit: 64k, 500M, 1G")
    return int(match[1]) * _SIZE_BYTES[match[2].lower()]


def parse_bandwidth_bps(value: Any) -> int:
    """`10mbit`, `500kbit`, `1gbit` as bits per second."""
    match = _BANDWIDTH.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError("a bandwidth with its unit is needed: 500kbit, 10mbit or 1gbit")
    return int(match[1]) * _BANDWIDTH_BPS[match[2]]


def parse_burst_bytes(value: Any) -> int:
    """`32kbit` (bits) or `4kb` (bytes), as whole bytes."""
    match = _BURST.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(int(match[1]) * _BURST_BYTES[match[2]]) == 0:
        raise ValueError("a burst with its unit is needed: 32kbit, 1mbit (bits) or 4kb, 1mb (bytes)")
    return int(int(match[1]) * _BURST_BYTES[match[2]])


def parse_percent(value: Any) -> float:
    """`5%` as 5.0."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError("a percentage is needed: 5%, 0.5% or up to 100%")
    return float(match[1])


@dataclass(frozen=True, slots=True)
class RequestRate:
    """Requests per second or minute, as nginx's limit_req_zone takes them."""

    requests: int
    per: str  # "s" or "m"

    def __str__(self) -> str:
        return f"{self.requests}r/{self.per}"


def parse_request_rate(value: Any) -> RequestRate:
    """`20r/s` or `300r/m`."""
    if isinstance(value, RequestRate):
        return value
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError("a request rate is needed: 20r/s or 300r/m")
    return RequestRate(int(match[1]), match[2])


def _text_schema(pattern: re.Pattern[str], *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern.pattern}$", "examples": list(examples)})


DurationS = Annotated[float, BeforeValidator(parse_duration_s), _text_schema(_DURATION, "500ms", "30s", "2m")]
SizeBytes = Annotated[
    int,
    BeforeValidator(parse_size_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": f"^{_SIZE.pattern}$", "examples": ["500M", "64k"]},
            ]
        }
    ),
]
BandwidthBps = Annotated[
    int, BeforeValidator(parse_bandwidth_bps), _text_schema(_BANDWIDTH, "10mbit", "1gbit")
]
BurstBytes = Annotated[int, BeforeValidator(parse_burst_bytes), _text_schema(_BURST, "32kbit", "4kb")]
Percent = Annotated[float, BeforeValidator(parse_percent), _text_schema(_PERCENT, "5%", "0.5%")]
Rate = Annotated[
    RequestRate,
    BeforeValidator(parse_request_rate),
    PlainSerializer(str),
    _text_schema(_RATE, "20r/s", "300r/m"),
]
