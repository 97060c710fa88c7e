"""Runs the proxy part inside a private host, as a switch does: one JSON order in, one answer out."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from ruamel.yaml import YAML

from tsstack.errors import TsstackError
from tsstack.model.facts import Facts, Paths, TailscaleFacts
from tsstack.model.stack import Stack
from tsstack.parts.proxy import host
from tsstack.parts.proxy.host import PART, discover_nginx, renew, root_certificate
from tsstack.system.files import link_durably


def facts_of(order):
    paths = Paths(tailscale_socket=Path(order.get("socket", "/run/tailscaled.sock")))
    addresses = tuple(order.get("addresses", ("100.64.0.1",)))
    nginx = discover_nginx(paths)
    if order.get("standalone"):
        nginx = replace(nginx, main_config="", stream_loaded=False, modules_enabled=False, directives=())
    tailscale = TailscaleFacts((1, 102, 3), "Running", addresses) if addresses else None
    return Facts(nginx=nginx, tailscale=tailscale, paths=paths)


def switch(order, facts, lines):
    """desired, stage, observe, check, flip, activate, verify; flip back and restore on failure."""
    current = facts.paths.current
    before = current.readlink() if current.is_symlink() else None
    if "generation" in order:
        generation = Path(order["generation"])
        tree = {
            str(path.relative_to(generation)): path.read_text()
            for path in generation.rglob("*")
            if path.is_file()
        }
    else:
        stack = Stack.model_validate(YAML(typ="safe").load(order["yaml"]))
        tree = PART.desired(stack, facts)
        store = facts.paths.state / "generations"
        number = str(len(list(store.glob("*"))) + 1)
        generation = store / (number if order["op"] == "plan" else f".staging-{number}")
        generation.mkdir(parents=True)
        for path, text in tree.items():
            (generation / path).parent.mkdir(parents=True, exist_ok=True)
            (generation / path).write_text(text)
    facts.paths.run.mkdir(parents=True, exist_ok=True)
    snapshot = json.loads(json.dumps(PART.observe(tree, facts)))
    changes = [str(change) for change in PART.changes(tree, snapshot)]
    answer = {"generation": str(generation), "changes": changes, "snapshot": snapshot}
    if order["op"] == "plan":
        return answer
    PART.check(generation, facts)
    if order["op"] == "check":
        return answer
    if generation.name.startswith(".staging-"):  # a number means that it has passed its check
        generation = generation.rename(generation.with_name(generation.name.removeprefix(".staging-")))
        answer["generation"] = str(generation)
    link_durably(current, generation)
    if "die_after" in order:
        _die_after(order["die_after"], snapshot)
    try:
        PART.activate(generation, facts, lines.append)
        PART.verify(generation, facts)
        if order.get("fail"):
            raise TsstackError("told to fail")
    except TsstackError as error:
        if before is None:
            current.unlink()
        else:
            link_durably(current, before)
        PART.restore(snapshot, facts)
        return {**answer, "rolled_back": True, "error": type(error).__name__, "message": str(error),
                "hint": error.hint}  # fmt: skip
    after = PART.changes(tree, PART.observe(tree, facts))
    return {**answer, "after": [str(change) for change in after],
            "warnings": PART.warnings(generation, facts)}  # fmt: skip


def _die_after(step, snapshot):
    """Leave the snapshot on disk, as a switch does, and end like a SIGKILL once `step` of `host` is done."""
    Path("/run/tsstack/snapshot.json").write_text(json.dumps(snapshot))
    original = getattr(host, step)

    def deadly(*words, **more):
        original(*words, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(host, step, deadly)


def recover(facts, generation):
    """What the next command does after a kill: flip back, then restore what was seen before."""
    link_durably(facts.paths.current, generation)
    PART.restore(json.loads(Path("/run/tsstack/snapshot.json").read_text()), facts)
    return {}


def main():
    order = json.load(sys.stdin)
    lines: list[str] = []
    try:
        facts = facts_of(order)
        if order["op"] == "renew":
            answer = {"renewed": renew(facts, lines.append, force=order.get("force", False))}
        elif order["op"] == "activate":  # as at boot, where nothing is judged any more
            answer = {}
            PART.activate(Path(order["generation"]), facts, lines.append)
        elif order["op"] == "recover":
            answer = recover(facts, order["generation"])
        elif order["op"] == "root":
            answer = {"pem": root_certificate(facts, order["tailnet"])}
        else:
            answer = switch(order, facts, lines)
    except TsstackError as error:
        answer = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    sys.stdout.write(json.dumps({**answer, "report": lines}))


main()
