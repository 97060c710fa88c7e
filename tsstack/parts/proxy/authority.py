"""Certificates and their keys on disk: made by a local CA, fetched from tailscaled, or linked.

A pair that we make or fetch is one PEM file (key, leaf, chain), mode 0600, replaced in one rename, so
nginx never loads a key beside another certificate. Beside it `NAME.pem.json` says when to renew, so an
idle switch need not parse X.509.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import ApplyFailed
from tsstack.parts.proxy.pem import read_plain
from tsstack.system.files import link_durably, write_durably

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from tsstack.parts.proxy.plan import Certificate

CA_DAYS = 3650
LEAF_DAYS = 90
# Certificates count from a little before now, for clients whose clock is late.
_EARLY = datetime.timedelta(hours=1)


def ca_certificate(tls: Path, tailnet: str) -> Path:
    """Where the CA's certificate for a tailnet lies."""
    return tls / "ca" / f"{tailnet or 'host'}.pem"


def is_due(certificate: Certificate, now_unix_s: float) -> bool:
    """Whether it has to be made, fetched, linked or renewed: missing, not the one that was put there, or with
    less than a third of its life left.

    Of the user's own only the links are looked at; `supply` knows what was loaded through them.
    """
    path = Path(certificate.certificate)
    if certificate.kind == "files":
        pairs = ((path, certificate.source_certificate), (Path(certificate.key), certificate.source_key))
        return any(not link.is_symlink() or str(link.readlink()) != source for link, source in pairs)
    try:
        note = json.loads(read_plain(path.with_name(f"{path.name}.json")))
        there = path.stat()
        is_ours = (there.st_size, there.st_mtime_ns) == (note["size"], note["mtime_ns"])
        return not is_ours or float(note["renew_unix_s"]) <= now_unix_s
    except (OSError, ValueError, KeyError, TypeError):
        return True


def provide(certificate: Certificate, tls: Path, tailnet: str, socket: Path, *, now_unix_s: float) -> None:
    """Make the certificate be there and fresh. What was there before stays when this raises.

    Raises ApplyFailed, or CheckFailed for a pair of the user's own that nginx cannot load.
    """
    tls.mkdir(parents=True, exist_ok=True)
    tls.chmod(0o700)
    now = datetime.datetime.fromtimestamp(now_unix_s, datetime.UTC)
    if certificate.kind == "files":
        from tsstack.parts.proxy.fitness import load_pair

        load_pair(certificate)
        link_durably(Path(certificate.key), certificate.source_key)
        link_durably(Path(certificate.certificate), certificate.source_certificate)
    elif certificate.kind == "local-ca":
        _store(Path(certificate.certificate), *issue(tls, tailnet, certificate.names, now))
    else:
        _store(Path(certificate.certificate), *_fetch(certificate.names[0], socket))


def issue(
    tls: Path, tailnet: str, names: tuple[str, ...], now: datetime.datetime
) -> tuple[bytes, datetime.datetime, datetime.datetime]:
    """A new leaf for `names` from the tailnet's own CA, which is made when there is none.

    Returns the PEM pair and its span of validity.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    ca_key, ca = open_ca(tls, tailnet, names, now)
    key = ec.generate_private_key(ec.SECP256R1())
    start, end = now - _EARLY, min(now + datetime.timedelta(days=LEAF_DAYS), ca.not_valid_after_utc)
    leaf = (
        x509.CertificateBuilder()
        # RFC 5280 ub-common-name: 64 at most; clients read the alternative names only (RFC 9525).
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signing=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _key_pem(key) + _pem(leaf), start, end


def open_ca(
    tls: Path, tailnet: str, names: Iterable[str], now: datetime.datetime
) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    """The CA of a tailnet, made for ten years when there is none or its time has come.

    It may sign only names below the tailnet's domain and no addresses (RFC 5280 section 4.2.1.10), so
    a client that trusts it trusts it for nothing else. Raises ApplyFailed when its files are damaged.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = ca_certificate(tls, tailnet)
    key_path = path.with_suffix(".key")
    if path.exists():
        try:
            key = load_pem_private_key(read_plain(key_path), password=None)
            ca = x509.load_pem_x509_certificate(read_plain(path))
        except (OSError, ValueError) as error:
            raise ApplyFailed(
                f"the local CA in {path.parent} cannot be read: {error}",
                hint=f"restore {key_path} and {path}, or remove both for a new CA (to be trusted anew)",
            ) from error
        if isinstance(key, EllipticCurvePrivateKey) and ca.not_valid_after_utc > now + datetime.timedelta(
            days=LEAF_DAYS
        ):
            return key, ca
    return _make_ca(path, key_path, tailnet, tuple(names), now)


def _make_ca(
    path: Path, key_path: Path, tailnet: str, names: tuple[str, ...], now: datetime.datetime
) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    title = f"tsstack local CA for {tailnet or names[0]}"[:64]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    allowed: list[x509.GeneralName] = (
        [x509.DNSName(tailnet)] if tailnet else [x509.DNSName(name.removeprefix("*.")) for name in names]
    )
    nowhere: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
        x509.IPAddress(ipaddress.ip_network("::/0")),
    ]
    ca = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signing=True), critical=True)
        .add_extension(x509.NameConstraints(allowed, nowhere), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # The key first: a certificate without its key could never sign, and would be handed to clients.
    write_durably(key_path, _key_pem(key), mode=0o600)
    write_durably(path, _pem(ca), mode=0o644)
    return key, ca


def write_placeholder(certificate: Certificate) -> None:
    """A throwaway self-signed pair at the certificate's paths, for testing a configuration elsewhere."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tsstack placeholder")])
    now = datetime.datetime.now(datetime.UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    for path in {certificate.certificate, certificate.key}:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, _key_pem(key) + _pem(leaf), mode=0o600)


def _fetch(name: str, socket: Path) -> tuple[bytes, datetime.datetime, datetime.datetime]:
    from cryptography import x509

    from tsstack.system.localapi import LocalApi, LocalApiError

    try:
        chain, key = LocalApi(socket).cert_pair(name)
        leaf = x509.load_pem_x509_certificate(chain.encode())
    except LocalApiError as error:
        raise ApplyFailed(
            f"proxy.tls: tailscaled gave no certificate for {name}: {error.message}",
            hint="it has them for the host's own name where the control server issues them (not Headscale); "
            "use names: path or port, or tls: local-ca",
        ) from error
    except ValueError as error:
        raise ApplyFailed(f"proxy.tls: what tailscaled gave for {name} is no certificate") from error
    return (key + chain).encode(), leaf.not_valid_before_utc, leaf.not_valid_after_utc


def _store(path: Path, pem: bytes, start: datetime.datetime, end: datetime.datetime) -> None:
    renew = end - (end - start) / 3
    # A pair without its note counts as due, so this order can only renew too often.
    path.with_name(f"{path.name}.json").unlink(missing_ok=True)
    write_durably(path, pem, mode=0o600)
    there = path.stat()
    note = {
        "renew_unix_s": renew.timestamp(),
        "end_unix_s": end.timestamp(),
        "size": there.st_size,
        "mtime_ns": there.st_mtime_ns,
    }
    write_durably(path.with_name(f"{path.name}.json"), json.dumps(note))


def _usage(*, signing: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signing,
        crl_sign=signing,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as pem

    return key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)
