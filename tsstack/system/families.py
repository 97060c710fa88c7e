"""Which families of addresses this kernel speaks."""

from __future__ import annotations

import errno
import socket


def has_ipv6() -> bool:
    """Whether there is any IPv6: none where it was built without, or booted with `ipv6.disable=1`.

    Linux, Documentation/networking/ipv6.rst: no socket of the family can be made then. Raises OSError.
    """
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True
