"""`tsstack explain --live`: a copy of everybody's tables; the host itself is not touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from explain_bed import EXAMPLE, load, render

from tsstack.explain import kernel_copy

pytestmark = pytest.mark.netns

TSSTACK = Path(sys.executable).with_name("tsstack")
FOREIGN = """
table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        ct state established,related accept
        oifname "docker0" jump DOCKER
    }
    chain DOCKER-USER { return
    }
    chain DOCKER { ip daddr 172.17.0.2 tcp dport { 80, 8000-9000 } accept
    }
}
table ip nat {
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local tcp dport 8080 dnat to 172.17.0.2:80
        tcp dport 8443 redirect to :443
        tcp dport 8444 redirect to :tcp dport map { 8444 : 5432 }
    }
}
table inet guard {
    set bad { type ipv4_addr; flags interval; elements = { 198.18.7.0/24, 10.0.0.0/8 }
    }
    map later { type inet_service : verdict; flags interval; elements = { 0-10 : drop, 11-20 : accept }
    }
    set pairs { type ipv4_addr . inet_service; flags interval; elements = { 11.0.0.0/8 . 1-9 }
    }
    counter seen { }
    chain input { type filter hook input priority 10; policy accept;
        ip saddr @bad counter drop comment "bad guys"
        tcp dport vmap @later
        ip saddr . tcp dport @pairs drop
        ip6 saddr { fe80::/10, 2001:db8::7 } counter name seen
        meta mark & 0xff == 3 limit rate 3/minute log prefix "h" accept
        tcp dport 77 reject with tcp reset
        tcp dport 80 tcp option maxseg size 1-1500 drop
        tcp dport 443 tcp flags & (syn | ack) == syn tcp option timestamp missing drop
    }
}
table ip6 asleep { flags dormant
    chain i { type filter hook input priority 0; drop
    }
}
"""


class Host:
    """A host in a namespace: eth0 towards a router, docker0, other people's tables and ours."""

    def __init__(self, folder: Path, foreign: str, *, ours: bool = True) -> None:
        self.name = f"tsx{os.getpid():x}{os.urandom(2).hex()}"
        self.router = f"{self.name}r"
        for each in (self.name, self.router):
            subprocess.run(["ip", "netns", "add", each], check=True)
            # Else neighbour discovery of its own would count in the tables and on the links.
            quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
            subprocess.run(["ip", "netns", "exec", each, "sh", "-c", quiet], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "p0", "netns", self.router)
        self.run("ip", "address", "add", "203.0.113.2/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        # A bridge that snoops joins 224.0.0.106 and reports it twice, some second later.
        self.run("ip", "link", "add", "docker0", "type", "bridge", "mcast_snooping", "0")
        self.run("ip", "address", "add", "172.17.0.1/16", "dev", "docker0")
        self.run("ip", "link", "set", "docker0", "up")
        subprocess.run(["ip", "-n", self.router, "link", "set", "p0", "up"], check=True)
        self.run("ip", "route", "add", "default", "via", "203.0.113.1")
        rules = folder / "rules.nft"
        rules.write_text(foreign + (render(load(EXAMPLE.read_text()).stack) if ours else ""))
        self.run("nft", "-f", str(rules))

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = ["ip", "netns", "exec", self.name, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=check)

    def state(self) -> list[str]:
        """All that a packet, a rule or a trace flag would show in: rules with handles, counters, links."""
        generation = self.run(sys.executable, "-c", _GENERATION).stdout
        links = self.run("ip", "-s", "-s", "link", "show", "dev", "docker0").stdout
        return [generation, self.run("nft", "-a", "list", "ruleset").stdout, links]

    def explain(self, *words: str) -> dict[str, object]:
        done = self.run(str(TSSTACK), "-c", str(EXAMPLE), "explain", "--live", "--json", *words)
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def close(self) -> None:
        for each in (self.name, self.router):
            subprocess.run(["ip", "netns", "delete", each], check=True)


_GENERATION = """
from tsstack.explain import kernel_copy
with kernel_copy._open() as link:
    print(kernel_copy._generation(link))
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("live"), FOREIGN)
    try:
        yield made
    finally:
        made.close()


def test_a_foreign_table_that_drops_is_named_with_its_chain(host: Host) -> None:
    answer = host.explain("198.18.7.9", "eth0", "tcp/443")
    assert answer["verdict"] == "dropped"
    by = answer["decided_by"]
    assert by == {"family": "inet", "table": "guard", "chain": "input", "owner": "another program"}
    assert "ip saddr @bad counter drop" in str(answer["reason"])
    assert "tsstack's own table accepts it" in str(answer["hint"])
    assert answer["expected"] == "accept"
    open_to_others = host.explain("198.18.8.9", "eth0", "tcp/443")
    assert (open_to_others["verdict"], open_to_others["path"]) == ("accepted", "firewall.zones.dmz.tcp[1]")


def test_ours_decides_before_theirs_and_its_line_is_told(host: Host) -> None:
    answer = host.explain("dmz", "tcp/5432")
    assert (answer["verdict"], answer["path"]) == ("dropped", "firewall.zones.dmz")
    assert answer["decided_by"] == {
        "family": "inet",
        "table": "tsstack",
        "chain": "refuse.dmz",
        "owner": "tsstack",
    }


def test_a_published_port_is_followed_to_its_container(host: Host) -> None:
    answer = host.explain("dmz", "tcp/8080")
    assert (answer["verdict"], answer["path"]) == ("dropped", "firewall.zones.dmz")
    assert answer["fix"]["value"] == [80, 443, 8080]  # type: ignore[index]


def test_a_redirected_port_is_told_by_what_it_has_become(host: Host) -> None:
    answer = host.explain("dmz", "tcp/8443")
    assert (answer["verdict"], answer["path"]) == ("accepted", "firewall.zones.dmz.tcp[1]")
    assert answer["reason"] == "zone `dmz` opens tcp/443, which a rule has made of tcp/8443"
    closed = host.explain("dmz", "tcp/8444")
    assert (closed["verdict"], closed["fix"]["value"]) == ("dropped", [80, 443, 5432])  # type: ignore[index]
    assert closed["reason"] == "no rule of zone `dmz` opens tcp/5432, which a rule has made of tcp/8444"


def test_a_rule_that_minds_a_clients_options_meets_them(host: Host) -> None:
    dropped = host.explain("dmz", "tcp/80")
    assert dropped["verdict"] == "dropped"
    assert "tcp option maxseg size 1-1500 drop" in str(dropped["reason"])
    assert host.explain("dmz", "tcp/443")["verdict"] == "accepted", "its times are there"


def test_dockers_policy_is_named(tmp_path: Path) -> None:
    host = Host(tmp_path, FOREIGN, ours=False)
    try:
        answer = host.explain("198.51.100.7", "eth0", "tcp/9", "--to", "172.17.0.9")
        assert answer["verdict"] == "dropped"
        assert answer["decided_by"] == {
            "family": "ip",
            "table": "filter",
            "chain": "FORWARD",
            "owner": "iptables",
        }
        assert "the policy" in str(answer["reason"])
        assert host.explain("198.51.100.7", "eth0", "tcp/8080")["verdict"] == "accepted"
    finally:
        host.close()


def test_the_host_is_not_touched(host: Host) -> None:
    before = host.state()
    for words in (("dmz", "tcp/443"), ("198.18.7.9", "eth0", "ping"), ("dmz", "tcp/8080")):
        host.explain(*words)
    assert host.state() == before


def test_the_copy_lists_as_the_original_does(host: Host) -> None:
    code = (
        "import json,sys,subprocess\n"
        "from tsstack.explain.kernel_copy import Copy, load_ruleset, read_ruleset\n"
        "if sys.argv[1] == 'read': print(json.dumps(read_ruleset().dump()))\n"
        "else:\n"
        "    load_ruleset(Copy.load(json.load(sys.stdin)))\n"
        "    print(subprocess.run(['nft', '-s', 'list', 'ruleset'], capture_output=True, text=True).stdout)\n"
    )
    dumped = host.run(sys.executable, "-c", code, "read").stdout
    argv = ["unshare", "--net", sys.executable, "-c", code, "load"]
    copied = subprocess.run(argv, input=dumped, capture_output=True, text=True, check=True).stdout
    assert copied.strip() == host.run("nft", "-s", "list", "ruleset").stdout.strip()
    assert "bad guys" in copied


def test_without_root_it_says_that_it_needs_root(host: Host) -> None:
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    done = host.run(
        *argv, str(TSSTACK), "-c", str(EXAMPLE), "explain", "--live", "dmz", "tcp/443", check=False
    )
    assert done.returncode == 4
    assert "root" in done.stderr


def test_an_empty_ruleset_is_copied_too() -> None:
    kernel_copy.load_ruleset(kernel_copy.Copy(()))
