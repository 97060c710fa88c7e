"""What became of the packet, why, and what to write so that it would pass. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tsstack.explain.decisions import Decision, zone_entry
from tsstack.explain.owners import UNKNOWN
from tsstack.model.firewall import Firewall
from tsstack.model.keypath import format_path
from tsstack.model.parameters import echo_ignored, forwarded_nowhere
from tsstack.model.stack import Stack
from tsstack.prove.expected import TAILNET_INTERFACE, Packet, is_tailnet

Word = Literal["accepted", "dropped", "rejected", "lost"]
_WORDS: Mapping[str, Word] = {
    "delivered": "accepted",
    "left": "accepted",
    "rejected": "rejected",
    "dropped": "dropped",
    "lost": "lost",
}


@dataclass(frozen=True, slots=True)
class Fix:
    """What to write: `value` for the key at `path`, or as one more entry of the list there (`append`)."""

    words: str
    path: str
    value: Any
    append: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict in plain words. `path` is the key path that decides, `decision` the rule, if any."""

    verdict: Word
    reason: str
    path: str
    decision: Decision | None
    fix: Fix | None = None
    hint: str = ""

    @property
    def action(self) -> str:
        """As the model calls it: accept, drop, reject; `lost` is neither."""
        return {"accepted": "accept", "dropped": "drop", "rejected": "reject"}.get(self.verdict, "lost")


_SSH = 22
TAILSCALE_SSH = "tailscale.ssh"


def is_for_tailscaled(stack: Stack, packet: Packet) -> bool:
    """Whether tailscaled's own SSH server takes the packet, before the kernel has it and its rules.

    tailscale's wgengine/netstack (shouldProcessInbound): what comes to port 22 of the node's own addresses.
    """
    settings = stack.tailscale
    return (
        settings is not None
        and settings.ssh
        and not settings.shields_up
        and (packet.interface, packet.protocol, packet.port) == (TAILNET_INTERFACE, "tcp", _SSH)
        and not packet.outgoing
        and packet.destination is not None
        and is_tailnet(packet.destination)
    )


def conclude(
    stack: Stack, packet: Packet, decisions: tuple[Decision, ...], outcome: str, *, asked: int = 0
) -> Answer:
    """The answer to a question, from what the kernel decided and what became of the packet.

    `asked`: the port that was asked for, of a packet that a rule has sent elsewhere (DNAT).
    """
    return _Judge(stack, packet, decisions, asked).answer(_WORDS[outcome])


class _Judge:
    def __init__(self, stack: Stack, packet: Packet, decisions: tuple[Decision, ...], asked: int) -> None:
        self._published = asked if packet.outgoing else 0
        self._made_of = f", which a rule has made of {packet.protocol}/{asked}" if asked else ""
        self._firewall = stack.firewall or Firewall()
        self._packet = packet
        self._decisions = decisions
        self._zone = zone_entry(self._firewall, packet.source, packet.interface)[0]
        to = packet.destination or packet.source
        outgoing = packet.outgoing
        self._target, self._target_path = zone_entry(self._firewall, to, outgoing) if outgoing else ("", "")
        # What the file has the kernel do with such a packet once the rules have let it pass.
        self._ignored = echo_ignored(stack).get(packet.source.version, "")
        self._unforwarded = forwarded_nowhere(stack).get(packet.source.version, "") if outgoing else ""

    def answer(self, verdict: Word) -> Answer:
        """The verdict with its reason."""
        if verdict == "lost":
            words = "no rule is against it, but this host's routing has no use for such a packet"
            return Answer(verdict, words, "", None, hint="is one of its addresses a broadcast address?")
        if verdict == "accepted":
            return self._accepted()
        last = next((each for each in reversed(self._decisions) if each.verdict in {"drop", "reject"}), None)
        if last is None:
            return Answer(verdict, "no rule of any table says so; the host answers so itself", "", None)
        return self._refused(verdict, last) if last.ours else self._foreign(verdict, last)

    def _foreign(self, verdict: Word, last: Decision) -> Answer:
        what = f"the rule `{last.rule}`" if last.rule else "the policy"
        table = f"table {last.family} {last.table}"
        who = f"{last.owner}'s" if last.owner != UNKNOWN else "not tsstack's"
        reason = f"{what} of chain {last.chain} in {table} {last.verdict}s it, and that is {who}"
        before = next((each for each in reversed(self._decisions) if each.ours and each.final), None)
        passed = before is not None and before.verdict == "accept" and before.hook != "prerouting"
        hint = f"tsstack leaves it alone: change it with what made {table}"
        if passed:
            hint = f"tsstack's own table accepts it, but it must be accepted in {table} too"
        return Answer(verdict, reason, "", last, hint=hint)

    # --- refused by our own table ---

    def _refused(self, verdict: Word, last: Decision) -> Answer:
        came = self._decisions[: self._decisions.index(last)]
        origin = next((each for each in reversed(came) if each.ours and each.target == last.chain), last)
        reason, path, fix, hint = self._why(origin, last)
        return Answer(verdict, reason, path, last, fix, hint)

    def _why(self, origin: Decision, last: Decision) -> tuple[str, str, Fix | None, str]:
        kind = origin.chain.partition(".")[0]
        packet = self._packet
        if last.chain == "always.spoofed":
            words = f"an address of the tailnet comes by {TAILNET_INTERFACE} only, and this came by"
            return f"{words} {packet.interface} (always so)", "", None, ""
        if last.chain == "always.misdirected":
            words = (
                f"{packet.destination} is an address of the tailnet: it answers on {TAILNET_INTERFACE} only"
            )
            return f"{words} (always so)", "", None, ""
        if "always: invalid" in (origin.path, last.path) or "invalid" in last.rule:
            return "it fits no connection (always so)", "", None, ""
        if last.chain in {"input", "forward"}:
            words = f"no zone claims {packet.interface} or {packet.source}, and the default policy is"
            hint = f"add {packet.interface} to the `interfaces` of a zone that opens it"
            return f"{words} {self._firewall.default_policy}", "firewall.default_policy", None, hint
        if kind == "zone":
            return self._closed(origin)
        return self._unlisted(origin)

    def _closed(self, origin: Decision) -> tuple[str, str, Fix | None, str]:
        """To this host, from a zone that does not open it."""
        zone, path = self._zone, format_path(("firewall", "zones", self._zone))
        if origin.path.endswith(".ping"):
            fix = Fix(f"write `ping: true` in {path}", f"{path}.ping", True)
            return f"zone `{zone}` does not answer echo requests", origin.path, fix, ""
        service = self._packet.service
        reason = f"no rule of zone `{zone}` opens {service}{self._made_of}"
        if self._packet.protocol == "icmp":
            return (
                reason,
                path,
                None,
                f"only `allow: all` opens other ICMP than echo requests to zone `{zone}`",
            )
        return reason, path, self._opening(path), ""

    def _opening(self, path: str) -> Fix:
        protocol = self._packet.protocol
        zone = self._firewall.zones[self._zone]
        listed = zone.tcp if protocol == "tcp" else zone.udp
        value = [each.first if each.first == each.last else str(each) for each in listed]
        value.append(self._published or self._packet.port)
        text = ", ".join(map(str, value))
        return Fix(f"write `{protocol}: [{text}]` in {path}", f"{path}.{protocol}", value)

    def _unlisted(self, origin: Decision) -> tuple[str, str, Fix | None, str]:
        """Through this host, where no forward rule lets it."""
        service, zone, target = self._packet.service, self._zone, self._target
        rules = [
            at
            for at, rule in enumerate(self._firewall.forward)
            if (rule.from_zone, rule.to_zone) == (zone, target)
        ]
        if not zone:
            reason = f"it comes from no zone, and only forward rules lead into the isolated zone `{target}`"
            hint = f"put {self._packet.interface} into a zone, and list a forward rule from it to `{target}`"
            return reason, f"firewall.zones.{target}", None, hint
        if not target and self._published:
            path = f"firewall.zones.{zone}"
            what = f"{self._packet.protocol}/{self._published}, a published port (DNAT)"
            reason = f"no rule of zone `{zone}` opens {what}"
            return reason, path, self._opening(path), ""
        if not target:
            reason = (
                f"{self._packet.destination} by {self._packet.outgoing} is in no zone, and zone `{zone}`'s"
            )
            hint = f"put {self._packet.outgoing} into a zone, and list a forward rule from `{zone}` to it"
            return f"{reason} packets are forwarded to zones only", f"firewall.zones.{zone}", None, hint
        value: dict[str, Any] = {"from": zone, "to": target}
        value |= (
            {"allow": "all"}
            if self._packet.protocol == "icmp"
            else {self._packet.protocol: [self._packet.port]}
        )
        what = value.get("allow") or f"[{self._packet.port}]"
        key = "allow" if self._packet.protocol == "icmp" else self._packet.protocol
        text = f"{{from: {zone}, to: {target}, {key}: {what}}}"
        fix = Fix(f"add `{text}` to firewall.forward", "firewall.forward", value, append=True)
        if rules:
            return (
                f"no forward rule from `{zone}` to `{target}` lists {service}",
                f"firewall.forward[{rules[0]}]",
                fix,
                "",
            )
        if zone == target:
            return f"within the isolated zone `{zone}` nothing passes", f"firewall.zones.{zone}", fix, ""
        path = "firewall.forward" if self._firewall.forward else f"firewall.zones.{zone}"
        return f"no forward rule leads from zone `{zone}` to zone `{target}`", path, fix, ""

    # --- accepted ---

    def _accepted(self) -> Answer:
        final = [
            each
            for each in self._decisions
            if each.ours and each.verdict == "accept" and each.hook not in {"prerouting", "postrouting"}
        ]
        if not final:
            return Answer("accepted", "no rule of any table is against it", "", None)
        last = final[-1]
        hint = f"but the kernel forwards it nowhere: {_parameter(self._unforwarded)} is 0"
        return Answer(
            "accepted", self._granted(last), last.path, last, hint=hint if self._unforwarded else ""
        )

    def _granted(self, last: Decision) -> str:
        kind = last.chain.partition(".")[0]
        packet = self._packet
        words = last.words if last.path else f"{last.words} (always so)"
        if kind == "refuse":
            words = "no zone opens it, but the default policy is accept"
        elif last.path == "firewall.default_policy":
            words = f"no zone claims {packet.interface}, but the default policy is accept"
        elif kind == "from" and last.path == self._target_path:
            words = f"within zone `{self._zone}` everything passes"
        elif kind == "pair":
            words = f"a forward rule lets {packet.service} pass from `{self._zone}` to `{self._target}`"
        elif kind == "zone":
            words = self._opened(last)
        return words

    def _opened(self, last: Decision) -> str:
        if last.path.endswith(".ping") and self._ignored:
            words = f"zone `{self._zone}` lets echo requests in, but the kernel answers none"
            return f"{words}, by {_parameter(self._ignored)}"
        if last.path.endswith(".ping"):
            return f"zone `{self._zone}` answers echo requests"
        if last.path.endswith(".allow"):
            return f"zone `{self._zone}` may reach everything on this host"
        return f"zone `{self._zone}` opens {self._packet.service}{self._made_of}"


def _parameter(name: str) -> str:
    return format_path(("kernel", "sysctl", name))
