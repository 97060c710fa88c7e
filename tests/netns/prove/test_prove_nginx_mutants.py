"""nginx's configuration, broken as a renderer could break it: the proof finds each out, by what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prove_bed import stack_of
from vhost_bed import hear, told

pytestmark = pytest.mark.netns

FILE = """
host: {name: box, tailnet: tail.test}
tailscale: {}
proxy:
  names: NAMES
  tls: local-ca
  services:
    ollama: {upstream: 11434, rate_limit: 1r/m, max_body_size: 2M, port: 8443}
    wiki:
      upstream: [8000, "192.168.15.9:8000", "10.0.0.1:8001 backup"]
      allow: [alice@, "tag:client"]
      websockets: false
      max_body_size: 500M
      port: 8444
    vault: {upstream: "https://secrets.lan:8200", path: /deep/vault, verify_upstream: true, port: 8445}
    lax: {upstream: "https://10.0.0.7:8201", port: 8447}
    app: {upstream: "unix:/run/app.sock", port: 8446, max_body_size: 0}
    db: {upstream: [5433, "10.0.0.2:5433 backup"], port: 5432, protocol: tcp}
"""
Change = Callable[[str], str]
HANDSHAKE_LIKE_OF_OLD = r"ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3; ssl_ciphers DEFAULT:@SECLEVEL=0;"
MODERN = r"ssl_protocols [^;]*;\s*ssl_ciphers [^;]*;"


def change(pattern: str, by: str, count: int = 1) -> Change:
    return lambda text: re.sub(pattern, by, text, count=count, flags=re.MULTILINE)


def drop(pattern: str) -> Change:
    """Without the first line that has this."""
    return change(rf"^.*{pattern}.*\n", "")


def drop_all(pattern: str) -> Change:
    return change(rf"^.*{pattern}.*\n", "", 0)


def widen(by: str) -> Change:
    """One address becomes all, at every port."""
    return lambda text: text.replace("listen 100.64.0.3:", f"listen {by}:")


def add_server(lines: str) -> Change:
    """A server block before the first of the http configuration."""
    return change(r"^(server \{)", rf"server {{ {lines} }}\n\1")


def set_header(name: str, value: str) -> Change:
    return change(rf"proxy_set_header {name} [^;]*;", f"proxy_set_header {name} {value};")


# What is broken, the naming under which it is, and a word of what the proof says of it.
MUTANTS: dict[str, tuple[str, Change, str]] = {
    # Sockets.
    "every address": ("subdomain", widen("0.0.0.0"), "socket tcp 0.0.0.0:443"),  # noqa: S104
    "every address by a star": ("subdomain", widen("*"), "socket tcp 0.0.0.0:443"),
    "every address of IPv6": (
        "subdomain",
        lambda text: text.replace("listen [fd7a:115c:a1e0::3]:", "listen [::]:"),
        "socket tcp [::]:443",
    ),
    "both families by one socket": (
        "subdomain",
        change(r"listen 127\.0\.0\.1:9180", "listen [::]:9180 ipv6only=off"),
        "socket tcp 0.0.0.0:9180",
    ),
    "another port": (
        "subdomain",
        change(r"^( *)(listen 100\.64\.0\.3:)443", r"\1\g<2>8080;\n\g<2>443"),
        ":8080",
    ),
    "an extra socket": ("subdomain", change(r"^server \{", "server {\n listen unix:/tmp/SOCK;"), "unix:"),
    "the status for everybody": (
        "subdomain",
        change(r"listen 127\.0\.0\.1:9180", "listen 9180"),
        "0.0.0.0:9180",
    ),
    "no status": ("subdomain", change(r"location = /nginx_status \{[^}]*\}", ""), "the status"),
    "a service less at one address": (
        "subdomain",
        change(r"listen \[fd7a:115c:a1e0::3\]:443[^;]*;(\s*server_name app\.)", r"\1"),
        "https://app.box.tail.test/ at fd7a:115c:a1e0::3",
    ),
    "a stream for everybody": (
        "subdomain",
        change(r"listen 100\.64\.0\.3:5432", "listen 0.0.0.0:5432"),
        ":5432",
    ),
    "an extra stream": (
        "subdomain",
        change(r"^( *)(listen 100\.64\.0\.3:5432)", r"\1listen 127.0.0.1:5431;\n\2"),
        "5431",
    ),
    "a datagram socket": (
        "subdomain",
        change(r"^stream \{", "stream { server { listen 127.0.0.1:99 udp; return x; }"),
        "udp 127.0.0.1:99",
    ),
    # Names.
    "an extra server": (
        "subdomain",
        add_server(
            "listen 100.64.0.3:443 ssl; server_name spare.box.tail.test; location / { return 200 x; }"
        ),
        "spare.box.tail.test",
    ),
    "an extra server by plain HTTP": (
        "subdomain",
        add_server("listen 100.64.0.3:80; server_name spare.example; return 200 x;"),
        "http://spare.example",
    ),
    "names below a name": (
        "subdomain",
        change(r"server_name ollama\.box", "server_name .ollama.box"),
        "no-service.ollama",
    ),
    "all names of the host": (
        "subdomain",
        change(r"server_name ollama\.", "server_name *.box.tail.test ollama."),
        "no-service.box.tail.test",
    ),
    "one label whatever follows": (
        "subdomain",
        change(r"server_name ollama\.", "server_name ollama.* ollama."),
        "ollama.invalid",
    ),
    "unknown names are served, once greeted by a known one": (
        "subdomain",
        change(r"return 421;", "location / { proxy_pass http://tsstack_app; }", 0),
        "greeted as",
    ),
    "the default server answers": (
        "port",
        change(r"return 421;", "return 200 welcome;", 0),
        "200 from nginx",
    ),
    "the default server answers by plain HTTP": (
        "subdomain",
        change(r"return 444;", "return 200 x;"),
        "http://no-service",
    ),
    "a redirect for names of nobody": (
        "subdomain",
        lambda text: text.replace("3:80 default_server;", "3:80 ;").replace("3:80;", "3:80 default_server;"),
        "no-service.invalid",
    ),
    # Plain HTTP and TLS.
    "no redirect": ("subdomain", change(r"return 308 https://[^;]*;", "return 200 x;"), "by plain HTTP"),
    "a redirect to somewhere": (
        "subdomain",
        change(r"return 308 https://\$host", "return 308 https://evil.example"),
        "evil",
    ),
    "content by plain HTTP": (
        "subdomain",
        change(r"location / \{ return 308 [^}]*\}", "location / { proxy_pass http://tsstack_app; }"),
        "by plain HTTP",
    ),
    "a redirect that loses the path": ("service", change(r"\$host\$request_uri", "$host/"), "by plain HTTP"),
    "plain HTTP on the port for TLS": (
        "port",
        change(r"error_page 497 [^;]*;", "", 0),
        "on the port for TLS",
    ),
    "no TLS": ("subdomain", lambda text: text.replace(" ssl http2;", ";"), ""),
    "TLS of old": ("subdomain", change(MODERN, HANDSHAKE_LIKE_OF_OLD, 0), "by TLS 1.1"),
    "TLS of old on one port": ("port", change(MODERN, HANDSHAKE_LIKE_OF_OLD), "by TLS 1.1"),
    "ciphers of old": ("subdomain", drop_all("ssl_ciphers"), "without forward secrecy"),
    # What an upstream is told.
    "a client adds to X-Forwarded-For": (
        "subdomain",
        set_header("X-Forwarded-For", "$proxy_add_x_forwarded_for"),
        "x-forwarded-for",
    ),
    "a client says its scheme": (
        "subdomain",
        drop("proxy_set_header X-Forwarded-Proto"),
        "x-forwarded-proto",
    ),
    "a client says its address": ("subdomain", drop("proxy_set_header X-Real-IP"), "x-real-ip"),
    "our address for the client's": ("subdomain", set_header("X-Real-IP", "$server_addr"), "x-real-ip"),
    "a client says its host": ("subdomain", drop("proxy_set_header X-Forwarded-Host"), "x-forwarded-host"),
    "a client says its port": ("subdomain", drop("proxy_set_header X-Forwarded-Port"), "x-forwarded-port"),
    "a client says its prefix": (
        "subdomain",
        drop("proxy_set_header X-Forwarded-Prefix"),
        "x-forwarded-prefix",
    ),
    "no prefix": ("path", set_header("X-Forwarded-Prefix", '""'), "x-forwarded-prefix"),
    "a client says who forwards": ("subdomain", drop("proxy_set_header Forwarded"), "forwarded"),
    "a header of tailscaled's": (
        "subdomain",
        drop("proxy_set_header Tailscale-User-Login"),
        "tailscale-user-login",
    ),
    "a header of the last service": (
        "subdomain",
        lambda text: "proxy_set_header X-Nobody".join(
            text.rsplit("proxy_set_header X-Pomerium-Claim-Email", 1)
        ),
        "",
    ),
    "tags of the client's": ("subdomain", drop('X-Tailscale-Tags ""'), "x-tailscale-tags"),
    "tags that are lost": ("subdomain", drop(r"X-Tailscale-Tags \$"), "x-tailscale-tags"),
    "underscores": (
        "subdomain",
        change(r"underscores_in_headers off", "underscores_in_headers on", 0),
        "own",
    ),
    "another host": ("subdomain", set_header("Host", "$proxy_host"), "host"),
    "HTTP/1.0": ("subdomain", drop(r"^        proxy_http_version"), ""),
    "addresses by a header": (
        "subdomain",
        change(
            r"server_tokens off;",
            "server_tokens off; set_real_ip_from 0.0.0.0/0; real_ip_header X-Real-IP;",
            0,
        ),
        "",
    ),
    # Where it goes.
    "another upstream": (
        "subdomain",
        change(r"proxy_pass http://tsstack_ollama", "proxy_pass http://tsstack_app"),
        "ollama",
    ),
    "another port of it": (
        "subdomain",
        change(r"server 127\.0\.0\.1:11434", "server 127.0.0.1:11435"),
        "11435",
    ),
    "the path is not cut": (
        "path",
        change(r"proxy_pass http://tsstack_ollama/;", "proxy_pass http://tsstack_ollama;"),
        "ollama",
    ),
    "redirects leave the prefix": ("path", drop(r"proxy_redirect / "), "location"),
    "cookies leave the prefix": ("path", drop(r"proxy_cookie_path / "), "set-cookie"),
    "no closing slash": ("path", change(r"return 308 /ollama/", "return 308 /wiki/"), "closing slash"),
    "no TLS to an upstream": ("subdomain", change(r"https://tsstack_vault", "http://tsstack_vault"), "vault"),
    "an upstream that nobody vouches for": ("subdomain", drop("proxy_ssl_verify on"), "nobody vouches"),
    "an upstream's name is not told": ("subdomain", drop("proxy_ssl_server_name"), "vault"),
    "an upstream of another name": (
        "subdomain",
        change(r"proxy_ssl_name [^;]*", "proxy_ssl_name other.lan"),
        "vault",
    ),
    "verified where it is not asked for": (
        "subdomain",
        change(
            r"(proxy_ssl_name 10\.0\.0\.7;)",
            r"\1 proxy_ssl_verify on; proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;",
        ),
        "lax",
    ),
    "the backup is not asked": (
        "subdomain",
        change(r"proxy_next_upstream error timeout", "proxy_next_upstream off"),
        "backup",
    ),
    "a stream leads elsewhere": (
        "subdomain",
        change(r"server 127\.0\.0\.1:5433", "server 127.0.0.1:5434"),
        "5434",
    ),
    "a stream has another port": ("subdomain", lambda text: text.replace(":5432 ", ":5435 "), ":5432"),
    "a stream has no backup": ("subdomain", drop(r"server 10\.0\.0\.2:5433 backup"), ":5432"),
    "a stream that answers by itself": (
        "subdomain",
        lambda text: text.replace("proxy_pass tsstack_db;", 'return "HTTP/1.1 200 OK\\r\\n\\r\\n";'),
        ":5432",
    ),
    # Who may.
    "nobody is asked who they are": ("subdomain", drop("auth_request /"), "wiki"),
    "everybody may": ("subdomain", change(r"(auth_request /)", r"satisfy any; allow all; \1"), "wiki"),
    "asked as another service": (
        "subdomain",
        change(r"X-Tsstack-Service wiki", "X-Tsstack-Service app"),
        "wiki",
    ),
    "asked of another client": (
        "subdomain",
        change(r"X-Tsstack-Address \$remote_addr", "X-Tsstack-Address $server_addr"),
        "wiki",
    ),
    "asked of no peer": ("service", drop("X-Tsstack-Peer-Address"), "wiki"),
    "the daemon's answer for everybody": ("subdomain", change(r"^ *internal;", ""), "identity daemon"),
    "a longer list": ("subdomain", change(r'"alice@"', '"alice@", "mallory@"'), "who may use wiki"),
    "a shorter list": ("subdomain", change(r'"alice@",?', ""), "who may use wiki"),
    "no list": (
        "subdomain",
        change(r'"services": \{\s*"wiki": \[[^]]*\]\s*\}', '"services": {}'),
        "who may use wiki",
    ),
    "programs of this host are let in": (
        "service",
        change(r"^( *listen 127\.0\.0\.1:.*) proxy_protocol;", r"\1;", 0),
        "by a program of this host",
    ),
    # Limits, websockets, answers.
    "no limit of the body": ("subdomain", drop("client_max_body_size 2097152"), "largest"),
    "a wider limit": (
        "subdomain",
        change(r"client_max_body_size 2097152", "client_max_body_size 3m"),
        "too large",
    ),
    "a limit where none is": ("port", change(r"(8446(?s:.*?)client_max_body_size) 0", r"\1 1m"), "largest"),
    "a limit where the daemon is asked": ("subdomain", drop("client_max_body_size 0"), "largest"),
    "no websockets": ("subdomain", drop(r"proxy_set_header Upgrade"), "upgrade"),
    "half of a websocket": ("subdomain", set_header("Connection", '""'), "connection"),
    "websockets unasked": (
        "subdomain",
        change(r'proxy_set_header Upgrade ""', "proxy_set_header Upgrade $http_upgrade"),
        "wiki",
    ),
    "any other protocol": (
        "subdomain",
        change(r"(map \$http_upgrade \$tsstack_upgrade).*", r"\1 { default $http_upgrade; }"),
        "HTTP/2",
    ),
    "HTTP/3 that nobody offers": (
        "subdomain",
        change(
            r"^( *)(server_tokens off;)(?=[\s\S]*proxy_pass)",
            r"\1\2 add_header Alt-Svc 'h3=\":443\"' always;",
            0,
        ),
        "alt-svc",
    ),
    "nginx tells its version": ("subdomain", drop_all("server_tokens off"), "nginx/"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_renderer_is_found_out(tmp_path: Path, name: str) -> None:
    names, mutate, word = MUTANTS[name]
    changed = []

    def note(text: str) -> str:
        after = mutate(text).replace("/tmp/SOCK", f"{tmp_path}/extra.sock")
        changed.append(after != text)
        return after

    hearing = hear(tmp_path, stack_of(FILE.replace("NAMES", names)), note)
    assert any(changed), "the mutant changes nothing"
    found = told(hearing)
    assert found, name
    assert word in str(found), found[:5]


@pytest.mark.parametrize("names", ["subdomain", "path", "port", "service"])
def test_the_right_one_passes(tmp_path: Path, names: str) -> None:
    assert told(hear(tmp_path, stack_of(FILE.replace("NAMES", names)))) == []


def test_another_name_s_certificate_is_found_out(tmp_path: Path) -> None:
    """Where each name has one of its own."""
    stack = stack_of(FILE.replace("NAMES", "service").replace("local-ca", "tailscale"))
    assert told(hear(tmp_path / "right", stack)) == []
    swapped = change(r"(ssl_certificate(_key)? \S*tailscale-)ollama", r"\1app", 0)
    found = told(hear(tmp_path / "wrong", stack, swapped))
    assert {"a certificate that does not count" in seen for _, _, seen in found} == {True}
