"""What is rendered, and what is refused before any nginx sees it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from proxy_machines import DEBIAN_12

from tsstack.errors import CheckFailed
from tsstack.model.facts import NginxFacts
from tsstack.model.names import Upstream
from tsstack.parts.proxy.naming import service_urls
from tsstack.parts.proxy.plan import PLAN, parse_plan

HOST = "host: {name: box, tailnet: tail.test}\n"
NEWER = NginxFacts((1, 26, 2), http3=True)
MACHINES = {
    "01-subdomain": DEBIAN_12,
    "02-path-http3": NEWER,
    "03-service-tailscale-old-nginx": replace(DEBIAN_12, version=(1, 18, 0)),
    "04-port-plain-standalone": NginxFacts((1, 27, 4)),
    "05-service-published": DEBIAN_12,
}


@pytest.mark.parametrize("topic", MACHINES)
def test_the_whole_tree(topic, golden, render, facts):
    tree = render((golden / topic / "stack.yaml").read_text(), facts(MACHINES[topic]))
    expected = golden / topic / "expected"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        for path, text in tree.items():
            (expected / path).parent.mkdir(parents=True, exist_ok=True)
            (expected / path).write_text(text)
    files = {
        path.relative_to(expected).as_posix(): path.read_text()
        for path in sorted(expected.rglob("*"))
        if path.is_file()
    }
    assert files == tree


def test_the_same_file_and_facts_give_the_same_bytes(render):
    text = (
        HOST
        + "proxy: {tls: local-ca, services: {b: {upstream: 1}, a: {upstream: 2, allow: ['tag:x', 'a@']}}}"
    )
    assert render(text) == render(text)


def test_no_section_no_files(render):
    assert render(HOST) == {}


@pytest.mark.parametrize(
    ("names", "url"),
    [
        ("subdomain", "https://w.box.tail.test/"),
        ("path", "https://box.tail.test/wiki/"),
        ("port", "https://box.tail.test:8443/"),
        ("service", "https://w.tail.test/"),
    ],
)
def test_public_addresses(names, url, load):
    stack = load(
        HOST + f"proxy: {{names: {names}, services: {{wiki: {{upstream: 1, subdomain: W, port: 8443}}}}}}"
    )
    assert service_urls(stack) == {"wiki": url}


def test_public_addresses_of_other_ports_and_tcp(load):
    stack = load(
        HOST + "proxy: {tls: off, http_port: 8080, services: {wiki: {upstream: 1}, "
        "db: {upstream: 5432, protocol: tcp}, off: {upstream: 3, enabled: false}}}"
    )
    assert service_urls(stack) == {
        "wiki": "http://wiki.box.tail.test:8080/",
        "db": "tcp://box.tail.test:5432",
    }
    assert service_urls(load(HOST)) == {}


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("{services: {a: {upstream: 1}, b: {upstream: 2, subdomain: a}}}", "both answer at https://a.box"),
        ("{names: port, services: {a: {upstream: 1}}}", "proxy.services.a.port is missing"),
        ("{services: {a: {upstream: 1, protocol: tcp, allow: [x@]}}}", "proxy.services.a.allow"),
        ("{services: {a: {upstream: 'unix:/x', protocol: tcp}}}", "proxy.services.a.port is missing"),
        ("{services: {a: {upstream: ['https://h:1', 2]}}}", "http and https upstreams"),
        ("{services: {a: {upstream: ['127.0.0.1:1 backup']}}}", "must not be a backup"),
        ("{services: {a: {upstream: 443, protocol: tcp}}}", "already used by proxy.https_port"),
        (
            "{services: {a: {upstream: 9, protocol: tcp}, b: {upstream: 9, protocol: tcp, port: 9}}}",
            "would both answer",
        ),
        ("{listen: all, services: {a: {upstream: 5432, protocol: tcp}}}", "nginx itself would listen"),
        (
            "{tls: off, services: {a: {upstream: '100.64.0.1:80'}}}",
            "nginx itself would listen on 100.64.0.1:80",
        ),
    ],
)
def test_two_things_at_one_place_are_refused(proxy, words, render):
    with pytest.raises(CheckFailed, match=re.escape(words)):
        render(HOST + "proxy: " + proxy)


@pytest.mark.parametrize(
    ("nginx", "service", "words"),
    [
        (NginxFacts((1, 22, 1), stream=False), "protocol: tcp", "no stream module"),
        (replace(DEBIAN_12, modules_enabled=False), "protocol: tcp", "includes no modules-enabled"),
        (NginxFacts((1, 22, 1), auth_request=False), "allow: ['tag:x']", "without http_auth_request_module"),
    ],
)
def test_what_this_nginx_cannot_do_is_refused(nginx, service, words, render, facts):
    with pytest.raises(CheckFailed, match=words):
        render(HOST + f"proxy: {{services: {{a: {{upstream: 9, {service}}}}}}}", facts(nginx))


def test_pitfall_20_reuseport_stands_once_for_each_address_and_port(render, facts):
    text = HOST + "proxy: {tls: local-ca, http3: true, services: {a: {upstream: 1}, b: {upstream: 2}}}"
    conf = render(text, facts(NEWER))["nginx/http.conf"]
    listens = re.findall(r"listen (\S+) quic reuseport", conf)
    assert sorted(listens) == ["100.64.0.1:443", "[fd7a:115c:a1e0::1]:443"]
    # It stands with the default server, so it stays where it is whichever service goes.
    without = render(text.replace("a: {upstream: 1}, ", ""), facts(NEWER))["nginx/http.conf"]
    assert re.findall(r"listen (\S+) quic reuseport", without) == listens
    assert conf.count("""add_header Alt-Svc 'h3=":443"; ma=86400' always;""") == 2
    assert "http2 on;" in conf and "ssl http2" not in conf
    plan = parse_plan(render(text, facts(NEWER))[PLAN])
    assert {listener.protocol for listener in plan.listeners} == {"tcp", "udp"}


def test_pitfall_20_an_nginx_without_http3_gets_none(render):
    conf = render(HOST + "proxy: {tls: local-ca, http3: true, services: {a: {upstream: 1}}}")[
        "nginx/http.conf"
    ]
    assert "quic" not in conf and "Alt-Svc" not in conf and "ssl http2;" in conf


def test_pitfall_18_the_name_scheme_decides_what_tailscale_is_asked_for(render):
    def names(scheme):
        tree = render(HOST + f"proxy: {{names: {scheme}, services: {{a: {{upstream: 1, port: 9}}}}}}")
        return [certificate.names for certificate in parse_plan(tree[PLAN]).certificates]

    assert names("path") == names("port") == [("box.tail.test",)]
    assert names("service") == [("a.tail.test",)]
    assert names("subdomain") == [("*.box.tail.test",)]


def test_many_names_share_one_wildcard_certificate(render):
    services = ", ".join(f"s{i}: {{upstream: 1}}" for i in range(65))
    plan = parse_plan(render(HOST + f"proxy: {{tls: local-ca, services: {{{services}}}}}")[PLAN])
    assert [certificate.names for certificate in plan.certificates] == [("*.box.tail.test",)]


def test_a_change_of_names_is_another_certificate_file(render):
    def path(service):
        tree = render(HOST + f"proxy: {{tls: local-ca, services: {{{service}: {{upstream: 1}}}}}}")
        return parse_plan(tree[PLAN]).certificates[0].certificate

    assert path("a") != path("b") and path("a") == path("a")


def test_the_allow_list_is_no_reason_to_reload_but_a_changed_service(render):
    def plan(allow):
        tree = render(HOST + f"proxy: {{services: {{a: {{upstream: 1, allow: {allow}}}}}}}")
        return parse_plan(tree[PLAN]), json.loads(tree["nginx/identity.json"])

    (first, one), (second, two) = plan("['tag:x']"), plan("[alice@]")
    assert first.digest == second.digest and first.services != second.services
    assert one == {"services": {"a": ["tag:x"]}} and two == {"services": {"a": ["alice@"]}}


def test_pitfall_21_unknown_addresses_become_loopback_and_say_so(render, facts):
    tree = render(HOST + "proxy: {services: {a: {upstream: 1}}}", facts(addresses=()))
    assert set(re.findall(r"listen (\S+):443", tree["nginx/http.conf"])) == {"127.0.0.1"}
    assert "not known" in tree["nginx/http.conf"] and not parse_plan(tree[PLAN]).addresses_known


def test_directives_that_the_distribution_sets_are_not_written_twice(render, facts):
    text = HOST + "proxy: {services: {a: {upstream: 1}}}"
    tree = render(text)
    assert "server_names_hash_bucket_size" in tree["nginx/http.conf"]
    assert "worker_rlimit_nofile 65535;" in tree["nginx/main.conf"]
    assert "worker_rlimit_nofile" not in tree["nginx/nginx.conf"]
    own = replace(DEBIAN_12, directives=("server_names_hash_bucket_size", "worker_rlimit_nofile"))
    tree = render(text, facts(own))
    assert "server_names_hash_bucket_size" not in tree["nginx/http.conf"]
    assert "worker_rlimit_nofile" not in tree["nginx/main.conf"]
    assert "worker_rlimit_nofile 65535;" in tree["nginx/nginx.conf"]


def test_the_main_file_is_tuned_as_asked(render):
    conf = render(HOST + "proxy: {worker_connections: 8192, services: {a: {upstream: 1}}}")[
        "nginx/nginx.conf"
    ]
    for line in ("worker_processes auto;", "worker_connections 8192;", "use epoll;", "multi_accept on;"):
        assert line in conf


@pytest.mark.parametrize(("listen", "left"), [("", "100.64.0.1:443"), ("listen: all, ", "0.0.0.0:443")])
def test_without_ipv6_in_the_kernel_nginx_is_told_of_none(listen, left, render, facts):
    text = HOST + f"proxy: {{tls: local-ca, {listen}services: {{a: {{upstream: 1}}}}}}"
    assert "[" in "".join(re.findall(r"listen (\S+)", render(text)["nginx/http.conf"]))
    conf = render(text, replace(facts(DEBIAN_12), ipv6=False))["nginx/http.conf"]
    listens = re.findall(r"listen (\S+?);? ", conf)
    assert left in listens
    assert not [each for each in listens if "[" in each]


SERVICES = HOST + (
    "tailscale: {tags: ['tag:a']}\n"
    "proxy: {names: service, LISTEN services: {a: {upstream: 8000}, "
    "db: {upstream: '192.0.2.1:5432', protocol: tcp}}}"
)


@pytest.mark.parametrize("listen", ["", "listen: all,", "listen: [127.0.0.1],"])
def test_services_are_handed_over_on_loopback_and_nobody_else_speaks_there(listen, render):
    tree = render(SERVICES.replace("LISTEN", listen))
    sockets = parse_plan(tree[PLAN]).listeners
    assert [(one.endpoint, one.path) for one in sockets if one.claimed] == [
        ("127.0.0.1:80", "proxy.http_port"),
        ("127.0.0.1:443", "proxy.https_port"),
    ]
    assert len({(one.endpoint, one.protocol) for one in sockets}) == len(sockets)
    lines = re.findall(r"listen 127\.0\.0\.1:(?!9180)[^;]*;", tree["nginx/http.conf"])
    assert lines and all(line.endswith(" proxy_protocol;") for line in lines)
    servers = tree["nginx/http.conf"].count("server_tokens off;")
    assert tree["nginx/http.conf"].count("    set_real_ip_from 127.0.0.1;\n") == servers
    assert "proxy_protocol" not in tree["nginx/main.conf"]


def test_without_services_of_tailscale_nothing_is_believed(render):
    text = SERVICES.replace("LISTEN", "")
    for other in (
        text.replace("names: service", "names: path"),
        text.replace("tailscale: {tags: ['tag:a']}", ""),
    ):
        tree = render(other)
        assert not any(one.claimed for one in parse_plan(tree[PLAN]).listeners)
        assert "proxy_protocol" not in tree["nginx/http.conf"] and "realip" not in tree["nginx/http.conf"]


def test_an_nginx_that_cannot_read_claims_is_refused(render, facts):
    with pytest.raises(CheckFailed, match="http_realip_module"):
        render(SERVICES.replace("LISTEN", ""), facts(replace(DEBIAN_12, realip=False)))


HOSTILE = ['x"', "x'", "x;", "x{", "x}", "x$y", "x y", "x\ny", "x\\", "x#", "x`", "x|", "é", "x\0"]


@pytest.mark.parametrize("evil", HOSTILE)
@pytest.mark.parametrize("field", ["subdomain", "path", "upstream", "tailnet"])
def test_hostile_values_stop_at_the_second_wall_when_the_first_is_gone(evil, field, load, render, facts):
    """The model refuses all of these; here it is bypassed with model_copy, which validates nothing."""
    from tsstack import assets
    from tsstack.parts.proxy.desired import render_proxy

    names = "path" if field == "path" else "subdomain"
    stack = load(HOST + f"proxy: {{names: {names}, tls: off, services: {{a: {{upstream: 1}}}}}}")
    service = stack.proxy.services["a"]
    host = stack.host
    if field == "tailnet":
        host = host.model_copy(update={"tailnet": evil})
    else:
        value = (Upstream("http", evil, 80),) if field == "upstream" else evil
        service = service.model_copy(update={field: value})
    proxy = stack.proxy.model_copy(update={"services": {"a": service}})
    bad = stack.model_copy(update={"proxy": proxy, "host": host})
    with pytest.raises(CheckFailed, match="could become nginx syntax"):
        render_proxy(bad, facts(), assets.folder("templates") / "nginx")


def test_everything_that_a_template_writes_passes_the_wall(tmp_path):
    from jinja2 import UndefinedError

    from tsstack.parts.proxy.wall import environment

    (tmp_path / "a.j2").write_text("{% macro m() %}a b;{% endmacro %}{{ m() }}{{ value }}")
    template = environment(tmp_path, None).get_template("a.j2")
    assert template.render(value="ok") == "a b;ok"
    for value in ("a b", "a;", True, None):
        with pytest.raises(CheckFailed):
            template.render(value=value)
    with pytest.raises(UndefinedError):
        template.render()


def test_pitfall_22_the_guide_names_exactly_the_headers_that_are_removed(render):
    """Somebody decides by that list which header an application may trust."""
    guide = (Path(__file__).parents[3] / "docs/proxy.md").read_text()
    table = guide.partition("| who defines it | removed |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`([A-Za-z-]+)`", table))
    conf = render(HOST + "proxy: {services: {a: {upstream: 1}, b: {upstream: 1, allow: [x@]}}}")[
        "nginx/http.conf"
    ]
    one, other = conf.partition("#@ proxy.services.b\nserver")[::2]
    own = {"Connection", "Content-Length", "Upgrade", "X-Forwarded-Prefix"}
    for text in (one, other):
        removed = set(re.findall(r'proxy_set_header (\S+) "";', text)) - own
        assert {name for name in removed if not name.startswith("X-Tailscale-")} == {
            name for name in told if not name.startswith("X-Tailscale-")
        }
        assert told <= removed
    from_us = {f"X-Tailscale-{what}" for what in ("User", "Name", "Node", "Tags")}
    assert len(told) > 90 and not told & from_us
    assert (
        from_us
        == {name for name in re.findall(r"proxy_set_header (\S+) \$tsstack", other)} - {"Upgrade"} - own
    )
