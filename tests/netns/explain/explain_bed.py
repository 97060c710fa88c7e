"""Questions about files that are texts, asked of the real kernel."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "prove"))

from prove_bed import FACTS, Limits, prove, render
from random_files import files

from tsstack import assets
from tsstack.explain.packet import Explanation, Ground, explain_staged
from tsstack.explain.places import Places
from tsstack.explain.question import Asked, Question, Surroundings, resolve
from tsstack.explain.services import Service, parse_service
from tsstack.explain.world import World
from tsstack.model.loaded import LoadedStack
from tsstack.model.loader import load_presets, parse_stack
from tsstack.prove.expected import Packet
from tsstack.prove.terrain import LOCAL

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "kernelcore.yaml"
PRESETS = load_presets(assets.folder("zones"))


def load(text: str) -> LoadedStack:
    return parse_stack(text.encode(), Path("/etc/tsstack/tsstack.yaml"), PRESETS)


def ask(text: str, source: str, service: str, interface: str = "", to: str = "", **more: Any) -> Explanation:
    """The question as people type it; of the host nothing is known but its uplink, eth0."""
    loaded = load(text)
    around = Surroundings(uplink="eth0")
    asked = Asked(source, parse_service(service, loaded.stack), interface, to, **more)
    return explain(loaded, resolve(asked, loaded.stack, around))


def ask_packet(text: str, packet: Packet) -> Explanation:
    """A question about exactly that packet."""
    to = packet.destination or LOCAL[packet.source.version == 6]
    service = Service(packet.service, packet.protocol, packet.port)
    return explain(load(text), Question(replace(packet, destination=to), to, service))


def explain(loaded: LoadedStack, question: Question) -> Explanation:
    with World() as world:
        ground = Ground(loaded.stack, FACTS, Places(loaded))
        return explain_staged(world, question, ground, render(loaded.stack))


__all__ = ["EXAMPLE", "FACTS", "ROOT", "Limits", "ask", "ask_packet", "files", "load", "prove", "render"]
