"""Waiting until the tailnet's addresses can be bound.

tailscaled says Running before its interface has the addresses; whatever binds them then fails. The only
honest test is a bind.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence

from tsstack.errors import ApplyFailed

_PACE_S = 0.02
# A host without IPv6 never gets its second address; once IPv4 is there, this much patience will do.
_IPV6_PATIENCE_S = 1.0


def await_bindable(addresses: Sequence[str], *, timeout_s: float) -> None:
    """Return when every address can be bound, an IPv6 one only if this host can have it at all.

    Raises ApplyFailed after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    for address in sorted(addresses, key=lambda text: ":" in text):
        limit = deadline
        if ":" in address and len(addresses) > 1:
            limit = min(deadline, time.monotonic() + _IPV6_PATIENCE_S)
        while not _can_bind(address):
            if time.monotonic() >= limit:
                if ":" in address and len(addresses) > 1:
                    break
                raise ApplyFailed(
                    f"the tailnet address {address} cannot be bound after {timeout_s:g} s",
                    hint="see `ip addr show tailscale0` and `tailscale status`",
                )
            time.sleep(_PACE_S)


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return False
        raise ApplyFailed(f"the tailnet address {address} cannot be bound: {error.strerror}") from error
    return True
