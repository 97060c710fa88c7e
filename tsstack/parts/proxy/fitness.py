"""Judges a certificate of the user's own: can nginx load it, and will clients take it?"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed
from tsstack.parts.proxy.ends import certificate_level
from tsstack.parts.proxy.pem import read_plain
from tsstack.system.spans import time_left

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from tsstack.parts.proxy.plan import Certificate
    from tsstack.parts.proxy.tally import Level

_OTHER_WAY = "or use tls: local-ca"


def refuse_unusable(certificate: Certificate) -> None:
    """Raises CheckFailed unless nginx can load the pair, and clients will take it for its names today."""
    leaf = load_pair(certificate)
    for message, hint in _list_faults(leaf, certificate, _now()):
        raise CheckFailed(f"proxy.tls.certificate: {certificate.source_certificate}: {message}", hint=hint)


def load_pair(certificate: Certificate) -> x509.Certificate:
    """The leaf of a pair that nginx can load: both readable, unencrypted PEM, of one key.

    Raises CheckFailed naming the file and the way out.
    """
    chain = _load_chain(certificate.source_certificate)
    key = _load_key(certificate.source_key).public_key()
    if key == chain[0].public_key():
        return chain[0]
    if any(key == each.public_key() for each in chain[1:]):
        raise CheckFailed(
            f"proxy.tls.certificate: the first certificate in {certificate.source_certificate} is not the "
            "key's, a later one is",
            hint="put the server's own certificate first, then the intermediate ones",
        )
    raise CheckFailed(
        f"proxy.tls: the key {certificate.source_key} does not belong to the certificate "
        f"{certificate.source_certificate}",
        hint="name the two files of one request; `openssl x509 -noout -pubkey -in CERTIFICATE` and "
        "`openssl pkey -pubout -in KEY` have to print the same",
    )


def list_warnings(certificate: Certificate) -> list[str]:
    """What a person should know of a pair that is in use. Empty when all is well."""
    try:
        leaf = load_pair(certificate)
    except CheckFailed as error:
        if isinstance(error.__cause__, PermissionError):  # not for this user to judge
            return []
        return [f"{error.message}: nginx does not start with it any more; {error.hint}"]
    now = _now()
    lines = [
        f"{certificate.source_certificate}: {message}; {hint}"
        for message, hint in _list_faults(leaf, certificate, now)
    ]
    left = leaf.not_valid_after_utc - now
    if left > datetime.timedelta() and level_of(leaf, now) != "ok":
        lines.append(
            f"{certificate.source_certificate} expires on {_day(leaf.not_valid_after_utc)}, in "
            f"{time_left(left.total_seconds())}: renew it; the next `switch` or "
            "`certificates renew` loads it"
        )
    return lines


def level_of(leaf: x509.Certificate, now: datetime.datetime) -> Level:
    """How bad it is that it ends when it does."""
    left, life = leaf.not_valid_after_utc - now, leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return certificate_level(left.total_seconds(), life.total_seconds())


def _list_faults(
    leaf: x509.Certificate, certificate: Certificate, now: datetime.datetime
) -> list[tuple[str, str]]:
    """Why clients refuse it, each with the way out. nginx loads it all the same."""
    found = []
    uncovered = [name for name in certificate.names if not covers(leaf, name)]
    if uncovered:
        found.append(
            (
                f"it does not cover {', '.join(uncovered[:5])}",
                f"get one for these names, or a wildcard, {_OTHER_WAY}",
            )
        )
    if leaf.not_valid_after_utc < now:
        found.append(
            (
                f"it expired on {_day(leaf.not_valid_after_utc)}",
                f"renew it in its place and switch again, {_OTHER_WAY}",
            )
        )
    if leaf.not_valid_before_utc > now:
        found.append(
            (
                f"it is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
                f"see whether this host's clock is right (`date -u`), wait until then, {_OTHER_WAY}",
            )
        )
    return found


def covers(leaf: x509.Certificate, name: str) -> bool:
    """RFC 9525 section 6.3: a wildcard stands for exactly the leftmost label."""
    from cryptography import x509

    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return False
    names = {each.lower() for each in extension.value.get_values_for_type(x509.DNSName)}
    return name in names or re.sub(r"^[^.]+", "*", name) in names


def _load_chain(path: str) -> list[x509.Certificate]:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    data = _read("certificate", path)
    if b"CERTIFICATE-----" not in data:
        swapped = b"PRIVATE KEY-----" in data
        raise CheckFailed(
            f"proxy.tls.certificate: {path} holds {'a key and ' if swapped else ''}no PEM certificate",
            hint="are `certificate` and `key` mixed up?"
            if swapped
            else "name the PEM file with the chain; DER becomes PEM with "
            "`openssl x509 -inform der -in FILE -out FILE.pem`",
        )
    try:
        chain = x509.load_pem_x509_certificates(data)
        for each in chain:
            each.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CheckFailed(
            f"proxy.tls.certificate: a certificate in {path} is damaged",
            hint=f"`openssl x509 -noout -text -in {path}` says more; get the file anew",
        ) from error
    return chain


def _load_key(path: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read("key", path)
    if b"PRIVATE KEY-----" not in data:
        raise CheckFailed(
            f"proxy.tls.key: {path} holds no PEM private key",
            hint="are `certificate` and `key` mixed up?"
            if b"CERTIFICATE-----" in data
            else "name the PEM file with the private key; DER becomes PEM with "
            "`openssl pkey -inform der -in FILE -out FILE.pem`",
        )
    try:
        return load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CheckFailed(
            f"proxy.tls.key: the key in {path} is encrypted",
            hint="nginx has nobody to ask for its passphrase: name a copy without one, mode 0600, made with "
            "`openssl pkey -in FILE -out COPY`",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CheckFailed(
            f"proxy.tls.key: the key in {path} is damaged, or of a kind that is not known",
            hint=f"`openssl pkey -noout -in {path}` says more",
        ) from error


def _read(kind: str, path: str) -> bytes:
    try:
        data = read_plain(Path(path))
    except OSError as error:
        raise CheckFailed(
            f"proxy.tls.{kind}: {path} cannot be read: {error.strerror}",
            hint="name a readable PEM file, or put it back there",
        ) from error
    if not data.strip():
        raise CheckFailed(f"proxy.tls.{kind}: {path} is empty", hint="put it back from where it was made")
    return data


def _day(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
