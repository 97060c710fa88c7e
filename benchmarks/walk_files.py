"""Random files that a host can be switched to: the proof's strategy, and the other sections."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from tsstack import assets
from tsstack.errors import ConfigError
from tsstack.model.facts import Facts
from tsstack.model.lint import require_sound
from tsstack.model.loader import load_presets, parse_stack

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "netns" / "prove"))
from random_files import files as firewalls

LINKS = ("eth0", "eth1", "br-guest", "docker0")

_ports = st.integers(20000, 20400)
_service = st.fixed_dictionaries(
    {"upstream": st.one_of(_ports, _ports.map(lambda port: [port, f"127.0.0.1:{port + 1} backup"]))},
    optional={
        "rate_limit": st.sampled_from(["20r/s", "300r/m"]),
        "max_body_size": st.sampled_from(["1M", "500M", 0]),
        "read_timeout": st.sampled_from(["5s", "1m"]),
        "websockets": st.booleans(),
        "buffering": st.booleans(),
        "enabled": st.booleans(),
    },
)
_stream = st.fixed_dictionaries(
    {"upstream": _ports, "protocol": st.just("tcp"), "port": st.integers(30000, 30003)}
)
_proxy = st.fixed_dictionaries(
    {
        "listen": st.sampled_from([["127.0.0.1"], ["127.0.0.1", "::1"]]),
        "tls": st.sampled_from(["off", "off", "local-ca"]),
        "names": st.sampled_from(["path", "subdomain"]),
        "http_port": st.sampled_from([8088, 8089]),
        "https_port": st.sampled_from([8443, 9443]),
        "services": st.dictionaries(
            st.sampled_from(["web", "shop", "wiki", "mail", "db"]),
            st.one_of(_service, _service, _stream),
            max_size=4,
        ),
    },
    optional={
        "keepalive": st.integers(0, 64),
        "status": st.sampled_from(["127.0.0.1:9180", "127.0.0.2:9181"]),
    },
)
_sysctls = st.dictionaries(
    st.sampled_from(
        [
            *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_syn_retries"),
            *(
                "net.ipv4.conf.eth0.rp_filter",
                "net.ipv4.conf.eth1.forwarding",
                "net/ipv4/conf/eth1/log_martians",
            ),
            *(
                "net.ipv4.conf.all.accept_redirects",
                "net.ipv6.conf.eth0.accept_ra",
                "net.ipv4.tcp_mtu_probing",
            ),
        ]
    ),
    st.integers(0, 2),
    max_size=4,
).map(
    lambda found: {
        name: value + 20 if "tcp_" in name and "mtu" not in name else value for name, value in found.items()
    }
)
_limit = st.fixed_dictionaries(
    {"egress": st.sampled_from(["5mbit", "10mbit", "1gbit"])},
    optional={"burst": st.sampled_from(["32kbit", "1mb"]), "latency": st.sampled_from(["20ms", "400ms"])},
)
_others = st.fixed_dictionaries(
    {"proxy": st.one_of(_proxy, _proxy, st.none())},
    optional={
        "kernel": st.fixed_dictionaries(
            {"sysctl": _sysctls},
            optional={"profile": st.sampled_from(["throughput", "router", "low-latency"])},
        ),
        "bandwidth": st.dictionaries(st.sampled_from(["eth0", "eth1"]), _limit, max_size=2),
    },
)


@st.composite
def _files(draw: Any) -> dict[str, Any]:
    file: dict[str, Any] = json.loads(draw(firewalls()).replace("host:", '"host":', 1))
    file.pop("tailscale", None)  # there is no tailscaled on this host
    file["host"] = {"name": "one", "tailnet": "tail.test", "uplink": draw(st.sampled_from(["eth0", "eth1"]))}
    if draw(st.integers(0, 4)) == 0:
        del file["firewall"]
    return {**file, **draw(_others)}


class _Enough(Exception):
    """There are as many files as were asked for."""


def random_files(count: int, start: int) -> list[str]:
    """`count` valid files, the same for the same `start`."""
    presets = load_presets(assets.folder("zones"))
    facts = Facts(interfaces=LINKS, default_interface="eth0")
    found: list[str] = []

    @seed(start)
    @settings(
        max_examples=count * 20,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(_files())
    def collect(file: dict[str, Any]) -> None:
        text = json.dumps(file, indent=1)
        if len(found) >= count:
            raise _Enough
        if text in found:
            return
        try:
            require_sound(parse_stack(text.encode(), Path("/etc/tsstack/tsstack.yaml"), presets), facts)
        except ConfigError:
            return
        found.append(text)

    with contextlib.suppress(_Enough):
        collect()
    return found
