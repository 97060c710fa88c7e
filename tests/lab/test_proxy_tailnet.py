"""The proxy part beside a real tailscaled: its PROXY header, and `tailscale serve` on a port of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsstack.lab.lab import Lab
from tsstack.lab.machine import SOCKET, Machine

pytestmark = pytest.mark.lab

DRIVER = Path(__file__).resolve().parents[1] / "netns" / "proxy"
TEXT = """
host: {name: box, tailnet: tail.test}
tailscale: {tags: ["tag:server"]}
proxy:
  names: service
  tls: "off"
  http_port: 8080
  services:
    wiki: {upstream: 8000, allow: ["LOGIN"]}
"""


@pytest.fixture(scope="module")
def box(own_lab: Lab) -> Iterator[Machine]:
    """A node with an upstream; it serves nothing yet."""
    node = own_lab.node("exit-b")
    node.start([sys.executable, DRIVER / "upstream.py", "wiki", "tcp:127.0.0.1:8000"])
    yield node


def switch(node: Machine, text: str) -> dict[str, Any]:
    order = {
        "op": "switch",
        "yaml": text,
        "socket": SOCKET,
        "addresses": list(node.tailnet_addresses()),
    }
    done = node.run([sys.executable, "-B", DRIVER / "proxy_driver.py"], stdin=json.dumps(order))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_tailscaleds_own_header_is_believed_and_others_are_not(own_lab: Lab, box: Machine) -> None:
    """Headscale has no Services, but a forwarded port of the node goes the same way through tailscaled."""
    laptop = own_lab.node("laptop")
    address = laptop.tailnet_addresses()[0]
    login = box.api.whois(f"{address}:1")["UserProfile"]["LoginName"]  # type: ignore[index]
    answer = switch(box, TEXT.replace("LOGIN", login if "@" in login else f"{login}@"))
    assert "error" not in answer, answer
    box.run(["tailscale", "serve", "--bg", "--tcp=9443", "--proxy-protocol=2", "tcp://127.0.0.1:8080"])
    url = ["-H", "Host: wiki.tail.test:8080", f"http://{box.tailnet_addresses()[0]}:9443/"]
    got = laptop.run(["curl", "-sS", "--max-time", "8", *url]).stdout
    headers = json.loads(got)["headers"]
    assert headers["x-forwarded-for"] == address and headers["x-tailscale-user"] == login
    claim = [DRIVER / "claiming_client.py", "http://wiki.tail.test:8080/", "--claim", f"{address}:5555"]
    forged = box.run([sys.executable, "-B", *claim, "--as", "65534"]).stdout
    assert json.loads(forged)["status"] == 403
    box.run(["tailscale", "serve", "reset"])


def test_pitfall_21_a_port_of_tailscale_serve_is_named(box: Machine) -> None:
    box.run(["tailscale", "serve", "--bg", "--tcp=8088", "tcp://127.0.0.1:9"])
    answer = switch(box, TEXT.replace("LOGIN", "a@").replace("8080", "8088"))
    assert answer["error"] == "CheckFailed"
    assert "`tailscale serve` has port 8088 already (tcp to 127.0.0.1:9)" in answer["message"]
    box.run(["tailscale", "serve", "reset"])
