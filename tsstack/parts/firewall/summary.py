"""How one rendered table differs from another, in the words of the file. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tsstack.parts.firewall.text import blocks_of

_ELEMENTS = re.compile(r"elements = \{(.*?)\n\t\t\}", re.DOTALL)
_COMMENT = re.compile(r' comment "[^"]*"')
_PORTS = re.compile(r"open\.(.+)\.(tcp|udp)")
_FORWARD = re.compile(r"forward\.(\d+)\.(tcp|udp)")
_MEMBERS = re.compile(r"members\.(.+)\.[a-z]+\d*")
_KEY = re.compile(r'comment "([^"]*)"$')
# Keys that open or close more than one port.
_AT_LARGE = re.compile(r"default_policy$|\.(allow|ping)$|^firewall\.forward\[\d+\]|^tailscale\.")
_ZONE = re.compile(r"zone [^:]+")
_SHOWN = 12

Difference = tuple[str, str | None, str | None]
"""Subject, before, after; None where there is no such thing."""

Blocks = dict[tuple[str, str], str]
"""Kind and name of each block of a table, and its body."""


def describe_difference(before: str, after: str) -> tuple[Difference, ...]:
    """What differs between two rendered tables: zones, members, ports, all keys that open or close at large.

    Where that tells nothing, the keys of whatever rules differ.
    """
    old, new = _blocks(before), _blocks(after)
    found = [*_members(old, new)]
    keys: set[str] = set()
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) == new.get(name):
            continue
        told = _describe(name, old.get(name), new.get(name))
        found += told
        if not told:
            keys |= _changed_keys(old.get(name), new.get(name))
    whole = [subject.removeprefix("zone ") for subject, *_ in found if _ZONE.fullmatch(subject)]
    at_large = [
        key
        for key in keys
        if _AT_LARGE.search(key) and not any(key.startswith(f"firewall.zones.{zone}.") for zone in whole)
    ]
    shown = sorted(at_large if found else keys)
    return (*found, *((key, "earlier rules", "new rules") for key in shown[:_SHOWN]))


def _members(old: Blocks, new: Blocks) -> Iterator[Difference]:
    """By zone, whichever of its sets they are in."""
    had, has = _by_zone(old), _by_zone(new)
    for zone in dict.fromkeys([*had, *has]):
        gone, come = had.get(zone, set()) - has.get(zone, set()), has.get(zone, set()) - had.get(zone, set())
        yield from ((f"zone {zone}: {each}", None, "") for each in sorted(come)[:_SHOWN])
        yield from ((f"zone {zone}: {each}", "", None) for each in sorted(gone)[:_SHOWN])
        if more := max(len(come) - _SHOWN, 0) + max(len(gone) - _SHOWN, 0):
            yield (f"zone {zone}: {more} more", "earlier", "new")


def _by_zone(blocks: Blocks) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for (_, title), body in blocks.items():
        if members := _MEMBERS.fullmatch(title):
            found.setdefault(members[1], set()).update(_elements(body))
    return found


def _blocks(text: str) -> Blocks:
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
