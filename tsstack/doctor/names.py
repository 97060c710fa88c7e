"""The names of the services: do clients of the tailnet get this host's address for them? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tsstack.doctor.finding import Finding, listed

RESOLVER = "100.100.100.100"
"""tailscaled's own resolver, which answers on every node (net/tsaddr: TailscaleServiceIP)."""
SILENT = "no answer"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a resolver says of a name: addresses, or the cause why there are none."""

    addresses: tuple[str, ...] = ()
    cause: str = ""


@dataclass(frozen=True, slots=True)
class NameFacts:
    """The vhosts' names with what two resolvers say of them."""

    names: tuple[str, ...] = ()
    expected: frozenset[str] = frozenset()
    """The addresses where this host serves them; empty where any is right (Tailscale Services)."""
    own_name: str = ""
    """This host's full name on the tailnet."""
    hosted: bool = False
    tailnet: Mapping[str, Answer] = field(default_factory=dict)
    """By tailscaled's resolver."""
    system: Mapping[str, Answer] = field(default_factory=dict)
    """By the first nameserver of /etc/resolv.conf; empty where that is tailscaled's."""
    system_server: str = ""
    resolver_faults: tuple[str, ...] = ()
    """What is wrong with /etc/resolv.conf beside systemd-resolved."""


def check_names(facts: NameFacts) -> Iterator[Finding]:
    """One finding for each way to be wrong, with the names that are."""
    bad = [*_at_tailnet(facts), *_at_system(facts)]
    yield from bad
    for line in facts.resolver_faults:
        words, _, fix = line.partition("; ")
        yield Finding("TS845", "warning", "resolv.conf", words, fix)
    if facts.names and facts.tailnet and not bad:
        whose = "both resolvers say" if facts.system else f"{RESOLVER} says"
        where = f"this host ({', '.join(sorted(facts.expected))})" if facts.expected else "an address"
        yield Finding("TS841", "ok", "names", f"{len(facts.names)} names: {whose} {where}")


def _at_tailnet(facts: NameFacts) -> Iterator[Finding]:
    answers = facts.tailnet
    silent = [name for name in facts.names if name in answers and answers[name].cause == SILENT]
    if silent and len(silent) == len(facts.names):
        words = f"the tailnet's resolver {RESOLVER} does not answer"
        yield Finding("TS841", "error", "resolver", words, "tailscale status; tailscale dns status")
        return
    missing = [name for name in facts.names if name in answers and not answers[name].addresses]
    hopeless = [name for name in missing if _is_below(name, facts.own_name) and facts.hosted]
    if hopeless:
        words = f"{listed(hopeless)}: Tailscale's control plane has no names below a host's"
        fix = "tsstack explain TS306    # write `names: path` (or port, or service) in the proxy section"
        yield Finding("TS844", "error", "names", words, fix)
    for cause in dict.fromkeys(answers[name].cause for name in missing if name not in hopeless):
        names = [name for name in missing if name not in hopeless and answers[name].cause == cause]
        words = f"{listed(names)}: {cause}, says {RESOLVER}"
        more = "; the like for the others" if len(names) > 1 else ""
        yield Finding("TS841", "error", "names", words, _record(facts, names[0]) + more)
    for name in _wrong(facts, answers):
        said = ", ".join(answers[name].addresses)
        words = f"{name} is {said} to {RESOLVER}, and this host is {', '.join(sorted(facts.expected))}"
        yield Finding("TS842", "error", name, words, _record(facts, name))


def _at_system(facts: NameFacts) -> Iterator[Finding]:
    """Only what the tailnet's resolver gets right: else that is the trouble to mend."""
    right = [name for name in facts.names if _is_right(facts, facts.tailnet.get(name))]
    differing = [name for name in right if name in facts.system and not _is_right(facts, facts.system[name])]
    if differing:
        seen = facts.system[differing[0]]
        what = ", ".join(seen.addresses) or seen.cause
        words = (
            f"programs of this host itself, by {facts.system_server}, get another answer for "
            f"{listed(differing)}: {what}"
        )
        domain = facts.own_name.partition(".")[2] or "TAILNET"
        fix = f"# write `tailscale: {{accept_dns: true}}`, or `dns: {{split: {{{domain}: [{RESOLVER}]}}}}`"
        yield Finding("TS843", "warning", "names", words, fix)


def _wrong(facts: NameFacts, answers: Mapping[str, Answer]) -> Sequence[str]:
    return [
        name
        for name in facts.names
        if name in answers and answers[name].addresses and not _is_right(facts, answers[name])
    ]


def _is_right(facts: NameFacts, answer: Answer | None) -> bool:
    if answer is None or not answer.addresses:
        return False
    return not facts.expected or set(answer.addresses) <= facts.expected


def _is_below(name: str, host: str) -> bool:
    return bool(host) and name.endswith(f".{host}")


def _record(facts: NameFacts, name: str) -> str:
    if facts.hosted or name == facts.own_name:
        return "tailscale dns status    # and the DNS page of the admin console"
    address = min(facts.expected, key=lambda each: (":" in each, each), default="ADDRESS")
    return (
        "# on the Headscale host, in the file of dns.extra_records_path: "
        f'{{"name": "{name}", "type": "A", "value": "{address}"}}'
    )
