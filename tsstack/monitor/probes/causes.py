"""Why a probe failed, in a few words that stay the same for the same cause."""

from __future__ import annotations

import errno
import ssl

_WORDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "host unreachable",
    errno.EHOSTDOWN: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ENETDOWN: "network down",
    errno.EADDRNOTAVAIL: "address not available",
    errno.ETIMEDOUT: "timeout",
    errno.ENOENT: "no such socket",
    errno.EACCES: "not permitted",
    errno.EPERM: "not permitted",
    errno.EPROTO: "protocol error",
    errno.EMSGSIZE: "packet too big",
    errno.ENOBUFS: "no buffer space",
    errno.ENOMEM: "no buffer space",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.EAGAIN: "busy",
    errno.ENOPROTOOPT: "protocol unreachable",
    errno.EAFNOSUPPORT: "no such address family",
    errno.EINVAL: "no such address",
}
NO_DEVICE = frozenset({errno.ENODEV, errno.ENXIO})
"""The interface that a socket is bound to is gone."""


def words_of(number: int, *, interface: str = "") -> str:
    """The cause behind an errno."""
    if number in NO_DEVICE:
        return f"no interface {interface}" if interface else "no interface"
    return _WORDS.get(number) or errno.errorcode.get(number, f"error {number}").lower()


def words_of_error(error: OSError, *, interface: str = "") -> str:
    """The cause behind an exception of a socket, a certificate's among them."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message.rstrip('.').lower()}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {(error.reason or 'failed').lower().replace('_', ' ')}"
    # The socket module itself refuses what no address can be, without an errno.
    return words_of(error.errno or errno.EINVAL, interface=interface)


# RFC 792 and RFC 4443, by (type, code).
_ICMP4 = {
    (3, 0): "network unreachable",
    (3, 1): "host unreachable",
    (3, 2): "protocol unreachable",
    (3, 3): "port unreachable",
    (3, 4): "packet too big",
    (3, 9): "prohibited",
    (3, 10): "prohibited",
    (3, 13): "prohibited",
    (11, 0): "ttl exceeded",
}
_ICMP6 = {
    (1, 0): "network unreachable",
    (1, 1): "prohibited",
    (1, 3): "host unreachable",
    (1, 4): "port unreachable",
    (1, 5): "prohibited",
    (1, 6): "network unreachable",
    (2, 0): "packet too big",
    (3, 0): "ttl exceeded",
}


def words_of_icmp(family: int, kind: int, code: int, number: int) -> str:
    """The cause behind an ICMP error, or behind `number` (an errno) where the pair is unknown."""
    return (_ICMP4 if family == 4 else _ICMP6).get((kind, code)) or words_of(number)
