"""Bandwidth limits and offloads of interfaces, through tc(8), ip(8) and ethtool(8).

Egress is a token bucket (tc-tbf(8)) at the root of the interface. Ingress is the same bucket on an
intermediate device (ifb) that every incoming packet is redirected to before the host sees it, so that
senders are slowed down by queueing and not by loss alone.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.parts.kernel.record import Spec
from tsstack.system.command import run, which
from tsstack.system.masters import OWN_DEVICE, is_own_device

HANDLE = "7553:"
"""The major number that marks a qdisc as ours."""

UDP_GRO = {"rx-udp-gro-forwarding": "on", "rx-gro-list": "off"}
"""What makes UDP forwarding cheap, in Tailscale's words "for subnet routers and exit nodes"."""

_SIOCGIFMTU = 0x8921
_ETHERNET_HEADER_BYTES = 14


class LinkState(NamedTuple):
    """One interface as it is. A limit is None where there is none of ours."""

    mtu: int = 0
    """Bytes; 0 when there is no such interface."""
    egress: Spec | None = None
    ingress: Spec | None = None
    foreign_root: str = ""
    """Somebody else's root qdisc: `htb 1:`. Empty for the kernel's default and for ours."""
    foreign_ingress: str = ""

    @property
    def exists(self) -> bool:
        return self.mtu > 0

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


def ingress_device(interface: str) -> str:
    """The name of the intermediate device for `interface`; a pure function of its name, 13 bytes."""
    return f"{OWN_DEVICE}{zlib.crc32(interface.encode()):08x}"


def orphaned_devices() -> tuple[str, ...]:
    """Our intermediate devices whose interface is not there: it vanished, or has another name now."""
    names = {name for _, name in socket.if_nameindex()}
    own = {name for name in names if is_own_device(name)}
    return tuple(sorted(own - {ingress_device(name) for name in names - own})) if own else ()


def remove_orphan(device: str) -> None:
    """Take away an intermediate device without its interface. Idempotent. Raises CommandFailed, CheckFailed.

    An interface that was renamed may still send it all that comes in, which would be dropped without it.
    """
    if not _mtu(device):
        return
    for qdisc in _qdiscs():
        interface = str(qdisc.get("dev"))
        if qdisc.get("kind") == "ingress" and _is_redirected(interface, device):
            run(["tc", "qdisc", "del", "dev", interface, "ingress"])
    run(["ip", "link", "del", device])


def observe_links(interfaces: Iterable[str]) -> dict[str, LinkState]:
    """The state of each of `interfaces`, one process for all. Raises CheckFailed when tc cannot be asked."""
    wanted = sorted(set(interfaces))
    if not wanted:
        return {}
    mtus = {name: _mtu(name) for name in wanted}
    if not any(mtus.values()):
        return {name: LinkState() for name in wanted}
    qdiscs = _qdiscs()
    return {name: _state(name, mtus[name], qdiscs) for name in wanted}


def is_same(live: Mapping[str, float] | None, wanted: Mapping[str, float] | None) -> bool:
    """Whether two limits are one. tc counts ticks and bytes: bursts and latencies come rounded."""
    if live is None or wanted is None:
        return live is wanted
    byte_s = 8 / max(wanted["rate_bps"], 8)
    return (
        abs(live["rate_bps"] - wanted["rate_bps"]) < 8
        and abs(live["burst_bytes"] - wanted["burst_bytes"])
        <= 16 + wanted["burst_bytes"] * 0.01 + 1e-6 / byte_s
        and abs(live["latency_s"] - wanted["latency_s"]) <= 0.001 + wanted["latency_s"] * 0.01 + 2 * byte_s
    )


def frame_bytes(mtu: int) -> int:
    """What a full packet is to the queue."""
    return mtu + _ETHERNET_HEADER_BYTES


def smallest_burst_bytes(mtu: int) -> int:
    """The least a bucket must hold so that a full packet passes: tbf drops what is larger than the bucket."""
    # 64 bytes beyond the frame: tc rounds a burst down to whole clock ticks.
    return frame_bytes(mtu) + 64


def set_egress(interface: str, spec: Spec | None) -> None:
    """Limit what leaves by `interface`, or lift our limit. Raises CommandFailed."""
    if spec is None:
        run(["tc", "qdisc", "del", "dev", interface, "root"])
    else:
        run(["tc", "qdisc", "replace", *_bucket(interface, spec)])


def set_ingress(interface: str, spec: Spec | None) -> None:
    """Limit what is accepted from `interface`, or lift our limit. Idempotent. Raises CommandFailed."""
    device = ingress_device(interface)
    if spec is None:
        # Only where our device stands is the ingress queue ours to take away.
        if _mtu(device):
            if not _mtu(interface):
                remove_orphan(device)
                return
            run(["tc", "qdisc", "del", "dev", interface, "ingress"], check=False)
            run(["ip", "link", "del", device])
        return
    if not _mtu(device):
        run(["ip", "link", "add", device, "type", "ifb"])
    run(["ip", "link", "set", device, "up"])
    redirect = _redirect(interface, device)
    fresh = not any(entry.get("dev") == interface and entry.get("kind") == "ingress" for entry in _qdiscs())
    if fresh:
        lines = [f"qdisc add dev {interface} handle ffff: ingress"]
    else:
        lines = [f"filter del dev {interface} parent ffff:"]
    # The bucket comes last, as it is what a finished limit is known by. Until then packets just pass.
    lines += [f"filter add {redirect}", f"qdisc replace {' '.join(_bucket(device, spec))}"]
    run(["tc", "-batch", "-"], stdin="\n".join(lines) + "\n")


def check_ingress() -> None:
    """Try all that an ingress limit needs in a throwaway network namespace. Raises CheckFailed."""
    try:
        run(["unshare", "--net", "--", "ip", "link", "add", "tsin-check", "type", "ifb"])
        lines = f"qdisc add dev lo handle ffff: ingress\nfilter add {_redirect('lo', 'lo')}\n"
        run(["unshare", "--net", "--", "tc", "-batch", "-"], stdin=lines)
    except CommandFailed as error:
        raise CheckFailed(
            f"this kernel cannot limit what comes in: {error.message}",
            hint="it needs the modules ifb, cls_u32 and act_mirred; write egress only, or load them",
        ) from error


def observe_features(interface: str) -> dict[str, str]:
    """UDP_GRO's features of `interface`: `on`, `off`, or `fixed` where the device does not let us choose.

    A feature that the kernel does not know is absent; so are all where there is no such interface, and
    where ethtool is not installed. Raises CheckFailed when ethtool does not answer.
    """
    if which("ethtool") is None:
        return {}
    found = {}
    for line in _ask(f"the offloads of {interface}", ["ethtool", "-k", interface]).splitlines():
        name, _, state = line.strip().partition(": ")
        if name in UDP_GRO:
            value = state.split(" ")[0]
            found[name] = "fixed" if "[fixed]" in state and value != UDP_GRO[name] else value
    return found


def set_features(interface: str, features: Mapping[str, str]) -> None:
    """Switch offloads of `interface`. Raises CommandFailed."""
    words = [word for name, value in features.items() if value in {"on", "off"} for word in (name, value)]
    if words:
        run(["ethtool", "-K", interface, *words])


def _bucket(device: str, spec: Mapping[str, float]) -> list[str]:
    rate, burst = f"{int(spec['rate_bps'])}bit", f"{int(spec['burst_bytes'])}b"
    latency = f"{round(spec['latency_s'] * 1e6)}us"
    return ["dev", device, "root", "handle", HANDLE, "tbf", "rate", rate, "burst", burst, "latency", latency]


def _redirect(interface: str, device: str) -> str:
    return (
        f"dev {interface} parent ffff: protocol all prio 1 u32 match u32 0 0 "
        f"action mirred egress redirect dev {device}"
    )


def _mtu(interface: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        try:
            reply = fcntl.ioctl(asker, _SIOCGIFMTU, struct.pack("16si12x", interface.encode(), 0))
        except OSError:  # ENODEV, the only answer for a name that fits
            return 0
    return int(struct.unpack("16si12x", reply)[1])


def _qdiscs() -> list[dict[str, Any]]:
    try:
        found = json.loads(run(["tc", "-j", "qdisc", "show"]).stdout or "[]")
    except (CommandFailed, ValueError) as error:
        raise CheckFailed(f"the queues of the interfaces cannot be read: {error}") from error
    return found if isinstance(found, list) else []


def _state(interface: str, mtu: int, qdiscs: list[dict[str, Any]]) -> LinkState:
    egress = ingress = None
    foreign_root = foreign_ingress = ""
    device = ingress_device(interface)
    ours_in = next((q for q in qdiscs if q.get("dev") == device and q.get("handle") == HANDLE), None)
    for qdisc in qdiscs:
        if qdisc.get("dev") != interface:
            continue
        kind, handle = str(qdisc.get("kind")), str(qdisc.get("handle"))
        if kind in {"ingress", "clsact"}:
            if kind != "ingress" or not _mtu(device):
                foreign_ingress = kind
            elif ours_in is not None and _is_redirected(interface, device):
                ingress = _spec(ours_in)
        elif qdisc.get("root"):
            if kind == "tbf" and handle == HANDLE:
                egress = _spec(qdisc)
            elif handle != "0:":  # the kernel's own default has no handle
                foreign_root = f"{kind} {handle}"
    return LinkState(mtu, egress, ingress, foreign_root, foreign_ingress)


def _is_redirected(interface: str, device: str) -> bool:
    words = ["tc", "filter", "show", "dev", interface, "parent", "ffff:"]
    found = _ask(f"the filters of {interface}", words)
    return f"Redirect to device {device})" in found


def _ask(what: str, words: list[str]) -> str:
    """What a program that only shows says of an interface, little of one that has vanished meanwhile."""
    try:
        return run(words, check=False).stdout
    except CommandFailed as error:
        raise CheckFailed(f"{what} cannot be read: {error.message}", hint=error.hint) from error


def _spec(qdisc: Mapping[str, Any]) -> Spec:
    options = qdisc["options"]
    return {
        "rate_bps": options["rate"] * 8,
        "burst_bytes": options["burst"],
        "latency_s": options.get("lat", 0) / 1e6,
    }
