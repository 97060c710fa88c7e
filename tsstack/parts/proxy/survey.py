"""Asks each vhost of a plan who serves it and with which certificate, and each port of a TCP service whether
it takes connections: with a new connection each."""

from __future__ import annotations

import contextlib
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.parts.proxy.plan import PROBE_PATH
from tsstack.parts.proxy.probe import Replies, ask, client_context, connect

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection
    from pathlib import Path

    from tsstack.parts.proxy.plan import Listener, Plan, Vhost

_AT_ONCE = 8
_LONGEST_DIGEST = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What one name said at one address."""

    vhost: Vhost
    endpoint: str
    digest: str = ""
    """Of the generation that answered; empty when it was none of ours."""
    certificate: bytes = b""
    """The leaf as DER; empty without TLS."""
    distrust: str = ""
    """Why a client of this host would refuse the certificate; empty where it would not, or cannot tell."""
    trouble: str = ""
    """Why there was no answer."""


def ask_vhosts(plan: Plan, ca: Path) -> list[Answer]:
    """Each vhost at each of its addresses: a new connection, SNI and Host its name. Never raises OSError.

    `ca` is where the local CA's certificate lies; where it cannot be read, trust is not judged.
    """
    questions = [
        (vhost, listener)
        for vhost in plan.vhosts
        for listener in plan.listeners
        if listener.protocol == "tcp" and listener.port == vhost.port
    ]
    if not questions:
        return []
    trusting = _trusting()
    try:
        strict = client_context(plan, ca) if any(vhost.tls for vhost in plan.vhosts) else trusting
    except OSError:
        strict = trusting
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda one: _ask_vhost(one[0], one[1], strict, trusting), questions))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A TCP service that one of its own ports does not lead to."""

    service: str
    endpoint: str
    trouble: str
    refused: bool
    """Nobody listens there; else nothing came back."""


def ask_ports(plan: Plan, silent: Collection[tuple[str, str]] = ()) -> list[Refusal]:
    """Each TCP service at each of its addresses; what took the connection is left out. Never raises OSError.

    A service of which all upstreams are in `silent` is not asked: nginx would log a failure, which
    `nginx-logs` counts, and nobody is served either way.
    """
    questions = [
        (service, listener)
        for service, endpoints in plan.upstreams.items()
        if (port := port_of(plan.urls.get(service, ""))) is not None
        and not all((service, each) in silent for each in endpoints)
        for listener in plan.listeners
        if listener.protocol == "tcp" and listener.port == port
    ]
    if not questions:
        return []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda one: _ask_port(*one), questions))
    return [each for each in answers if each is not None]


def port_of(url: str) -> int | None:
    """The port of a TCP service's URL; None of any other."""
    return int(url.rpartition(":")[2]) if url.startswith("tcp://") else None


def _ask_port(service: str, listener: Listener) -> Refusal | None:
    try:
        with connect(listener):
            return None
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        return Refusal(service, listener.endpoint, error.strerror or str(error), refused)


def _ask_vhost(vhost: Vhost, listener: Listener, strict: ssl.SSLContext, trusting: ssl.SSLContext) -> Answer:
    distrust = ""
    try:
        try:
            digest, certificate = _talk(vhost, listener, strict)
        except ssl.SSLCertVerificationError as error:
            distrust = error.verify_message or str(error)
            digest, certificate = _talk(vhost, listener, trusting)
    except OSError as error:
        return Answer(vhost, listener.endpoint, trouble=error.strerror or str(error))
    return Answer(vhost, listener.endpoint, digest, certificate, distrust)


def _talk(vhost: Vhost, listener: Listener, context: ssl.SSLContext) -> tuple[str, bytes]:
    with contextlib.ExitStack() as stack:
        connection: socket.socket = stack.enter_context(connect(listener))
        certificate = b""
        if vhost.tls:
            secured = stack.enter_context(context.wrap_socket(connection, server_hostname=vhost.name))
            certificate = secured.getpeercert(binary_form=True) or b""
            connection = secured
        ask(connection, PROBE_PATH, [vhost.name], keep=False)
        head, _, body = Replies(connection).next().partition("\r\n\r\n")
    text = body.strip()
    ours = head.startswith("HTTP/1.1 200") and len(text) <= _LONGEST_DIGEST and text.isalnum()
    return text if ours else "", certificate


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
