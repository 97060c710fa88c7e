"""How the proxy gets from one generation to the next on a real nginx, and back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.netns

HOST = "host: {name: box, tailnet: tail.test}\n"
WIKI = HOST + "proxy: {tls: off, services: {wiki: {upstream: 8000}}}"
BOTH = HOST + "proxy: {tls: off, services: {wiki: {upstream: 8000}, api: {upstream: 8001}}}"
LINK = "/etc/nginx/conf.d/tsstack.conf"


def test_pitfall_25_nothing_is_reloaded_when_nothing_changed(host):
    host.switch(WIKI)
    before = host.workers()
    written = host.path("/run/tsstack/proxy.json").stat().st_mtime_ns
    again = host.switch(WIKI)
    assert again["changes"] == []
    assert again["report"] == ["nginx already serves this"]
    assert host.workers() == before
    assert host.path("/run/tsstack/proxy.json").stat().st_mtime_ns == written


def test_a_change_names_only_the_service_that_it_touches(host):
    host.switch(WIKI)
    answer = host.order("plan", yaml=BOTH)
    assert answer["changes"] == ["+ service api: http://api.box.tail.test/"]
    host.switch(BOTH)
    answer = host.order("plan", yaml=BOTH.replace("8001}", "8001, rate_limit: 5r/s}"))
    assert answer["changes"] == ["~ service api, rate_limit: default -> 5r/s"]


def test_a_restart_behind_our_back_is_noticed_and_is_no_reason_to_reload(host):
    host.switch(WIKI)
    pid = int(host.path("/run/nginx.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    while os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
        time.sleep(0.01)
    assert "~ nginx: stopped -> running" in host.order("plan", yaml=WIKI)["changes"]
    before = host.nginx()
    assert host.switch(WIKI)["changes"] == []
    assert host.workers() == before


def test_a_missing_reload_is_noticed(host):
    first = host.switch(WIKI)
    host.switch(BOTH)
    # Somebody loads the older generation by hand, and puts the link back.
    current = host.path("/var/lib/tsstack/current")
    newer = os.readlink(current)  # noqa: PTH115
    current.unlink()
    current.symlink_to(first["generation"])
    workers = host.workers()
    host.run("nginx", "-s", "reload")
    while {*workers} & {*host.workers()}:
        time.sleep(0.01)
    current.unlink()
    current.symlink_to(newer)
    answer = host.order("plan", yaml=BOTH)
    assert "~ nginx configuration" in answer["changes"][0] or "+ service api" in answer["changes"][0]
    host.switch(BOTH)


def test_without_a_status_endpoint_the_note_of_the_last_reload_counts(host):
    text = WIKI.replace("{tls", "{status: null, tls")
    host.switch(text)
    before = host.workers()
    assert host.switch(text)["changes"] == []
    assert host.workers() == before
    host.switch(BOTH.replace("{tls", "{status: null, tls"))
    assert host.workers() != before


def test_alerts_of_workers_are_no_refusal_of_a_reload(host):
    """nginx asks for 65535 files; where the system grants fewer, each worker says so and goes on."""
    host.serve("wiki", "tcp:127.0.0.1:8000")
    limits = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource")
    host.run(*limits, "prlimit", "--nofile=1024:1024", "nginx")
    host.nginx_is_up()
    log = host.path("/var/log/nginx/error.log")
    before = log.read_text().count("setrlimit(RLIMIT_NOFILE, 65535) failed") if log.exists() else 0
    for _ in range(2):
        for text in (WIKI, BOTH):
            assert "nginx reloaded" in host.switch(text)["report"]
    assert log.read_text().count("setrlimit(RLIMIT_NOFILE, 65535) failed") >= before + 4
    assert host.curl("http://wiki.box.tail.test/")[0] == 200


def test_a_failed_switch_brings_the_older_generation_back(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    answer = host.order("switch", yaml=BOTH, fail=True)
    assert answer["rolled_back"]
    assert host.curl("http://wiki.box.tail.test/")[0] == 200
    assert (
        host.run("curl", "-s", "-H", "Host: api.box.tail.test", "http://100.64.0.1/", check=False).returncode
        == 52
    )
    assert host.order("plan", yaml=WIKI)["changes"] == []


def test_a_failed_first_switch_leaves_nothing(host):
    assert host.order("switch", yaml=WIKI, fail=True)["rolled_back"]
    assert not host.path(LINK).is_symlink()
    assert not host.path("/etc/nginx/modules-enabled/90-tsstack.conf").is_symlink()
    assert not host.path("/run/nginx.pid").exists()
    assert not host.path("/run/tsstack/proxy.json").exists()


def test_a_failed_first_switch_leaves_a_running_nginx_as_it_was(host):
    host.nginx()
    pid = host.path("/run/nginx.pid").read_text()
    assert host.order("switch", yaml=WIKI, fail=True)["rolled_back"]
    assert host.path("/run/nginx.pid").read_text() == pid
    assert "nginx" in host.run("curl", "-s", "http://127.0.0.1/").stdout
    assert host.run("curl", "-s", "http://127.0.0.1:9180/", check=False).returncode == 7


@pytest.mark.parametrize("step", ["provide_certificates", "set_links", "_refuse_unloadable", "_load"])
@pytest.mark.parametrize("status", ["", "status: null, "])
def test_a_kill_in_the_middle_is_undone_or_finished(host, step, status):
    """Also without a status endpoint, where nginx cannot say what it has loaded."""
    host.serve("wiki", "tcp:127.0.0.1:8000")
    wiki, both = (text.replace("{tls", f"{{{status}tls") for text in (WIKI, BOTH))
    first = host.switch(wiki)
    host.order("switch", yaml=both, die_after=step)
    assert host.order("recover", generation=first["generation"])["report"] == []
    assert host.curl("http://wiki.box.tail.test/")[0] == 200
    unknown = ("curl", "-s", "-H", "Host: api.box.tail.test", "http://100.64.0.1/")
    assert host.run(*unknown, check=False).returncode == 52
    assert host.order("plan", yaml=wiki)["changes"] == []
    host.order("switch", yaml=both, die_after=step)
    host.switch(both)
    assert host.curl("http://api.box.tail.test/")[0] == 502


def test_going_back_to_an_older_generation_renders_nothing(host):
    first = host.switch(WIKI)
    host.switch(BOTH)
    answer = host.order("switch", generation=first["generation"])
    assert answer["after"] == [] and answer["changes"][0].startswith("- service api")


def test_without_a_proxy_section_all_of_ours_goes_and_others_stay(host):
    host.nginx()
    host.switch(WIKI)
    answer = host.switch(HOST)
    assert "nginx reloaded" in answer["report"][0]
    assert not host.path(LINK).is_symlink()
    assert "nginx" in host.run("curl", "-s", "http://127.0.0.1/").stdout
    assert host.run("curl", "-s", "http://100.64.0.1:9180/", check=False).returncode == 7


def test_our_own_main_file_where_there_is_no_distribution(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.serve("db", "tcp:127.0.0.1:5432", "--echo")
    text = (
        HOST
        + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}, db: {upstream: 5432, protocol: tcp}}}"
    )
    host.switch(text, standalone=True)
    assert host.curl("https://wiki.box.tail.test/")[0] == 200
    assert host.path("/run/tsstack/nginx.pid").exists() and not host.path(LINK).is_symlink()
    assert host.switch(text, standalone=True)["changes"] == []
    host.switch(HOST, standalone=True)
    assert not host.path("/run/tsstack/nginx.pid").exists()


def test_our_own_nginx_is_restarted_when_its_program_was_exchanged(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI, standalone=True)
    before = host.path("/run/tsstack/nginx.pid").read_text()
    host.run(
        "sh", "-c", 'cp "$(command -v nginx)" /run/newer && mount --bind /run/newer "$(command -v nginx)"'
    )
    answer = host.switch(WIKI, standalone=True)
    assert answer["changes"] == ["~ nginx: runs a program that was exchanged -> restarted"]
    assert answer["report"][-1] == "nginx restarted, as its program was exchanged"
    assert host.path("/run/tsstack/nginx.pid").read_text() != before
    assert host.curl("http://wiki.box.tail.test/")[0] == 200
    assert host.switch(WIKI, standalone=True)["changes"] == []


def test_the_distributions_nginx_is_its_own_to_exchange(host):
    host.switch(WIKI)
    before = host.workers()
    host.run(
        "sh", "-c", 'cp "$(command -v nginx)" /run/newer && mount --bind /run/newer "$(command -v nginx)"'
    )
    assert host.switch(WIKI)["changes"] == []
    assert host.workers() == before


def test_pitfall_21_a_missing_address_is_named_and_nothing_is_reloaded(host):
    host.switch(WIKI)
    before = host.workers()
    answer = host.order("switch", yaml=WIKI, addresses=["100.64.0.99"])
    assert answer["error"] == "ApplyFailed" and answer["rolled_back"]
    assert "100.64.0.99:80" in answer["message"] and "tailscaled" in answer["hint"]
    assert host.workers() == before
    assert host.order("plan", yaml=WIKI)["changes"] == []


def test_pitfall_21_unknown_addresses_are_checked_but_never_activated(host):
    assert "error" not in host.order("check", yaml=WIKI, addresses=[])
    answer = host.order("switch", yaml=WIKI, addresses=[])
    assert answer["error"] == "ApplyFailed" and "addresses were not known" in answer["message"]
    assert not host.path(LINK).is_symlink()


def test_pitfall_21_another_program_on_443_is_named(host):
    host.serve("squatter", "tcp:100.64.0.1:443", "--echo")
    answer = host.order("switch", yaml=HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}")
    assert answer["error"] == "CheckFailed"
    assert "100.64.0.1:443 (proxy.https_port) is held by python" in answer["message"]
    assert "tailscale serve reset" in answer["hint"]


def test_before_the_tailnet_is_joined_a_program_on_loopback_is_in_nobodys_way(host):
    """The service takes over its upstream's port, on addresses that are yet to come."""
    host.serve("db", "tcp:127.0.0.1:5432", "--echo")
    text = HOST + "proxy: {tls: off, services: {db: {upstream: 5432, protocol: tcp}}}"
    assert "error" not in host.order("check", yaml=text, addresses=[])
    assert "error" not in host.order("check", yaml=text)
    answer = host.order("check", yaml=text.replace("tls: off", "tls: off, listen: [127.0.0.1]"))
    assert answer["error"] == "CheckFailed"


def test_a_refusal_by_the_hosts_own_configuration_comes_before_any_reload(host):
    before = host.nginx()
    host.write("/etc/nginx/conf.d/other.conf", "log_format tsstack 'mine';\n")
    answer = host.order("switch", yaml=WIKI)
    assert answer["error"] == "ApplyFailed" and 'duplicate "log_format"' in answer["message"]
    assert host.workers() == before and not host.path(LINK).is_symlink()


def test_a_file_of_somebody_else_in_our_place_is_kept(host):
    host.write(LINK, "# mine\n")
    answer = host.order("switch", yaml=WIKI)
    assert answer["error"] == "ApplyFailed" and "somebody else" in answer["message"]
    assert host.path(LINK).read_text() == "# mine\n"


def test_check_leaves_no_trace_and_needs_no_address(host):
    text = HOST + (
        "proxy: {tls: local-ca, services: {wiki: {upstream: 'no.such.tail.test:8000', allow: ['tag:a']}, "
        "db: {upstream: 5432, protocol: tcp}}}"
    )
    places = (
        "/etc/nginx",
        "/var/log/nginx",
        "/var/lib/nginx",
        "/run",
        "-path",
        "/run/.private",
        "-prune",
        "-o",
        "-print",
    )
    before = host.run("find", *places).stdout
    assert "error" not in host.order("check", yaml=text, addresses=["100.99.99.99", "fd7a:115c:a1e0::99"])
    after = host.run("find", *places).stdout
    assert set(after.splitlines()) - set(before.splitlines()) == {"/run/tsstack"}


def test_check_places_nginx_s_words_in_the_file(host):
    host.switch(WIKI)
    generation = host.order("plan", yaml=WIKI)["generation"]
    path = host.path(generation + "/nginx/http.conf")
    path.write_text(
        path.read_text().replace("client_max_body_size 1048576;", "client_max_body_size nonsense;")
    )
    answer = host.order("switch", generation=generation)
    assert answer["error"] == "CheckFailed"
    assert "proxy.services.wiki" in answer["message"] and "client_max_body_size" in answer["message"]
    assert " in nginx/http.conf:" in answer["message"], "as in what `tsstack build` writes"


def test_pitfall_19_certificates_are_renewed_with_one_reload(host):
    text = HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}"
    host.switch(text)
    assert host.order("renew") == {"renewed": [], "report": []}
    before, serial = host.workers(), _serial(host)
    answer = host.order("renew", force=True)
    assert answer["renewed"] == ["wiki.box.tail.test"] and len(answer["report"]) == 2
    assert set(host.workers()).isdisjoint(before) and _serial(host) != serial
    # Two thirds of its life later: `switch` sees it too.
    note = next(host.path("/var/lib/tsstack/tls").glob("leaf-*.json"))
    told = json.loads(note.read_text())
    note.write_text(json.dumps({**told, "renew_unix_s": time.time() - 1}))
    assert host.order("plan", yaml=text)["changes"] == [
        "+ certificate for wiki.box.tail.test: made or renewed"
    ]
    assert host.order("renew")["renewed"] == ["wiki.box.tail.test"]
    assert host.order("renew")["renewed"] == []
    # Somebody has put another in its place, whose end nobody has noted.
    leaf = note.with_suffix("")
    leaf.write_text(leaf.read_text().replace("-----END", "\n-----END", 1))
    assert host.order("renew")["renewed"] == ["wiki.box.tail.test"]


def test_the_local_ca_is_trusted_for_the_tailnet_alone_and_its_key_stays_home(host):
    text = HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}"
    host.serve("wiki", "tcp:127.0.0.1:8000")
    answer = host.switch(text)
    host.write("/etc/root.pem", host.order("root", tailnet="tail.test")["pem"])
    words = ("curl", "-s", "--cacert", "/etc/root.pem", "--resolve", "wiki.box.tail.test:443:100.64.0.1")
    assert json.loads(host.run(*words, "https://wiki.box.tail.test/").stdout)["name"] == "wiki"
    shown = host.run("openssl", "x509", "-in", "/etc/root.pem", "-noout", "-text").stdout
    assert "Name Constraints: critical" in shown and "DNS:tail.test" in shown and "IP:0.0.0.0" in shown
    private = host.run("grep", "-rl", "PRIVATE KEY", "/var/lib/tsstack").stdout.split()
    assert all("/tls/" in path for path in private) and len(private) == 2
    assert host.run("stat", "-c", "%a", *private, "/var/lib/tsstack/tls").stdout.split() == [
        "600",
        "600",
        "700",
    ]
    assert "PRIVATE" not in json.dumps(answer)


def test_a_failed_switch_keeps_the_certificate_of_the_live_names(host):
    text = HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}"
    host.switch(text)
    serial = _serial(host)
    host.order("switch", yaml=text.replace("wiki", "docs"), fail=True)
    assert _serial(host) == serial


def test_a_certificate_is_removed_when_no_generation_names_it(host):
    text = HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}"
    tls = host.path("/var/lib/tsstack/tls")
    first = host.switch(text)
    old = {path.name for path in tls.glob("leaf-*")}
    host.switch(text.replace("wiki", "docs"))
    assert len(old) == 2 and old < {path.name for path in tls.glob("leaf-*")}
    # As long as a generation names it, a rollback finds it: no new one is made.
    assert "certificate for" not in " ".join(host.order("switch", generation=first["generation"])["report"])
    third = host.switch(text.replace("wiki", "docs"))
    host.run("rm", "-r", first["generation"] + "/nginx")
    answer = host.switch(text.replace("8000", "8001").replace("wiki", "docs"))
    assert any(line.startswith("removed certificates") for line in answer["report"])
    left = {path.name for path in tls.glob("leaf-*")}
    assert len(left) == 2 and not left & old
    assert (tls / "ca/tail.test.key").exists()
    # A generation that cannot be read may name anything.
    (tls / "leaf-0123456789ab.pem").touch()
    plan = host.path(third["generation"] + "/nginx/plan.json")
    whole = plan.read_text()
    plan.write_text("{")
    host.switch(text.replace("8000", "8002").replace("wiki", "docs"))
    assert (tls / "leaf-0123456789ab.pem").exists()
    plan.write_text(whole)
    host.switch(text.replace("8000", "8003").replace("wiki", "docs"))
    assert not (tls / "leaf-0123456789ab.pem").exists()


def test_a_damaged_certificate_is_found_by_the_check_and_named(host):
    text = HOST + "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}"
    host.switch(text)
    before = host.workers()
    leaf = next(host.path("/var/lib/tsstack/tls").glob("leaf-*.pem"))
    there = leaf.stat()
    leaf.write_text("garbage".ljust(there.st_size))
    os.utime(leaf, ns=(there.st_atime_ns, there.st_mtime_ns))  # as a disk damages it; else it is made anew
    answer = host.order("switch", yaml=text.replace("8000", "8001"))
    assert answer["error"] == "CheckFailed" and f"/var/lib/tsstack/tls/{leaf.name}" in answer["message"]
    assert "can be removed" in answer["hint"] and host.workers() == before
    leaf.unlink()
    host.switch(text.replace("8000", "8001"))


def test_tailscale_certificates_come_from_the_localapi(host):
    host.pair("box.tail.test", "box.tail.test")
    host.localapi({})
    host.serve("wiki", "tcp:127.0.0.1:8000")
    text = HOST + "proxy: {names: path, tls: tailscale, services: {wiki: {upstream: 8000}}}"
    answer = host.order("switch", yaml=text)
    # Only that it is self-signed stands against it: the system's roots do not know it.
    assert answer["error"] == "ApplyFailed" and "self-signed certificate" in answer["message"]
    answer = host.order("switch", yaml=text.replace("names: path", "names: service"))
    assert answer["error"] == "ApplyFailed" and "gave no certificate for wiki.tail.test" in answer["message"]
    assert "local-ca" in answer["hint"]


def test_pitfall_25_twenty_reloads_lose_no_new_connection(host):
    host.serve("wiki", "tcp:127.0.0.1:8000")
    host.switch(WIKI)
    flood = (
        "import socket,sys,time\n"
        "good=bad=0\n"
        "end=time.monotonic()+float(sys.argv[1])\n"
        "while time.monotonic()<end:\n"
        "    try:\n"
        "        with socket.create_connection(('100.64.0.1',80),5) as c:\n"
        "            c.sendall(b'GET / HTTP/1.1\\r\\nHost: wiki.box.tail.test\\r\\n'\n"
        "                b'Connection: close\\r\\n\\r\\n')\n"
        "            good+=c.recv(12)==b'HTTP/1.1 200'\n"
        "    except OSError: bad+=1\n"
        "print(good,bad)\n"
    )
    load = host.popen(sys.executable, "-c", flood, "10", stdout=subprocess.PIPE)
    reloads = 0
    while load.poll() is None and reloads < 20:
        host.run("nginx", "-s", "reload")
        reloads += 1
        time.sleep(0.2)
    good, bad = load.communicate()[0].split()
    assert reloads == 20 and bad == "0" and int(good) > 200, (reloads, good, bad)


def _serial(host):
    done = host.run(
        "sh", "-c",
        "openssl s_client -connect 100.64.0.1:443 -servername wiki.box.tail.test </dev/null 2>/dev/null "
        "| openssl x509 -noout -serial",
    )  # fmt: skip
    return done.stdout
