"""What is no longer as the live generation says, as far as that costs next to nothing.

That is tailscaled's prefs, kernel parameters and the DNS of interfaces.

The firewall's table has its own remark; queues, links in /etc and all else are for `tsstack doctor`.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

# Sets, whose order means nothing. The exit node is the monitor's to move, so it is not compared.
_SETS = frozenset({"AdvertiseRoutes", "AdvertiseTags", "AdvertiseServices"})
_MOVED = frozenset({"ExitNodeID"})
# Values of a profile that this kernel does not have are left out by a switch, and that is no drift.
_PROFILE = "kernel.profile"
_OWN = "kernel.sysctl."
# As tsstack.parts.dns.host writes it. That module would cost the screen its speed.
_DNS_RECORD = "dns-links.json"
# As tsstack.parts.kernel.record writes it: what parameters were before.
_KERNEL_RECORD = "kernel-before.json"


def read_drift(
    generation: str, prefs: Mapping[str, Any] | None, withdrawn: Sequence[str], *, proc: str = "/proc/sys"
) -> list[str]:
    """A sentence for each difference. `prefs` None: tailscaled could not be asked. Never raises.

    `withdrawn` are routes that the monitor has taken back for now.
    """
    found: list[str] = []
    if prefs is not None:
        wanted = _json(f"{generation}/tailscale/prefs.json").get("prefs")
        found += _prefs(wanted if isinstance(wanted, dict) else {}, prefs, withdrawn)
    origins = _json(f"{generation}/kernel/origins.json")
    before = _json(f"{os.path.dirname(generation)}/{_KERNEL_RECORD}").get("sysctl")  # noqa: PTH120
    for name, value in _json(f"{generation}/kernel/sysctl.json").items():
        live, origin = _parameter(proc, name), str(origins.get(name))
        if origin != _PROFILE and live not in {None, value} and not _is_left(name, live, origin, before):
            found.append(f"{name} is {live}, not {value}")
    return found


def _is_left(name: str, live: str | None, origin: str, before: object) -> bool:
    """Whether a switch leaves it so: networkd keeps an interface's accept_ra at 0 and listens itself."""
    touched = isinstance(before, dict) and before.get(name, "0") != "0"
    return live == "0" and name.endswith(".accept_ra") and not origin.startswith(_OWN) and not touched


def read_dns_drift(
    state: str, *, resolved: str = "/run/systemd/resolve/netif", net: str = "/sys/class/net"
) -> list[str]:
    """A sentence for each interface that no longer has the split DNS that tsstack gave it. Never raises.

    Root alone may read that (resolved-link.c makes the folder with mode 0700): to others it is unknown.

    systemd-resolved keeps an interface's settings in a file named by its index, for as long as it has any
    (resolved-link.c: link_save_user()); to ask it over the bus would take longer than all the rest.
    """
    found: list[str] = []
    if not os.access(resolved, os.R_OK | os.X_OK):
        return []
    for link, wanted in _json(f"{state}/{_DNS_RECORD}").items():
        index = _text(f"{net}/{link}/ifindex").strip()
        if not index or not isinstance(wanted, dict):
            continue  # an interface that is away is told elsewhere
        settings = dict(
            line.split("=", 1) for line in _text(f"{resolved}/{index}").splitlines() if "=" in line
        )
        for key, name in (("servers", "SERVERS"), ("domains", "DOMAINS")):
            missing = [each for each in wanted.get(key, ()) if each not in settings.get(name, "").split()]
            if missing:
                found.append(f"DNS of {link} no longer has {' '.join(missing)}")
                break
    return found


def left_withdrawn(state: str) -> list[str]:
    """Routes of the live generation that the last monitor withdrew; none to all but root. Never raises."""
    wanted = _json(f"{state}/current/tailscale/prefs.json").get("prefs")
    kept = _json(f"{state}/monitor/state.json").get("standby")
    try:
        offered = wanted["AdvertiseRoutes"] if isinstance(wanted, dict) else ()
        off = kept["off"] if isinstance(kept, dict) else ()
        return sorted({str(name) for kind, name in off if kind == "route" and name in offered})
    except (ValueError, LookupError, TypeError):
        return []


def _text(path: str) -> str:
    """A small file's text; empty where there is none."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(65536).decode("utf-8", "replace")
    except OSError:
        return ""


def _prefs(wanted: Mapping[str, Any], live: Mapping[str, Any], withdrawn: Sequence[str]) -> Iterator[str]:
    for name, value in wanted.items():
        if name in _MOVED:
            continue
        if name in _SETS:
            there, meant = {*(live.get(name) or ()), *withdrawn}, {*value, *withdrawn}
            same = there == meant
        else:
            same = (live.get(name) if live.get(name) is not None else "") == value
            if name == "Hostname" and not live.get(name):  # then the node has the machine's
                same = value == os.uname().nodename.partition(".")[0]
        if not same:
            yield f"tailscaled's {name} is {_shown(live.get(name))}, not {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None or value == "" else str(value)


def _parameter(proc: str, name: str) -> str | None:
    """The live value, blanks normalised; None where there is no such parameter or it may not be read."""
    path = "/".join(part.replace("/", ".") for part in name.split("."))
    try:
        with open(f"{proc}/{path}", "rb") as file:  # noqa: PTH123
            return " ".join(file.read(4096).decode("ascii", "replace").split())
    except OSError:
        return None


def _json(path: str) -> Mapping[str, Any]:
    """A file of the generation; empty where it has none, or none that can be read (TS754 tells that)."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            read = json.load(file)
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
