"""Kernel, DNS, bandwidth, interfaces and the monitor."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from tsstack.model import host_codes as codes
from tsstack.model import lint_codes as codes_of_zones
from tsstack.model.bucket import why_not_held
from tsstack.model.file_codes import EMPTY_SECTION
from tsstack.model.keypath import KeyPath
from tsstack.model.parameters import dotted, echo_ignored, forwarded_nowhere, forwarding_off, is_zero
from tsstack.model.rules.view import (
    TAILSCALE_INTERFACE,
    Remark,
    View,
    in_tailnet,
    is_of_engine,
    matches,
    rule,
)
from tsstack.model.words import nearest

_ETHERNET_FRAME_BYTES = 1514
_TICKS_PER_S = 1000
# Devices of VM engines, and those that a tunnel's kernel module makes as it is loaded.
_MADE_BY_THEMSELVES = (
    "vnet",
    "tunl0",
    "sit0",
    "gre0",
    "gretap0",
    "erspan0",
    "ip6tnl0",
    "ip6gre0",
    "ip_vti0",
    "ip6_vti0",
)


@rule()
def empty_sections(view: View) -> Iterator[Remark]:
    for name, node in view.document.sections.items():
        if node.value is None and not node.text and name in type(view.stack).model_fields:
            hint = f"remove it, or write {name}: {{}} for its defaults"
            yield Remark(EMPTY_SECTION, (name,), "the section is empty and counts as absent", hint)


@rule("kernel")
def one_spelling(view: View) -> Iterator[Remark]:
    seen: dict[str, str] = {}
    values = view.stack.kernel.sysctl
    for name, value in values.items():
        other = seen.setdefault(dotted(name), name)
        if other != name:
            line = view.document.place(("kernel", "sysctl", other))[1]
            same = " ".join(str(value).split()) == " ".join(str(values[other]).split())
            besides = "" if same else f", and has the value {values[other]} there"
            message = f"{other} in line {line} is the same parameter{besides}"
            yield Remark(
                codes.SYSCTL_TWICE, ("kernel", "sysctl", name), message, "keep one of the two", rests_on=()
            )


@rule("kernel")
def effects_that_stay(view: View) -> Iterator[Remark]:
    """What a rollback could not undo by writing the old value."""
    for name, value in view.stack.kernel.sysctl.items():
        message = _lasting_effect(dotted(name).split("."), str(value).strip())
        if message:
            hint = "write it into /etc/sysctl.d and reboot, with another way in at hand"
            path: KeyPath = ("kernel", "sysctl", name)
            yield Remark(codes.SYSCTL_WITHOUT_RETURN, path, message, hint, rests_on=())


def _lasting_effect(parts: list[str], value: str) -> str:
    match parts:
        case ["net", "ipv6", "conf", _, "disable_ipv6"] if not is_zero(value):
            return "the kernel then deletes the IPv6 addresses, and no rollback brings them back"
        case ["net", "ipv6", "conf", _, "stable_secret"]:
            return "once written, the kernel never unsets it, so no rollback could"
        case ["net", "ipv4" | "ipv6", "route", "flush"]:
            return "it acts once and holds no value that a rollback could write"
        # uts_namespaces(7); systemd.exec(5), ProtectHostname=
        case ["kernel", "hostname" | "domainname"]:
            return "the units that bring it up and undo it have a name of their own, and would set that one"
        case _:
            return ""


@rule("kernel", "tailscale", "host")
def routing_parameters(view: View) -> Iterator[Remark]:
    tailscale = view.stack.tailscale
    exits = tailscale is not None and (tailscale.exit_node is not None or tailscale.advertise.exit_node)
    concerned = {"all", "default", TAILSCALE_INTERFACE, *view.uplinks}
    for name, value in view.stack.kernel.sysctl.items():
        path: KeyPath = ("kernel", "sysctl", name)
        plain = dotted(name)
        parts = plain.split(".")
        is_filter = plain.startswith("net.ipv4.conf.") and parts[-1] == "rp_filter"
        if exits and is_filter and ".".join(parts[3:-1]) in concerned and str(value).strip() == "1":
            message = "strict mode drops what comes back through an exit node"
            yield Remark(codes.RP_FILTER_STRICT, path, message, "2 is the loose mode", rests_on=())


@rule("kernel", "tailscale", "firewall")
def forwarding_is_on(view: View) -> Iterator[Remark]:
    off, nowhere = forwarding_off(view.stack), forwarded_nowhere(view.stack)
    routes = view.stack.routes_for_tailnet
    firewall = view.stack.firewall
    passing = firewall.forward if firewall is not None and firewall.enabled else ()
    passes = {
        family
        for each in passing
        for family in _families(view, each.from_zone) & _families(view, each.to_zone)
    }
    hint = "remove it; tsstack sets it"
    for family, name in off.items():
        path: KeyPath = ("kernel", "sysctl", name)
        if routes:
            message = "this host routes for the tailnet, which needs forwarding"
            yield Remark(codes.FORWARDING_OFF, path, message, hint, rests_on=())
        elif family in passes and passes <= nowhere.keys():
            message = "firewall.forward lets packets through this host, which needs forwarding"
            yield Remark(codes.FORWARDING_OFF, path, message, hint, rests_on=())
        elif family in passes and family in nowhere:
            message = (
                f"firewall.forward holds for IPv{10 - family} alone then: "
                f"nothing of IPv{family} goes through this host"
            )
            yield Remark(codes.ONE_FAMILY_NOT_FORWARDED, path, message, f"if it should, {hint}", rests_on=())


def _families(view: View, name: str) -> set[int]:
    """The IP versions that a zone can have packets of: where it names no interface, those of its sources."""
    zone = view.zones.get(name)
    if zone is None or zone.interfaces or not zone.sources:
        return {4, 6}
    return {each.version for each in zone.sources}


@rule("kernel", "firewall")
def ping_is_answered(view: View) -> Iterator[Remark]:
    for family, name in echo_ignored(view.stack).items():
        zones = view.zones.items()
        answering = [each for each, zone in zones if zone.ping and family in _families(view, each)]
        if not answering:
            continue
        which = f"zone {answering[0]} is" if len(answering) == 1 else f"zones {', '.join(answering)} are"
        protocol = "ICMPv6" if family == 6 else "ICMP"
        message = f"the kernel then answers no echo request of {protocol}, and {which} to be answered"
        hint = "remove it, or write `ping: false` in the zones that need no answer"
        yield Remark(codes.PING_UNANSWERED, ("kernel", "sysctl", name), message, hint, rests_on=())


@rule("dns", "tailscale")
def login_server_resolves(view: View) -> Iterator[Remark]:
    tailscale = view.stack.tailscale
    if tailscale is None:
        return
    host = (urlsplit(tailscale.login_server).hostname or "").lower()
    for domain, servers in view.stack.dns.split.items():
        covers = host == domain.lower() or host.endswith(f".{domain.lower()}")
        inside = [server for server in servers if in_tailnet_address(str(server))]
        if covers and len(inside) == len(servers):
            message = f"{host} must resolve before the tailnet is up, but {inside[0]} is inside it"
            hint = "name a narrower domain, or a server outside the tailnet"
            yield Remark(codes.SPLIT_COVERS_LOGIN, ("dns", "split", domain), message, hint)


def in_tailnet_address(address: str) -> bool:
    """Whether an address is one of the tailnet's."""
    import ipaddress

    return in_tailnet(ipaddress.ip_network(address))


@rule("bandwidth")
def bursts(view: View) -> Iterator[Remark]:
    for interface, limit in view.stack.bandwidth.items():
        rate_bps = max(limit.egress or 0, limit.ingress or 0)
        least = max(rate_bps // 8 // _TICKS_PER_S, _ETHERNET_FRAME_BYTES)
        if limit.burst is not None and limit.burst < least:
            message = f"{limit.burst} bytes are too few for the rate; {least} are the least"
            hint = f"write burst: {-(-least // 1024)}kb or more, or leave it out"
            yield Remark(codes.BURST_TOO_SMALL, ("bandwidth", interface, "burst"), message, hint, rests_on=())


@rule("bandwidth")
def limits_hold(view: View) -> Iterator[Remark]:
    for interface, limit in view.stack.bandwidth.items():
        for direction, rate_bps in (("egress", limit.egress), ("ingress", limit.ingress)):
            if rate_bps is not None:
                message, hint = why_not_held(rate_bps, limit.burst, limit.latency_s)
                if message:
                    place: KeyPath = ("bandwidth", interface)
                    beside = ((*place, "burst"), (*place, "latency"))
                    path = (*place, direction)
                    yield Remark(codes.LIMIT_NOT_HELD, path, message, hint, rests_on=beside)


@rule("firewall", "host")
def ports_of_bridges(view: View) -> Iterator[Remark]:
    """Names that match no packet, for the kernel shows the master's."""
    if view.facts is None:
        return
    ports, members = dict(view.facts.ports), dict(view.facts.vrf_members)
    uplink = view.stack.host.uplink
    if uplink in ports:
        message = f"{uplink} is a port of {ports[uplink]}, which is what packets leave by"
        yield Remark(codes_of_zones.PORT_OF_A_BRIDGE, ("host", "uplink"), message, f"write {ports[uplink]}")
    for name, zone in view.zones.items():
        for index, pattern in enumerate(zone.interfaces):
            here = [each for each in view.facts.interfaces if matches(pattern, each)]
            masters = {ports.get(each) or members.get(each) or "" for each in here}
            if not here or any(any(matches(p, master) for p in zone.interfaces) for master in masters):
                continue
            if "" in masters:  # one of them is what it seems to be
                continue
            path: KeyPath = ("firewall", "zones", name, "interfaces", index)
            which = " and ".join(sorted(masters))
            if any(each in members for each in here):
                message = (
                    f"what comes in by {pattern} is seen as {which}'s, a VRF: the zone matches none of it"
                )
                yield Remark(codes_of_zones.PORT_OF_A_BRIDGE, path, message, f"add {which} beside it")
            else:
                message = (
                    f"{pattern} is a port of {which}, whose packets are seen as {which}'s: it matches none"
                )
                yield Remark(codes_of_zones.PORT_OF_A_BRIDGE, path, message, f"write {which} instead")


@rule("firewall", "bandwidth", "host")
def interfaces_exist(view: View) -> Iterator[Remark]:
    present = view.facts.interfaces if view.facts else ()
    if not present:
        return
    wanted: list[tuple[KeyPath, str]] = []
    if view.stack.host.uplink:
        wanted.append((("host", "uplink"), view.stack.host.uplink))
    wanted += [(("bandwidth", name), name) for name in view.stack.bandwidth]
    for zone_name, zone in view.zones.items():
        path: KeyPath = ("firewall", "zones", zone_name, "interfaces")
        wanted += [((*path, index), pattern) for index, pattern in enumerate(zone.interfaces)]
    for path, pattern in wanted:
        # tailscaled makes its own; a pattern says by itself that its interfaces come and go.
        if pattern == TAILSCALE_INTERFACE or pattern.endswith("*"):
            continue
        if not any(matches(pattern, interface) for interface in present):
            hint = nearest(pattern, present) or f"here are: {', '.join(present)}"
            yield Remark(codes.INTERFACE_MISSING, path, f"there is no {pattern} on this host now", hint)


@rule("firewall", "tailscale")
def interfaces_of_no_zone(view: View) -> Iterator[Remark]:
    firewall = view.stack.firewall
    if firewall is None or not firewall.enabled or firewall.default_policy == "accept":
        return
    if not (view.stack.routes_for_tailnet or firewall.forward):
        return
    if any(source.prefixlen == 0 for zone in view.zones.values() for source in zone.sources):
        return
    zoned = [pattern for zone in view.zones.values() for pattern in zone.interfaces]
    ports = dict(view.facts.ports) if view.facts else {}
    for interface in view.facts.interfaces if view.facts else ():
        own_ports = [port for port, master in ports.items() if master == interface]
        if interface in ("lo", TAILSCALE_INTERFACE) or interface.startswith(_MADE_BY_THEMSELVES):
            continue
        if interface in ports or is_of_engine(interface, own_ports):
            continue
        if not any(matches(pattern, interface) for pattern in zoned):
            verb = "dropped" if firewall.default_policy == "drop" else "rejected"
            its = f" ({', '.join(own_ports)} in it)" if own_ports else ""
            message = (
                f"{interface}{its} belongs to no zone: what comes from it to this host is {verb}, "
                "and what it sends on to others is left alone"
            )
            path: KeyPath = ("firewall", "zones") if view.writes("firewall", "zones") else ("firewall",)
            yield Remark(codes_of_zones.IN_NO_ZONE, path, message, "put it into a zone")


@rule("monitor", "tailscale")
def monitor_pace(view: View) -> Iterator[Remark]:
    monitor = view.stack.monitor
    if monitor is None:
        return
    if monitor.probe_s > monitor.interval_s:
        message = (
            f"probing every {monitor.probe_s:g} s is rarer than reporting every {monitor.interval_s:g} s"
        )
        yield Remark(codes.PACE, ("monitor", "probe"), message, "probe must be shorter than interval")
    detection_s = monitor.failures * monitor.probe_s
    if monitor.restore_after_s < detection_s:
        message = (
            f"a path is taken again after {monitor.restore_after_s:g} s, "
            f"but called bad only after {detection_s:g} s"
        )
        yield Remark(codes.PACE, ("monitor", "restore_after"), message, "restore_after must be longer")
    if monitor.max_loss >= 100:
        message = "no loss is ever above 100 %"
        yield Remark(codes.LOSS_NEVER_BAD, ("monitor", "max_loss"), message, rests_on=())
    exit_node = view.stack.tailscale.exit_node if view.stack.tailscale else None
    if (
        view.writes("monitor", "failover")
        and monitor.failover
        and len(exit_node.use if exit_node else ()) < 2
    ):
        hint = "tailscale.exit_node.use lists the nodes to move along"
        message = "there are no two exit nodes to choose from"
        yield Remark(codes.NOTHING_TO_FAIL_OVER, ("monitor", "failover"), message, hint)
    if monitor.metrics and monitor.metrics.startswith(("0.0.0.0:", "[::]:")):
        message = "every address can read the metrics"
        yield Remark(codes.METRICS_EXPOSED, ("monitor", "metrics"), message, rests_on=())
