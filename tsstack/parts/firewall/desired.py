"""What the `firewall` section means, as the text of one nftables table.

This is the contract; IPv4 and IPv6 are treated alike. "New" is a packet that conntrack ties to no
connection.

**Zone of an end.** A packet has two ends: source address with incoming interface, destination address
with outgoing interface. An end belongs to

1. the zone with the longest source network (`sources`) that holds the address; an address of
   100.64.0.0/10 or fd7a:115c:a1e0::/48 counts only if the interface is tailscale0;
2. else the zone that names the interface, literally before by wildcard, the longer wildcard first;
3. else no zone.

**Before all else.** A source of those two ranges on another interface than tailscale0 or lo is dropped,
wherever it is bound, established or not; 100.115.92.0/23 is not (tailscaled makes the same exception).

**To this host.** In this order: established and related pass. lo passes. ICMP errors (unreachable,
packet too big, time exceeded, parameter problem) pass. IPv6 neighbour discovery passes: NS, NA, RS with
hop limit 255, RA also only from fe80::/10; MLD only from fe80::/10 (RFC 4861, RFC 2710). Invalid is
dropped. UDP to tailscaled's port passes. DHCP replies pass: UDP 67 to 68, and UDP 547 to 546 at
fe80::/10. A destination of the tailnet's ranges (without 100.115.92.0/23) on another interface than
tailscale0 is dropped: Linux takes a packet for any address of the host by any interface (RFC 1122,
3.3.4.2, the weak model), and what serves the tailnet should not answer the neighbours. No zone opens it,
nor does `accept`. Then the zone of the source end decides: an echo request passes if `ping` is on, whatever
`allow` says; everything else passes with `allow: all`; TCP and UDP pass to the ports that `tcp`, `udp`
and `services` list. What no zone claims, or its zone does not open, gets the default policy.

**Default policy.** `drop` drops; `reject` answers TCP with a reset and all else with "port unreachable";
`accept` accepts. A zone of the preset `isolated` is never opened by `accept`: it drops.

**Through this host.** Established and related pass. If the source end is in no zone, the packet is left
alone, unless the destination's zone is isolated: then it gets the default policy as that zone has it (it
drops where others accept), DNATed or not, invalid or not. Otherwise, with Z the source's and D the
destination's zone, in this order: invalid is dropped. If it came in by tailscale0 and Z is not isolated: it
passes to networks of `tailscale.advertise.routes` (by the destination after DNAT), and, with
`tailscale.advertise.exit_node`, out of the uplink unless D is D by its address. If forward rules from Z to
D are there, it passes as they list (ports after DNAT; ICMP only by `allow: all`), else it gets the default
policy. Without rules it passes within one zone (Z = D) unless that is isolated. Where `accept` is what it
gets and D is isolated, it drops: into an isolated zone goes only what forward rules list, or from
tailscale0 what `tailscale.advertise` offers. If D is no zone and the connection was DNATed (a published
container port), it passes if Z opens the original port or allows all. All else gets the default policy.

**Masquerade.** What came in by tailscale0 and leaves by another interface is masqueraded when tailscaled
does not do it: `tailscale.netfilter` is not `on`, `advertise.snat` is, and something is advertised. A
forward rule with `masquerade` hides what it lists.

No marks are used, no other table is touched.
"""

from __future__ import annotations

from tsstack.model.facts import Facts
from tsstack.model.firewall import Firewall
from tsstack.model.stack import Stack
from tsstack.parts.firewall.dispatch import Dispatch, Members, add_dispatch
from tsstack.parts.firewall.forwarding import add_forwarding, add_masquerade
from tsstack.parts.firewall.members import (
    NOT_TAILNET,
    TAILNET,
    TAILNET_INTERFACE,
    address_ranges,
    interface_levels,
    open_ports,
)
from tsstack.parts.firewall.rulebook import (
    Rulebook,
    add_policy,
    add_ports,
    add_refusal,
    log_statement,
)
from tsstack.parts.firewall.text import PROTOCOL_NUMBERS, Chain, Table, interface, print_table
from tsstack.parts.firewall.zones import ZONES_FILE, describe_zones

FILE = "nftables/tsstack.nft"
"""What the kernel loads; nothing else in a generation touches it."""

_TAILSCALED_PORT = 41641
_ESTABLISHED = "ct state established,related accept"
_MISDIRECTED = "always: tailnet address on another interface"
_SPOOFED = "always: tailnet source on another interface"
_INVALID, _TAILSCALED = "always: invalid", "always: tailscaled port"
_DEFAULT = "firewall.default_policy"
_TSMP = 99
_HEADER = (
    "Written by tsstack from its configuration file; a change here is lost at the next switch.",
    "Comments in the rules are key paths of that file.",
)


def desired(stack: Stack, facts: Facts) -> dict[str, str]:
    """The tree: `FILE` and what it says for people, or nothing when the file asks for no firewall."""
    firewall = stack.firewall
    if firewall is None or not firewall.enabled:
        return {}
    table = build_table(stack, firewall, facts)
    return {
        FILE: print_table(table, _HEADER),
        ZONES_FILE: describe_zones(stack, firewall, table.counters),
    }


def build_table(stack: Stack, firewall: Firewall, facts: Facts) -> Table:
    """The table that this module's contract describes."""
    book = Rulebook(
        stack=stack,
        firewall=firewall,
        uplink=stack.host.uplink or facts.default_interface,
        members=Members(address_ranges(firewall), interface_levels(firewall)),
        ports={
            name: open_ports(stack, zone, f"firewall.zones.{name}") for name, zone in firewall.zones.items()
        },
        table=Table(),
    )
    for zone in firewall.zones:
        add_refusal(book, zone)
        add_forwarding(book, zone)
        _add_zone(book, zone)
    _add_baseline(book)
    _add_spoof_check(book)
    _add_misdirected(book)
    port = facts.tailscale.port if facts.tailscale else 0
    _add_input(book, port or _TAILSCALED_PORT)
    _add_forward(book)
    add_masquerade(book)
    return book.table


def _add_zone(book: Rulebook, name: str) -> None:
    """The chain `zone.ZONE`: what the zone opens on this host. It is entered from both hooks."""
    zone, path = book.firewall.zones[name], f"firewall.zones.{name}"
    chain = book.table.chain(f"zone.{name}")
    # Only a packet that is on its way through has an outgoing interface here.
    chain.add(f"oif != 0 goto from.{name}", "firewall.forward")
    ping = (
        f"{book.table.counter(f'{name}.ping', f'{path}.ping')} accept" if zone.ping else f"goto refuse.{name}"
    )
    chain.add(f"icmp type echo-request {ping}", f"{path}.ping")
    chain.add(f"icmpv6 type echo-request {ping}", f"{path}.ping")
    if zone.allow == "all":
        chain.add(f"{book.table.counter(f'{name}.all', f'{path}.allow')} accept", f"{path}.allow")
        return

    def accept(protocol: str) -> str:
        return f"{book.table.counter(f'{name}.{protocol}', path)} accept"

    add_ports(chain, book.table, f"open.{name}", book.ports[name], verdict=accept, path=path)
    chain.add(f"goto refuse.{name}", path)


def _add_baseline(book: Rulebook) -> None:
    """ICMP that no host can do without (RFC 4890, section 4.4; RFC 4861, section 7.1 for hop limit 255)."""
    errors = book.table.chain("always.icmp")
    errors.add(
        "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
        "always: ICMP errors",
    )
    errors6 = book.table.chain("always.icmpv6")
    errors6.add(
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
        "always: ICMPv6 errors",
    )
    errors6.add(
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } ip6 hoplimit 255 accept",
        "always: neighbour discovery",
    )
    errors6.add(
        "icmpv6 type nd-router-advert ip6 saddr fe80::/10 ip6 hoplimit 255 accept",
        "always: router advertisements",
    )
    errors6.add(
        "icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } "
        "ip6 saddr fe80::/10 accept",
        "always: multicast listeners",
    )


def _add_misdirected(book: Rulebook) -> None:
    """Where a packet ends that is for the host's tailnet address but came in by another interface."""
    refuse = book.table.chain("always.misdirected")
    if book.firewall.log:
        refuse.add(log_statement("misdirected tailnet address"), "firewall.log")
    refuse.add(f"{book.table.counter('misdirected', _MISDIRECTED)} drop", _MISDIRECTED)


def _add_spoof_check(book: Rulebook) -> None:
    refuse = book.table.chain("always.spoofed")
    if book.firewall.log:
        refuse.add(log_statement("spoofed tailnet source"), "firewall.log")
    refuse.add(f"{book.table.counter('spoofed', _SPOOFED)} drop", _SPOOFED)
    chain = book.table.chain("prerouting", "type filter hook prerouting priority raw; policy accept;")
    others = f"iifname != {{ {interface('lo')}, {interface(TAILNET_INTERFACE)} }}"
    for match in _in_tailnet("saddr"):
        chain.add(f"{match} {others} goto always.spoofed", _SPOOFED)


def _in_tailnet(side: str) -> tuple[str, ...]:
    """The matches for an address (`saddr`, `daddr`) of the tailnet's ranges, of which one holds."""
    (v4, v6) = TAILNET
    return f"ip {side} {v4} ip {side} != {NOT_TAILNET}", f"ip6 {side} {v6}"


def _add_input(book: Rulebook, tailscaled_port: int) -> None:
    table = book.table
    chain = table.chain("input", "type filter hook input priority filter; policy drop;")
    chain.add(_ESTABLISHED, "always: established")
    chain.add(f"iifname {interface('lo')} accept", "always: loopback")
    # ICMP and ICMPv6 by number, see PROTOCOL_NUMBERS.
    for protocol in ("icmp", "icmpv6"):
        chain.add(f"meta l4proto {PROTOCOL_NUMBERS[protocol]} jump always.{protocol}", "always: ICMP")
    chain.add(f"ct state invalid {table.counter('invalid', _INVALID)} drop", _INVALID)
    own_port = f"udp dport {tailscaled_port} {table.counter('tailscaled', _TAILSCALED)} accept"
    chain.add(own_port, _TAILSCALED)
    chain.add("meta nfproto ipv4 udp sport 67 udp dport 68 accept", "always: DHCP replies")
    chain.add("ip6 daddr fe80::/10 udp sport 547 udp dport 546 accept", "always: DHCPv6 replies")
    # tailscaled has answered it before it gets here (tailscale, net/packet/tsmp.go). As refused it would fill
    # the log: the monitor's own probes bring several a second.
    chain.add(f"iifname {interface(TAILNET_INTERFACE)} meta l4proto {_TSMP} drop", "always: TSMP")
    # After DHCP and tailscaled's port: a provider may give the uplink an address of 100.64.0.0/10.
    for match in _in_tailnet("daddr"):
        chain.add(f"{match} iifname != {interface(TAILNET_INTERFACE)} goto always.misdirected", _MISDIRECTED)
    _add_zones(book, chain)
    policy = book.firewall.default_policy
    if book.firewall.log and policy != "accept":
        chain.add(log_statement("no zone"), "firewall.log")
    add_policy(chain, policy, table.counter("unzoned", _DEFAULT), _DEFAULT)


def _add_forward(book: Rulebook) -> None:
    chain = book.table.chain("forward", "type filter hook forward priority filter; policy accept;")
    chain.add(_ESTABLISHED, "always: established")
    _add_zones(book, chain)
    isolated = {name: f"goto refuse.{name}" for name in book.firewall.zones if book.is_isolated(name)}
    if isolated:
        into = Dispatch("isolated", "destination", isolated, other="accept")
        add_dispatch(book.table, chain, book.members, into)
    chain.add("accept", "always: from no zone")


def _add_zones(book: Rulebook, chain: Chain) -> None:
    verdicts = {name: f"goto zone.{name}" for name in book.firewall.zones}
    add_dispatch(book.table, chain, book.members, Dispatch("zones", "source", verdicts))
