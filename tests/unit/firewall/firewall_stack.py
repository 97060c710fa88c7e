"""A stack from the text of a file, with the shipped presets merged as the loader does."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

from tsstack.model.stack import Stack

ROOT = Path(__file__).resolve().parents[3]


def stack_of(text: str) -> Stack:
    """The stack that a file with this text is; `host` is added if it is missing."""
    data = {"host": {"name": "kernelcore"}} | YAML(typ="safe").load(text)
    zones = (data.get("firewall") or {}).get("zones") or {}
    for name, zone in zones.items():
        preset = ROOT / "zones" / f"{zone.get('preset', name)}.yaml"
        if preset.exists():
            zones[name] = YAML(typ="safe").load(preset.read_text()) | zone
    return Stack.model_validate(data)
