"""What is judged of names, certificates and upstreams, from what they said."""

from __future__ import annotations

import datetime
import socket
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tsstack.parts.proxy.authority import issue
from tsstack.parts.proxy.plan import Listener, Plan, Vhost
from tsstack.parts.proxy.probe import mute_upstreams
from tsstack.parts.proxy.standing import Point, Standing, judge_services, judge_vhost
from tsstack.parts.proxy.survey import Answer, Refusal, ask_ports, ask_vhosts

NOW = datetime.datetime.now(datetime.UTC)
VHOST = Vhost("wiki.box.tail.test", 443, True, ("wiki",))
DIGEST = "4f2a4f2a4f2a4f2a4f2a"
MEND = "tsstack rollback --to 7"


@pytest.fixture(scope="module")
def leaf(tmp_path_factory):
    pem, _, _ = issue(tmp_path_factory.mktemp("tls"), "tail.test", ("wiki.box.tail.test",), NOW)
    return x509.load_pem_x509_certificates(pem)[0]


@pytest.fixture
def judge(leaf):
    raw = leaf.public_bytes(Encoding.DER)

    def judged(*answers, days=0.0, name=VHOST.name):
        vhost = Vhost(name, 443, True, ("wiki",))
        made = [Answer(vhost, f"100.64.0.{n}:443", **{"digest": DIGEST, "certificate": raw, **each})
                for n, each in enumerate(answers)]  # fmt: skip
        return judge_vhost(DIGEST, vhost, made, {raw: leaf}, NOW + datetime.timedelta(days=days), mend=MEND)

    return judged


def test_a_name_that_answers_with_its_certificate_is_well(judge):
    state = judge({}, {})
    assert (state.level, state.words) == ("ok", "")
    assert state.days_left == pytest.approx(90, abs=0.1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"digest": "other"}, "generation other answers at 100.64.0.1:443, not the live one"),
        ({"digest": ""}, "something else answers at 100.64.0.1:443, not the live one"),
        ({"trouble": "Connection refused", "digest": "", "certificate": b""},
         "does not answer at 100.64.0.1:443: Connection refused"),
        ({"distrust": "self-signed certificate"}, "clients refuse its certificate: self-signed certificate"),
    ],
)  # fmt: skip
def test_one_address_that_is_wrong_is_critical(judge, answer, words):
    state = judge({}, answer)
    assert (state.level, state.words) == ("critical", words)
    assert state.hint


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(75, "ok", ""), (78, "ok", ""), (82, "warning", "its certificate ends in 8 days"),
     (88, "critical", "its certificate ends in 48 h"),
     (91, "critical", "its certificate expired"), (-1, "critical", "its certificate counts from")],
)  # fmt: skip
def test_the_days_of_a_certificate(judge, days, level, words):
    state = judge({}, days=days)
    assert state.level == level
    assert state.words.startswith(words)


def test_a_certificate_for_another_name_is_critical(judge):
    assert judge({}, name="api.box.tail.test").words == "its certificate is not for this name"


def test_what_differs_is_mended_by_the_live_generation_whatever_the_file_says(judge):
    assert judge({"digest": "x"}).hint.startswith(MEND)


def test_what_is_critical_is_told_before_what_warns(judge):
    assert judge({}, {"digest": "x"}, days=80).level == "critical"


def test_a_name_without_any_address_is_critical():
    assert judge_vhost(DIGEST, VHOST, [], {}, NOW, mend=MEND).level == "critical"


def plan(**how):
    return Plan(
        digest=DIGEST, main_config="", has_main=False, addresses_known=True, tailnet="tail.test", status=None,
        identity=False, **how,
    )  # fmt: skip


def test_services_by_the_upstreams_that_are_left():
    upstreams = {"a": ("h:1", "h:2"), "b": ("h:3",), "c": ("h:4",)}
    states = judge_services(plan(upstreams=upstreams), [("a", "h:1"), ("b", "h:3")])
    assert [(each.name, each.level) for each in states] == [("a", "warning"), ("b", "critical"), ("c", "ok")]
    assert (states[0].answering, states[0].silent) == (("h:2",), ("h:1",))


def test_a_tcp_service_with_a_port_where_nobody_listens_is_critical():
    """However well its upstream is: a reload left its listener out."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as gone:
        well, shut = taken.getsockname()[1], gone.getsockname()[1]
        gone.close()
        made = plan(
            listeners=tuple(Listener("127.0.0.1", port, "tcp", "proxy.services.db") for port in (well, shut)),
            urls={"a": f"tcp://h:{well}", "b": f"tcp://h:{shut}", "c": f"tcp://h:{shut}", "d": "https://h/"},
            upstreams={"a": ("h:1",), "b": ("h:2",), "c": ("h:3",), "d": ("h:4",)},
        )
        found = ask_ports(made, {("c", "h:3")})
    assert found == [Refusal("b", f"127.0.0.1:{shut}", "Connection refused", refused=True)]
    states = {each.name: each for each in judge_services(made, [], [], found, mend="nginx -s reload")}
    assert states["b"].level == "critical"
    assert states["b"].words == f"does not answer at 127.0.0.1:{shut}: Connection refused"
    assert states["b"].hint == "nginx -s reload"
    assert {states[name].level for name in "acd"} == {"ok"}


def test_an_upstream_that_takes_connections_and_never_answers_is_told():
    """nginx would wait for it, and its client gets 504."""
    with socket.create_server(("127.0.0.1", 0)) as frozen, socket.create_server(("127.0.0.1", 0)) as alive:
        mute, well = (f"127.0.0.1:{each.getsockname()[1]}" for each in (frozen, alive))

        def serve():
            connection, _ = alive.accept()
            with connection:
                assert connection.recv(4096).startswith(b"HEAD / HTTP/1.1\r\nHost: wiki.test\r\n")
                connection.sendall(b"HTTP/1.1 405 no\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        asked = plan(
            upstreams={"wiki": (mute, well), "db": (mute,)},
            urls={"wiki": "https://wiki.test/", "db": "tcp://wiki.test:5432"},
        )
        found = mute_upstreams(asked, ())
        thread.join()
    assert found == [("wiki", mute)]
    db, wiki = judge_services(asked, [], found)
    assert (wiki.level, wiki.answering, wiki.mute) == ("warning", (well,), (mute,))
    assert db.level == "ok"


def test_the_whole_is_as_the_worst():
    points = (Point("configuration", "ok", ""), Point("nginx", "unknown", ""))
    assert Standing(DIGEST, points, (), ()).level == "unknown"
    states = judge_services(plan(upstreams={"b": ("h:3",)}), [("b", "h:3")])
    assert Standing(DIGEST, points, (), states).level == "critical"


def test_what_is_no_nginx_of_ours_is_no_digest(tmp_path):
    """An answer that is long, of another kind, or none, neither raises nor passes for a generation."""
    replies = [b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 404 X\r\n\r\nabc", b"garbage", b"",
               b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + DIGEST.encode()]  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for reply in replies:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        vhost = Vhost("wiki.box.tail.test", port, False, ("wiki",))
        listener = Listener("127.0.0.1", port, "tcp", "proxy.http_port")
        asked = plan(vhosts=(vhost,), listeners=(listener,))
        found = [ask_vhosts(asked, Path(tmp_path / "none"))[0].digest for _ in replies]
        thread.join()
    assert found == ["", "", "", "", DIGEST]
