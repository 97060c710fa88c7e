"""Every kind of bad input ends with a named error, its exit code, and the host exactly as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
GOOD = """
host: {name: one, tailnet: tail.test}
proxy:
  tls: off
  listen: [127.0.0.1]
  services:
    web: {upstream: 8000}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80]}
    internal: {interfaces: [tailscale0]}
kernel: {sysctl: {net.ipv4.tcp_fin_timeout: 31}}
"""


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.write(FILE, GOOD)
    private.tsstack("switch")
    yield private
    private.close()


def picture(host: PrivateHost) -> dict[str, object]:
    """All that a switch may touch."""
    state = host.path("/var/lib/tsstack")
    return {
        "table": host.run("nft", "-s", "list", "ruleset").stdout,
        "links": [host.run("readlink", f"/var/lib/tsstack/{name}").stdout for name in ("current", "boot")],
        "generations": sorted(path.name for path in (state / "generations").iterdir()),
        "pending": (state / "pending.json").exists(),
        "nginx": host.run("cat", "/run/nginx.pid").stdout,
        "workers": host.run("sh", "-c", "cat /proc/$(cat /run/nginx.pid)/task/*/children").stdout,
        "conf.d": host.run("ls", "-l", "/etc/nginx/conf.d", "/etc/nginx/modules-enabled").stdout,
        "sysctl": host.run("sysctl", "-n", "net.ipv4.tcp_fin_timeout", "net.ipv4.ip_forward").stdout,
    }


def assert_refused(host: PrivateHost, text: str, code: int, *said: str) -> None:
    before = picture(host)
    host.write(FILE, text)
    done = host.tsstack("switch", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    for words in said:
        assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert picture(host) == before
    as_json = host.tsstack("--json", "switch", check=False)
    assert as_json.returncode == code
    assert json.loads(as_json.stdout)["error"]["exit_code"] == code
    assert picture(host) == before


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("unknown key", ("tcp: [80]", "tpc: [80]"), ("tsstack.yaml:10:31", "tpc", "tcp")),
        ("duplicate key", ("host: {name: one", "host: {name: one, name: two"), (":2:19", "name")),
        ("wrong type", ("tcp: [80]", "tcp: yes"), (":10:36", "firewall.zones.dmz.tcp")),
        ("wrong unit", ("upstream: 8000", "upstream: 8000, rate_limit: 20/s"), ("rate_limit", "20r/s")),
        ("overlapping zones", ("[tailscale0]", "[tailscale0, eth0]"), ("eth0", "firewall.zones")),
        ("not a port", ("tcp: [80]", "tcp: [70000]"), ("70000", "65535")),
        ("no YAML", ("host: {", "host: {{{"), ("tsstack.yaml:",)),
        ("a tab", ("  zones:", "\tzones:"), ("tsstack.yaml:9:",)),
    ],
)
def test_an_invalid_file(
    host: PrivateHost, what: str, change: tuple[str, str], said: tuple[str, ...]
) -> None:
    assert_refused(host, GOOD.replace(*change), 3, *said)


def test_all_faults_come_in_one_run(host: PrivateHost) -> None:
    text = GOOD.replace("tcp: [80]", "tpc: [80]").replace("listen: [127.0.0.1]", "listen: [nowhere]")
    assert_refused(host, text.replace("web: {upstream: 8000}", "web: {}"), 3, "tpc", "listen", "upstream")


def test_a_missing_file(host: PrivateHost) -> None:
    done = host.tsstack("-c", "/etc/tsstack/absent.yaml", "switch", check=False)
    assert done.returncode == 3
    assert "/etc/tsstack/absent.yaml" in done.stderr


def test_an_unreachable_socket(host: PrivateHost) -> None:
    assert_refused(host, GOOD + "tailscale: {}\n", 4, "tailscaled")


def test_nginx_refuses_the_result(host: PrivateHost) -> None:
    text = GOOD.replace("tls: off", "tls: {certificate: /etc/absent.pem, key: /etc/absent.key}")
    assert_refused(host, text, 4, "/etc/absent.pem")


def test_nginx_refuses_what_the_user_has(host: PrivateHost) -> None:
    """A site of the user is broken: said with its place before anything is touched."""
    host.write("/etc/nginx/conf.d/own.conf", "server { listen 8081; no_such_directive on; }\n")
    try:
        text = GOOD.replace("upstream: 8000", "upstream: 8001")
        assert_refused(
            host, text, 4, "no_such_directive", "/etc/nginx/conf.d/own.conf:1", "without this change"
        )
    finally:
        host.run("rm", "/etc/nginx/conf.d/own.conf")


def test_nginx_refuses_the_users_sites_and_ours_together(host: PrivateHost) -> None:
    """Each is good alone: only the reload can tell. nginx goes on with what it has, and all is put back."""
    host.write("/etc/nginx/conf.d/own.conf", "upstream tsstack_api { server 127.0.0.1:1; }\n")
    try:
        before = picture(host)
        host.write(FILE, GOOD.replace("web: {", "api: {upstream: 8002}\n    web: {"))
        done = host.tsstack("switch", check=False)
        assert done.returncode == 5, done.stderr
        assert "duplicate upstream" in done.stderr
        assert picture(host) == before
    finally:
        host.run("rm", "/etc/nginx/conf.d/own.conf")


def test_a_port_that_another_program_holds(host: PrivateHost) -> None:
    holder = host.popen("python3", "-m", "http.server", "8099", "--bind", "127.0.0.1", stdout=-3, stderr=-3)
    try:
        while "127.0.0.1:8099" not in host.run("ss", "-ltn").stdout:
            assert holder.poll() is None
        text = GOOD.replace("listen: [127.0.0.1]", "listen: [127.0.0.1]\n  http_port: 8099")
        assert_refused(host, text, 4, "127.0.0.1:8099", "python3", f"{FILE}:")
    finally:
        holder.kill()
        holder.wait()


def test_an_upstream_whose_name_does_not_resolve(host: PrivateHost) -> None:
    text = GOOD.replace("upstream: 8000", 'upstream: "nosuch.invalid:80"')
    assert_refused(host, text, 4, f"{FILE}:7:11: ", "proxy.services.web", "nosuch.invalid")
    assert host.tsstack("check", check=False).returncode == 4
    # What the change itself may bring need not be there before it.
    host.write(FILE, text.replace("nosuch.invalid", "nosuch.tail.test"))
    host.tsstack("check")


def test_nft_refuses_the_result(host: PrivateHost) -> None:
    """A generation whose table was damaged on disk is refused by the real nft before it is used."""
    host.write(FILE, GOOD.replace("tcp: [80]", "tcp: [80, 81]"))
    host.tsstack("switch")
    damaged = host.path("/var/lib/tsstack/generations/1/nftables/tsstack.nft")
    text = damaged.read_text()
    damaged.write_text(text + "table inet tsstack { chain input { no such rule } }\n")
    before = picture(host)
    done = host.tsstack("rollback", "--to", "1", check=False)
    assert done.returncode == 4, done.stderr
    assert "nft" in done.stderr
    assert picture(host) == before
    damaged.write_text(text)
    host.tsstack("rollback", "--to", "1")


def test_a_vanished_interface(host: PrivateHost) -> None:
    """It was there at the last switch and is gone at this one."""
    host.run("ip", "link", "add", "eth7", "type", "veth", "peer", "name", "peer7")
    host.write(FILE, GOOD + "bandwidth: {eth7: {egress: 10mbit}}\n")
    host.tsstack("switch")
    assert "10Mbit" in host.run("tc", "qdisc", "show", "dev", "eth7").stdout
    host.run("ip", "link", "del", "eth7")
    assert_refused(host, GOOD + "bandwidth: {eth7: {egress: 20mbit}}\n", 4, f"{FILE}:13:13: ", "eth7")
    host.write(FILE, GOOD)
    host.tsstack("switch")


def test_a_vanished_uplink(host: PrivateHost) -> None:
    text = GOOD.replace("name: one,", "name: one, uplink: nosuch0,")
    assert_refused(host, text, 4, f"{FILE}:2:", "host.uplink", "nosuch0")


def test_a_sysctl_that_this_kernel_has_not(host: PrivateHost) -> None:
    text = GOOD.replace("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_fin_timeoot")
    assert_refused(host, text, 4, "net.ipv4.tcp_fin_timeoot", "net.ipv4.tcp_fin_timeout")


def test_a_full_disk_while_staging() -> None:
    """The state folder is a file system of its own without room for another generation."""
    host = PrivateHost()
    try:
        host.run("mkdir", "-p", "/var/lib/tsstack")
        host.run("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", "/var/lib/tsstack")
        host.write(FILE, GOOD)
        host.tsstack("switch")
        host.run("sh", "-c", "head -c 1M /dev/zero > /var/lib/tsstack/filler || true", check=False)
        assert_refused(host, GOOD.replace("tcp: [80]", "tcp: [80, 81]"), 4, "No space left")
        done = host.tsstack("rollback", "--to", "0")
        assert "generation 0 is live" in done.stdout
        assert not host.run("nft", "list", "tables").stdout
        host.run("rm", "/var/lib/tsstack/filler")
        host.tsstack("switch")
    finally:
        host.close()


def test_a_state_folder_that_is_read_only() -> None:
    host = PrivateHost()
    try:
        host.run("mkdir", "-p", "/var/lib/tsstack")
        host.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/var/lib/tsstack")
        host.write(FILE, GOOD)
        done = host.tsstack("switch", check=False)
        assert done.returncode == 4, done.stderr
        assert "/var/lib/tsstack" in done.stderr
        assert not host.run("nft", "list", "tables").stdout
    finally:
        host.close()


HOSTILE = ['a"b', "a'b", "a;b", "a{b", "a}b", "a$b", "a\\nb", "a`b", "a|b", "a #b", "a\\\\b"]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_strings_never_reach_an_engine(host: PrivateHost, value: str) -> None:
    """Each is refused with its place: in names, keys, upstreams, zones, interfaces, sysctl values."""
    quoted = '"' + value.replace('"', '\\"') + '"'
    text = f"""
host: {{name: {quoted}, tailnet: tail.test, uplink: {quoted}}}
proxy:
  tls: {{certificate: {quoted}, key: /etc/key.pem}}
  services:
    web: {{upstream: {quoted}, subdomain: {quoted}}}
    {quoted}: {{upstream: 8000}}
firewall:
  services: {{own: [{quoted}]}}
  zones:
    dmz: {{interfaces: [{quoted}], services: [{quoted}]}}
    {quoted}: {{sources: [{quoted}]}}
kernel: {{sysctl: {{net.ipv4.tcp_fin_timeout: {quoted}}}}}
dns: {{split: {{{quoted}: [9.9.9.9]}}}}
"""
    host.write(FILE, text)
    done = host.tsstack("--json", "check", "--file-only", check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    lines = {each["line"] for each in json.loads(done.stdout)["findings"] if each["severity"] == "error"}
    assert {2, 4, 6, 7, 9, 11, 12, 13, 14} <= lines, done.stdout


def test_the_good_file_still_switches(host: PrivateHost) -> None:
    """Whatever was refused before on this host stands in the way of nothing."""
    host.write(FILE, GOOD)
    host.tsstack("switch")
    host.write(FILE, GOOD.replace("tcp: [80]", "tcp: [80, 8443]"))
    host.tsstack("switch")
    assert "8443" in host.run("nft", "list", "table", "inet", "tsstack").stdout
