"""Rules that ask for an interface by its index, in the copy as on the host: compared with real packets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from explain_bed import EXAMPLE

pytestmark = pytest.mark.netns

TSSTACK = Path(sys.executable).with_name("tsstack")
HUGE = 100_000
ENDS = {"eth0": "203.0.113.1", "eth1": "198.51.100.1"}
OWN = {"eth0": "203.0.113.2", "eth1": "198.51.100.2"}
# By port; to this host.
INPUT = {
    1000: 'iif "eth0" drop',
    1001: 'iif "eth1" drop',
    1002: "iif {gone} drop",
    1003: 'iif {{ "eth1", "docker0" }} drop',
    1004: 'iif != {{ "lo", {gone}, "eth1" }} drop',
    1005: "iif @inner drop",
    1006: 'iif vmap {{ "eth1" : drop, "eth0" : accept, {gone} : drop }}',
    1007: "iif vmap @rulings",
    1008: 'meta iif . tcp dport {{ "eth0" . 1008, {gone} . 1008 }} drop',
    1009: 'fib saddr oif "eth1" drop',
    1010: 'fib daddr oif {{ "eth0", {gone} }} drop',
    1011: 'meta mark set iif map {{ "eth0" : 0x5, "eth1" : 0x6 }} meta mark 0x6 drop',
    1012: "iif & 7 == {eth0_bits} drop",
    1013: "iif 99990-100010 drop",
    1014: "fib saddr . iif oif missing drop",
    1015: "fib saddr . iif oif exists drop",
}
# By port; from eth0 to what is behind eth1, and back.
FORWARD = {
    2000: 'iif "eth0" oif "eth1" drop',
    2001: 'oif "eth0" drop',
    2002: "oif {gone} drop",
    2003: 'iif . oif {{ "eth0" . "eth1" }} drop',
    2004: 'oif vmap {{ "eth0" : drop, "docker0" : drop }}',
}
RULES = """
table ip byindex {{
    set inner {{ type iface_index; elements = {{ "eth1", {gone} }}; }}
    map rulings {{ type iface_index : verdict; elements = {{ "eth1" : drop, {gone} : drop }}; }}
    chain input {{ type filter hook input priority 0; policy accept; {input}
    }}
    chain forward {{ type filter hook forward priority 0; policy accept; {forward}
    }}
}}
"""
CONNECT = """
import json, selectors, socket, sys, time
to, ports = sys.argv[1], [int(each) for each in sys.argv[2:]]
refused, waiting = [], selectors.DefaultSelector()
for port in ports:
    link = socket.socket()
    link.setblocking(False)
    link.connect_ex((to, port))
    waiting.register(link, selectors.EVENT_WRITE, port)
until_s = time.monotonic() + 4
while waiting.get_map() and time.monotonic() < until_s:
    for key, _ in waiting.select(0.1):
        refused.append(key.data)
        waiting.unregister(key.fileobj)
print(json.dumps(refused))
"""
# A kernel with a tunnel's module puts a device of it into each new network: here a bridge stands for it.
CROWDED = """
import subprocess, sys
from tsstack.cli.main import main
from tsstack.explain import world
name, index, serve = sys.argv[1], sys.argv[2], world.serve
def crowded(source, answers):
    words = ["ip", "link", "add", name, "index", index, "type", "bridge"]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    serve(source, answers)
world.serve = crowded
sys.argv[1:] = sys.argv[3:]
main()
"""


class Host:
    """A host whose interfaces' indexes have gaps, and another one behind each of its links."""

    def __init__(self) -> None:
        self.name = f"tsi{os.getpid():x}{os.urandom(2).hex()}"
        self.behind = {link: f"{self.name}{link}" for link in ENDS}
        for each in (self.name, *self.behind.values()):
            subprocess.run(["ip", "netns", "add", each], check=True)
            self.run("ip", "link", "set", "lo", "up", within=each)
        # The first numbers, which a fresh network gives out first, are those of what has vanished.
        self.run("ip", "link", "add", "gone0", "type", "veth", "peer", "name", "gone1")
        self.gone = self.index("gone0")
        self.run("ip", "link", "del", "gone0")
        for link, index in {"eth0": (), "docker0": (), "eth1": ("index", str(HUGE))}.items():
            kind = ("bridge",)
            if link in ENDS:
                kind = ("veth", "peer", "name", "near", "netns", self.behind[link])
            self.run("ip", "link", "add", link, *index, "type", *kind)
            self.run("ip", "link", "set", link, "up")
        for link, there in self.behind.items():
            self.run("ip", "address", "add", f"{OWN[link]}/24", "dev", link)
            self.run("ip", "address", "add", f"{ENDS[link]}/24", "dev", "near", within=there)
            self.run("ip", "link", "set", "near", "up", within=there)
            self.run("ip", "route", "add", "default", "via", OWN[link], within=there)
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.run("ip", "route", "add", "default", "via", ENDS["eth0"])

    def load(self, input_rules: dict[int, str], forward_rules: dict[int, str]) -> None:
        known = {"gone": self.gone, "eth0_bits": self.index("eth0") & 7}
        chains = {
            name: "\n".join(f"tcp dport {port} {rule.format(**known)}" for port, rule in rules.items())
            for name, rules in (("input", input_rules), ("forward", forward_rules))
        }
        self.run("nft", "-f", "-", rules=f"flush ruleset; {RULES.format(**known, **chains)}")

    def run(self, *words: str, within: str = "", rules: str | None = None) -> str:
        argv = ["ip", "netns", "exec", within or self.name, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, input=rules)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def index(self, link: str) -> int:
        return int(json.loads(self.run("ip", "-j", "link", "show", link))[0]["ifindex"])

    def real(self, link: str, to: str, ports: list[int]) -> dict[int, str]:
        """What becomes of packets: nobody listens, so what is let through is refused at once."""
        words = (sys.executable, "-c", CONNECT, to, *map(str, ports))
        refused = json.loads(self.run(*words, within=self.behind[link]))
        return {port: "accepted" if port in refused else "dropped" for port in ports}

    def explain(self, source: str, link: str, port: int, *more: str, by: tuple[str, ...] = ()) -> str:
        words = ("explain", "--live", "--json", source, link, f"tcp/{port}", *more)
        answer = json.loads(self.run(*(by or (str(TSSTACK),)), "-c", str(EXAMPLE), *words))
        return str(answer["verdict"])

    def close(self) -> None:
        for each in (self.name, *self.behind.values()):
            subprocess.run(["ip", "netns", "delete", each], check=True)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host()
    try:
        made.load(INPUT, FORWARD)
        yield made
    finally:
        made.close()


def test_the_host_has_gaps_and_a_number_that_nothing_has(host: Host) -> None:
    assert 1 < host.gone < host.index("eth0")
    assert host.index("eth1") == HUGE
    assert f"iif {host.gone} drop" in host.run("nft", "list", "ruleset")


@pytest.mark.parametrize("link", ENDS)
def test_what_comes_to_the_host_is_judged_as_it_is_there(host: Host, link: str) -> None:
    real = host.real(link, OWN[link], [*INPUT])
    assert {*real.values()} == {"accepted", "dropped"}
    assert {port: host.explain(ENDS[link], link, port) for port in INPUT} == real


def test_what_goes_through_the_host_is_judged_as_it_is_there(host: Host) -> None:
    for link, other in (("eth0", "eth1"), ("eth1", "eth0")):
        real = host.real(link, ENDS[other], [*FORWARD])
        assert {*real.values()} == {"accepted", "dropped"}
        told = {port: host.explain(ENDS[link], link, port, "--to", ENDS[other]) for port in FORWARD}
        assert told == real


def test_an_interface_that_is_not_there_has_no_number_that_a_rule_asks_for(host: Host) -> None:
    """It is to have come after all others; numbers that are gone are not given out again."""
    for port in (1001, 1002, 1003, 1005, 1006, 1007, 1008):
        assert host.explain("192.0.2.9", "eth9", port, "--to", OWN["eth0"]) == "accepted", port
    assert host.explain("192.0.2.9", "eth9", 1004, "--to", OWN["eth0"]) == "dropped"


def crowded(name: str, index: int) -> tuple[str, ...]:
    """How to ask where each new network has such a device of the kernel's."""
    return (sys.executable, "-c", CROWDED, name, str(index))


def test_a_device_that_every_network_has_makes_way_for_an_interface_of_its_name(host: Host) -> None:
    by = crowded("docker0", host.gone)
    real = host.real("eth0", OWN["eth0"], [*INPUT])
    told = {port: host.explain(ENDS["eth0"], "eth0", port, by=by) for port in (1000, 1002, 1003, 1005)}
    assert told == {port: real[port] for port in told}


def test_where_it_takes_a_number_that_rules_ask_for_nothing_is_judged(host: Host) -> None:
    by = crowded("sit0", host.index("eth0"))
    words = ("-c", str(EXAMPLE), "explain", "--live", "203.0.113.1", "eth0", "tcp/1000")
    argv = ["ip", "netns", "exec", host.name, *by, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done
    assert f"in every new network {host.index('eth0')} is that of sit0" in done.stderr
    assert "iifname" in done.stderr


def test_where_no_rule_asks_for_that_number_all_is_judged() -> None:
    host = Host()
    try:
        rules = {
            1: 'iif "lo" drop',
            2: 'iifname "eth0" drop',
            3: "fib saddr . iif oif missing drop",
            4: 'iif "eth1" drop',
            5: "iif {gone} drop",
            6: 'fib saddr oif != "lo" drop',
        }
        host.load(rules, {})
        by = crowded("sit0", host.index("eth0"))
        for link, source in ENDS.items():
            real = host.real(link, OWN[link], [*rules])
            assert {port: host.explain(source, link, port, by=by) for port in rules} == real
    finally:
        host.close()
