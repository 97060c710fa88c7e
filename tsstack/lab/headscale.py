"""Headscale as the lab runs it: its files, and the few things it is asked through its own command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tsstack.lab.topology import HEADSCALE_ADDRESS, HEADSCALE_ADDRESS6, HEADSCALE_URL, TAILNET, Topology

CONFIG = "/etc/headscale/config.yaml"
POLICY = "/etc/headscale/policy.hujson"
RECORDS = "/var/lib/headscale/extra.json"
_STATE = "/var/lib/headscale"

Address = IPv4Address | IPv6Address
Records = dict[str, list[str]]


def config() -> str:
    """Its configuration: plain HTTP, an embedded DERP relay, no word to anyone outside. JSON is YAML."""
    settings: dict[str, Any] = {
        "server_url": HEADSCALE_URL,
        "listen_addr": "[::]:8080",
        "metrics_listen_addr": "127.0.0.1:9090",
        "grpc_listen_addr": "127.0.0.1:50443",
        "unix_socket": "/run/headscale.sock",
        "noise": {"private_key_path": f"{_STATE}/noise.key"},
        "prefixes": {"v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48", "allocation": "sequential"},
        "disable_check_updates": True,
        "derp": {
            "server": {
                "enabled": True,
                "region_id": 999,
                "region_code": "hs",
                "region_name": "embedded",
                "verify_clients": False,
                "stun_listen_addr": "[::]:3478",
                "private_key_path": f"{_STATE}/derp.key",
                "ipv4": HEADSCALE_ADDRESS,
                "ipv6": HEADSCALE_ADDRESS6,
            },
            "urls": [],
            "auto_update_enabled": False,
        },
        "database": {"type": "sqlite", "sqlite": {"path": f"{_STATE}/db.sqlite", "write_ahead_log": True}},
        "policy": {"mode": "file", "path": POLICY},
        "dns": {
            "magic_dns": True,
            "base_domain": TAILNET,
            "override_local_dns": False,
            "nameservers": {"global": []},
            "extra_records_path": RECORDS,
        },
        "node": {
            "ephemeral": {"inactivity_timeout": "70s"},
            "routes": {"ha": {"probe_interval": "2s", "probe_timeout": "1s"}},
        },
        # A lab is small: no need to wait for more changes to send together.
        "tuning": {"batch_change_delay": "20ms", "node_store_batch_timeout": "10ms"},
        "logtail": {"enabled": False},
    }
    return json.dumps(settings, indent=2) + "\n"


def policy(topology: Topology) -> str:
    """Everyone reaches everyone, the private networks behind them, and the internet through exit nodes.

    Nodes tagged `tag:server`, and the lab's users, may advertise private networks and exit routes; they
    are approved at once.
    """
    users = [f"{name}@" for name in users_of(topology)]
    private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd77::/48"]
    approvers = ["tag:server", *users]
    return json.dumps(
        {
            "tagOwners": {"tag:server": users, "tag:client": users},
            "grants": [{"src": ["*"], "dst": ["*", "autogroup:internet", *private], "ip": ["*"]}],
            "autoApprovers": {
                "exitNode": approvers,
                "routes": dict.fromkeys(private, approvers),
            },
            "nodeAttrs": [
                {
                    "target": ["*"],
                    "attr": ["suggest-exit-node", "suggest-exit-node-ui", "disable-captive-portal-detection"],
                }
            ],
        },
        indent=2,
    )


def users_of(topology: Topology) -> tuple[str, ...]:
    """The users there are: one for each node without tags that the lab enrols."""
    return tuple(node.name for node in topology.nodes.values() if node.joins and not node.tags)


def merge_records(text: str, names: Mapping[str, Sequence[Address | str]]) -> str:
    """The extra-records file `text` with `names` set to these addresses; other names stay."""
    kept = [record for record in json.loads(text or "[]") if record["name"] not in names]
    for name, addresses in names.items():
        for address in map(ip_address, addresses):
            kind = "A" if address.version == 4 else "AAAA"
            kept.append({"name": name, "type": kind, "value": str(address)})
    return json.dumps(kept, indent=2) + "\n"


def next_addresses(taken: Sequence[Address]) -> tuple[Address, Address]:
    """What the next node to enrol will get: allocation is sequential from .1, and nobody leaves a lab."""
    v4 = max((a for a in taken if isinstance(a, IPv4Address)), default=IPv4Address("100.64.0.0"))
    v6 = max((a for a in taken if isinstance(a, IPv6Address)), default=IPv6Address("fd7a:115c:a1e0::"))
    return v4 + 1, v6 + 1
