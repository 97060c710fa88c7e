"""nginx on the rendered files of a stack, changed or not, and what is heard of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tsstack.model.facts import Facts, NginxFacts, Paths, TailscaleFacts
from tsstack.model.stack import Stack
from tsstack.parts.proxy.discovery import discover_nginx
from tsstack.parts.proxy.host import PART
from tsstack.prove.vhosts import Hearing, VhostExperiment
from tsstack.switch.generations import write_tree

TAILNET = ("100.64.0.3", "fd7a:115c:a1e0::3")
FILE = """
host: {name: box, tailnet: tail.test}
tailscale: {}
proxy:
  names: NAMES
  tls: local-ca
  services:
    ollama: {upstream: 11434, rate_limit: 20r/s, port: 8443}
    wiki:
      upstream: [8000, "192.168.15.9:8000", "10.0.0.1:8001 backup"]
      allow: [alice@]
      max_body_size: 500M
      port: 8444
    vault: {upstream: "https://secrets.lan:8200", path: /deep/vault, verify_upstream: true, port: 8445}
    app: {upstream: "unix:/run/app.sock", port: 8446}
    db: {upstream: 5433, port: 5432, protocol: tcp}
"""


def hear(
    folder: Path,
    stack: Stack,
    change: Callable[[str], str] = str,
    *,
    nginx: NginxFacts | None = None,
    ipv6: bool = True,
    addresses: tuple[str, ...] = TAILNET,
    **paths: Path,
) -> Hearing:
    """Ask what is rendered of the stack, each of its files changed by `change`."""
    folder.mkdir(exist_ok=True)
    facts = Facts(
        nginx=nginx or discover_nginx(Paths()),
        tailscale=TailscaleFacts((1, 102, 3), "Running", addresses),
        paths=replace(Paths(), state=folder / "state", **paths),
        ipv6=ipv6,
    )
    tree = {path: change(text) for path, text in PART.desired(stack, facts).items()}
    write_tree(folder / "generation", tree)
    with VhostExperiment(stack, facts, folder / "generation") as experiment:
        return experiment.run()


def told(hearing: Hearing) -> list[tuple[str, str, str]]:
    return [(str(each.question), each.question.expected, each.seen) for each in hearing.mismatches]
