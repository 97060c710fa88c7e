"""What nginx is asked by names that no service has, and by clients of a bygone time. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.prove.places import Door, Vhost, redirects
from tsstack.prove.questions import Question

NOBODY = "no-service.invalid"
"""A name that no service can have (RFC 6761 section 6.4)."""

_LABEL, _DOMAIN = NOBODY.split(".")
_SERVER_NAME = re.compile(r"(?<![\w$])server_name\s+([^;]*);")
_ASKABLE = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_REJECTS_HANDSHAKES = (1, 19, 4)  # ssl_reject_handshake
_MOST, _NEAR = 60, 10
"""Of so many names the neighbours are tried, at so many ports; past some of them at one port."""


def names_written(text: str) -> Iterator[str]:
    """A name for each that a configuration of nginx answers to; of a wildcard one that it covers.

    Expressions give none.
    """
    for match in _SERVER_NAME.finditer(text):
        for word in match[1].split():
            name = word.strip("\"'").lower()
            if name.startswith((".", "*.")):
                yield f"{_LABEL}.{name.lstrip('*.')}"
                yield from [name[1:]] if name.startswith(".") else []
            elif name.endswith(".*"):
                yield f"{name[:-1]}{_DOMAIN}"
            else:
                yield name


def ask_by_nobody(
    stack: Stack, facts: Facts, vhosts: list[Vhost], doors: list[Door], written: Iterable[str]
) -> Iterator[Question]:
    """A name of nobody on every port and address; those beside each that is served; those written besides."""
    http = [each for each in vhosts if each.scheme != "tcp"]
    ports = {
        each.port: Question("proxy.services", each.scheme, each.name, "", each.port) for each in http[::-1]
    }
    if http and stack.proxy and redirects(stack):
        port = stack.proxy.http_port
        ports[port] = Question("proxy.http_port", "http", http[0].name, "", port)
    # One that can end a handshake does, before it shows whose certificate it has.
    shown = facts.nginx is not None and facts.nginx.version < _REJECTS_HANDSHAKES
    for at, served in enumerate(reversed(ports.values())):
        for door in doors:
            strange = _strange(replace(served, address=door.address, claimed=door.claimed), shown=shown)
            yield from strange if at < _MOST else islice(strange, 1)
    names = {each.name for each in http}
    near = dict.fromkeys([*_beside(http[:_MOST]), *written])
    for at, name in enumerate(each for each in near if each not in names and _ASKABLE.fullmatch(each)):
        door = doors[at % len(doors)]
        for served in list(ports.values())[-_MOST if at < _NEAR else -2 :]:
            here = replace(served, address=door.address, claimed=door.claimed)
            yield replace(here, name=name, any_certificate=shown, about="a name that no service has")


def _strange(served: Question, *, shown: bool) -> Iterator[Question]:
    """What nobody sends who wants a service, at a place where there is one."""
    nobody = replace(served, name=NOBODY)
    yield replace(nobody, any_certificate=shown)
    yield replace(nobody, name="", greeted="", any_certificate=True, about="by no name")
    if served.scheme == "https":
        host = f"[{served.address}]" if ":" in served.address else served.address
        yield replace(nobody, greeted=served.name, about=f"greeted as {served.name}")
        yield replace(nobody, name=host, greeted="", any_certificate=True, about="greeted by no name")
        handshake = replace(served, key="proxy.tls")
        yield replace(handshake, hello="old", about="by TLS 1.1")
        yield replace(handshake, hello="weak", about="by TLS 1.2 without forward secrecy")


def _beside(vhosts: Iterable[Vhost]) -> Iterator[str]:
    """Names that are nearly served: below one, beside one, and of its first label."""
    for each in vhosts:
        label, _, parent = each.name.partition(".")
        yield f"{_LABEL}.{each.name}"
        yield f"{label}.{_DOMAIN}"
        if parent:
            yield f"{_LABEL}.{parent}"
            yield parent
