"""What the kernel was before tsstack first touched it, kept on disk across generations.

It is valid for one boot and one network namespace: after a reboot the kernel starts from its own values,
and a remembered one would be that of another time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.system.files import write_durably

FILE = "kernel-before.json"

Spec = dict[str, float]
"""One direction's limit: rate_bps, burst_bytes, latency_s."""


class Record(NamedTuple):
    """The originals. `sysctl`: name -> value. `features`: interface -> ethtool feature -> on/off.

    `links`: interface -> direction -> the limit that we set. `skipped`: optional parameter -> the value
    that this kernel refused, so that it is tried once per boot and not at every switch.
    """

    sysctl: dict[str, str]
    features: dict[str, dict[str, str]]
    links: dict[str, dict[str, Spec]]
    skipped: dict[str, str]

    def as_json(self) -> dict[str, object]:
        """The record as JSON data."""
        return self._asdict()


def empty() -> Record:
    """The record of a host on which nothing was touched."""
    return Record({}, {}, {}, {})


def from_json(data: Mapping[str, object]) -> Record:
    """A record from `as_json`'s shape. Raises CheckFailed when it is none."""
    parts = {}
    for name in ("sysctl", "features", "links", "skipped"):
        part = data.get(name, {})
        if not isinstance(part, dict):
            raise CheckFailed(f"the record of the kernel's old values is damaged: {name}")
        parts[name] = part
    return Record(**parts)


def read(state: Path) -> Record:
    """The record in `state`; empty when there is none for this boot. Raises CheckFailed when damaged."""
    path = state / FILE
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        return empty()
    except (OSError, ValueError) as error:
        raise CheckFailed(
            f"{path} cannot be read: {error}",
            hint="it holds the kernel's values from before tsstack; move it away to go on without them",
        ) from error
    return from_json(data) if data.get("scope") == scope() else empty()


def write(state: Path, record: Record) -> None:
    """Keep `record`, on disk before this returns; nothing is written when it is so already.

    Raises ApplyFailed when the disk does not take it.
    """
    if record == read(state):
        return
    try:
        state.mkdir(parents=True, exist_ok=True)
        write_durably(state / FILE, json.dumps({"scope": scope(), **record.as_json()}, indent=2) + "\n")
    except OSError as error:
        raise ApplyFailed(f"{state / FILE} cannot be written: {error.strerror}") from error


def scope() -> str:
    """Names this boot and this network namespace, the only ones that a record is valid for."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} net {Path('/proc/self/ns/net').stat().st_ino}"
