"""Asks each vhost of a plan who serves it and with which certificate, with a new connection each."""

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
