"""Loads each certificate with its key, as nginx would, and looks for its issuer."""

from __future__ import annotations

import datetime
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.doctor.certificates import CertificateFacts
from tsstack.errors import CheckFailed
from tsstack.parts.proxy.authority import ca_certificate
from tsstack.parts.proxy.fitness import covers, load_pair
from tsstack.parts.proxy.pem import read_plain

if TYPE_CHECKING:
    from cryptography import x509

    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Certificate, Plan

SYSTEM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
_SECOND = datetime.timedelta(seconds=1)


def look_at_certificates(plan: Plan | None, facts: Facts) -> tuple[CertificateFacts, ...]:
    """Those of the live generation; none of what this user may not read."""
    if plan is None:
        return ()
    found = (_look(each, plan.tailnet, facts) for each in plan.certificates)
    return tuple(each for each in found if each is not None)


def _look(certificate: Certificate, tailnet: str, facts: Facts) -> CertificateFacts | None:
    whole = certificate
    if not certificate.source_certificate:
        whole = replace(certificate, source_certificate=certificate.certificate, source_key=certificate.key)
    path = whole.source_certificate
    told = CertificateFacts(certificate.names, certificate.kind, path, key_mode=_mode(whole.source_key))
    try:
        leaf = load_pair(whole)
    except CheckFailed as error:
        if isinstance(error.__cause__, PermissionError):  # not for this user to judge
            return None
        return replace(told, fault=error.message, hint=error.hint)
    return replace(
        told,
        begins=leaf.not_valid_before_utc.timestamp(),
        ends=leaf.not_valid_after_utc.timestamp(),
        uncovered=tuple(name for name in certificate.names if not covers(leaf, name)),
        chain_fault=_chain_fault(leaf, whole, ca_certificate(facts.paths.tls, tailnet)),
    )


def _mode(path: str) -> int:
    try:
        return Path(path).stat().st_mode & 0o777
    except OSError:
        return 0o600  # that it is not there is another finding


def _chain_fault(leaf: x509.Certificate, certificate: Certificate, ca: Path) -> str:
    return _local_fault(leaf, ca) if certificate.kind == "local-ca" else _public_fault(leaf, certificate)


def _local_fault(leaf: x509.Certificate, path: Path) -> str:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        ca = x509.load_pem_x509_certificate(read_plain(path))
        leaf.verify_directly_issued_by(ca)
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        why = error.strerror if isinstance(error, OSError) else "it has not signed this one"
        return f"it does not come from the local CA {path}, which clients trust: {why}"
    if ca.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        return f"the local CA {path} has expired"
    return ""


def _public_fault(leaf: x509.Certificate, certificate: Certificate) -> str:
    """Against the authorities of this system; empty where it has none, or no name to ask for."""
    from cryptography import x509
    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

    name = next((each for each in certificate.names if covers(leaf, each)), "")
    if not name or not SYSTEM_ROOTS.exists():
        return ""
    with warnings.catch_warnings():  # old authorities have odd serial numbers
        warnings.simplefilter("ignore")
        roots = x509.load_pem_x509_certificates(read_plain(SYSTEM_ROOTS))
        chain = x509.load_pem_x509_certificates(read_plain(Path(certificate.source_certificate)))
    now = datetime.datetime.now(datetime.UTC)
    # Its own end is another finding: the chain is asked for a time at which the leaf is good.
    within = max(leaf.not_valid_before_utc, min(now, leaf.not_valid_after_utc - _SECOND))
    verifier = PolicyBuilder().store(Store(roots)).time(within).build_server_verifier(x509.DNSName(name))
    try:
        verifier.verify(leaf, chain[1:])
    except VerificationError:
        return "no authority that this system trusts has signed it, nor one of the certificates behind it"
    return ""
