"""A stack from the text of a file, with the shipped presets, as the tool itself loads it."""

from __future__ import annotations

from pathlib import Path

from tsstack.model.loader import load_presets, parse_stack
from tsstack.model.stack import Stack

ROOT = Path(__file__).resolve().parents[3]


def stack_of(text: str) -> Stack:
    """The stack that a file with this text is; `host` is added if it is missing. Raises ConfigError."""
    if "host:" not in text:
        text = f"host: {{name: kernelcore}}\n{text}"
    return parse_stack(text.encode(), Path("tsstack.yaml"), load_presets(ROOT / "zones")).stack
