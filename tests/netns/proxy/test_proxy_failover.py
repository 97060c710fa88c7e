"""Several upstreams behind a real nginx: slow ones, dead ones, and their return.

nginx alone would take each of two upstreams out for ten seconds after one answer that took too long.
"""

from __future__ import annotations

import json
import subprocess
import time

import pytest

pytestmark = pytest.mark.netns

HOST = "host: {name: box, tailnet: tail.test}\n"
URL = "http://wiki.box.tail.test/"
# nginx counts in each of its workers, of which there is one for each processor.
MANY = 40


def switch(host, upstream, more="read_timeout: 1s"):
    host.switch(HOST + f"proxy: {{tls: off, services: {{wiki: {{upstream: {upstream}, {more}}}}}}}")


def ask_at_once(host, times, *words, path="slow"):
    """So many requests at once; returns their statuses."""
    asked = [
        host.popen(
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "8", *words,
            "--resolve", "wiki.box.tail.test:80:100.64.0.1", f"{URL}{path}", stdout=subprocess.PIPE,
        )
        for _ in range(times)
    ]  # fmt: skip
    return {each.communicate()[0] for each in asked}


def answers(host, times=20):
    """Who answers, and how, as often as that."""
    seen = [host.curl(URL) for _ in range(times)]
    return {json.loads(body)["name"] if status == 200 else status for status, body in seen}


def last_upstreams(host):
    """Where nginx sent the only request that was slow; it writes the line after the answer is out."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        log = host.path("/var/log/nginx/tsstack-wiki.log").read_text().splitlines()
        found = [json.loads(line)["upstream"] for line in log if '"/slow"' in line]
        if found:
            return found[-1]
        time.sleep(0.01)
    raise AssertionError(log)


@pytest.mark.parametrize("upstream", ["[8000, '127.0.0.1:8001 backup']", "[8000, 8001]", "'two.test:8000'"])
def test_slow_requests_take_the_service_down_for_nobody(host, upstream):
    host.serve("first", "tcp:127.0.0.1:8000")
    host.serve("second", "tcp:127.0.0.1:8001")
    # A name may stand for several, one of which is not there.
    host.run("sh", "-c", "printf '127.0.0.%s two.test\n' 1 2 >> /etc/hosts")
    switch(host, upstream)
    assert ask_at_once(host, MANY) <= {"504", "502"}
    assert answers(host) <= {"first", "second"}


def test_a_slow_request_does_not_send_others_to_the_backup(host):
    host.serve("first", "tcp:127.0.0.1:8000")
    host.serve("second", "tcp:127.0.0.1:8001")
    switch(host, "[8000, '127.0.0.1:8001 backup']")
    assert ask_at_once(host, 1) == {"504"}
    assert last_upstreams(host) == "127.0.0.1:8000, 127.0.0.1:8001"
    assert answers(host) == {"first"}


def test_what_may_not_be_done_twice_is_not(host):
    host.serve("first", "tcp:127.0.0.1:8000")
    host.serve("second", "tcp:127.0.0.1:8001")
    switch(host, "[8000, '127.0.0.1:8001 backup']")
    assert ask_at_once(host, 1, "--data", "x") == {"504"}
    assert last_upstreams(host) == "127.0.0.1:8000"


def test_a_dead_primary_is_replaced_at_once_and_asked_again_later(host):
    first = host.serve("first", "tcp:127.0.0.1:8000")
    host.serve("second", "tcp:127.0.0.1:8001")
    switch(host, "[8000, '127.0.0.1:8001 backup']")
    assert answers(host) == {"first"}
    first.kill()
    first.wait()
    assert answers(host) == {"second"}
    host.serve("first", "tcp:127.0.0.1:8000")
    deadline = time.monotonic() + 20
    while answers(host) != {"first"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_primary_that_swallows_everything_costs_a_few_only(host):
    host.serve("first", "tcp:127.0.0.1:8000")
    host.serve("second", "tcp:127.0.0.1:8001")
    switch(host, "['127.0.0.9:8000', '127.0.0.1:8001 backup']", "connect_timeout: 1s")
    host.run("nft", "add table inet deaf")
    host.run("nft", "add chain inet deaf input { type filter hook input priority 0 ; }")
    host.run("nft", "add rule inet deaf input ip daddr 127.0.0.9 drop")
    assert ask_at_once(host, MANY, path="") == {"200"}
    began = time.monotonic()
    assert answers(host, 10) == {"second"}
    assert time.monotonic() - began < 6, "ten seconds if each one tried the dead one first"


def test_when_all_were_dead_the_first_that_returns_serves_at_once(host):
    both = [host.serve("first", "tcp:127.0.0.1:8000"), host.serve("second", "tcp:127.0.0.1:8001")]
    switch(host, "[8000, 8001]")
    for each in both:
        each.kill()
        each.wait()
    assert answers(host) == {502}
    host.serve("first", "tcp:127.0.0.1:8000")
    assert answers(host, 6) == {"first"}


def test_tcp_services_fail_over_and_are_back_at_once(host):
    ports = (5433, 5434)
    both = {port: host.serve(str(port), f"tcp:127.0.0.1:{port}", "--echo") for port in ports}
    host.switch(
        HOST + "proxy: {tls: off, services: {db: {upstream: [5433, '127.0.0.1:5434 backup'], "
        "protocol: tcp, port: 5432}}}"
    )
    probe = (
        "import socket\n"
        "for _ in range(12):\n"
        "    c = socket.create_connection(('100.64.0.1', 5432), 5)\n"
        "    try: c.sendall(b'raw'); print(c.recv(9).decode())\n"
        "    except OSError: print()\n"
    )

    def echoes():
        return set(host.run("python3", "-c", probe).stdout.splitlines())

    assert echoes() == {"raw"}
    both[5433].kill()
    both[5433].wait()
    assert echoes() == {"raw"}
    both[5434].kill()
    both[5434].wait()
    assert echoes() == {""}
    host.serve("5433", "tcp:127.0.0.1:5433", "--echo")
    assert echoes() == {"raw"}, "it would be ten seconds later otherwise"


def test_what_does_not_answer_is_told_in_the_words_of_its_protocol(host):
    host.serve("wiki", "tcp:127.0.0.1:8001")
    host.serve("db", "tcp:127.0.0.1:5434", "--echo")
    text = HOST + (
        "proxy: {tls: off, services: {wiki: {upstream: [8000, '127.0.0.1:8001 backup']}, "
        "gone: {upstream: [8002, 8003]}, one: {upstream: 8002}, "
        "db: {upstream: [5433, '127.0.0.1:5434 backup'], protocol: tcp, port: 5432}, "
        "dead: {upstream: 5435, protocol: tcp}}}"
    )
    answer = host.order("switch", yaml=text)
    assert sorted(answer["warnings"], reverse=True) == [
        "wiki: nothing answers at 127.0.0.1:8000; its clients are served by 127.0.0.1:8001",
        "one: nothing answers at 127.0.0.1:8002; its clients get 502 until it does",
        "gone: nothing answers at 127.0.0.1:8002 and 127.0.0.1:8003; its clients get 502 "
        "until one of them does",
        "dead: nothing answers at 127.0.0.1:5435; its clients are cut off until it does",
        "db: nothing answers at 127.0.0.1:5433; its clients are served by 127.0.0.1:5434",
    ]
    assert host.order("plan", yaml=text.replace("upstream: 5435", "upstream: 5436, port: 5435"))[
        "changes"
    ] == [
        "~ service dead, port: default -> 5435",
        "~ service dead, upstream: 127.0.0.1:5435 -> 127.0.0.1:5436",
    ]
