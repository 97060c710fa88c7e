"""Each rule that a packet met, in short plain words, with the key path behind it. Pure.

Our own rules are told by chain, shape and comment as `tsstack.parts.firewall` writes them; anybody else's
are shown as nft prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tsstack.explain.owners import OURS, owner_of
from tsstack.explain.tracing import Event, Listing, Rule
from tsstack.model.firewall import Firewall
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.expected import TAILNET, TAILNET_INTERFACE, Membership, Packet

_FINAL = {"accept", "drop", "reject"}
_LOOKUP = re.compile(r"(?:(\S+) )?(saddr|daddr|iifname|oifname|dport|proto-dst) @(\S+)")
# Many zones are asked in groups: `zones.ip4.0`, `to.ZONE.interfaces.2`.
_GROUP = re.compile(
    r"(zones|isolated|to|hide|hidden)\.(?:(.+)\.)?(?:ip|tailnet|interfaces|wildcards)\d*\.\d+"
)
_ALWAYS = {
    "always: established": "belongs to a connection that is open already",
    "always: loopback": "comes from this host itself",
    "always: ICMP": "is it ICMP that no host can do without?",
    "always: ICMP errors": "an ICMP error, which no host can do without",
    "always: ICMPv6 errors": "an ICMPv6 error, which no host can do without",
    "always: neighbour discovery": "neighbour discovery, which IPv6 cannot do without",
    "always: router advertisements": "a router's advertisement from this link",
    "always: multicast listeners": "multicast listener discovery from this link",
    "always: invalid": "fits no connection (invalid)",
    "always: tailscaled port": "tailscaled's own port, open to everybody",
    "always: TSMP": "tailscaled's own ping, which it has answered already",
    "always: DHCP replies": "a DHCP reply",
    "always: DHCPv6 replies": "a DHCPv6 reply",
    "always: from no zone": "comes from no zone: left alone",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that the kernel decided. `path` is the key path behind it, empty where there is none."""

    family: str
    table: str
    chain: str
    rule: str
    """As nft prints it; empty for a chain's policy."""
    words: str
    verdict: str
    """accept, drop, reject, continue, return, or `goto CHAIN`, `jump CHAIN`."""
    path: str = ""
    owner: str = OURS
    """Whose table it is; empty: ours."""
    hook: str = ""
    """Of a base chain: where it is hooked in."""

    @property
    def ours(self) -> bool:
        """Whether it is in the table that tsstack writes."""
        return self.owner == OURS

    @property
    def target(self) -> str:
        """The chain that is gone to, if any."""
        return self.verdict.partition(" ")[2]

    @property
    def final(self) -> bool:
        """Whether it ends the packet's way through a base chain."""
        return self.verdict in _FINAL


def zone_entry(firewall: Firewall, address: Address, interface: str) -> tuple[str, str]:
    """The zone of an end and the key path of the entry that makes it so; two empty strings if none."""
    members = Membership(firewall)
    if name := members.by_address(address, interface):
        sources = firewall.zones[name].sources
        fitting = [at for at, network in enumerate(sources) if address in network]
        at = max(fitting, key=lambda each: sources[each].prefixlen)
        return name, f"firewall.zones.{name}.sources[{at}]"
    if name := members.by_interface(interface):
        patterns = firewall.zones[name].interfaces
        if interface in patterns:
            return name, f"firewall.zones.{name}.interfaces[{patterns.index(interface)}]"
        stars = [
            at for at, each in enumerate(patterns) if each.endswith("*") and interface.startswith(each[:-1])
        ]
        at = max(stars, key=lambda each: len(patterns[each]))
        return name, f"firewall.zones.{name}.interfaces[{at}]"
    return "", ""


def tell(stack: Stack, packet: Packet, events: tuple[Event, ...], listing: Listing) -> tuple[Decision, ...]:
    """What was decided, in the kernel's order. What only says that a chain was passed is left out."""
    return tuple(_Teller(stack, packet, listing).decisions(events))


class _Teller:
    def __init__(self, stack: Stack, packet: Packet, listing: Listing) -> None:
        self._stack = stack
        self._firewall = stack.firewall or Firewall()
        self._packet = packet
        self._listing = listing
        self._source = zone_entry(self._firewall, packet.source, packet.interface)
        # The destination is always set by who asks; its zone matters only to packets that pass through.
        to = packet.destination or packet.source
        self._target = zone_entry(self._firewall, to, packet.outgoing) if packet.outgoing else ("", "")

    def decisions(self, events: tuple[Event, ...]) -> Iterator[Decision]:
        for event in events:
            if event.kind == "end" or (event.kind == "rule" and event.verdict == "break"):
                continue
            at = (event.family, event.table, event.chain)
            owner, base = owner_of(*at), self._listing.hooks.get(at)
            hook = base.hook if base else ""
            if event.kind == "policy":
                words = (
                    "no rule here is against it" if event.verdict == "accept" else "no rule here accepts it"
                )
                yield Decision(*at, "", f"{words}; policy", event.verdict, "", owner, hook)
                continue
            rule = self._listing.rules.get((*at, event.handle), Rule("?"))
            verdict = "reject" if event.verdict == "drop" and " reject" in f" {rule.text}" else event.verdict
            if event.target:
                verdict = f"{verdict} {event.target}"
            if owner == OURS and _GROUP.fullmatch(event.target or ""):
                continue  # only a step on the way to a zone, see tsstack.parts.firewall.dispatch
            words, path = rule.comment or rule.text, ""
            if owner == OURS:
                words, path = self._words(event.chain, rule, verdict), self._path(rule)
            yield Decision(*at, rule.text, words, verdict, path, owner, hook)

    # --- the key path behind a rule of ours ---

    def _path(self, rule: Rule) -> str:
        if rule.comment.startswith("always:"):
            return ""
        for _, side, name in _LOOKUP.findall(rule.text):
            if found := self._element_path(side, name):
                return found
        if rule.comment.endswith(".log") and self._logs_by_default(rule.comment):
            return "firewall.log"
        return rule.comment

    def _logs_by_default(self, path: str) -> bool:
        """Whether it is the whole firewall's `log` that a zone's logging rule comes from."""
        return any(
            path == f"firewall.zones.{name}.log" and zone.log is None
            for name, zone in self._firewall.zones.items()
        )

    def _element_path(self, side: str, name: str) -> str:
        """The entry of the file that a set's element stands for."""
        if side in {"dport", "proto-dst"}:
            listed = self._listing.elements.get(("inet", "tsstack", name), ())
            return next((path for ports, path in listed if _holds(ports, self._packet.port)), "")
        if name.startswith("routes."):
            advertise = self._stack.tailscale.advertise if self._stack.tailscale else None
            routes = advertise.routes if advertise else ()
            at = next((at for at, each in enumerate(routes) if self._packet.destination in each), -1)
            return f"tailscale.advertise.routes[{at}]" if at >= 0 else ""
        return self._source[1] if side in {"saddr", "iifname"} else self._target[1]

    # --- in words ---

    def _words(self, chain: str, rule: Rule, verdict: str) -> str:
        if "log prefix" in rule.text:
            return "written to the log"
        if rule.comment in _ALWAYS:
            return _ALWAYS[rule.comment]
        if rule.comment.startswith("always:"):
            return self._strange(rule.comment, verdict)
        grouped = _GROUP.fullmatch(chain)
        kind, _, zone = (grouped[1], "", grouped[2] or "") if grouped else chain.partition(".")
        teller = {
            "input": self._in_base,
            "forward": self._in_base,
            "zones": self._in_base,
            "isolated": self._in_base,
            "to": self._in_from,
            "zone": self._in_zone,
            "from": self._in_from,
            "pair": self._in_pair,
            "refuse": self._in_refuse,
        }.get(kind)
        if teller is not None:
            return teller(zone, rule, verdict)
        if "masquerade" in rule.text:
            return "goes out under this host's own address"
        return "is it to go out under this host's own address?"

    def _strange(self, comment: str, verdict: str) -> str:
        """Tailnet addresses where they cannot rightly be."""
        if verdict.startswith(("goto", "jump")):
            subject = "to" if "tailnet address" in comment else "from"
            return f"{subject} an address of the tailnet, but by {self._packet.interface}"
        return f"the tailnet's addresses come by {TAILNET_INTERFACE} only"

    def _in_base(self, _: str, rule: Rule, verdict: str) -> str:
        if rule.comment == "firewall.default_policy":
            return f"{self._packet.source} by {self._packet.interface} belongs to no zone"
        if verdict.startswith("goto zone."):
            return self._belongs(self._packet.source, self._packet.interface, self._source, "comes from")
        to = self._packet.destination or self._packet.source
        return self._belongs(to, self._packet.outgoing, self._target, "goes to")

    def _belongs(self, address: Address, interface: str, entry: tuple[str, str], verb: str) -> str:
        zone, path = entry
        by_address = ".sources[" in path
        bound = by_address and any(address in network for network in TAILNET)
        what = f"{address}{f' by {interface}' if bound else ''}" if by_address else interface
        return f"{verb} zone {zone}: {what}"

    def _in_zone(self, zone: str, rule: Rule, verdict: str) -> str:
        if verdict.startswith("goto from."):
            return "is on its way through this host"
        if rule.comment.endswith(".ping"):
            answers = "answers" if verdict == "accept" else "does not answer"
            return f"an echo request, which zone {zone} {answers}"
        if rule.comment.endswith(".allow"):
            return f"zone {zone} may reach everything here"
        if verdict == "accept":
            return f"zone {zone} opens {self._packet.service}"
        return f"zone {zone} opens nothing like {self._packet.service}"

    def _in_from(self, zone: str, rule: Rule, verdict: str) -> str:
        target = self._target[0]
        if rule.comment == "tailscale.advertise.routes":
            return "this host routes there for the tailnet"
        if rule.comment == "tailscale.advertise.exit_node":
            return f"leaves by the uplink: this host is an exit node for zone {zone}"
        if "ct status dnat" in rule.text:
            return f"a published port that zone {zone} opens"
        if verdict.startswith("goto pair."):
            return f"goes to zone {target}: is it listed?"
        if verdict == "accept":
            return f"stays within zone {zone}"
        return f"goes to zone {target}: nothing from {zone} leads there" if target else "goes to no zone"

    def _in_pair(self, _: str, __: Rule, verdict: str) -> str:
        rules = f"from {self._source[0]} to {self._target[0]}"
        if verdict == "accept":
            return f"a forward rule {rules} lists {self._packet.service}"
        return f"no forward rule {rules} lists {self._packet.service}"

    def _in_refuse(self, zone: str, _: Rule, verdict: str) -> str:
        if verdict == "accept":
            return "default_policy lets it pass"
        return f"not opened to zone {zone}"


def _holds(ports: str, port: int) -> bool:
    first, _, last = ports.partition("-")
    return first.isdigit() and int(first) <= port <= int(last or first)
