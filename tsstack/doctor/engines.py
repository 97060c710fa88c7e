"""The engines and the kernel: there, of a version without known troubles, with what the file needs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tsstack.doctor.finding import Finding, Level
from tsstack.doctor.needs import Needs
from tsstack.model.facts import NginxFacts

# Headscale 0.29 refuses older clients (its release notes); odd minors are tailscale's unstable track.
_OLDEST_FOR_HEADSCALE = (1, 80)
_HTTP3 = (1, 25)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is installed. An empty fault means that the kernel has it, None that nobody asked it."""

    needs: Needs
    nginx: NginxFacts | None = None
    tailscaled: tuple[int, int, int] | None = None
    """None: it does not answer."""
    tailscaled_installed: bool = True
    hosted: bool = False
    """Whether the control server is Tailscale's own."""
    nft: str = ""
    """Version; empty: there is no nft."""
    nft_fault: str = ""
    """Why libnftables cannot be loaded."""
    kernel: tuple[int, int] = (0, 0)
    sops: bool = True
    tc: bool = True
    netfilter_fault: str | None = None
    tun_fault: str | None = None
    egress_fault: str | None = None
    ingress_fault: str | None = None
    congestion: tuple[str, ...] = field(default=())
    """What the kernel has now, and what it could load of what is wanted."""


def check_engines(facts: EngineFacts) -> Iterator[Finding]:
    """Each engine, then the kernel."""
    yield from _nginx(facts)
    yield from _tailscaled(facts)
    yield from _nft(facts)
    if facts.needs.secrets and not facts.sops:
        words = "not installed; the auth key in secrets.file cannot be read, so this host could not join anew"
        yield Finding("TS811", "warning", "sops", words, "tsstack explain TS811")
    yield from _kernel(facts)


def _missing(needed: bool, known: bool) -> Level:
    if needed:
        return "error"
    return "ok" if known else "warning"


def _nginx(facts: EngineFacts) -> Iterator[Finding]:
    nginx, needs = facts.nginx, facts.needs
    if nginx is None:
        level = _missing(needs.proxy, needs.known)
        words = "not installed" + ("; `proxy` needs it" if level != "ok" else ", and the file has no proxy")
        yield Finding("TS811", level, "nginx", words, "" if level == "ok" else "apt install nginx")
        return
    version = ".".join(map(str, nginx.version))
    lacking = []
    if needs.streams and not nginx.stream:
        lacking.append(("stream", "TCP services", "apt install libnginx-mod-stream"))
    if needs.identity and not nginx.auth_request:
        lacking.append(
            ("auth_request", "`allow`", "apt install nginx    # the distribution's own build has it")
        )
    for module, wanted_by, fix in lacking:
        yield Finding(
            "TS812", "error", "nginx", f"{version} has no {module} module, and {wanted_by} needs it", fix
        )
    if not lacking:
        why = "" if nginx.http3 or nginx.version[:2] >= _HTTP3 else " (from 1.25 on)"
        yield Finding("TS811", "ok", "nginx", f"{version}, HTTP/3 {'yes' if nginx.http3 else 'no'}{why}")


def _tailscaled(facts: EngineFacts) -> Iterator[Finding]:
    needs = facts.needs
    if facts.tailscaled is None:
        if not facts.tailscaled_installed:
            level = _missing(needs.tailnet, needs.known)
            words = "not installed" + ("" if level != "ok" else ", and the file does not speak of a tailnet")
            fix = "" if level == "ok" else "curl -fsSL https://tailscale.com/install.sh | sh"
            yield Finding("TS811", level, "tailscaled", words, fix)
        return
    version = ".".join(map(str, facts.tailscaled))
    troubles = []
    if facts.tailscaled[:2] < _OLDEST_FOR_HEADSCALE and not facts.hosted and any(facts.tailscaled):
        troubles.append("Headscale 0.29 and later refuse clients before 1.80")
    if facts.tailscaled[1] % 2:
        troubles.append(f"{facts.tailscaled[0]}.{facts.tailscaled[1]} is a build of the unstable track")
    for words in troubles:
        yield Finding(
            "TS813", "warning", "tailscaled", f"{version}: {words}", "tailscale update --track=stable"
        )
    if not troubles:
        yield Finding("TS813", "ok", "tailscaled", version)


def _nft(facts: EngineFacts) -> Iterator[Finding]:
    needed = facts.needs.firewall
    if facts.nft_fault:
        level = _missing(needed, facts.needs.known)
        yield Finding("TS811", level, "nft", facts.nft_fault, "" if level == "ok" else "apt install nftables")
    elif facts.nft:
        yield Finding("TS811", "ok", "nft", facts.nft)


def _kernel(facts: EngineFacts) -> Iterator[Finding]:
    needs = facts.needs
    found = []
    if needs.firewall and facts.netfilter_fault:
        found.append(Finding("TS814", "error", "nf_tables", facts.netfilter_fault, "modprobe nf_tables"))
    if needs.tailnet and facts.tun_fault:
        found.append(Finding("TS814", "error", "tun", facts.tun_fault, "modprobe tun"))
    if (needs.egress or needs.ingress) and not facts.tc:
        words = "tc is not installed; `bandwidth` needs it"
        found.append(Finding("TS811", "error", "tc", words, "apt install iproute2"))
    for wanted, fault, modules in (
        (needs.egress, facts.egress_fault, "sch_tbf"),
        (needs.ingress, facts.ingress_fault, "ifb cls_u32 act_mirred sch_ingress"),
    ):
        if wanted and facts.tc and fault:
            found.append(Finding("TS814", "error", "tc", fault, f"modprobe -a {modules}"))
    if needs.congestion and facts.congestion and needs.congestion not in facts.congestion:
        words = f"no congestion control {needs.congestion}; it has {', '.join(facts.congestion)}"
        if needs.congestion_is_own:
            fix = f"modprobe tcp_{needs.congestion}"
            found.append(Finding("TS814", "warning", "kernel", words, fix))
        else:
            found.append(Finding("TS814", "ok", "kernel", f"{words}: the profile goes on without it"))
    yield from found
    if not any(each.level != "ok" for each in found):
        yield Finding("TS814", "ok", "kernel", f"{facts.kernel[0]}.{facts.kernel[1]}")
