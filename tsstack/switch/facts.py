"""Gathers what is known of the machine, quickly: it runs before every verb."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from tsstack import __version__
from tsstack.model.facts import Facts, Paths
from tsstack.system.families import has_ipv6
from tsstack.system.masters import is_own_device, read_ports, read_vrf_members


def gather_facts(paths: Paths) -> Facts:
    """Look at the machine once. Changes nothing; what is not there is left at its default."""
    from tsstack.parts.dns.host import discover_resolved
    from tsstack.parts.proxy.host import discover_nginx
    from tsstack.parts.tailscale.host import discover_tailscale
    from tsstack.switch.generations import templates_of

    major, minor = os.uname().release.split(".")[:2]
    return Facts(
        interfaces=tuple(
            sorted(
                path.name
                for path in Path("/sys/class/net").iterdir()
                if path.is_symlink() and not is_own_device(path.name)
            )
        ),
        default_interface=default_interface(),
        ports=read_ports(),
        vrf_members=read_vrf_members(),
        nginx=discover_nginx(paths),
        tailscale=discover_tailscale(paths),
        kernel=(int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)),
        systemd=Path("/run/systemd/system").is_dir(),
        resolved=discover_resolved(paths),
        ipv6=has_ipv6(),
        paths=replace(paths, templates=templates_of(paths.state)),
    )


def default_interface() -> str:
    """The interface of the default route with the lowest metric; empty when there is none.

    proc(5): /proc/net/route lists destination and mask in hex, the metric in column 7.
    """
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return ""
    routes = [line.split() for line in lines]
    defaults = [(int(row[6]), row[0]) for row in routes if row[1] == "00000000" and row[7] == "00000000"]
    return min(defaults, default=(0, ""))[1]


def input_digest(source: bytes, facts: Facts) -> str:
    """Digest of all that rendering depends on: the file, the machine, and tsstack itself."""
    return hashlib.sha256(
        b"\0".join((source, repr(facts).encode(), __version__.encode(), _code_stamp()))
    ).hexdigest()


def _code_stamp() -> bytes:
    """Changes whenever the installed code or templates change, so that an upgrade renders anew."""
    from tsstack import assets

    package = Path(__file__).resolve().parents[1]
    stamps = []
    for folder in (package / "model", package / "parts", assets.folder("templates"), assets.folder("zones")):
        for place, _, names in os.walk(folder):
            for name in names:
                if name.endswith((".py", ".j2", ".yaml", ".conf")):
                    status = (Path(place) / name).stat()
                    stamps.append(f"{name}:{status.st_mtime_ns}:{status.st_size}")
    return "\n".join(sorted(stamps)).encode()
