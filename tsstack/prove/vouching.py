"""Certificates for upstreams of the proof that speak TLS: one that nginx may trust, one of nobody's."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

_DAY = datetime.timedelta(days=1)


class Vouched:
    """The two as contexts of a server.

    Neither can be resumed: every handshake shows the certificate.
    """

    def __init__(self, folder: Path, hosts: tuple[str, ...]) -> None:
        self.trust = folder / "upstreams.crt"
        """What vouches for the first: it is its own authority."""
        trusted, stray = (_write_pair(folder / f"upstreams-{name}.pem", hosts) for name in ("right", "stray"))
        self.trust.write_bytes(trusted[1])
        self._contexts = {False: _context(trusted[0]), True: _context(stray[0])}

    def context(self, *, untrusted: bool) -> ssl.SSLContext:
        """The context to serve with."""
        return self._contexts[untrusted]


def _context(pair: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.sni_callback = _keep_greeting
    return context


def _keep_greeting(secured: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    secured.greeting = name or ""  # type: ignore[attr-defined]  # many connections share the context


def greeting_of(secured: ssl.SSLSocket) -> str:
    """The name that the client began with; empty where it said none."""
    return str(getattr(secured, "greeting", ""))


def _write_pair(path: Path, hosts: tuple[str, ...]) -> tuple[Path, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, path.stem)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        # nginx takes an address for a name, too (ngx_ssl_check_host).
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in hosts]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(pem.Encoding.PEM)
    )
    secret = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    path.write_bytes(secret + certificate)
    return path, certificate
