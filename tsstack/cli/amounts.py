"""Numbers as people read them, short enough for a column."""

from __future__ import annotations


def count(number: int) -> str:
    """1234 as `1234`, 12345 as `12.3k`."""
    return str(number) if number < 10_000 else _scaled(number, 1000, ("", "k", "M", "G", "T"))


def size(octets: int) -> str:
    """Bytes by powers of 1024: `512B`, `1.5K`, `20M`."""
    return _scaled(octets, 1024, ("B", "K", "M", "G", "T", "P"))


def duration(seconds: float | None) -> str:
    """`3ms`, `1.2s`, `14m`, `5h`; `-` where there is none."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    if seconds < 5400:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.0f}h" if seconds < 172_800 else f"{seconds / 86400:.0f}d"


def rate(per_s: float) -> str:
    """`0`, `0.02`, `3.5`, `120`."""
    if per_s == 0:
        return "0"
    if per_s < 1:
        return f"{per_s:.2f}" if per_s >= 0.005 else "<.01"
    return f"{per_s:.1f}" if per_s < 100 else count(round(per_s))


def _scaled(number: int, step: int, units: tuple[str, ...]) -> str:
    value, at = float(number), 0
    while value >= step - 0.5 and at < len(units) - 1:
        value, at = value / step, at + 1
    return f"{value:.0f}{units[at]}" if at == 0 or value >= 99.95 else f"{value:.1f}{units[at]}"
