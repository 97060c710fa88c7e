"""Random files: a Hypothesis strategy over what the firewall section can say."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

ZONES = ["dmz", "internal", "admin", "isolated", "lab", "office", "guests"]
INTERFACES = [
    *("eth0", "eth1", "eth0.10", "tailscale0", "br-guest", "docker0", "veth1a"),
    *("veth*", "veth1*", "eth*", "e*", "tail*", "tailscale0*", "br-*"),
]
NETWORKS = [
    *(
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3/32",
        "198.18.0.0/16",
        "198.18.0.4/30",
    ),
    *(
        "100.64.0.0/10",
        "100.64.0.10/32",
        "100.64.0.0/24",
        "100.0.0.0/8",
        "100.115.92.0/24",
        "100.115.92.0/22",
    ),
    *("::/0", "fd00::/8", "fd00:15::/64", "fd7a:115c:a1e0::/48", "fd7a:115c:a1e0::7/128", "fd7a:115c::/32"),
    *("2001:db8::/33", "2001:db8:0:3::/64", "2000::/3", "192.168.15.0/25"),
]
SERVICES = ["ssh", "dns", "https", "http3", "mdns", "app"]
port = st.one_of(st.sampled_from([1, 22, 53, 67, 68, 80, 443, 8080, 41641, 65535]), st.integers(1, 65535))
ports = st.one_of(
    port,
    st.tuples(port, st.integers(0, 300)).map(lambda pair: f"{pair[0]}-{min(pair[0] + pair[1], 65535)}"),
)
opened = {
    "tcp": st.lists(ports, max_size=4),
    "udp": st.lists(ports, max_size=3),
    "services": st.lists(st.sampled_from(SERVICES), max_size=3, unique=True),
}


def yaml_of(file: dict[str, Any]) -> str:
    """JSON is YAML; `host:` is written so that it is seen to be there."""
    return json.dumps(file).replace('"host":', "host:", 1)


def section(**more: Any) -> Any:
    plain = st.fixed_dictionaries({}, optional={**opened, **more})
    # Seldom, as it says the same of every port.
    everything = st.fixed_dictionaries({"allow": st.just("all")}, optional=more)
    return st.one_of(plain, plain, plain, plain, everything)


@st.composite
def files(draw: Any) -> str:
    """The text of a file. No interface and no network stands in two zones: lint would refuse it."""
    names = draw(st.lists(st.sampled_from(ZONES), min_size=1, max_size=5, unique=True))
    owner = st.sampled_from([*names, None])
    zones: dict[str, Any] = {
        name: draw(
            section(
                ping=st.booleans(),
                preset=st.sampled_from(["dmz", "internal", "admin", "isolated"]),
                log=st.booleans(),
            )
        )
        for name in names
    }
    for key, pool in (("interfaces", INTERFACES), ("sources", NETWORKS)):
        for each in draw(st.lists(st.sampled_from(pool), max_size=9, unique=True)):
            name = draw(owner)
            if name:
                zones[name].setdefault(key, []).append(each)
    forward = [
        {
            "from": draw(st.sampled_from(names)),
            "to": draw(st.sampled_from(names)),
            **draw(section(masquerade=st.booleans())),
        }
        for _ in range(draw(st.integers(0, 4)))
    ]
    file: dict[str, Any] = {
        "host": {"name": "kernelcore"},
        "firewall": {
            "default_policy": draw(st.sampled_from(["drop", "reject", "accept"])),
            "log": draw(st.booleans()),
            "services": {
                "app": draw(st.lists(st.sampled_from(["tcp/8000-8010", "udp/9", "tcp/443"]), min_size=1))
            },
            "zones": zones,
            "forward": forward,
        },
    }
    if draw(st.booleans()):
        file["host"]["uplink"] = draw(st.sampled_from(["eth1", "tailscale0", "wan9"]))
    if draw(st.booleans()):
        file["tailscale"] = {
            "netfilter": draw(st.sampled_from(["on", "off", "nodivert"])),
            "advertise": {
                "routes": draw(
                    st.lists(
                        st.sampled_from(
                            ["192.168.15.0/24", "10.1.0.0/16", "fd00:15::/64", "172.17.0.0/16", "10.0.0.0/8"]
                        ),
                        max_size=3,
                        unique=True,
                    )
                ),
                "exit_node": draw(st.booleans()),
                "snat": draw(st.booleans()),
            },
        }
    return yaml_of(file)
