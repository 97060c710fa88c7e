"""The lab's map: which nodes there are, how they are wired, what runs in them. Data and no effects.

Every node but the LANs behind kernelcore hangs on its own link to `world`, the router in the middle, so
each path can be hurt without the others. All of it lives inside namespaces: the same addresses may be
used by as many labs as one likes, and by the machine itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tsstack.errors import UsageError

LAB_NETWORK = "10.77.0.0/16"
LAB_NETWORK6 = "fd77::/48"
WORLD_ADDRESS = "203.0.113.1"
WORLD_ADDRESS6 = "2001:db8:77::1"
HEADSCALE_ADDRESS = "10.77.0.1"
HEADSCALE_ADDRESS6 = "fd77::1"
HEADSCALE_URL = f"http://{HEADSCALE_ADDRESS}:8080"
TAILNET = "tail.test"
LAN_NETWORK = "192.168.15.0/24"
MAX_CLIENTS = 50

ServerKind = Literal["backend", "tcp", "source", "source-tcp", "dns"]


@dataclass(frozen=True, slots=True)
class Server:
    """A small server that a node runs.

    `backend` answers HTTP with JSON that names it and repeats the request; `tcp` greets with its name and
    echoes; `source` and `source-tcp` answer with the address that they see the client come from; `dns` knows
    world.test and no other name.
    """

    kind: ServerKind
    name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the lab."""

    name: str
    role: str
    """What it is there for, in a few words."""
    address: str = ""
    """Its IPv4 address on eth0."""
    prefix: int = 24
    address6: str = ""
    gateway: str = ""
    gateway6: str = ""
    router: bool = False
    """Whether it forwards packets from the start."""
    daemon: Literal["tailscaled", "headscale", ""] = ""
    joins: bool = False
    """Whether `up` enrols it."""
    tags: tuple[str, ...] = ()
    """Tags of its auth key; without any, it belongs to a user of its own name."""
    exit_node: bool = False
    servers: tuple[Server, ...] = ()

    @property
    def world_link(self) -> str:
        """The name of world's end of its link."""
        return f"to-{self.name}"

    def as_json(self) -> str:
        """The node as its holder process is told of it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Node:
        """What `as_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        raw["tags"] = tuple(raw["tags"])
        raw["servers"] = tuple(Server(**server) for server in raw["servers"])
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Topology:
    """All nodes by name; `behind_world` are those with a link to world."""

    nodes: dict[str, Node]

    @property
    def behind_world(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes.values() if node.name not in {"world", "lan", "guest"})

    def node(self, name: str) -> Node:
        """Raises UsageError that lists the names there are."""
        try:
            return self.nodes[name]
        except KeyError:
            names = ", ".join(self.nodes)
            raise UsageError(f"the lab has no node {name!r}", hint=f"nodes: {names}") from None


def _linked(
    number: int,
    name: str,
    role: str,
    *,
    router: bool = False,
    joins: bool = False,
    tags: tuple[str, ...] = (),
    exit_node: bool = False,
    servers: tuple[Server, ...] = (),
) -> Node:
    return Node(
        name,
        role,
        address=f"10.77.{number}.2",
        address6=f"fd77:0:0:{number}::2",
        gateway=f"10.77.{number}.1",
        gateway6=f"fd77:0:0:{number}::1",
        router=router,
        daemon="tailscaled",
        joins=joins,
        tags=tags,
        exit_node=exit_node,
        servers=servers,
    )


def build(clients: int = 0) -> Topology:
    """The lab with `clients` nodes more than it always has. Raises UsageError for a silly number."""
    if not 0 <= clients <= MAX_CLIENTS:
        raise UsageError(f"the lab takes 0 to {MAX_CLIENTS} further clients, not {clients}")
    backends = (
        Server("backend", "ollama", "127.0.0.1", 11434),
        Server("backend", "llamacpp", "127.0.0.1", 8080),
        Server("backend", "wiki", "127.0.0.1", 8000),
        Server("tcp", "db", "127.0.0.1", 5432),
    )
    nodes = [
        Node(
            "world",
            "the internet, and everyone's default gateway",
            address=WORLD_ADDRESS,
            address6=WORLD_ADDRESS6,
            router=True,
            servers=(
                Server("source", "world", "::", 80),
                Server("source-tcp", "world", "::", 7777),
                Server("dns", "world.test", WORLD_ADDRESS, 53),
                Server("dns", "world.test", WORLD_ADDRESS6, 53),
            ),
        ),
        Node(
            "hs",
            "Headscale with its DERP relay",
            address=HEADSCALE_ADDRESS,
            address6=HEADSCALE_ADDRESS6,
            gateway="10.77.0.254",
            gateway6="fd77::fe",
            daemon="headscale",
        ),
        _linked(1, "kernelcore", "the host under management; `tsstack switch` enrols it", servers=backends),
        _linked(2, "laptop", "a client", joins=True),
        _linked(
            3, "exit-b", "another exit node", router=True, joins=True, tags=("tag:server",), exit_node=True
        ),
        *(_linked(10 + i, f"client-{i}", "a further client", joins=True) for i in range(1, clients + 1)),
        Node(
            "lan",
            "a machine in the LAN behind kernelcore",
            address="192.168.15.9",
            address6="fd77:0:0:f::9",
            gateway="192.168.15.1",
            gateway6="fd77:0:0:f::1",
            servers=(
                Server("backend", "wiki-lan", "::", 8000),
                Server("backend", "lan", "::", 80),
                Server("source-tcp", "lan", "::", 7777),
            ),
        ),
        Node(
            "guest",
            "a machine in kernelcore's guest network",
            address="192.168.50.9",
            address6="fd77:0:0:e::9",
            gateway="192.168.50.1",
            gateway6="fd77:0:0:e::1",
            servers=(Server("source-tcp", "guest", "::", 7777),),
        ),
    ]
    return Topology({node.name: node for node in nodes})


def world_links(topology: Topology, pids: dict[str, int]) -> str:
    """`ip -batch` lines for world: one link per node, whose other end is its eth0."""
    lines: list[str] = []
    for node in topology.behind_world:
        lines += [
            f"link add {node.world_link} type veth peer name eth0 netns {pids[node.name]}",
            f"addr add {node.gateway}/{node.prefix} dev {node.world_link}",
            f"addr add {node.gateway6}/64 dev {node.world_link} nodad",
            f"link set {node.world_link} up",
        ]
    return "\n".join(lines) + "\n"


def loopback_addresses(node: Node) -> str:
    """`ip -batch` lines for a node's loopback: up, and in world with the internet's addresses.

    Even there an IPv6 address may not be bound for a moment, until a kernel worker has seen that there is
    nothing to detect (net/ipv6/addrconf.c: addrconf_dad_work), unless `nodad` says so.
    """
    if node.name != "world":
        return "link set lo up\n"
    return f"link set lo up\naddr add {node.address}/32 dev lo\naddr add {node.address6}/128 dev lo nodad\n"


def kernelcore_links(pids: dict[str, int]) -> str:
    """`ip -batch` lines for kernelcore: the LAN on eth1, the guest network on br-guest."""
    return "\n".join(
        (
            f"link add eth1 type veth peer name eth0 netns {pids['lan']}",
            "addr add 192.168.15.1/24 dev eth1",
            "addr add fd77:0:0:f::1/64 dev eth1 nodad",
            "link set eth1 up",
            "link add br-guest type bridge",
            f"link add guest0 type veth peer name eth0 netns {pids['guest']}",
            "link set guest0 master br-guest",
            "addr add 192.168.50.1/24 dev br-guest",
            "addr add fd77:0:0:e::1/64 dev br-guest nodad",
            "link set guest0 up",
            "link set br-guest up",
            "",
        )
    )


def node_addresses(node: Node) -> str:
    """`ip -batch` lines for any node but world: eth0, default routes."""
    return "\n".join(
        (
            f"addr add {node.address}/{node.prefix} dev eth0",
            f"addr add {node.address6}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {node.gateway}",
            f"route add ::/0 via {node.gateway6}",
            "",
        )
    )
