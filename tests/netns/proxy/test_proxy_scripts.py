"""`nginx-logs` and `nginx-test` on a private host, with a real nginx and its real logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

HOST = "host: {name: box, tailnet: tail.test}\n"
WIKI = HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}"


def script(name):
    return [sys.executable, "-c", f"from tsstack.cli.{name} import main; main()"]


def logs(host, *words, code=0):
    done = host.run(*script("nginx_logs"), *words, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def judged(host, *words, code):
    done = host.run(*script("nginx_test"), *words, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def test_what_clients_did_is_told_by_service(host):
    host.localapi({})
    wiki = host.serve("wiki", "tcp:127.0.0.1:8000")
    host.serve("few", "tcp:127.0.0.1:8001")
    host.serve("closed", "tcp:127.0.0.1:8002")
    host.serve("db", "tcp:127.0.0.1:5432", "--echo")
    host.switch(
        HOST
        + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}, few: {upstream: 8001, rate_limit: 1r/s, "
        "rate_burst: 0}, closed: {upstream: 8002, allow: [alice@example.com]}, "
        "db: {upstream: 5432, port: 5433, protocol: tcp}}}"
    )
    for _ in range(30):
        assert host.curl("https://wiki.box.tail.test/page")[0] == 200
    assert [host.curl("https://few.box.tail.test/")[0] for _ in range(3)].count(429) == 2
    assert host.curl("https://closed.box.tail.test/")[0] == 403
    evil = b'GET /\xff HTTP/1.1\r\nHost: wiki.box.tail.test\r\nUser-Agent: \x1b]0;x"\\\r\n\r\n'
    host.run(
        sys.executable, "-c",
        "import socket,ssl,sys; c=ssl._create_unverified_context().wrap_socket(socket.create_connection("
        "('100.64.0.1',443)),server_hostname='wiki.box.tail.test'); "
        "c.sendall(bytes.fromhex(sys.argv[1])); c.recv(999)",
        evil.hex(),
    )  # fmt: skip
    host.run(
        "sh", "-c", "printf hello | timeout 5 curl -s --max-time 1 telnet://100.64.0.1:5433", check=False
    )
    time.sleep(1.2)
    found = {each["service"]: each for each in json.loads(logs(host, "--json"))["services"]}
    assert found["few"]["limited"] == 2 and found["few"]["classes"]["4xx"] == 2
    assert found["closed"]["denied"] == 1
    # The switch looked whether the port answers: that is no use of it.
    assert len(host.path("/var/log/nginx/tsstack-db.log").read_text().splitlines()) == 2
    assert found["db"]["requests"] == 1 and found["db"]["received_bytes"] == 5
    assert found["db"]["failures"] == 0
    assert found["wiki"]["classes"]["2xx"] >= 30 and found["wiki"]["upstream"]["p95_s"] is not None
    assert all(each["broken"] == 0 for each in found.values())
    # In a log that many share, the port is what tells TCP services apart.
    tcp_lines = host.path("/var/log/nginx/tsstack-db.log").read_text().splitlines()
    assert {json.loads(line)["port"] for line in tcp_lines} == {5433}
    assert b"/\xff" in host.path("/var/log/nginx/tsstack-wiki.log").read_bytes()

    wiki.kill()
    wiki.wait()
    for _ in range(31):
        assert host.curl("https://wiki.box.tail.test/")[0] == 502
    screen = logs(host, "--errors", "--since", "5m", code=2)
    assert "critical" in screen.splitlines()[0] and "see wiki" in screen.splitlines()[0]


def test_lines_are_followed_through_rotation_and_rotated_ones_count(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    log = host.path("/var/log/nginx/tsstack-wiki.log")
    follower = host.popen(*script("nginx_logs"), "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert "following wiki" in follower.stderr.readline()
        time.sleep(0.5)
        host.curl("https://wiki.box.tail.test/one")
        assert "GET /one" in follower.stdout.readline()
        log.rename(log.with_name("tsstack-wiki.log.1"))
        host.curl("https://wiki.box.tail.test/two")
        assert "GET /two" in follower.stdout.readline()
        host.run("nginx", "-s", "reopen")
        deadline = time.monotonic() + 10
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        host.curl("https://wiki.box.tail.test/three")
        assert "GET /three" in follower.stdout.readline()
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()
        follower.stderr.close()
    assert json.loads(logs(host, "--json"))["services"][0]["requests"] == 3
    host.run("gzip", "/var/log/nginx/tsstack-wiki.log.1")
    assert json.loads(logs(host, "--json"))["services"][0]["requests"] == 3


def test_who_may_not_read_the_log_is_told_what_would_help(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    host.run("chown", "www-data:adm", "/var/log/nginx/tsstack-wiki.log")
    host.run("chmod", "640", "/var/log/nginx/tsstack-wiki.log")
    done = host.run(
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *script("nginx_logs"), check=False
    )
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert "group adm" in " ".join(done.stdout.split())


def test_a_host_that_is_well_is_told_so_and_nothing_is_changed(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    before = host.workers()
    screen = judged(host, code=0)
    assert "nginx serves the live one" in screen and "90 days" in screen
    assert "nginx accepts /etc/nginx/nginx.conf" in screen
    assert host.workers() == before
    found = json.loads(judged(host, "--json", code=0))
    assert found["status"] == "ok" and found["vhosts"][0]["services"] == ["wiki"]


def test_what_is_broken_is_found(host):
    upstream = host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    upstream.kill()
    upstream.wait()
    assert "127.0.0.1:8000 is silent" in judged(host, code=2)
    host.serve("wiki", "tcp:127.0.0.1:8000")
    judged(host, code=0)
    host.write("/etc/nginx/conf.d/other.conf", "server { listen 9999; nonsense; }\n")
    assert 'unknown directive "nonsense"' in " ".join(judged(host, code=2).split())
    host.path("/etc/nginx/conf.d/other.conf").unlink()
    host.path("/etc/nginx/conf.d/tsstack.conf").unlink()
    assert "link /etc/nginx/conf.d/tsstack.conf" in judged(host, code=1)


def test_a_tcp_service_that_nobody_listens_for_is_found_and_a_reload_mends_it(host):
    """Each name answers, the generation is the live one, and nothing of it is drift."""
    host.serve("db", "tcp:127.0.0.1:5432", "--echo")
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(
        HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}, "
        "db: {upstream: 5432, port: 5433, protocol: tcp}}}"
    )
    judged(host, code=0)
    link = host.path("/etc/nginx/modules-enabled/90-tsstack.conf")
    target = link.readlink()
    link.unlink()
    reload_wholly(host)
    assert "link /etc/nginx/modules-enabled/90-tsstack.conf" in judged(host, code=2)
    link.symlink_to(target)
    db = next(each for each in json.loads(judged(host, "--json", code=2))["services"] if each["name"] == "db")
    assert (db["level"], db["hint"]) == ("critical", "nginx -s reload")
    assert "db: does not answer at 100.64.0.1:5433: Connection refused" in " ".join(
        judged(host, code=2).split()
    )
    host.run(*db["hint"].split())
    deadline = time.monotonic() + 10
    while host.run(*script("nginx_test"), check=False).returncode and time.monotonic() < deadline:
        time.sleep(0.2)
    judged(host, code=0)


def reload_wholly(host):
    """Until the workers of before are gone, and the listeners with them."""
    before = set(host.workers())
    host.run("nginx", "-s", "reload")
    deadline = time.monotonic() + 10
    while set(host.workers()) & before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(host.workers()) & before


def test_an_nginx_that_serves_another_generation_is_found(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    other = host.order(
        "plan", yaml=HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000, rate_limit: 5r/s}}}"
    )
    current = host.path("/var/lib/tsstack/current")
    current.unlink()
    current.symlink_to(other["generation"])
    screen = judged(host, code=2)
    assert "the live one is" in screen and "tsstack rollback --to" in screen


def test_a_stopped_nginx_is_critical_and_no_pid_file_is_left(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    host.run("nginx", "-s", "quit")
    deadline = time.monotonic() + 10
    while host.path("/run/nginx.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    screen = judged(host, code=2)
    assert "does not run" in screen and "Connection refused" in screen
    assert not host.path("/run/nginx.pid").exists()


def test_what_is_left_of_a_certificate_is_said_as_ts_status_says_it(host):
    """One that was made for two days is well then: nobody renews it earlier."""
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.pair("own", "wiki.box.tail.test", days=2)
    host.switch(
        HOST
        + "proxy: {tls: {certificate: /etc/own.pem, key: /etc/own.pem}, services: {wiki: {upstream: 8000}}}"
    )
    assert " 48 h wiki" in " ".join(judged(host, code=0).split())


def test_a_dead_identity_daemon_is_critical(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.localapi({})
    host.run("mkdir", "-p", "/run/tailscale")
    host.run("ln", "-s", "/run/tailscaled.sock", "/run/tailscale/tailscaled.sock")
    guarded = WIKI.replace("upstream: 8000", "upstream: 8000, allow: [alice@example.com]")
    host.switch(guarded, socket="/var/run/tailscale/tailscaled.sock")
    judged(host, code=0)
    pid = json.loads(host.path("/run/tsstack/identity.state").read_text())["pid"]
    host.run("kill", str(pid))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and host.run("kill", "-0", str(pid), check=False).returncode == 0:
        time.sleep(0.05)
    words = "does not answer: services with `allow` refuse everybody"
    assert f"identity daemon: {words}" in " ".join(judged(host, code=2).split())
    (remark,) = remarks(host, "identity daemon")
    assert (remark["code"], remark["level"], remark["message"]) == ("TS720", "critical", words)


def test_workers_that_serve_on_without_their_master_are_told_alike(host):
    """No reload reaches them, and nothing that clients see is wrong."""
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    assert remarks(host, "nginx") == []
    count = len(host.workers())
    master = int(host.path("/run/nginx.pid").read_text())
    os.kill(master, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while b"nginx" in title(master) and time.monotonic() < deadline:
        time.sleep(0.05)
    words = f"its master is dead, {count} worker{'s serve' if count > 1 else ' serves'} on"
    assert host.curl("https://wiki.box.tail.test/")[0] == 200
    assert f"nginx: {words}" in " ".join(judged(host, code=2).split())
    (remark,) = remarks(host, "nginx")
    assert (remark["code"], remark["level"], remark["message"]) == ("TS725", "critical", words)


def title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def remarks(host, about):
    """What ts-status says of it."""
    code = "import sys; from tsstack.cli import ts_status; ts_status.run(['--json'])"
    told = json.loads(host.run(sys.executable, "-c", code).stdout)
    return [each for each in told["warnings"] if each["about"] == about]


def test_a_file_is_judged_before_a_switch(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    good = HOST + "proxy: {listen: [127.0.0.9], tls: off, services: {wiki: {upstream: 8000}}}\n"
    screen = judged(host, host.write("/etc/tsstack/good.yaml", good), code=0)
    assert "nginx accepts what /etc/tsstack/good.yaml renders to" in screen
    assert "+ service wiki: http://wiki.box.tail.test/" in screen
    silent = host.write("/etc/tsstack/silent.yaml", good.replace("8000", "8009"))
    assert "nothing answers at 127.0.0.1:8009" in judged(host, silent, code=1)
    broken = host.write("/etc/tsstack/broken.yaml", good.replace("upstream", "upstraem"))
    assert "upstraem" in judged(host, broken, code=2)
    none = host.write("/etc/tsstack/none.yaml", "host: {name: box}\n")
    judged(host, none, code=3)
    assert not host.path("/etc/nginx/conf.d/tsstack.conf").is_symlink()
