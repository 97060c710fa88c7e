"""`allow:` on a real nginx with the real daemon; only tailscaled's answers are made up."""

from __future__ import annotations

import json
import os
import select
import signal
import time

import pytest

pytestmark = pytest.mark.netns

TEXT = (
    "host: {name: box, tailnet: tail.test}\n"
    'proxy: {tls: off, services: {wiki: {upstream: 8000, allow: ["alice@example.com", "tag:client"]}, '
    "open: {upstream: 8000}}}"
)
ALICE = {
    "Node": {"Name": "laptop.tail.test."},
    "UserProfile": {"LoginName": "alice@example.com", "DisplayName": "Alicé"},
}
TAGGED = {
    "Node": {"Name": "ci.tail.test.", "Tags": ["tag:client"]},
    "UserProfile": {"LoginName": "tagged-devices", "DisplayName": "Tagged Devices"},
}
FORGED = ("-H", "X-Tailscale-User: root@example.com", "-H", "X-Tailscale-Tags: tag:admin")


def get(host, source="100.64.0.7", name="wiki"):
    return host.curl(f"http://{name}.box.tail.test/", "--interface", source, *FORGED)


def test_pitfall_22_allow_is_decided_by_whois_and_forged_headers_never_arrive(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.localapi({"100.64.0.7": ALICE})
    host.switch(TEXT)
    status, body = get(host)
    headers = json.loads(body)["headers"]
    assert status == 200
    assert headers["x-tailscale-user"] == "alice@example.com"
    assert headers["x-tailscale-name"] == "=?utf-8?q?Alic=C3=A9?="
    assert headers["x-tailscale-node"] == "laptop.tail.test"
    assert "x-tailscale-tags" not in headers
    assert get(host, "100.64.0.1")[0] == 403
    status, body = get(host, "100.64.0.1", "open")
    assert status == 200 and "root@example.com" not in body and "tag:admin" not in body
    # The way that the subrequest takes is none for clients.
    assert (
        host.curl("http://wiki.box.tail.test/.tsstack/identity/wiki", "--interface", "100.64.0.7")[0] == 404
    )
    log = [json.loads(line) for line in host.path("/var/log/nginx/tsstack-wiki.log").read_text().splitlines()]
    assert ("alice@example.com", 200) in {(line["user"], line["status"]) for line in log}


def test_pitfall_22_tagged_nodes_are_allowed_by_their_tags(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.localapi({"100.64.0.7": TAGGED})
    host.switch(TEXT)
    status, body = get(host)
    headers = json.loads(body)["headers"]
    assert status == 200 and headers["x-tailscale-tags"] == "tag:client"
    assert "x-tailscale-user" not in headers
    decisions = host.path("/var/log/nginx/tsstack.identity.log").read_text()
    assert '"decision": "allow"' in decisions and "ci.tail.test" in decisions


def kill(pid):
    """SIGKILL; returns once the process has ended (pidfd_open(2): readable then)."""
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([handle], [], [], 10)[0]
    finally:
        os.close(handle)


def test_whatever_fails_the_answer_is_no(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    api = host.localapi({"100.64.0.7": ALICE})
    host.switch(TEXT)
    assert get(host)[0] == 200
    api.kill()
    api.wait()
    deadline = time.monotonic() + 6  # what whois said is kept for 3 s
    while get(host)[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert get(host)[0] == 403
    daemon = json.loads(host.path("/run/tsstack/identity.state").read_text())["pid"]
    kill(daemon)
    assert get(host)[0] == 500
    assert get(host, name="open")[0] == 200
    # The next switch sees that it is gone and starts it, without touching nginx.
    before = host.workers()
    answer = host.switch(TEXT)
    assert answer["changes"] == ["+ identity daemon: running"]
    assert host.workers() == before


def test_a_changed_allow_list_counts_at_once_without_a_reload(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.localapi({"100.64.0.7": ALICE})
    host.switch(TEXT)
    assert get(host)[0] == 200
    before, state = host.workers(), host.path("/run/tsstack/identity.state").read_text()
    answer = host.switch(TEXT.replace("alice@example.com", "bob@example.com"))
    assert answer["changes"] == [
        "~ service wiki, allow: alice@example.com, tag:client -> bob@example.com, tag:client"
    ]
    assert get(host)[0] == 403
    assert host.workers() == before
    assert host.path("/run/tsstack/identity.state").read_text() == state


def test_the_daemon_goes_with_the_last_allow_list_and_returns_on_rollback(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.localapi({"100.64.0.7": ALICE})
    host.switch(TEXT)
    free = TEXT.replace(', allow: ["alice@example.com", "tag:client"]', "")
    assert host.order("switch", yaml=free, fail=True)["rolled_back"]
    assert get(host)[0] == 200
    host.switch(free)
    assert not host.path("/run/tsstack/identity.sock").exists()
    assert not host.path("/run/tsstack/identity.state").exists()
