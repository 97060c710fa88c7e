"""Files, their rendered tables, and random ones."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "unit" / "firewall"))

from firewall_stack import stack_of

from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.parts.firewall.host import PART
from tsstack.prove.plan import Limits
from tsstack.prove.proof import FILE, Proof, prove_generation

FACTS = Facts(default_interface="eth0")


def render(stack: Stack) -> str:
    return PART.desired(stack, FACTS)[FILE]


def prove(folder: Path, stack: Stack, text: str, seed: int = 1, limits: Limits | None = None) -> Proof:
    """Prove `text`, which should be the table of the stack, in the kernel."""
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return prove_generation(stack, FACTS, folder, seed=seed, limits=limits)


__all__ = ["FACTS", "Limits", "prove", "render", "stack_of"]
