"""Runs `nginx -t` where every address may be bound. A script of its own, started by `engine`.

    unshare --net ... python -I -S trial.py nginx -t ...

nginx binds its sockets even when it only tests. In a network namespace of its own no port is taken and,
with ip_nonlocal_bind (Documentation/networking/ip-sysctl.rst), an address that the host does not have
yet is no obstacle. ip_unprivileged_port_start makes that work without root as well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SETTINGS = {
    "ipv4/ip_nonlocal_bind": "1",
    "ipv6/ip_nonlocal_bind": "1",
    "ipv4/ip_unprivileged_port_start": "0",
}

if __name__ == "__main__":
    for _name, _value in _SETTINGS.items():
        _path = Path("/proc/sys/net") / _name
        if _path.exists():  # a kernel without IPv6
            _path.write_text(_value, encoding="ascii")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  (no shell is the point of it)
