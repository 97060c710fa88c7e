"""nginx on the rendered files, asked by name: right for what is rendered, and what is broken is found out."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prove_bed import stack_of
from vhost_bed import FILE, TAILNET, hear, told

from tsstack.cli.main import run
from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts, Paths
from tsstack.parts.proxy.authority import provide
from tsstack.parts.proxy.discovery import discover_nginx
from tsstack.parts.proxy.host import PART
from tsstack.parts.proxy.plan import PLAN, parse_plan
from tsstack.prove.questions import Question
from tsstack.prove.vhosts import Answer, Hearing

pytestmark = pytest.mark.netns


def plain(hearing: Hearing) -> list[Answer]:
    """The questions that are asked by name and nothing else."""
    return [
        each for each in hearing.answers if isinstance(each.question, Question) and not each.question.about
    ]


@pytest.mark.parametrize("names", ["subdomain", "path", "port", "service"])
def test_nginx_answers_as_the_file_says(tmp_path: Path, names: str) -> None:
    hearing = hear(tmp_path, stack_of(FILE.replace("NAMES", names)))
    assert told(hearing) == []
    seen = {each.question.key: each.seen for each in plain(hearing) if each.question.upstreams}
    assert seen.pop("proxy.services.wiki") in {"127.0.0.1:8000", "192.168.15.9:8000"}
    assert seen == {
        "proxy.services.ollama": "127.0.0.1:11434",
        "proxy.services.vault": "secrets.lan:8200",
        "proxy.services.app": "unix:/run/app.sock",
        "proxy.services.db": "127.0.0.1:5433",
    }
    assert {each.question.address for each in plain(hearing)} >= set(TAILNET)
    refused = [each for each in plain(hearing) if not each.question.upstreams]
    assert len(refused) >= 3, "the guarded one without permission, and names of nobody"


PLACES = {
    "no TLS": ("tls: local-ca", "tls: off"),
    "every address": ("proxy:", "proxy:\n  listen: all"),
    "every address, written out": ("proxy:", 'proxy:\n  listen: [0.0.0.0, "::"]'),
    "every address of IPv6": ("proxy:", 'proxy:\n  listen: ["::"]'),
    "every address of IPv4 and one of IPv6": ("proxy:", 'proxy:\n  listen: [0.0.0.0, "fd00::7"]'),
    "one twice, and loopback": ("proxy:", "proxy:\n  listen: [10.9.9.9, 10.9.9.9, 127.0.0.1, 127.0.0.2]"),
    "other ports": ("  tls", "  https_port: 4443\n  http_port: 8080\n  tls"),
    "loopback alone": ("proxy:", 'proxy:\n  listen: ["::1", 127.0.0.1]'),
    "upstreams by address that speak TLS": ("https://secrets.lan:8200", "https://[fd00::9]:8200"),
    "an upstream in capitals": ("https://secrets.lan:8200", "https://Secrets.LAN:8200"),
    "no status": ("  tls", "  status: null\n  tls"),
    "the status among the ports": ("  tls", "  status: 127.0.0.1:80\n  tls"),
    "certificates of tailscaled's": ("tls: local-ca", "tls: tailscale"),
    "no connections kept": ("  tls", "  keepalive: 0\n  tls"),
    "HTTP/3 where nginx has none": ("  tls", "  http3: true\n  tls"),
    "an unbuffered service": ("rate_limit: 20r/s", "rate_limit: 1r/m, rate_burst: 0, buffering: false"),
}


@pytest.mark.parametrize("names", ["subdomain", "path", "port", "service"])
@pytest.mark.parametrize("name", PLACES)
def test_other_places_and_settings(tmp_path: Path, name: str, names: str) -> None:
    hearing = hear(tmp_path, stack_of(FILE.replace("NAMES", names).replace(*PLACES[name])))
    assert told(hearing) == []
    assert hearing.checks >= 7


@pytest.mark.parametrize("names", ["subdomain", "path", "port", "service"])
@pytest.mark.parametrize("listen", ["tailnet", "all"])
def test_without_ipv6(tmp_path: Path, names: str, listen: str) -> None:
    stack = stack_of(FILE.replace("NAMES", names).replace("proxy:", f"proxy:\n  listen: {listen}"))
    hearing = hear(tmp_path, stack, ipv6=False)
    assert told(hearing) == []
    assert not any(":" in each.question.address for each in plain(hearing))


@pytest.mark.parametrize("names", ["subdomain", "path", "port", "service"])
def test_before_the_tailnet_is_joined(tmp_path: Path, names: str) -> None:
    assert told(hear(tmp_path, stack_of(FILE.replace("NAMES", names)), addresses=())) == []


@pytest.mark.parametrize("names", ["subdomain", "service"])
@pytest.mark.parametrize("tls", ["local-ca", "tailscale"])
def test_an_old_nginx_that_has_to_show_a_certificate(tmp_path: Path, names: str, tls: str) -> None:
    old = replace(discover_nginx(Paths()), version=(1, 18, 0))
    stack = stack_of(FILE.replace("NAMES", names).replace("local-ca", tls))
    assert told(hear(tmp_path, stack, nginx=old)) == []


def test_no_services_leave_the_status_alone(tmp_path: Path) -> None:
    text = "host: {name: box, tailnet: tail.test}\nproxy: {services: {}}"
    assert told(hear(tmp_path, stack_of(text))) == []


def test_of_http3_the_sockets_and_the_offer_are_looked_at(tmp_path: Path) -> None:
    """An nginx that says it has HTTP/3: what it would open is missed where the lines for it are gone."""
    able = replace(discover_nginx(Paths()), http3=True)
    stack = stack_of(FILE.replace("NAMES", "subdomain").replace("  tls", "  http3: true\n  tls"))
    without = change(r"^.*listen .* quic.*\n", "", 0)
    found = told(hear(tmp_path / "a", stack, without, nginx=able))
    assert found == [
        (f"the socket udp {each}:443", "open", "not open") for each in (TAILNET[0], "[fd7a:115c:a1e0::3]")
    ]
    unsaid = lambda text: without(re.sub(r".*add_header Alt-Svc.*\n", "", text))  # noqa: E731
    assert 'without h3=":443"' in str(told(hear(tmp_path / "b", stack, unsaid, nginx=able)))


def change(pattern: str, by: str, count: int = 1) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, by, text, count=count, flags=re.MULTILINE)


MUTANTS = {
    "another upstream answers": change(r"server 127\.0\.0\.1:11434;", "server 127.0.0.1:11435;"),
    "two upstreams are swapped": lambda text: text.replace(":11434;", ":0;").replace(":5433;", ":11434;"),
    "a name is another": change(r"server_name ollama\.box", "server_name olama.box"),
    "a name leads to another service": change(r"http://tsstack_ollama", "http://tsstack_app"),
    "everybody may use a guarded service": change(r"^.*auth_request /.*\n", ""),
    "a client says who it is": change(r"^.*proxy_set_header X-Tailscale-User .*\n", ""),
    "a client says who it is by another header": change(r"^.*proxy_set_header Remote-User .*\n", ""),
    "the backup is asked first": lambda text: text.replace(":8000 max_fails=3", ":8000 down max_fails=3"),
    "nothing listens at one address": change(r"^.*listen \[fd7a:115c:a1e0::3\]:443 ssl http2;\n", ""),
    "a port is another": lambda text: text.replace(":5432 so_keepalive", ":5433 so_keepalive"),
    "a TCP service leads elsewhere": change(r"proxy_pass tsstack_db;", "proxy_pass 127.0.0.1:1;"),
    "names of nobody end in a service": lambda text: (
        text.replace("ssl_reject_handshake on;", "")
        .replace("server_name ~.;", "server_name ~.;\n location / { proxy_pass http://tsstack_app; }", 1)
        .replace("return 421;", "")
    ),
    "a service is gone": change(r"proxy_pass http://tsstack_app;", "return 503;"),
    "a path is not cut off": change(r"http://tsstack_ollama/;", "http://tsstack_ollama;"),
    "a certificate of other names": lambda text: re.sub(
        r'("names": )\[[^]]*\]', r'\1["other.tail.test"]', text
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_configuration_is_found_out(tmp_path: Path, name: str) -> None:
    mutate = MUTANTS[name]
    changed = []

    def note(text: str) -> str:
        after = mutate(text)
        changed.append(after != text)
        return after

    names = "path" if "path" in name else "subdomain"
    hearing = hear(tmp_path, stack_of(FILE.replace("NAMES", names)), note)
    assert any(changed), "the mutant changes nothing"
    assert hearing.mismatches, name


def test_a_certificate_of_ones_own_is_the_one_that_is_served(tmp_path: Path) -> None:
    """The right one is told from another that covers the same names."""
    folder = tmp_path / "own"
    folder.mkdir()
    text = FILE.replace("NAMES", "port")
    made = PART.desired(stack_of(text), Facts(paths=replace(Paths(), state=folder)))
    (certificate,) = parse_plan(made[PLAN]).certificates
    pairs = []
    for name in ("one", "two"):
        pair = folder / f"{name}.pem"
        provide(
            replace(certificate, certificate=str(pair), key=str(pair)),
            folder / f"tls-{name}",
            "tail.test",
            folder / "no.sock",
            now_unix_s=time.time(),
        )
        pairs.append(str(pair))
    one, two = pairs
    stack = stack_of(text.replace("tls: local-ca", f"tls: {{certificate: {one}, key: {one}}}"))
    assert told(hear(tmp_path / "right", stack)) == []
    wrong = hear(tmp_path / "wrong", stack, lambda rendered: rendered.replace(one, two))
    assert "a certificate that does not count" in wrong.mismatches[0].seen
    # Debian's /etc/ssl/private, for whoever is not root: the certificate can be read, its key cannot.
    kept = text.replace("tls: local-ca", f"tls: {{certificate: {one}, key: {folder}/private.key}}")
    assert told(hear(tmp_path / "kept", stack_of(kept))) == []


def test_many_upstreams_that_speak_tls_are_each_greeted_by_their_own_name(tmp_path: Path) -> None:
    services = "".join(f"    s{at}: {{upstream: 'https://host-{at}.lan:8443'}}\n" for at in range(120))
    head = "host: {name: box, tailnet: tail.test}\nproxy:\n  names: subdomain\n  tls: off\n  services:\n"
    for attempt in range(3):
        assert told(hear(tmp_path / str(attempt), stack_of(head + services))) == []


def test_a_path_that_looks_like_the_question_is_another_service(tmp_path: Path) -> None:
    text = (
        "host: {name: box, tailnet: tail.test}\nproxy:\n  names: path\n  tls: off\n  services:\n"
        "    all: {upstream: 8000, path: /}\n    some: {upstream: 8001, path: /asked}\n"
    )
    assert told(hear(tmp_path, stack_of(text))) == []


def test_no_real_upstream_is_called(tmp_path: Path) -> None:
    """Nothing leaves the throwaway network: a listener of this machine, and a socket, hear nothing."""
    called: list[object] = []
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    unix.bind(str(tmp_path / "app.sock"))
    for each in (tcp, unix):
        each.listen()
        each.settimeout(0.1)
    text = FILE.replace("NAMES", "subdomain").replace("11434", str(tcp.getsockname()[1]))
    assert (
        told(hear(tmp_path / "here", stack_of(text.replace("/run/app.sock", f"{tmp_path}/app.sock")))) == []
    )
    for each in (tcp, unix):
        with pytest.raises(TimeoutError):
            called.append(each.accept())
        each.close()
    assert called == []
    assert threading.active_count() < 20


def test_what_nginx_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="no_such_directive"):
        hear(
            tmp_path,
            stack_of(FILE.replace("NAMES", "subdomain")),
            change(r"^limit_req_zone", "no_such_directive on;\nlimit_req_zone"),
        )


def test_the_verb_asks_the_services_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tsstack.yaml"
    file.write_text(FILE.replace("NAMES", "subdomain"))
    assert run(["-c", str(file), "prove", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mismatches"] == 0
    assert answer["checks"] == len(answer["matrix"])
    row = next(row for row in answer["matrix"] if row["to"] == "db")
    assert row == {
        "from": "(a client)",
        "to": "db",
        "packet": "tcp://box.tail.test:5432 at 127.0.0.1",
        "expected": "127.0.0.1:5433",
        "seen": "127.0.0.1:5433",
        "path": "proxy.services.db",
    }
    assert run(["-c", str(file), "prove"]) == 0
    assert "https://ollama.box.tail.test/ at 127.0.0.1" in capsys.readouterr().out


def test_a_thousand_names_are_all_asked(tmp_path: Path) -> None:
    services = {f"s{at}": {"upstream": 20000 + at} for at in range(1000)}
    text = json.dumps(
        {"host": {"name": "box", "tailnet": "tail.test"}, "proxy": {"tls": "local-ca", "services": services}}
    )
    hearing = hear(tmp_path, stack_of(text.replace('"host":', "host:", 1)))
    assert told(hearing) == []
    assert len({each.question.key for each in plain(hearing) if each.question.passes}) == 1000
    assert hearing.shared_handshakes > 0
