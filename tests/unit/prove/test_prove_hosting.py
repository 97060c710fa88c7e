"""What nginx is asked, and what of its answers is right, by the file alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tsstack.model.facts import Facts, NginxFacts, TailscaleFacts
from tsstack.model.stack import Stack
from tsstack.prove.handshakes import client_hello, is_accepted
from tsstack.prove.hosting import ask_everyone
from tsstack.prove.lies import FORGED, OURS, REMOVED
from tsstack.prove.lists import compare_lists, compare_sockets
from tsstack.prove.places import Socket, addresses_of, sockets_of, without_covered
from tsstack.prove.questions import CLIENTS, LIE, REFUSED, Hit, Question, Reply, judge
from tsstack.prove.strangers import names_written

GUIDE = Path(__file__).parents[3] / "docs" / "proxy.md"
FACTS = Facts(
    nginx=NginxFacts(version=(1, 26, 0), http3=True),
    tailscale=TailscaleFacts((1, 102, 3), "Running", ("100.64.0.3", "fd7a:115c:a1e0::3")),
)
QUESTION = Question(
    "proxy.services.wiki",
    "https",
    "wiki.box",
    "100.64.0.3",
    443,
    "/wiki/x",
    ("127.0.0.1:1",),
    inner_path="/x",
    prefix="/wiki",
)
HEADERS = {
    "host": "wiki.box",
    "x-real-ip": "198.18.66.1",
    "x-forwarded-for": "198.18.66.1",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "wiki.box",
    "x-forwarded-port": "443",
    "x-forwarded-prefix": "/wiki",
}
HIT = Hit("127.0.0.1:1", "/x", "HTTP/1.1", HEADERS)
REPLY = Reply(200, {"location": "/wiki/there", "set-cookie": "proof=1; Path=/wiki/"})


def stack_of(**proxy: object) -> Stack:
    """A file of a host in a tailnet with this proxy."""
    host = {"name": "box", "tailnet": "tail.test"}
    return Stack.model_validate({"host": host, "tailscale": {}, "proxy": {"tls": "local-ca", **proxy}})


def test_the_lies_are_those_that_the_guide_says_nobody_can_tell() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    table = guide.partition("| who defines it | removed |")[2].partition("\n\n")[0]
    assert set(REMOVED) == {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row)}
    assert all(f"\n{name}: " in f"\n{FORGED}" for name in (*REMOVED, *OURS, "X_Forwarded_For"))


@pytest.mark.parametrize(
    ("names", "listen", "expected"),
    [
        (
            "subdomain",
            "all",
            {"tcp 0.0.0.0:80", "tcp 0.0.0.0:443", "tcp [::]:80", "tcp [::]:443", "tcp 127.0.0.1:9180"},
        ),
        ("port", ["10.0.0.1"], {"tcp 10.0.0.1:8443", "tcp 127.0.0.1:9180"}),
        (
            "service",
            ["10.0.0.1"],
            {f"tcp {each}:{port}" for each in ("10.0.0.1", "127.0.0.1") for port in (80, 443)}
            | {"tcp 127.0.0.1:9180"},
        ),
    ],
)
def test_the_sockets_of_a_file(names: str, listen: object, expected: set[str]) -> None:
    stack = stack_of(names=names, listen=listen, services={"wiki": {"upstream": 8000, "port": 8443}})
    assert set(map(str, sockets_of(stack, FACTS))) == expected


def test_streams_and_http3_have_sockets_of_their_own() -> None:
    services = {"wiki": {"upstream": 8000}, "db": {"upstream": 5433, "port": 5432, "protocol": "tcp"}}
    sockets = sockets_of(stack_of(http3=True, services=services), FACTS)
    assert sockets[Socket("udp", "100.64.0.3", 443)] == "proxy.http3"
    assert sockets[Socket("tcp", "fd7a:115c:a1e0::3", 5432)] == "proxy.services.db"
    without = replace(FACTS, nginx=NginxFacts(version=(1, 22, 0)), ipv6=False)
    kept = sockets_of(stack_of(http3=True, services=services), without)
    assert not any(each.protocol == "udp" or ":" in each.address for each in kept)


def test_what_a_wildcard_covers_is_no_socket_of_its_own() -> None:
    wide, narrow, other = (Socket("tcp", each, 80) for each in ("0.0.0.0", "127.0.0.1", "::1"))  # noqa: S104
    assert without_covered([wide, narrow, other]) == {wide, other}
    told = list(compare_sockets({narrow: "proxy.status"}, [wide, narrow]))
    assert [(str(fact), fact.expected, seen) for fact, seen in told] == [
        ("the socket tcp 127.0.0.1:80", "open", "not open"),
        ("the socket tcp 0.0.0.0:80", "not open", "open"),
    ]


def test_a_wildcard_of_the_file_is_asked_at_an_address_that_stands_for_it() -> None:
    given = addresses_of(stack_of(listen=["::", "0.0.0.0", "10.0.0.1", "10.0.0.1"]), FACTS)  # noqa: S104
    assert len(given) == 3
    assert not {"::", "0.0.0.0"} & set(given)  # noqa: S104


def test_each_question_of_a_service_comes_from_a_client_of_its_own() -> None:
    services = {"wiki": {"upstream": ["https://a.lan:1", "https://b.lan:1 backup"], "allow": ["tag:x"]}}
    for listen in ("all", [f"10.0.0.{at}" for at in range(1, 9)]):
        asked = [
            each
            for each in ask_everyone(stack_of(listen=listen, services=services), FACTS)
            if "wiki" in each.key
        ]
        assert len(asked) < CLIENTS
        assert len({each.client for each in asked}) == len(asked)


def test_very_many_services_are_asked_a_few_times_each_at_most() -> None:
    for names in ("subdomain", "port", "path"):
        services = {f"s{at}": {"upstream": 9000 + at, "port": 20000 + at} for at in range(1000)}
        stack = stack_of(names=names, services=services)
        asked = list(ask_everyone(stack, FACTS, [f"s{at}.box.tail.test" for at in range(1000)]))
        assert {f"proxy.services.{key}" for key in services} <= {each.key for each in asked if each.passes}
        assert len(asked) < 7000, names


def test_names_that_are_written_are_names_to_ask_for() -> None:
    text = (
        'server_name "";\n server_name ~.;\nserver_name a.b\n  *.c.d .e e.*;\nserver_names_hash_max_size 512;'
    )
    assert list(names_written(text))[-5:] == ["a.b", "no-service.c.d", "no-service.e", "e", "e.invalid"]


@pytest.mark.parametrize(
    ("hit", "reply", "seen"),
    [
        (HIT, REPLY, "127.0.0.1:1"),
        (replace(HIT, endpoint="127.0.0.1:2"), REPLY, "127.0.0.1:2"),
        (replace(HIT, path="/wiki/x"), REPLY, "127.0.0.1:1 with the path /wiki/x"),
        (replace(HIT, protocol="HTTP/1.0"), REPLY, "127.0.0.1:1 by HTTP/1.0"),
        (
            replace(HIT, headers={**HEADERS, "x-custom": LIE}),
            REPLY,
            "127.0.0.1:1 with the client's own x-custom",
        ),
        (HIT, Reply(200, {**REPLY.headers, "alt-svc": "h3"}), "127.0.0.1:1 with alt-svc: h3"),
        (HIT, Reply(500, {}), "127.0.0.1:1 and 500 from nginx"),
        (None, Reply(421, {}), REFUSED),
        (None, Reply(308, {"location": "/y"}), "308 to /y"),
        (None, Reply(200, {}), "200 from nginx"),
    ],
)
def test_an_answer_is_judged(hit: Hit | None, reply: Reply, seen: str) -> None:
    assert judge(QUESTION, reply, [hit] if hit else []) == seen


@pytest.mark.parametrize("name", HEADERS)
def test_every_header_that_is_nginxs_own_counts(name: str) -> None:
    other = replace(HIT, headers={**HEADERS, name: "other"})
    assert judge(QUESTION, REPLY, [other]) == f"127.0.0.1:1 with {name}: other"
    without = replace(HIT, headers={each: value for each, value in HEADERS.items() if each != name})
    assert judge(QUESTION, REPLY, [without]) != "127.0.0.1:1"


def test_lists_are_compared_whole() -> None:
    stack = stack_of(services={"wiki": {"upstream": 1, "allow": ["alice@", "tag:x"]}})
    right = '{"services": {"wiki": ["tag:x", "alice@"]}}'
    assert all(fact.agrees(seen) for fact, seen in compare_lists(stack, right))
    for wrong in ('{"services": {}}', right.replace("alice@", "bob@"), right.replace("}}", ', "b": []}}')):
        assert not all(fact.agrees(seen) for fact, seen in compare_lists(stack, wrong)), wrong


def test_the_first_words_of_tls() -> None:
    hello = client_hello("old", "wiki.box")
    assert hello[:3] == b"\x16\x03\x01"
    assert int.from_bytes(hello[3:5]) == len(hello) - 5
    assert b"wiki.box" in hello
    assert hello[9:11] == b"\x03\x02"
    assert not is_accepted(b"\x15\x03\x02\0\x02\x02\x46")
    assert not is_accepted(b"")
    assert is_accepted(b"\x16\x03\x02\0\x40\x02")
