"""Other owners' chains that drop what our table accepts.

`accept` ends only its own base chain, while `drop` anywhere is final (nft(8), VERDICT STATEMENTS). Such a
chain is never touched; it is named, with what one can do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsstack.parts.firewall.library import Session

_OWN = ("inet", "tsstack")
_HOOKS = ("input", "forward")
# What may refuse a packet. An `xt` is something of iptables' own, and may be its REJECT.
_REFUSING = frozenset({"drop", "reject", "vmap", "xt", "queue", "synproxy"})
# What gives it to somebody else: DNAT, as the published port of a container.
_TAKING = frozenset({"dnat", "redirect", "tproxy"})
# tailscaled's own, tailscale: util/linuxfw; what they drop our table drops too.
_TAILSCALED = frozenset({"ts-input", "ts-forward", "ts-postrouting"})
_WAYS_IN = frozenset({"ingress", "prerouting", "input"})


@dataclass(frozen=True, slots=True)
class ForeignDrop:
    """A base chain of another owner that ends in a drop or a reject."""

    family: str
    table: str
    chain: str
    hook: str
    reason: str
    """`policy drop`, or the last rule that drops whatever reaches it."""

    @property
    def is_docker(self) -> bool:
        """Whether it is the policy that Docker gives the chain of iptables."""
        return (self.hook, self.chain, self.reason) == ("forward", "FORWARD", "policy drop")

    def __str__(self) -> str:
        name = f"table {self.family} {self.table}, chain {self.chain}"
        if self.is_docker:
            return (
                f"{name} drops by its policy what it does not accept itself (Docker sets that): what our "
                "zones let through this host must be accepted there too, for example in DOCKER-USER"
            )
        return (
            f"{name} ({self.hook}: {self.reason}) drops packets that our zones open: accept them there too, "
            "or switch the other firewall off"
        )


def foreign_drops(session: Session) -> tuple[ForeignDrop, ...]:
    """Ask the kernel for the base chains of all other tables at `input` and `forward`.

    Only what drops without any condition is named: a policy, or a rule of the base chain that consists of
    the verdict alone. Raises NftError.
    """
    chains = [entry["chain"] for entry in session.query("list chains") if "chain" in entry]
    found = []
    for chain in chains:
        if (chain["family"], chain["table"]) == _OWN or chain.get("hook") not in _HOOKS:
            continue
        reason = "policy drop" if chain.get("policy") == "drop" else _last_word(session, chain)
        if reason:
            found.append(
                ForeignDrop(chain["family"], chain["table"], chain["name"], str(chain["hook"]), reason)
            )
    return tuple(found)


def filtering_tables(session: Session) -> tuple[str, ...]:
    """The tables of others that may drop a packet on its way in or send it elsewhere, as `ip filter`: by a
    policy or any rule.

    Whether they do that to what our zones open only a packet can tell. tailscaled's own chains are left out:
    what they drop our table drops too. Raises NftError.
    """
    tables: dict[tuple[str, str], bool] = {}
    for entry in session.query("list chains"):
        chain = entry.get("chain", {})
        at = (chain.get("family", ""), chain.get("table", ""))
        if chain.get("hook") in _WAYS_IN and at != _OWN:
            tables[at] = tables.get(at, False) or chain.get("policy") == "drop"
    return tuple(
        f"{family} {table}"
        for (family, table), drops in tables.items()
        if drops or _has_a_rule(_keeps, session, family, table)
    )


def tables_on_the_way_on(session: Session) -> tuple[str, ...]:
    """The tables of others that may drop what passes through this host or leaves it, by any rule that is not
    of tailscaled's chains. Raises NftError.
    """
    chains = [entry.get("chain", {}) for entry in session.query("list chains")]
    hooked = [each for each in chains if each.get("hook") in {"forward", "output"}]
    at = [(each["family"], each["table"]) for each in hooked if each["family"] in {"ip", "ip6", "inet"}]
    return tuple(
        f"{family} {table}"
        for family, table in dict.fromkeys(at)
        if (family, table) != _OWN and _has_a_rule(_refuses, session, family, table)
    )


def _has_a_rule(like: Callable[[dict[str, Any]], bool], session: Session, family: str, table: str) -> bool:
    rules = (entry.get("rule", {}) for entry in session.query(f"list table {family} {table}"))
    return any(
        isinstance(statement, str) or like(statement)  # nft has no JSON for a chain without a name
        for rule in rules
        if rule.get("chain") not in _TAILSCALED
        for statement in rule.get("expr", [])
    )


def _keeps(statement: dict[str, Any]) -> bool:
    return not (_REFUSING | _TAKING).isdisjoint(statement)


def _refuses(statement: dict[str, Any]) -> bool:
    if isinstance(xt := statement.get("xt"), dict):  # older versions of nft do not tell which
        # tailscaled has iptables fit the size of segments (TCPMSS).
        return xt.get("type") == "target" and xt.get("name") in {"REJECT", "DROP"}
    return not _REFUSING.isdisjoint(statement)


def _last_word(session: Session, chain: dict[str, Any]) -> str:
    """`drop` or `reject` if a rule of the chain does that to all that reaches it, else nothing."""
    listing = session.query(f"list chain {chain['family']} {chain['table']} {chain['name']}")
    for entry in listing:
        statements = entry.get("rule", {}).get("expr", [])
        words = [word for statement in statements for word in statement if word not in {"counter", "log"}]
        if words in (["drop"], ["reject"]):
            return f"a rule that {words[0]}s all"
        if words == ["accept"]:
            return ""
    return ""
