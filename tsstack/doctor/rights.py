"""Who asks, and what is hidden from them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsstack.doctor.finding import Finding


def check_rights(*, is_root: bool, hidden: Sequence[str]) -> Iterator[Finding]:
    """`hidden`: what only root may see."""
    if is_root:
        yield Finding("TS804", "ok", "rights", "root")
    else:
        words = f"not root, so not asked: {', '.join(hidden)}"
        yield Finding("TS804", "warning", "rights", words, "sudo tsstack doctor")
