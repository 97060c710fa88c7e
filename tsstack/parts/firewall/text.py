"""nft text: names, quoted strings, sets, chains and the one transaction around them.

Everything that comes from the file passes through `identifier`, `interface` or `quote`. Each holds on its
own, whatever the model let through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

FAMILY = "inet"
TABLE = "tsstack"

PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "ipv6-icmp": 58}
"""By number, since nft looks protocol names up in /etc/protocols, which a minimal Debian lacks (IANA)."""

_OPENING = re.compile(r"^\t(set|chain) (\S+) \{\n", re.MULTILINE)
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_.-]{0,99}")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}\*?")
_UNQUOTABLE = re.compile(r"[^A-Za-z0-9 ._:/@+*()\[\]-]")
# nft keeps comments in 128 bytes with their closing NUL (libnftnl, NFTNL_UDATA_COMMENT_MAXLEN).
_COMMENT_LENGTH = 127


def identifier(name: str) -> str:
    """The name of a chain, set or counter. Raises ValueError for one that nft could read otherwise.

    Ours always hold a dot or are not a keyword of nft, so they need no quotes (which it would refuse).
    """
    if _IDENTIFIER.fullmatch(name) is None:
        raise ValueError(f"not a name for a chain or set: {name!r}")
    return name


def interface(pattern: str) -> str:
    """An interface name or a wildcard, quoted. Raises ValueError for anything else."""
    if _INTERFACE.fullmatch(pattern) is None or len(pattern) > 15:
        raise ValueError(f"not an interface: {pattern!r}")
    return f'"{pattern}"'


def quote(text: str) -> str:
    """Text for people (a comment, a log prefix), quoted.

    nft knows no escape within quotes, so every character that could matter there becomes `?`; what is
    beyond the length that the kernel keeps is cut.
    """
    return f'"{_UNQUOTABLE.sub("?", text)[:_COMMENT_LENGTH]}"'


@dataclass(slots=True)
class Chain:
    """A chain; `hook` is its base declaration (`type filter hook input ...;`), empty for others."""

    name: str
    hook: str = ""
    rules: list[str] = field(default_factory=list)

    def add(self, rule: str, path: str) -> None:
        """Append a rule; `path` is the key path that it stands for, or `always: WHY`."""
        self.rules.append(f"{rule} comment {quote(path)}")


@dataclass(slots=True)
class Table:
    """Our table, in the order in which it is printed."""

    counters: dict[str, str] = field(default_factory=dict)
    """Their names in the order in which they were first used, each with the key path of what it counts."""
    sets: dict[str, str] = field(default_factory=dict)
    chains: list[Chain] = field(default_factory=list)

    def counter(self, name: str, path: str) -> str:
        """Declare a counter, `path` being what it counts; returns the statement that counts with it."""
        if name not in self.counters:
            self.counters[identifier(name)] = path
        return f"counter name {name}"

    def collect(self, name: str, kind: str, elements: Iterable[str], *, interval: bool) -> str:
        """Declare a set (`kind` is its type); returns the reference to it."""
        if name not in self.sets:
            flags = ["\t\tflags interval"] if interval else []
            self.sets[name] = "\n".join(
                [
                    f"\tset {identifier(name)} {{",
                    f"\t\ttype {kind}",
                    *flags,
                    "\t\telements = {",
                    "\t\t\t" + ",\n\t\t\t".join(elements),
                    "\t\t}",
                    "\t}",
                ]
            )
        return f"@{name}"

    def chain(self, name: str, hook: str = "") -> Chain:
        """A new chain at the end of the table."""
        chain = Chain(identifier(name), hook)
        self.chains.append(chain)
        return chain

    def chain_once(self, name: str) -> tuple[Chain, bool]:
        """The chain of that name and whether it is new."""
        found = next((chain for chain in self.chains if chain.name == name), None)
        return (found, False) if found is not None else (self.chain(name), True)


def print_table(table: Table, header: Sequence[str]) -> str:
    """The whole file: one transaction that declares, deletes and declares the table again.

    Loaded as one batch it replaces the table without a moment in between, whether or not there was one
    (nft(8): a file is applied atomically), and it touches no other table.
    """
    lines = [f"# {line}" for line in header]
    lines += [f"table {FAMILY} {TABLE}", f"delete table {FAMILY} {TABLE}", f"table {FAMILY} {TABLE} {{"]
    blocks = [f"\tcounter {name} {{\n\t}}" for name in table.counters]
    blocks += list(table.sets.values())
    for chain in table.chains:
        body = [f"\t\t{line}" for line in ([chain.hook] if chain.hook else []) + chain.rules]
        blocks.append("\n".join([f"\tchain {chain.name} {{", *body, "\t}"]))
    return "\n".join(lines) + "\n" + "\n\n".join(blocks) + "\n}\n"


def blocks_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind (`set`, `chain`), name and body of each block of a table, as printed here or by nft."""
    at = 0
    while opening := _OPENING.search(text, at):
        at = text.find("\n\t}", opening.end() - 1) + 1
        if not at:
            return
        yield opening[1], opening[2], text[opening.end() : at]
