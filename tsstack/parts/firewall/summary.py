"""How one rendered table differs from another, in the words of the file. Pure."""

from __future__ import annotations

import re

from tsstack.parts.firewall.text import blocks_of

_ELEMENTS = re.compile(r"elements = \{(.*?)\n\t\t\}", re.DOTALL)
_COMMENT = re.compile(r' comment "[^"]*"')
_PORTS = re.compile(r"open\.(.+)\.(tcp|udp)")
_FORWARD = re.compile(r"forward\.(\d+)\.(tcp|udp)")
_MEMBERS = re.compile(r"members\.(.+)\.[a-z]+\d*")
_KEY = re.compile(r'comment "([^"]*)"$')
_SHOWN = 12

Difference = tuple[str, str | None, str | None]
"""Subject, before, after; None where there is no such thing."""


def describe_difference(before: str, after: str) -> tuple[Difference, ...]:
    """What differs between two rendered tables: zones, ports, members, and how many other rules."""
    old, new = _blocks(before), _blocks(after)
    found: list[Difference] = []
    others: list[tuple[str | None, str | None]] = []
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) == new.get(name):
            continue
        told = _describe(name, old.get(name), new.get(name))
        found += told
        if not told:
            others.append((old.get(name), new.get(name)))
    if not found:  # else they follow from what was told
        keys = sorted(set().union(*(_changed_keys(*bodies) for bodies in others)))
        found = [(key, "earlier rules", "new rules") for key in keys[:_SHOWN]]
    return tuple(found)


def _blocks(text: str) -> dict[tuple[str, str], str]:
    return {(kind, name): body for kind, name, body in blocks_of(text)}


def _describe(name: tuple[str, str], old: str | None, new: str | None) -> list[Difference]:
    kind, title = name
    if kind == "chain" and title.startswith("zone."):
        zone = f"zone {title.removeprefix('zone.')}"
        if old is None:
            return [(zone, None, "new")]
        return [(zone, "removed", None)] if new is None else []
    if ports := _PORTS.fullmatch(title):
        return [(f"firewall.zones.{ports[1]} {ports[2]}", _listed(old), _listed(new))]
    if ports := _FORWARD.fullmatch(title):
        return [(f"firewall.forward[{ports[1]}] {ports[2]}", _listed(old), _listed(new))]
    if members := _MEMBERS.fullmatch(title):
        had, has = _elements(old), _elements(new)
        gone, come = had - has, has - had
        zone = f"zone {members[1]}"
        lines: list[Difference] = [(f"{zone}: {each}", None, "") for each in sorted(come)[:_SHOWN]]
        lines += [(f"{zone}: {each}", "", None) for each in sorted(gone)[:_SHOWN]]
        more = len(gone) + len(come) - len(lines)
        return [*lines, (f"{zone}: {more} more", "earlier", "new")] if more > 0 else lines
    return []


def _changed_keys(old: str | None, new: str | None) -> set[str]:
    """The key paths in the comments of lines that only one of the bodies has."""
    differing = set((old or "").splitlines()) ^ set((new or "").splitlines())
    return {found[1] for line in differing if (found := _KEY.search(line))}


def _elements(body: str | None) -> set[str]:
    found = _ELEMENTS.search(body or "")
    if found is None:
        return set()
    return {each.strip().strip('"') for each in _COMMENT.sub("", found[1]).split(",\n") if each.strip()}


def _listed(body: str | None) -> str | None:
    if body is None:
        return None
    elements = sorted(_elements(body), key=lambda each: int(each.partition("-")[0]))
    more = f" and {len(elements) - _SHOWN} more" if len(elements) > _SHOWN else ""
    return ", ".join(elements[:_SHOWN]) + more
