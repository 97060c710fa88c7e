"""What clients of the proxied services see, from a real nginx on a private host."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.netns

HOST = "host: {name: box, tailnet: tail.test}\n"


def test_subdomains_are_served_over_tls_and_http_redirects(host):
    host.serve("ollama", "tcp:127.0.0.1:11434")
    answer = host.switch(HOST + "proxy: {tls: local-ca, services: {ollama: {upstream: 11434}}}")
    assert "nginx started" in answer["report"]
    status, body = host.curl("https://ollama.box.tail.test/api?x=1", "--http1.1")
    assert status == 200
    seen = json.loads(body)
    assert seen["request"] == "GET /api?x=1 HTTP/1.1"
    assert seen["headers"]["host"] == "ollama.box.tail.test"
    assert seen["headers"]["x-forwarded-proto"] == "https"
    status, _ = host.curl("http://ollama.box.tail.test/api?x=1")
    assert status == 308
    done = host.run("curl", "-s", "-o", "/dev/null", "-w", "%{redirect_url}", "-H",
                    "Host: ollama.box.tail.test", "http://100.64.0.1/api?x=1")  # fmt: skip
    assert done.stdout == "https://ollama.box.tail.test/api?x=1"
