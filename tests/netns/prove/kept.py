"""Differences that were found once: a file, and the packets that the kernel treated otherwise than the model.

`NAME.yaml` is the file, `NAME.json` holds the seed and the packets. The random test writes them, shrunk, when
it finds one; once mended, they are committed and sent again by every run.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from pathlib import Path
from typing import Any

from tsstack.prove.expected import Packet
from tsstack.prove.proof import Row

FOLDER = Path(__file__).parent / "regressions"
_MOST = 20


def keep(folder: Path, text: str, seed: int, rows: tuple[Row, ...]) -> Path:
    """Write a difference down; returns the file."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    file.write_text(text if text.endswith("\n") else f"{text}\n")
    told = {
        "seed": seed,
        "packets": [
            {"packet": _fields(row.packet), "expected": row.expected.outcome, "seen": row.seen}
            for row in rows[:_MOST]
        ],
    }
    file.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    return file


def recall(file: Path) -> tuple[str, int, tuple[Packet, ...]]:
    """The text, the seed and the packets of a difference."""
    told = json.loads(file.with_suffix(".json").read_text())
    return file.read_text(), told["seed"], tuple(_packet(each["packet"]) for each in told["packets"])


def _fields(packet: Packet) -> dict[str, Any]:
    values = {name: getattr(packet, name) for name in Packet.__slots__}
    return {
        name: str(value) if name in {"source", "destination"} else value for name, value in values.items()
    }


def _packet(fields: dict[str, Any]) -> Packet:
    destination = fields["destination"]
    return Packet(
        **{
            **fields,
            "source": ipaddress.ip_address(fields["source"]),
            "destination": None if destination == "None" else ipaddress.ip_address(destination),
        }
    )
