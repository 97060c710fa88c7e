"""`names: service` on a real nginx: what tailscaled hands over, and who may say whose it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

HERE = Path(__file__).parent
HOST = "host: {name: box, tailnet: tail.test}\ntailscale: {tags: ['tag:server']}\n"
TEXT = HOST + (
    "proxy: {names: service, tls: local-ca, services: {wiki: {upstream: 8000, allow: ['alice@example.com']}, "
    "open: {upstream: 8000}}}"
)
PLAIN = TEXT.replace("local-ca", "off")
ALICE = {"Node": {"Name": "laptop.tail.test."}, "UserProfile": {"LoginName": "alice@example.com"}}
NOBODY = 65534


def ask(host, url, *words):
    words = ("-B", HERE / "claiming_client.py", url, *map(str, words))
    return json.loads(host.run(sys.executable, *words).stdout)


def headers(answer):
    assert answer.get("status") == 200, answer
    return json.loads(answer["body"])["headers"]


@pytest.fixture
def wiki(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.localapi({"100.64.0.7": ALICE, "fd7a:115c:a1e0::7": ALICE, "[fd7a:115c:a1e0::7]": ALICE})
    return host


@pytest.mark.parametrize("listen", ["tailnet", "all", "[127.0.0.1]"])
@pytest.mark.parametrize("default_site", [True, False])
def test_pitfall_18_services_are_served_beside_the_distributions_default_site(wiki, listen, default_site):
    if not default_site:
        wiki.path("/etc/nginx/sites-enabled/default").unlink()
    wiki.nginx()
    answer = wiki.switch(TEXT.replace("{names", f"{{listen: {listen}, names"))
    got = headers(ask(wiki, "https://wiki.tail.test/", "--claim", "100.64.0.7:5555"))
    assert got["x-forwarded-for"] == got["x-real-ip"] == "100.64.0.7"
    assert got["x-tailscale-user"] == "alice@example.com" and got["x-forwarded-proto"] == "https"
    assert ask(wiki, "https://wiki.tail.test/", "--claim", "100.64.0.9:5555")["status"] == 403
    got = headers(ask(wiki, "https://open.tail.test/", "--claim", "[fd7a:115c:a1e0::9]:1"))
    assert got["x-forwarded-for"] == "fd7a:115c:a1e0::9" and "x-tailscale-user" not in got
    headers(ask(wiki, "https://wiki.tail.test/", "--claim", "[fd7a:115c:a1e0::7]:1"))
    assert ask(wiki, "http://wiki.tail.test/", "--claim", "100.64.0.7:5555")["status"] == 308
    warned = [line for line in answer["warnings"] if "http://127.0.0.1:80/" in line]
    assert bool(warned) == default_site
    if default_site:
        assert "/etc/nginx/sites-enabled/default" in warned[0]
        # Debian's site is still there for everybody else.
        assert "nginx" in wiki.run("curl", "-s", "http://127.0.0.2/").stdout
    where = json.loads(wiki.path("/var/log/nginx/tsstack.identity.log").read_text().splitlines()[0])
    assert where["client"] == "100.64.0.7:5555"


def test_the_tailnets_own_addresses_take_no_claims(wiki):
    wiki.switch(PLAIN)
    assert wiki.curl("http://open.tail.test/", "--haproxy-protocol", check=False)[0] in {0, 400}
    status, body = wiki.curl("http://open.tail.test/", "--interface", "100.64.0.7")
    assert status == 200 and json.loads(body)["headers"]["x-forwarded-for"] == "100.64.0.7"
    answer = ask(wiki, "http://wiki.tail.test/", "--claim", "100.64.0.7:1", "--to", "100.64.0.1")
    assert answer.get("status") in {None, 400}


def test_no_local_program_passes_for_somebody_else(wiki):
    wiki.switch(PLAIN)
    words = ("http://wiki.tail.test/", "--claim", "100.64.0.7:5555")
    assert ask(wiki, *words)["status"] == 200
    assert ask(wiki, *words, "--as", NOBODY)["status"] == 403
    assert "local user 65534" in wiki.path("/var/log/nginx/tsstack.identity.log").read_text()
    # Without a header there is no answer; with one that names nobody, nobody is let in.
    assert "closed" in ask(wiki, "http://wiki.tail.test/")
    assert ask(wiki, "http://wiki.tail.test/", "--claim", "127.0.0.1:5555")["status"] == 403


def test_a_peer_whose_bytes_are_merely_passed_on_passes_for_nobody(wiki):
    """Userspace networking: tailscaled connects to loopback for any peer, and whois knows that connection."""
    wiki.write("/etc/whois.json", json.dumps({"100.64.0.7": ALICE, "127.0.0.1": ALICE}))
    wiki.switch(PLAIN)
    assert ask(wiki, "http://wiki.tail.test/", "--claim", "100.64.0.7:5555")["status"] == 403
    assert "the client's own" in wiki.path("/var/log/nginx/tsstack.identity.log").read_text()


def test_a_tailscaled_that_connects_for_anybody_makes_allow_worthless(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.localapi({"100.64.0.7": ALICE}, "/etc", "--socks5-server=localhost:1055")
    answer = host.order("switch", yaml=PLAIN)
    assert answer["error"] == "CheckFailed" and "--socks5-server" in answer["message"]
    host.switch(PLAIN.replace(", allow: ['alice@example.com']", ""))


def test_a_site_of_ones_own_on_that_very_socket_is_refused(wiki):
    wiki.write("/etc/nginx/conf.d/mine.conf", "server { \n listen 127.0.0.1:80;\n return 204;\n}\n")
    answer = wiki.order("switch", yaml=PLAIN)
    assert answer["error"] == "CheckFailed"
    assert "/etc/nginx/conf.d/mine.conf listens on 127.0.0.1:80" in answer["message"]


def test_an_upstream_on_that_very_socket_is_refused(wiki):
    answer = wiki.order("switch", yaml=PLAIN.replace("8000", "80"))
    assert (
        answer["error"] == "CheckFailed" and "nginx itself would listen on 127.0.0.1:80" in answer["message"]
    )


def test_going_to_services_and_back(wiki):
    """From and to a scheme that has no socket on loopback, by reloads alone."""
    paths = TEXT.replace("names: service", "names: path")
    wiki.nginx()
    wiki.switch(paths)
    for text in (TEXT, paths, TEXT):
        assert "nginx reloaded" in wiki.switch(text)["report"]
    assert wiki.switch(TEXT)["changes"] == []


@pytest.mark.parametrize("listen", ["tailnet", "all"])
@pytest.mark.parametrize("foreground", [True, False])
def test_pitfall_21_tailscale_serve_on_443_is_named_before_anything_is_touched(wiki, listen, foreground):
    text = TEXT.replace("{names", f"{{listen: {listen}, names")
    served = {"TCP": {"443": {"HTTPS": True}}, "Web": {"box.tail.test:443": {"Handlers": {"/": {}}}}}
    wiki.write("/etc/serve.json", json.dumps({"Foreground": {"x": served}} if foreground else served))
    answer = wiki.order("switch", yaml=text)
    assert answer["error"] == "CheckFailed" and "rolled_back" not in answer
    assert "proxy.https_port" in answer["message"] and "https://box.tail.test:443" in answer["message"]
    assert "tailscale serve" in answer["hint"]
    assert not wiki.path("/etc/nginx/conf.d/tsstack.conf").is_symlink()
    wiki.switch(text.replace("{listen", "{https_port: 8443, listen"))


def test_our_own_services_and_other_ports_are_no_conflict(wiki):
    ours = {"TCP": {"443": {"TCPForward": "127.0.0.1:443", "ProxyProtocol": 2}}}
    served = {"Services": {"svc:wiki": ours}, "TCP": {"8443": {"TCPForward": "127.0.0.1:9"}}}
    wiki.write("/etc/serve.json", json.dumps(served))
    wiki.switch(TEXT)


def test_an_entry_that_brings_strangers_to_the_handover_is_refused(wiki):
    wiki.write("/etc/serve.json", json.dumps({"TCP": {"8443": {"TCPForward": "127.0.0.1:443"}}}))
    answer = wiki.order("switch", yaml=TEXT)
    assert answer["error"] == "CheckFailed" and "port 8443 of `tailscale serve`" in answer["message"]
