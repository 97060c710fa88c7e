"""What clients of the proxied services see, from a real nginx on a private host."""

from __future__ import annotations

import json
import time

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


def test_unknown_names_end_before_any_service(host):
    host.serve("ollama", "tcp:127.0.0.1:11434")
    host.switch(HOST + "proxy: {tls: local-ca, services: {ollama: {upstream: 11434}}}")
    done = host.run(
        "curl", "-sk", "--resolve", "evil.example:443:100.64.0.1", "https://evil.example/", check=False
    )
    assert done.returncode == 35  # the handshake was refused
    status, _ = host.curl("https://ollama.box.tail.test/", "-H", "Host: evil.example")
    assert status == 421
    done = host.run("curl", "-s", "-H", "Host: evil.example", "http://100.64.0.1/", check=False)
    assert done.returncode == 52  # closed without an answer


def test_plain_http_serves_names_and_closes_on_others(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(HOST + "proxy: {tls: off, services: {wiki: {upstream: 8000}}}")
    assert host.curl("http://wiki.box.tail.test/")[0] == 200
    done = host.run("curl", "-s", "http://100.64.0.1/", check=False)
    assert done.returncode == 52


def test_paths_are_cut_off_and_redirects_and_cookies_kept_below_them(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.serve("api", "tcp:127.0.0.1:8001")
    host.switch(
        HOST + "proxy: {names: path, tls: local-ca, services: {wiki: {upstream: 8000}, "
        "api: {upstream: 8001, path: /v1/api}}}"
    )
    status, body = host.curl("https://box.tail.test/wiki/a/b?c=d")
    seen = json.loads(body)
    assert (status, seen["name"], seen["request"]) == (200, "wiki", "GET /a/b?c=d HTTP/1.1")
    assert seen["headers"]["x-forwarded-prefix"] == "/wiki"
    assert json.loads(host.curl("https://box.tail.test/v1/api/x")[1])["name"] == "api"
    _, head = host.curl("https://box.tail.test/wiki/redirect", "-D", "-", "-o", "/dev/null")
    assert "location: /wiki/login" in head.lower()
    assert "path=/wiki/" in head.lower()
    _, head = host.curl("https://box.tail.test/wiki?q=1", "-D", "-", "-o", "/dev/null")
    assert " 308" in head and "location: /wiki/?q=1" in head.lower()
    assert host.curl("https://box.tail.test/")[0] == 404
    assert host.curl("https://box.tail.test/wikix")[0] == 404


def test_each_service_on_a_port_of_the_hosts_name(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.serve("api", "tcp:127.0.0.1:8001")
    host.switch(
        HOST + "proxy: {names: port, tls: local-ca, services: {wiki: {upstream: 8000, port: 8443}, "
        "api: {upstream: 8001, port: 8444}}}"
    )
    seen = json.loads(host.curl("https://box.tail.test:8443/")[1])
    assert (seen["name"], seen["headers"]["host"]) == ("wiki", "box.tail.test:8443")
    assert json.loads(host.curl("https://box.tail.test:8444/")[1])["name"] == "api"
    _, head = host.curl("http://box.tail.test:8443/x", "-D", "-", "-o", "/dev/null")
    assert " 308" in head and "location: https://box.tail.test:8443/x" in head.lower()


def test_service_names_below_the_tailnet(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(HOST + "proxy: {names: service, tls: local-ca, services: {wiki: {upstream: 8000}}}")
    assert host.curl("https://wiki.tail.test/")[0] == 200


def test_ipv6_and_listening_everywhere(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    text = HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}"
    host.switch(text, addresses=["100.64.0.1", "fd7a:115c:a1e0::1"])
    assert host.curl("https://wiki.box.tail.test/", address="[fd7a:115c:a1e0::1]")[0] == 200
    host.switch(text.replace("{tls", "{listen: all, tls"))
    assert host.curl("https://wiki.box.tail.test/", address="127.0.0.1")[0] == 200
    # The distribution's own site keeps its place as the default server of port 80.
    assert "nginx" in host.run("curl", "-s", "http://127.0.0.1/").stdout


def test_a_certificate_of_ones_own_and_a_wrong_one(host):
    host.pair("good", "wiki.box.tail.test")
    host.pair("other", "else.example")
    host.serve("wiki", "tcp:127.0.0.1:8000")
    text = (
        HOST
        + "proxy: {tls: {certificate: /etc/CERT.pem, key: /etc/KEY.pem}, services: {wiki: {upstream: 8000}}}"
    )
    host.switch(text.replace("CERT", "good").replace("KEY", "good"))
    trusted = ("curl", "-s", "--cacert", "/etc/good.pem")
    done = host.run(*trusted, "--resolve", "wiki.box.tail.test:443:100.64.0.1", "https://wiki.box.tail.test/")
    assert json.loads(done.stdout)["name"] == "wiki"
    before = host.workers()
    for certificate, key, words in (
        ("good", "other", "does not belong"),
        ("other", "other", "does not cover"),
        ("none", "good", "cannot be read"),
    ):
        answer = host.order("switch", yaml=text.replace("CERT", certificate).replace("KEY", key))
        assert answer["error"] == "CheckFailed" and words in answer["message"], answer
    assert host.workers() == before


def test_websockets_pass_and_other_upgrades_do_not(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(
        HOST
        + "proxy: {tls: off, services: {wiki: {upstream: 8000}, plain: {upstream: 8000, websockets: false}}}"
    )
    probe = (
        "import socket,sys\n"
        "c=socket.create_connection(('100.64.0.1',80),5)\n"
        "c.sendall(f'GET / HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\nConnection: Upgrade\\r\\n"
        "Upgrade: {sys.argv[2]}\\r\\n\\r\\n'.encode())\n"
        "head=c.recv(4096).decode().splitlines()[0]\n"
        "out=''\n"
        "if ' 101' in head:\n"
        "    c.sendall(b'over the socket'); out=c.recv(100).decode()\n"
        "print(head,out)\n"
    )
    assert (
        "101 Switching Protocols over the socket"
        in host.run("python3", "-c", probe, "wiki.box.tail.test", "websocket").stdout
    )
    assert " 200 " in host.run("python3", "-c", probe, "wiki.box.tail.test", "h2c").stdout
    assert " 200 " in host.run("python3", "-c", probe, "plain.box.tail.test", "websocket").stdout


def test_a_websocket_lives_as_long_as_somebody_says_something(host):
    """As the guide says: silence of `read_timeout` ends it, traffic from either side does not."""
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(HOST + "proxy: {tls: off, services: {wiki: {upstream: 8000, read_timeout: 1s}}}")
    probe = (
        "import socket,time\n"
        "c=socket.create_connection(('100.64.0.1',80),5)\n"
        "c.sendall(b'GET / HTTP/1.1\\r\\nHost: wiki.box.tail.test\\r\\nConnection: Upgrade\\r\\n"
        "Upgrade: websocket\\r\\n\\r\\n')\n"
        "assert b' 101' in c.recv(4096)\n"
        "for _ in range(5):\n"
        "    time.sleep(0.5); c.sendall(b'ping'); assert c.recv(9)==b'ping'\n"
        "began=time.monotonic(); assert c.recv(9)==b''\n"
        "print(0.5 < time.monotonic()-began < 4)\n"
    )
    assert host.run("python3", "-c", probe).stdout == "True\n"


def test_rate_and_body_limits(host):
    host.serve("api", "tcp:127.0.0.1:8001")
    host.switch(
        HOST + "proxy: {tls: off, services: {api: {upstream: 8001, rate_limit: 5r/s, max_body_size: 1k}}}"
    )
    codes = host.run(
        "curl", "-s", "-o", "/dev/null", "-w", "%{http_code} ",
        "--resolve", "api.box.tail.test:80:100.64.0.1", "http://api.box.tail.test/[1-20]",
    ).stdout.split()  # fmt: skip
    assert "429" in codes and codes.count("200") in range(6, 9), codes
    path = host.path("/var/log/nginx/tsstack-api.log")
    # nginx writes a line after the answer is out.
    deadline = time.monotonic() + 5
    while len(path.read_text().splitlines()) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    log = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"200", "429"} == {str(line["status"]) for line in log[-20:]}
    assert {line["limit"] for line in log[-20:]} == {"PASSED", "REJECTED"}
    assert log[-20]["service"] == "api" and float(log[-20]["upstream_response_time"]) >= 0
    status = 429
    while status == 429:
        status, _ = host.curl("http://api.box.tail.test/", "--data", "x" * 2000)
    assert status == 413


def test_backup_upstream_takes_over_and_unix_sockets_and_https_upstreams_work(host):
    host.pair("up", "app.example")
    first = host.serve("first", "tcp:127.0.0.1:8000")
    host.serve("second", "tcp:127.0.0.1:8001")
    host.serve("socket", "unix:/run/app.sock")
    host.serve("secure", "tcp:127.0.0.1:8002", "--tls", "/etc/up.pem")
    host.switch(
        HOST + "proxy:\n  tls: off\n  services:\n"
        '    wiki: {upstream: [8000, "127.0.0.1:8001 backup"]}\n'
        '    app: {upstream: "unix:/run/app.sock"}\n'
        '    safe: {upstream: "https://127.0.0.1:8002"}\n'
        '    strict: {upstream: "https://127.0.0.1:8002", verify_upstream: true}\n'
    )
    for _ in range(6):  # an equal of the first would be asked every other time, by each of the workers
        assert json.loads(host.curl("http://wiki.box.tail.test/")[1])["name"] == "first"
    first.kill()
    assert json.loads(host.curl("http://wiki.box.tail.test/")[1])["name"] == "second"
    assert json.loads(host.curl("http://app.box.tail.test/")[1])["name"] == "socket"
    assert json.loads(host.curl("http://safe.box.tail.test/")[1])["name"] == "secure"
    assert host.curl("http://strict.box.tail.test/")[0] == 502


def test_tcp_services_pass_bytes_on_the_tailnet_address(host):
    host.serve("db", "tcp:127.0.0.1:5432", "--echo")
    answer = host.switch(HOST + "proxy: {tls: off, services: {db: {upstream: 5432, protocol: tcp}}}")
    assert answer["warnings"] == []
    probe = (
        "import socket;c=socket.create_connection(('100.64.0.1',5432),5);c.sendall(b'raw');print(c.recv(9))"
    )
    assert "b'raw'" in host.run("python3", "-c", probe).stdout


def test_pitfall_22_identity_headers_of_the_client_are_stripped_everywhere(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(HOST + "proxy: {tls: off, services: {wiki: {upstream: 8000}}}")
    forged = ["Tailscale-User-Login", "Tailscale-User-Name", "X-Tailscale-User", "X-Tailscale-Tags"]
    forged += ["Remote-User", "Forwarded", "X-Webauth-User", "X-Forwarded-User", "X-Auth-Request-Email"]
    forged += ["Tailscale_User_Login", "X-Tailscale-User-Profile-Pic", "Tailscale-User-Profile-Pic"]
    forged += ["Tailscale-Funnel-Request", "x-tailscale-user-loginname", "X-Tsdproxy-Username"]
    forged += ["X-Authentik-Username", "Cf-Access-Authenticated-User-Email"]
    words = [word for name in forged for word in ("-H", f"{name}: root@example.com")]
    _, body = host.curl(
        "http://wiki.box.tail.test/", *words, "-H", "X-Forwarded-For: 1.2.3.4", "-H", "X-Real-IP: 1.2.3.4"
    )
    headers = json.loads(body)["headers"]
    assert "root@example.com" not in headers.values()
    assert headers["x-forwarded-for"] == headers["x-real-ip"] == "100.64.0.1"


def test_pitfall_23_upstream_connections_are_kept(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(HOST + "proxy: {tls: off, services: {wiki: {upstream: 8000}}}")
    done = host.run(
        "curl", "-s", "--resolve", "wiki.box.tail.test:80:100.64.0.1", "-w", "\n", "http://wiki.box.tail.test/[1-30]"
    )  # fmt: skip
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert "HTTP/1.1" in last["request"] and "connection" not in last["headers"]
    # One connection for each worker at most, beside the one that looked whether the upstream answers.
    assert last["connections"] <= 1 + len(host.workers())


def test_status_endpoint_counts_and_names_the_generation(host):
    answer = host.switch(HOST + "proxy: {tls: off, services: {wiki: {upstream: 8000}}}")
    assert "Active connections" in host.run("curl", "-s", "http://127.0.0.1:9180/nginx_status").stdout
    plan = json.loads(host.path(answer["generation"] + "/nginx/plan.json").read_text())
    assert host.run("curl", "-s", "http://127.0.0.1:9180/generation").stdout == plan["digest"]
    assert any("wiki: nothing answers at 127.0.0.1:8000" in line for line in answer["warnings"])
