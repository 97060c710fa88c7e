"""For each option: what a NixOS user writes, and the file that says the same.

The file is written as a person would: without what is a default there. So every case also shows that the modules'
defaults are the file's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from nix_engine import Case

_NUMBERS = count()
HOST = 'networking.hostName = "kernelcore";'


@dataclass(frozen=True, slots=True)
class Meaning:
    """The options that a case is about (below `kernelcore.`), the case, and the file it must mean."""

    options: tuple[str, ...]
    case: Case
    file: str


@dataclass(frozen=True, slots=True)
class Area:
    """Where a table's options live, and how its two columns become a module and a file."""

    prefix: str
    module: str
    file: str

    def meanings(self, table: tuple[tuple[str, str, str], ...]) -> list[Meaning]:
        made = []
        for names, nix, file in table:
            options = tuple(f"{self.prefix}.{name}" for name in names.split())
            module = "{ config, lib, pkgs, ... }: { " + HOST + " " + self.module.replace("@", nix) + " }"
            case = Case(f"{self.prefix}-{next(_NUMBERS)}", module)
            made.append(Meaning(options, case, self.file.replace("@", file)))
        return made


VPN = Area(
    "network.vpn.tailscale",
    "kernelcore.network.vpn.tailscale = { enable = true; @ }; kernelcore.secrets.tailscale.enable = false;",
    "host: {name: kernelcore}\ntailscale: {@}",
).meanings(
    (
        ("enable", "", ""),
        ("loginServer", 'loginServer = "https://hs.example.com";', "login_server: 'https://hs.example.com'"),
        ("authKeyFile", 'authKeyFile = "/run/keys/ts";', "auth_key: {file: /run/keys/ts}"),
        ("useAuthKeyFile", 'authKeyFile = "/run/keys/ts"; useAuthKeyFile = false;', ""),
        ("tags", 'tags = [ "tag:server" "tag:desktop" ];', "tags: ['tag:server', 'tag:desktop']"),
        ("acceptDNS", "acceptDNS = false;", "accept_dns: false"),
        ("enableMagicDNS", "acceptDNS = false; enableMagicDNS = false;", "accept_dns: false"),
        ("acceptRoutes", "acceptRoutes = true;", "accept_routes: true"),
        ("advertiseRoutes", 'advertiseRoutes = [ "192.168.15.0/24" "fd00:15::/64" ];',
         "advertise: {routes: [192.168.15.0/24, 'fd00:15::/64']}"),
        ("enableSubnetRouter", 'advertiseRoutes = [ "192.168.15.0/24" ]; enableSubnetRouter = false;', ""),
        ("enableSubnetRouter", 'advertiseRoutes = [ "10.0.0.0/8" ]; enableSubnetRouter = true;',
         "advertise: {routes: [10.0.0.0/8]}"),
        ("snatSubnetRoutes", "snatSubnetRoutes = false;", "advertise: {snat: false}"),
        ("exitNode", "exitNode = true;", "advertise: {exit_node: true}"),
        ("useExitNodes", 'useExitNodes = [ "exit-a" "exit-b" ];', "exit_node: {use: [exit-a, exit-b]}"),
        ("exitNodeAllowLANAccess", 'useExitNodes = [ "exit-a" ]; exitNodeAllowLANAccess = true;',
         "exit_node: {use: [exit-a], allow_lan_access: true}"),
        ("exitNodeFallback", 'useExitNodes = [ "exit-a" ]; exitNodeFallback = "direct";',
         "exit_node: {use: [exit-a], otherwise: direct}"),
        ("ssh", "ssh = true;", "ssh: true"),
        ("shieldsUp", "shieldsUp = true;", "shields_up: true"),
        ("netfilter", 'netfilter = "nodivert";', "netfilter: nodivert"),
        ("operator", 'operator = "alice";', "operator: alice"),
    )
) + Area(
    "network.vpn.tailscale",
    "kernelcore.network.vpn.tailscale = { enable = true; @ }; kernelcore.secrets.tailscale.enable = false;",
    "host: {name: @}\ntailscale: {}",
).meanings((("hostname", 'hostname = "gw1";', "gw1"),))

PROXY = Area(
    "network.proxy.nginx-tailscale",
    'kernelcore.network.proxy.nginx-tailscale = { enable = true; tailnetDomain = "t.ts.net"; @ };',
    "host: {name: kernelcore, tailnet: t.ts.net}\nproxy: {@}",
).meanings(
    (
        ("enable tailnetDomain", "", ""),
        ("hostname", 'hostname = "kernelcore";', ""),
        ("package", "package = pkgs.nginxMainline;", ""),
        ("names", 'names = "path";', "names: path"),
        ("tls", 'tls = "local-ca";', "tls: local-ca"),
        ("tls", 'tls = "off";', "tls: off"),
        ("certificate certificateKey", 'certificate = "/var/lib/acme/a/chain.pem"; certificateKey = "/var/lib/acme/a/key.pem";',
         "tls: {certificate: /var/lib/acme/a/chain.pem, key: /var/lib/acme/a/key.pem}"),
        ("listen", 'listen = "all";', "listen: all"),
        ("listen", 'listen = [ "192.168.15.2" "fd00::2" ];', "listen: [192.168.15.2, 'fd00::2']"),
        ("enableHTTP3", "enableHTTP3 = true;", "http3: true"),
        ("httpPort", "httpPort = 8080;", "http_port: 8080"),
        ("httpsPort", "httpsPort = 8443;", "https_port: 8443"),
        ("enableConnectionPooling", "enableConnectionPooling = false;", "keepalive: 0"),
        ("enableConnectionPooling", "enableConnectionPooling = true;", "keepalive: 32"),
        ("poolSize", "poolSize = 128;", "keepalive: 128"),
        ("workerConnections", "workerConnections = 16384;", "worker_connections: 16384"),
        ("status", 'status = "127.0.0.1:9181";', "status: '127.0.0.1:9181'"),
        ("allowedUsers", 'allowedUsers = [ "alice@" ]; services.wiki = { upstreamPort = 8000; enableAuth = true; };',
         "services: {wiki: {upstream: 8000, allow: ['alice@']}}"),
        ("services", "services = { a.upstreamPort = 8000; b.upstreamPort = 8001; };",
         "services: {a: {upstream: 8000}, b: {upstream: 8001}}"),
    )
)

SERVICE = Area(
    "network.proxy.nginx-tailscale.services.<name>",
    'kernelcore.network.proxy.nginx-tailscale = { enable = true; tailnetDomain = "t.ts.net"; '
    "services.wiki = { upstreamPort = 8000; @ }; };",
    "host: {name: kernelcore, tailnet: t.ts.net}\nproxy: {services: {wiki: {upstream: 8000@}}}",
).meanings(
    (
        ("enable", "enable = false;", ", enabled: false"),
        ("upstreamPort", "", ""),
        ("protocol", 'protocol = "tcp";', ", protocol: tcp"),
        ("subdomain", 'subdomain = "llama";', ", subdomain: llama"),
        ("path", 'path = "/w";', ", path: /w"),
        ("port", "port = 8443;", ", port: 8443"),
        ("rateLimit", 'rateLimit = "20r/s";', ", rate_limit: 20r/s"),
        ("rateBurst", 'rateLimit = "20r/s"; rateBurst = 5;', ", rate_limit: 20r/s, rate_burst: 5"),
        ("maxBodySize", 'maxBodySize = "500M";', ", max_body_size: 500M"),
        ("maxBodySize", "maxBodySize = 0;", ", max_body_size: 0"),
        ("connectTimeout", 'connectTimeout = "1.5s";', ", connect_timeout: 1500ms"),
        ("readTimeout", 'readTimeout = "10m";', ", read_timeout: 10m"),
        ("websockets", "websockets = false;", ", websockets: false"),
        ("buffering", "buffering = false;", ", buffering: false"),
        ("enableAuth", "enableAuth = true;", ", allow: []"),
        ("allow", 'allow = [ "alice@example.com" "tag:client" ];', ", allow: ['alice@example.com', 'tag:client']"),
        ("verifyUpstream", "verifyUpstream = true;", ", verify_upstream: true"),
    )
) + Area(
    "network.proxy.nginx-tailscale.services.<name>",
    'kernelcore.network.proxy.nginx-tailscale = { enable = true; tailnetDomain = "t.ts.net"; services.wiki = { @ }; };',
    "host: {name: kernelcore, tailnet: t.ts.net}\nproxy: {services: {wiki: {upstream: @}}}",
).meanings(
    (
        ("upstream", 'upstream = [ 8000 "192.168.15.9:8000 backup" ];', "[8000, '192.168.15.9:8000 backup']"),
        ("upstream", 'upstreamPort = 1; upstream = [ "unix:/run/app.sock" ];', "['unix:/run/app.sock']"),
    )
)

SERVICES = Area(
    "network.proxy.tailscale-services",
    'kernelcore.network.proxy.tailscale-services = { enable = true; tailnetDomain = "t.ts.net"; @ };'
    " kernelcore.secrets.tailscale.enable = false;",
    "host: {name: kernelcore, tailnet: t.ts.net}\ntailscale: {}\nproxy: {services: {@}}",
).meanings(
    (
        ("enable tailnetDomain services", "",
         "ollama: {upstream: 11434, buffering: false}, db: {upstream: 5432, protocol: tcp}, "
         "llamacpp: {upstream: 8080, subdomain: llama, buffering: false}"),
        ("services", 'services = [ "ollama" ];', "ollama: {upstream: 11434, buffering: false}"),
    )
)

FIREWALL = Area(
    "network.security.firewall-zones",
    'kernelcore.network.security.firewall-zones = { enable = true; zones.guests.interfaces = [ "br0" ]; @ };',
    "host: {name: kernelcore}\nfirewall: {zones: {guests: {interfaces: [br0]}}, @}",
).meanings(
    (
        ("enable", "", "services: {ollama: [tcp/11434], llamacpp: [tcp/8080]}"),
        ("defaultPolicy", 'defaultPolicy = "reject";',
         "default_policy: reject, services: {ollama: [tcp/11434], llamacpp: [tcp/8080]}"),
        ("enableLogging", "enableLogging = true;", "log: true, services: {ollama: [tcp/11434], llamacpp: [tcp/8080]}"),
        ("services", 'services = { ollama = [ "tcp/1" ]; app = [ "tcp/8000" "udp/8000-8010" ]; };',
         "services: {ollama: [tcp/1], llamacpp: [tcp/8080], app: [tcp/8000, udp/8000-8010]}"),
        ("forward", 'zones.b.interfaces = [ "br1" ]; forward = [ { from = "guests"; to = "b"; } ];',
         "services: {ollama: [tcp/11434], llamacpp: [tcp/8080]}, forward: [{from: guests, to: b}], @b"),
    )
)
FIREWALL = [
    Meaning(each.options, each.case, each.file.replace("[br0]}}, ", "[br0]}, b: {interfaces: [br1]}}, ").replace(", @b", ""))
    if "@b" in each.file
    else each
    for each in FIREWALL
]

_READY = "services: {ollama: [tcp/11434], llamacpp: [tcp/8080]}"
ZONES = Area(
    "network.security.firewall-zones",
    "kernelcore.network.security.firewall-zones = { enable = true; @ };",
    f"host: {{name: kernelcore}}\nfirewall: {{{_READY}, zones: {{@}}}}",
).meanings(
    (
        ("zones", "", "internal: {interfaces: [tailscale0]}"),
        ("zones", 'zones = { dmz.interfaces = [ "eth0" ]; isolated = { }; };', "dmz: {interfaces: [eth0]}, isolated: {}"),
    )
) + Area(
    "network.security.firewall-zones.zones.<name>",
    'kernelcore.network.security.firewall-zones = { enable = true; zones.a = { interfaces = [ "eth1" ]; @ }; };',
    f"host: {{name: kernelcore}}\nfirewall: {{{_READY}, zones: {{a: {{interfaces: [eth1]@}}}}}}",
).meanings(
    (
        ("interfaces", "", ""),
        ("preset", 'preset = "internal";', ", preset: internal"),
        ("allowedIPs", 'allowedIPs = [ "100.64.0.10" "fd00::/64" ];', ", sources: [100.64.0.10/32, 'fd00::/64']"),
        ("allowedTCPPorts", 'allowedTCPPorts = [ 80 "443" "8000-8100" ];', ", tcp: [80, 443, 8000-8100]"),
        ("allowedTCPPorts", 'preset = "dmz"; allowedTCPPorts = [ ];', ", preset: dmz, tcp: []"),
        ("allowedUDPPorts", "allowedUDPPorts = [ 443 ];", ", udp: [443]"),
        ("allowedServices", 'allowedServices = [ "ssh" "ollama" ];', ", services: [ssh, ollama]"),
        ("allowAllServices", "allowAllServices = true;", ", allow: all"),
        ("allowAllServices", "allowAllServices = false;", ""),
        ("allowPing", "allowPing = false;", ", ping: false"),
        ("enableLogging", "enableLogging = true;", ", log: true"),
    )
) + Area(
    "network.security.firewall-zones.zones.<name>",
    "kernelcore.network.security.firewall-zones = { enable = true; zones = { @ }; };",
    f"host: {{name: kernelcore}}\nfirewall: {{{_READY}, zones: {{@}}}}",
).meanings(
    (("enable", 'a = { enable = false; interfaces = [ "eth1" ]; }; b.interfaces = [ "eth2" ];', "b: {interfaces: [eth2]}"),)
)

PASSAGES = Area(
    "network.security.firewall-zones.forward.*",
    'kernelcore.network.security.firewall-zones = { enable = true; zones = { a.interfaces = [ "eth1" ]; '
    'b.interfaces = [ "eth2" ]; }; forward = [ { from = "a"; to = "b"; @ } ]; };',
    f"host: {{name: kernelcore}}\nfirewall: {{{_READY}, zones: {{a: {{interfaces: [eth1]}}, b: {{interfaces: [eth2]}}}}, "
    "forward: [{from: a, to: b@}]}",
).meanings(
    (
        ("from to", "", ""),
        ("allowedServices", 'allowedServices = [ "https" ];', ", services: [https]"),
        ("allowedTCPPorts", "allowedTCPPorts = [ 8000 ];", ", tcp: [8000]"),
        ("allowedUDPPorts", 'allowedUDPPorts = [ "500-510" ];', ", udp: [500-510]"),
        ("allowAllServices", "allowAllServices = true;", ", allow: all"),
        ("masquerade", "masquerade = true;", ", masquerade: true"),
    )
)

MONITOR = Area(
    "network.monitoring.tailscale",
    "kernelcore.network.monitoring.tailscale = { enable = true; @ };",
    "host: {name: kernelcore}\nmonitor: {@}",
).meanings(
    (
        ("enable", "", ""),
        ("checkInterval", "checkInterval = 60;", "interval: 60s"),
        ("checkInterval", 'checkInterval = "1500ms";', "interval: 1.5s"),
        ("probeInterval", 'probeInterval = "1s";', "probe: 1s"),
        ("maxLatency", "maxLatency = 300;", "max_latency: 300ms"),
        ("maxLatency", 'maxLatency = "1s";', "max_latency: 1s"),
        ("maxPacketLoss", "maxPacketLoss = 20;", "max_loss: 20%"),
        ("maxPacketLoss", "maxPacketLoss = 2.5;", "max_loss: 2.5%"),
        ("failureThreshold", "failureThreshold = 5;", "failures: 5"),
        ("restoreAfter", 'restoreAfter = "5m";', "restore_after: 5m"),
        ("enableAutoFailover", "enableAutoFailover = false;", "failover: false"),
        ("targets targets.*.icmp targets.*.tcp targets.*.https targets.*.dns",
         'targets = [ { icmp = "1.1.1.1"; } { tcp = "192.168.15.9:22"; } { https = "https://example.org/health"; } '
         '{ dns = "example.org"; } ];',
         "targets: [{icmp: 1.1.1.1}, {tcp: '192.168.15.9:22'}, {https: 'https://example.org/health'}, {dns: example.org}]"),
        ("alerts", 'alerts = [ "ntfy://topic" ];', "alerts: ['ntfy://topic']"),
        ("alertCommands", 'alerts = [ "ntfy://topic" ]; alertCommands = [ [ "/bin/page" "--team" ] ];',
         "alerts: ['ntfy://topic', {command: [/bin/page, --team]}]"),
        ("metrics", 'metrics = "127.0.0.1:9464";', "metrics: '127.0.0.1:9464'"),
    )
)

TUNING = Area("network", "kernelcore.network = { @ };", "host: {name: kernelcore}\n@").meanings(
    (
        ("tuning.profile", 'tuning.profile = "throughput";', "kernel: {profile: throughput}"),
        ("tuning.sysctl", 'tuning.sysctl = { "net.core.rmem_max" = 134217728; "net.ipv4.tcp_rmem" = "4096 87380 67108864"; };',
         "kernel: {sysctl: {net.core.rmem_max: 134217728, net.ipv4.tcp_rmem: 4096 87380 67108864}}"),
        ("tuning.udpGro", "tuning.udpGro = false;", "kernel: {udp_gro: false}"),
        ("dns.split", 'dns.split = { "your-tailnet.ts.net" = [ "100.100.100.100" ]; };',
         "dns: {split: {your-tailnet.ts.net: [100.100.100.100]}}"),
        ("bandwidth bandwidth.<name>.egress", 'bandwidth.tailscale0.egress = "10mbit";',
         "bandwidth: {tailscale0: {egress: 10mbit}}"),
        ("bandwidth.<name>.ingress", 'bandwidth.eth0.ingress = "1gbit";', "bandwidth: {eth0: {ingress: 1gbit}}"),
        ("bandwidth.<name>.burst bandwidth.<name>.latency",
         'bandwidth.tailscale0 = { egress = "10mbit"; burst = "32kbit"; latency = "100ms"; };',
         "bandwidth: {tailscale0: {egress: 10mbit, burst: 32kbit, latency: 100ms}}"),
    )
)

_VPN_ON = "kernelcore.network.vpn.tailscale.enable = true; "
SECRETS = Area(
    "secrets.tailscale",
    _VPN_ON + "kernelcore.secrets.tailscale = { @ };",
    "host: {name: kernelcore}\n@",
).meanings(
    (
        ("enable file key", "", "secrets: {file: /etc/nixos/secrets/tailscale.yaml}\ntailscale: {auth_key: {secret: authkey}}"),
        ("enable", "enable = false;", "tailscale: {}"),
        ("file", 'file = "/etc/tsstack/secrets.yaml";',
         "secrets: {file: /etc/tsstack/secrets.yaml}\ntailscale: {auth_key: {secret: authkey}}"),
        ("key", 'key = "preauthkey";',
         "secrets: {file: /etc/nixos/secrets/tailscale.yaml}\ntailscale: {auth_key: {secret: preauthkey}}"),
        ("backend", 'backend = "sops-nix";', "tailscale: {auth_key: {file: /run/secrets/tailscale-authkey}}"),
        ("sopsFile", "sopsFile = ./secrets.yaml;", "tailscale: {auth_key: {file: /run/secrets/tailscale-authkey}}"),
        ("sopsFile backend", 'sopsFile = ./secrets.yaml; backend = "tsstack";',
         "secrets: {file: /etc/nixos/secrets/tailscale.yaml}\ntailscale: {auth_key: {secret: authkey}}"),
        ("extraKeys", 'sopsFile = ./secrets.yaml; extraKeys = [ "api_token" ];',
         "tailscale: {auth_key: {file: /run/secrets/tailscale-authkey}}"),
        ("ageKeyFile", 'ageKeyFile = "/var/lib/sops-nix/key.txt";',
         "secrets: {file: /etc/nixos/secrets/tailscale.yaml}\ntailscale: {auth_key: {secret: authkey}}"),
    )
)

OWN = Area("tsstack", "kernelcore.tsstack = { @ };", "host: {name: kernelcore@}").meanings(
    (
        ("enable", "enable = true;", ""),
        ("uplink", 'enable = true; uplink = "eth0";', ", uplink: eth0"),
        ("settings", 'settings.host.uplink = "eth1";', ", uplink: eth1"),
        ("package", "enable = true; package = pkgs.tsstack;", ""),
    )
) + Area(
    "tsstack",
    'kernelcore.tsstack.uplink = "eth0"; kernelcore.network.security.firewall-zones = { enable = true; zones.dmz = { }; };',
    f"host: {{name: kernelcore, uplink: eth0}}\nfirewall: {{{_READY}, zones: {{dmz: {{interfaces: [eth0]}}}}}}",
).meanings((("uplink", "", ""),))

MEANINGS: list[Meaning] = [
    *VPN, *PROXY, *SERVICE, *SERVICES, *FIREWALL, *ZONES, *PASSAGES, *MONITOR, *TUNING, *SECRETS, *OWN,
]  # fmt: skip

# Options that say nothing in the file, and the test that has them.
BESIDE_THE_FILE = {
    "tsstack.switchOnActivation": "test_nix_units.py",
    "tsstack.confirm": "test_nix_units.py",
    "tsstack.prove": "test_nix_units.py",
    "tsstack.checkAtBuild": "test_nix_units.py",
    "tsstack.file": "read in every test, as text",
    "tsstack.text": "read in every test",
}
