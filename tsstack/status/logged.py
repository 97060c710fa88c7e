"""What the firewall refused lately by the kernel's log, or why that log says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.parts.firewall import kernel_log
from tsstack.parts.firewall.drops import Drops, group_drops
from tsstack.parts.firewall.kernel_log import Reading

if TYPE_CHECKING:
    from tsstack.status.shape import Firewall


@dataclass(frozen=True, slots=True)
class Logged:
    """What is known of a span."""

    drops: tuple[Drops, ...]
    """By zone, source and port, the most frequent first."""
    reading: Reading
    """How the log could be read. Its `trouble` says too why of what was refused nothing is logged."""


def read_logged(firewall: Firewall, generation: Path, since_unix_s: float) -> Logged:
    """Since then, of the firewall that `generation` is the folder of. Never raises."""
    reading = kernel_log.read_drops(since_unix_s)
    if not reading.packets and not reading.trouble:
        trouble = why_silent(firewall, generation)
        reading = Reading((), reading.source, reading.since_unix_s, trouble)
    return Logged(group_drops(reading.packets), reading)


def why_silent(firewall: Firewall, generation: Path) -> str:
    """Why the kernel's log has none of the packets that were refused; empty if none was, or nobody knows."""
    counts = [zone["refused"] for zone in firewall["zones"]]
    if not any(count["packets"] for count in counts if count is not None):
        return ""
    try:
        logs = "log prefix" in (generation / "nftables" / "tsstack.nft").read_text("utf-8")
    except (OSError, ValueError):
        return ""
    return kernel_log.namespace_trouble() if logs else "none: the file does not ask for it (firewall.log)"
