"""What need not be asked: nginx's sockets and the allow lists, held against the file. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from tsstack.model.stack import Stack
from tsstack.prove.places import Socket, vhosts_of, without_covered
from tsstack.prove.questions import Fact

_OPEN, _CLOSED, _NO_LIST = "open", "not open", "no list"


def compare_sockets(wanted: Mapping[Socket, str], seen: Iterable[Socket]) -> Iterator[tuple[Fact, str]]:
    """Each socket that the file asks for, and each that is open besides, with what was seen of it."""
    there = without_covered(seen)
    for each, path in wanted.items():
        yield Fact(path, f"the socket {each}", _OPEN, passes=True), _OPEN if each in there else _CLOSED
    for each in sorted(there - set(wanted)):
        yield Fact("proxy.listen", f"the socket {each}", _CLOSED), _OPEN


def compare_lists(stack: Stack, rendered: str) -> Iterator[tuple[Fact, str]]:
    """Who may use each service, by the file and by what the identity daemon reads."""
    given: dict[str, list[str]] = json.loads(rendered)["services"]
    asked = {each.key: each.service.allow for each in vhosts_of(stack) if each.service.allow is not None}
    for key in dict.fromkeys([*asked, *given]):
        expected = _words(asked[key]) if key in asked else _NO_LIST
        path = f"proxy.services.{key}"
        fact = Fact(f"{path}.allow" if key in asked else path, f"who may use {key}", expected, key in asked)
        yield fact, _words(given[key]) if key in given else _NO_LIST


def _words(principals: Iterable[str]) -> str:
    return ", ".join(sorted(principals)) or "nobody"
