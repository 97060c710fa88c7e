"""From when to when a certificate is good, read from its file without a library for X.509.

`ts-status` asks it of each. Only the way to its validity is walked (RFC 5280 section 4.1: Certificate,
TBSCertificate, Validity; X.690 for the encoding). What is judged is judged elsewhere, by a real library.
"""

from __future__ import annotations

import binascii
from datetime import UTC, datetime

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_MOST_BYTES = 1 << 20


def read_validity(path: str) -> tuple[float | None, float]:
    """When the first certificate of a PEM file begins and ends, seconds since 1970; None for a beginning that
    is written oddly.

    Raises OSError, and ValueError for what holds no certificate.
    """
    with open(path, "rb") as file:  # noqa: PTH123  pathlib costs more than all of this
        return validity(file.read(_MOST_BYTES))


def validity(pem: bytes) -> tuple[float | None, float]:
    """The same of the text itself. Raises ValueError."""
    start = pem.find(_BEGIN)
    end = pem.find(_END, start)
    if start < 0 or end < 0:
        raise ValueError("there is no certificate in it")
    try:
        der = binascii.a2b_base64(pem[start + len(_BEGIN) : end])
        certificate = _inside(der, 0, _SEQUENCE)[0]
        at, _ = _inside(der, certificate, _SEQUENCE)
        if der[at] == _VERSION:
            at = _after(der, at)
        for _ in range(3):  # serialNumber, signature, issuer
            at = _after(der, at)
        at, _ = _inside(der, at, _SEQUENCE)
        expires = _time(der, _after(der, at))
        try:
            return _time(der, at), expires
        except ValueError:
            return None, expires
    except (IndexError, binascii.Error) as error:
        raise ValueError("its certificate is damaged") from error


def _inside(der: bytes, at: int, kind: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends."""
    if der[at] != kind:
        raise ValueError("its certificate is damaged")
    length = der[at + 1]
    begin = at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[begin : begin + count])
        begin += count
    if begin + length > len(der):
        raise ValueError("its certificate is cut off")
    return begin, begin + length


def _after(der: bytes, at: int) -> int:
    return _inside(der, at, der[at])[1]


def _time(der: bytes, at: int) -> float:
    """RFC 5280 section 4.1.2.5: two-digit years are 1950 to 2049; all times are in UTC and have seconds."""
    kind = der[at]
    begin, end = _inside(der, at, kind)
    text = der[begin:end].decode("ascii")
    if kind == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("its certificate is damaged")
    month, day, hour, minute, second = (int(text[at : at + 2]) for at in range(4, 14, 2))
    return datetime(int(text[:4]), month, day, hour, minute, second, tzinfo=UTC).timestamp()
