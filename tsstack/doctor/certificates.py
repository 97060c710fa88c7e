"""The certificates: will clients take them, can nginx load them, is the key nobody else's? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tsstack.doctor.finding import Finding, listed
from tsstack.status.words import time_left

_RENEW = {
    "local-ca": "tsstack certificates renew --force",
    "tailscale": "tsstack certificates renew --force",
    "files": "tsstack certificates renew    # once the right pair is in its place",
}


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """One certificate that nginx loads. Nothing of its key beside whether it fits."""

    names: tuple[str, ...]
    kind: str
    path: str
    fault: str = ""
    """Why the pair cannot be loaded: unreadable, damaged, a key of another."""
    hint: str = ""
    begins: float = 0.0
    ends: float = 0.0
    """Seconds since 1970, both."""
    uncovered: tuple[str, ...] = ()
    chain_fault: str = ""
    """Why its chain does not lead to an authority that is known here; empty: it does, or was not asked."""
    key_mode: int = 0o600


def check_certificates(certificates: Sequence[CertificateFacts], now: float) -> Iterator[Finding]:
    """Its end is told by `ts-status` too (TS722, TS723) and not here."""
    for each in certificates:
        yield from _check(each, now)
    whole = [each for each in certificates if not each.fault]
    if whole and not any(_faulty(each, now) for each in certificates):
        first = min(each.ends for each in whole)
        words = f"{len(whole)} in all: key, names and issuer fit; the first ends in {time_left(first - now)}"
        if first > now:
            yield Finding("TS848", "ok", "certificates", words)


def _faulty(each: CertificateFacts, now: float) -> bool:
    return any(True for _ in _check(each, now))


def _check(each: CertificateFacts, now: float) -> Iterator[Finding]:
    about = each.names[0] if each.names else each.path
    renew = _RENEW[each.kind]
    if each.key_mode & 0o077:
        words = f"the key {each.path} may be read by others than root (mode {each.key_mode & 0o777:04o})"
        yield Finding("TS851", "warning", about, words, f"chmod go= {each.path}")
    if each.fault:
        yield Finding("TS848", "error", about, each.fault, each.hint or renew)
        return
    if each.uncovered:
        words = f"{each.path} does not cover {listed(each.uncovered)}"
        yield Finding("TS846", "error", about, words, renew)
    if each.begins > now:
        words = (
            f"{each.path} is not valid yet: it begins in {(each.begins - now) / 3600:.1f} hours by this clock"
        )
        yield Finding("TS847", "error", about, words, f"date -u; {renew}")
    if each.chain_fault:
        private = each.kind == "files"
        words = f"{each.path}: {each.chain_fault}"
        fix = "# put the intermediate certificates behind it, or give clients its root" if private else renew
        yield Finding("TS849", "warning" if private else "error", about, words, fix)
