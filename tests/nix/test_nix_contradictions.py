"""What cannot be meant is refused when the system is evaluated, and what is likely not meant is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nix_engine import Case, answers
from option_cases import HOST

VPN = "kernelcore.network.vpn.tailscale.enable = true; "
PROXY = 'kernelcore.network.proxy.nginx-tailscale = { enable = true; tailnetDomain = "t.ts.net"; }; '
ZONES = "kernelcore.network.security.firewall-zones.enable = true; "
NGINX = "services.nginx.enable = true; "

# (what is wrong, the module, words of the refusal, what makes it right)
REFUSED = (
    ("offers-and-uses-an-exit-node", VPN + 'kernelcore.network.vpn.tailscale = { exitNode = true; useExitNodes = @; };',
     '[ "exit-a" ]', "[ ]", "at once"),
    ("is-its-own-exit-node", VPN + "kernelcore.network.vpn.tailscale.useExitNodes = [ @ ];",
     '"kernelcore"', '"exit-a"', "names this host itself"),
    ("magic-dns-without-dns", VPN + "kernelcore.network.vpn.tailscale = { acceptDNS = false; enableMagicDNS = @; };",
     "true", "false", "enableMagicDNS and acceptDNS differ"),
    ("routes-nothing", VPN + "kernelcore.network.vpn.tailscale = { enableSubnetRouter = true; advertiseRoutes = @; };",
     "[ ]", '[ "10.0.0.0/8" ]', "advertiseRoutes is empty"),
    ("key-in-the-store", VPN + 'kernelcore.network.vpn.tailscale.authKeyFile = "@";',
     "/nix/store/00000000000000000000000000000000-key", "/run/keys/ts", "authKeyFile lies in the Nix store"),
    ("two-names", PROXY + "kernelcore.network.proxy.nginx-tailscale.hostname = @;",
     '"gw1"', '"kernelcore"', "a host has one name"),
    ("no-name", VPN + "kernelcore.network.vpn.tailscale.hostname = @;", '""', '"a"', "has no name"),
    ("two-tailnets", PROXY + "kernelcore.network.proxy.tailscale-services.tailnetDomain = @;",
     '"u.ts.net"', '"t.ts.net"', "two names for one tailnet"),
    ("no-tailnet", "kernelcore.network.proxy.nginx-tailscale = { enable = true; @ };",
     "", 'tailnetDomain = "t.ts.net";', "needs the tailnet's name"),
    ("service-without-upstream", PROXY + "kernelcore.network.proxy.nginx-tailscale.services.wiki = { @ };",
     "", "upstreamPort = 1;", "neither upstreamPort nor upstream"),
    ("half-a-certificate", PROXY + 'kernelcore.network.proxy.nginx-tailscale = { certificate = "/a"; @ };',
     "", 'certificateKey = "/b";', "belong together"),
    ("certificate-key-in-the-store",
     PROXY + 'kernelcore.network.proxy.nginx-tailscale = { certificate = "/a"; certificateKey = "@"; };',
     "/nix/store/00000000000000000000000000000000-key", "/b", "certificateKey lies in the Nix store"),
    ("no-limit", "kernelcore.network.bandwidth.eth0 = { @ };", "", 'ingress = "1gbit";', "has no limit"),
    ("two-kinds", "kernelcore.network.monitoring.tailscale = { enable = true; targets = [ { icmp = @; dns = \"a\"; } ]; };",
     '"1.1.1.1"', "null", "exactly one of"),
    ("closed-admin-zone", ZONES + 'kernelcore.network.security.firewall-zones.zones.admin = { allowedIPs = [ "10.0.0.1" ]; '
     "allowAllServices = @; };", "false", "true", "starts from the preset admin"),
    ("sysctl-twice", 'kernelcore.network.tuning.sysctl."net.core.rmem_max" = 1; boot.kernel.sysctl."net.core.rmem_max" = @;',
     '"2"', '"1"', "disagree about net.core.rmem_max"),
    ("forwarding-off", VPN + "kernelcore.network.vpn.tailscale.exitNode = true; boot.kernel.sysctl.\"net.ipv4.ip_forward\" = @;",
     "false", "true", "switches off net.ipv4.ip_forward"),
    ("sops-nix-not-there", VPN + 'kernelcore.secrets.tailscale = { backend = "sops-nix"; enable = @; };',
     "true", "false", "sops-nix, which is not imported"),
    # NixOS's own modules
    ("nixos-enrols-too", VPN + "services.tailscale.authKeyFile = @;", '"/run/k"', "null", "enrol the host a second time"),
    ("nixos-sets-flags", VPN + "services.tailscale.extraUpFlags = [ @ ];", '"--ssh"', "", "extraUpFlags"),
    ("nixos-sets-other-flags", VPN + "services.tailscale.extraSetFlags = [ @ ];", '"--ssh"', "", "extraSetFlags"),
    ("nixos-routes-too", VPN + "services.tailscale.useRoutingFeatures = @;", '"both"', '"none"', "useRoutingFeatures"),
    ("other-interface", VPN + "services.tailscale.interfaceName = @;", '"ts0"', '"tailscale0"', "must be tailscale0"),
    ("two-firewalls", ZONES + "networking.firewall.enable = @;", "true", "false", "would have to pass both"),
    ("nftables-flushes", ZONES + "networking.nftables = { enable = true; flushRuleset = @; };", "true", "false", "flushRuleset"),
    ("nginx-everywhere", PROXY + NGINX + "services.nginx.defaultListenAddresses = [ @ ];",
     '"0.0.0.0"', '"192.168.15.2"', "on every address"),
    ("vhost-everywhere", PROXY + NGINX + 'services.nginx = { defaultListenAddresses = [ "192.168.15.2" ]; '
     "virtualHosts.a.listen = [ { addr = @; port = 80; } ]; };", '"[::]"', '"127.0.0.1"', "on every address"),
    ("both-everywhere", PROXY + NGINX + 'services.nginx.defaultListenAddresses = [ "192.168.15.2" ]; '
     "kernelcore.network.proxy.nginx-tailscale.listen = @;", '"all"', '"tailnet"', "on every address"),
    ("same-ports", PROXY + NGINX + "kernelcore.network.proxy.nginx-tailscale = { httpPort = 8080; httpsPort = @; };",
     "443", "8443", "on every address"),
)  # fmt: skip

# (what is said, the module, words of it, what ends it)
WARNED = (
    ("lan-access-of-no-exit-node", VPN + "kernelcore.network.vpn.tailscale.exitNodeAllowLANAccess = @;",
     "true", "false", "means nothing without useExitNodes"),
    ("admin-zone-of-everybody", ZONES + "kernelcore.network.security.firewall-zones.zones.admin.allowedIPs = [ @ ];",
     '"100.64.0.0/10"', '"100.64.0.10"', "TS205"),
    ("empty-zone", ZONES + "kernelcore.network.security.firewall-zones.zones.dmz = { @ };",
     "", 'interfaces = [ "eth0" ];', "set kernelcore.tsstack.uplink"),
    ("port-of-the-other-firewall", ZONES + "networking.firewall.allowedTCPPorts = [ 22 443 @ ];", "8096", "", "TCP 8096"),
    ("ssh-of-the-other-firewall", ZONES + 'kernelcore.network.security.firewall-zones.zones.a = { interfaces = [ "eth0" ]; '
     "allowedServices = [ @ ]; }; networking.firewall.allowedTCPPorts = [ 22 ];", '"dns"', '"ssh"', "TCP 22"),
    ("range-of-a-zone", ZONES + 'kernelcore.network.security.firewall-zones.zones.a = { interfaces = [ "eth0" ]; '
     "allowedTCPPorts = [ @ ]; }; networking.firewall.allowedTCPPorts = [ 8050 ];", '"8051-8100"', '"8000-8100"', "TCP 8050"),
    ("proxy-behind-nixos-firewall", PROXY + "networking.firewall.interfaces.tailscale0.allowedTCPPorts = [ @ ];",
     "", "443", "lets nobody reach the proxy"),
    ("nobody-let-in", PROXY + ZONES + "kernelcore.network.proxy.nginx-tailscale.services.wiki = { upstreamPort = 1; "
     "enableAuth = true; allow = [ @ ]; };", "", '"tag:client"', "nobody is let in"),
    ("tuning-of-the-other-nginx", PROXY + ZONES + "services.nginx.appendConfig = @;", '"worker_processes auto;"', '""',
     "appendConfig is for NixOS's nginx"),
    ("resolved-for-everything", 'kernelcore.network.dns.split."a.example" = [ "10.0.0.1" ]; services.resolved.extraConfig = @;',
     '"[Resolve]\\nDNS=100.100.100.100"', '"Cache=no"', "instead of it"),
    ("unknown-firewall-mode", VPN + "systemd.services.tailscaled.environment.TS_DEBUG_FIREWALL_MODE = @;",
     '"true"', '"nftables"', "does not know"),
)  # fmt: skip

# All warnings must be the expected ones only, so what each case needs beside is switched on.
_NO_SOPS = {"sops-nix-not-there"}


def _cases() -> list[Case]:
    made = []
    for name, module, wrong, right, _ in (*REFUSED, *WARNED):
        for kind, value in (("wrong", wrong), ("right", right)):
            text = "{ config, lib, pkgs, ... }: { imports = [ { " + HOST + " } " + _split(module.replace("@", value)) + " ]; }"
            made.append(Case(f"{name}-{kind}", text, with_sops=name not in _NO_SOPS))
    return made


def _split(text: str) -> str:
    """Each assignment as a module of its own, since a set in Nix may not say one thing twice."""
    parts, depth, start, quoted = [], 0, 0, False
    for index, sign in enumerate(text):
        quoted ^= sign == '"' and text[index - 1] != "\\"
        if quoted:
            continue
        depth += (sign in "{[(") - (sign in "}])")
        if sign == ";" and depth == 0:
            parts.append("{ " + text[start : index + 1].strip() + " }")
            start = index + 1
    return " ".join(parts)


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return answers(library, _cases(), tmp_path_factory.mktemp("contradictions"))


@pytest.mark.parametrize(("name", "words"), [(each[0], each[4]) for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_a_contradiction_is_refused(name: str, words: str, evaluated: dict[str, dict[str, Any]]) -> None:
    wrong, right = evaluated[f"{name}-wrong"], evaluated[f"{name}-right"]
    assert not wrong["thrown"]
    assert not right["thrown"]
    assert [words in each for each in wrong["refused"]] == [True]
    assert all(each.startswith("tsstack: ") for each in wrong["refused"])
    assert right["refused"] == []


@pytest.mark.parametrize(("name", "words"), [(each[0], each[4]) for each in WARNED], ids=[each[0] for each in WARNED])
def test_what_is_hardly_meant_is_said(name: str, words: str, evaluated: dict[str, dict[str, Any]]) -> None:
    wrong, right = evaluated[f"{name}-wrong"], evaluated[f"{name}-right"]
    assert not wrong["thrown"]
    assert not right["thrown"]
    assert wrong["refused"] == right["refused"] == []
    assert [words in each for each in wrong["warnings"]] == [True]
    assert right["warnings"] == []


def test_every_assertion_is_tested() -> None:
    text = (Path(__file__).resolve().parents[2] / "modules" / "contradictions.nix").read_text()
    assert text.count("(refuse (") <= len({each[4] for each in REFUSED})
    assert text.count(" warn ") - text.count("warn = ") <= len(WARNED)
