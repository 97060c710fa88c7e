"""Looks at file systems, the clock and the units."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tsstack.doctor.machine import Clock, Disk, Units
from tsstack.parts.dns.host import read_record
from tsstack.switch.units import look, missing_at_boot, missing_for_dns

if TYPE_CHECKING:
    from tsstack.model.facts import Facts

_STA_UNSYNC = 0x40  # linux/timex.h
# linux/timex.h, struct timex up to `status`: modes, offset, freq, maxerror, esterror, status.
_TIMEX = struct.Struct("@Illlli")
_TIMEX_BYTES = 512
_TIMEOUT_S = 3.0
# tailscale's net/tsconst: what its own packets carry, so that they go past its routes.
_BYPASS_MARK = 0x80000


def look_at_disks(*paths: Path) -> tuple[Disk, ...]:
    """One for each file system that holds one of `paths`, as seen from its nearest folder that is there."""
    disks: dict[int, Disk] = {}
    for path in paths:
        there = next(each for each in (path, *path.parents) if each.exists())
        status = os.statvfs(there)
        device = there.stat().st_dev
        disks.setdefault(
            device,
            Disk(
                str(path),
                status.f_bavail * status.f_frsize,
                status.f_favail if status.f_files else None,
                bool(status.f_flag & os.ST_RDONLY),
            ),
        )
    return tuple(disks.values())


def look_at_clock(control_url: str, uplink: str = "") -> Clock:
    """Asks the control server for its time, when there is one to ask. Blocks for 3 s at most.

    The question goes the way of tailscaled's own, past an exit node: that need not reach the server.
    """
    disciplined = _is_disciplined()
    if not control_url:
        return Clock(disciplined)
    parts = urlsplit(control_url)
    server = parts.hostname or ""
    began_s = time.monotonic()
    try:
        theirs = _ask_date(parts.scheme, server, parts.port, uplink)
    except OSError as error:
        why = f"the control server gives no time: {_words(error)}"
        return Clock(disciplined, server=server, url=control_url, uplink=uplink, fault=why)
    except ValueError as error:
        why = f"the control server gives no time: {error}"
        return Clock(disciplined, server=server, url=control_url, uplink=uplink, fault=why)
    took_s = time.monotonic() - began_s
    return Clock(disciplined, time.time() - theirs, 1.0 + took_s, server)


def look_at_units(facts: Facts) -> Units | None:
    """None without systemd."""
    if not facts.systemd:
        return None
    missing = missing_at_boot() or (missing_for_dns() if read_record(facts.paths) else "")
    return Units(missing, tuple(unit.name for unit in look() if unit.differs))


def _is_disciplined() -> bool | None:
    """adjtimex(2) with no modes only reads, and needs no rights."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return not _TIMEX.unpack_from(buffer.raw)[5] & _STA_UNSYNC


def _ask_date(scheme: str, host: str, port: int | None, uplink: str) -> float:
    """The time that the server's answer says (RFC 9110 section 6.6.1). Raises OSError and ValueError.

    A server whose certificate cannot be trusted is not believed.
    """
    import http.client
    import ssl

    connection = http.client.HTTPConnection(host, port or (443 if scheme == "https" else 80))
    connection.sock = _connect_past_routes(connection.host, connection.port, uplink)
    try:
        if scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
    except http.client.HTTPException as error:
        raise ValueError(f"it does not speak HTTP ({type(error).__name__})") from error
    finally:
        connection.close()
    if not date:
        raise ValueError("its answer has no Date")
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        raise ValueError("its Date is no date") from None


def _connect_past_routes(host: str, port: int, uplink: str) -> socket.socket:
    """As tailscaled connects (net/netns): by its mark, else bound to the uplink. Raises OSError."""
    fault: OSError = OSError("it has no address")
    for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        link = socket.socket(family, kind)
        try:
            _leave_routes(link, uplink)
            link.settimeout(_TIMEOUT_S)
            link.connect(address)
        except OSError as error:
            link.close()
            fault = error
        else:
            return link
    raise fault


def _leave_routes(link: socket.socket, uplink: str) -> None:
    """Only root may mark; binding to an interface everyone may since Linux 5.7."""
    try:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _BYPASS_MARK)
    except PermissionError:
        if uplink:
            with contextlib.suppress(PermissionError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, uplink.encode() + b"\0")


def _words(error: OSError) -> str:
    return str(error.strerror or error)
