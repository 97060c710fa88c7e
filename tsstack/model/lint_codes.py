"""The codes of contradictions in zones and in the proxy."""

from __future__ import annotations

from tsstack.model.code import declare

EMPTY_ZONE = declare(
    "TS201",
    "warning",
    "No packet can reach a zone",
    "The zone lists neither interfaces nor sources, so nothing ever falls into it and nothing that it "
    "opens is open.",
    "guests: {services: [dns]}",
    "guests: {interfaces: [br-guest], services: [dns]}",
)
SHADOWED_ZONE = declare(
    "TS202",
    "warning",
    "Other zones take everything from a zone",
    "Source zones are asked before interface zones, longer prefixes first. All that this zone lists "
    "belongs to a more exact entry of other zones, so no packet is left for it.",
    "a: {sources: [10.0.0.0/24]}\nb: {sources: [10.0.0.0/25, 10.0.0.128/25]}",
    "a: {sources: [10.0.0.0/24]}\nb: {sources: [10.0.1.0/24]}",
)
INTERFACE_TWICE = declare(
    "TS203",
    "error",
    "An interface belongs to two zones",
    "A packet falls into one zone. An exact name may stand beside a pattern of another zone (`eth0` "
    "beside `eth*`), and a longer pattern beside a shorter: the more exact one wins. The same entry in "
    "two zones has no winner.",
    "dmz: {interfaces: [eth0]}\ninternal: {interfaces: [eth0, tailscale0]}",
    "dmz: {interfaces: [eth0]}\ninternal: {interfaces: [tailscale0]}",
)
SOURCE_TWICE = declare(
    "TS204",
    "error",
    "A source network belongs to two zones",
    "Of overlapping networks the longer prefix wins, so a host may be taken out of its network's zone. "
    "The same network in two zones has no winner.",
    "a: {sources: [10.0.0.0/24]}\nb: {sources: [10.0.0.0/24]}",
    "a: {sources: [10.0.0.0/24]}\nb: {sources: [10.0.0.7/32]}",
)
ADMIN_SWALLOWS_TAILNET = declare(
    "TS205",
    "error",
    "The admin zone takes in the whole tailnet",
    "The zone of preset `admin` is for the operators' own machines. With 100.64.0.0/10, "
    "fd7a:115c:a1e0::/48, 0.0.0.0/0, ::/0 or the interface tailscale0 in it, every node of the tailnet "
    "(or everybody) has every port. If that is meant, say so in a zone with another name.",
    "admin: {sources: [100.64.0.0/10]}",
    "admin: {sources: [100.64.0.10/32]}",
)
TAILNET_WIDE_OPEN = declare(
    "TS206",
    "warning",
    "Every port is open to the whole tailnet",
    "A zone with `allow: all` takes in all nodes of the tailnet, also those that are shared in or tagged."
    " Name the ports, or the machines.",
    "internal: {interfaces: [tailscale0], allow: all}",
    "internal: {interfaces: [tailscale0], services: [ssh, https]}",
)
EXPOSED = declare(
    "TS207",
    "warning",
    "Every port is open towards the internet",
    "A zone with `allow: all` holds the uplink, or takes in every source address. Each port that any "
    "program of this host listens on is then open to whoever can reach it.",
    "dmz: {interfaces: [eth0], allow: all}",
    "dmz: {interfaces: [eth0], tcp: [80, 443]}",
)
UNKNOWN_SERVICE = declare(
    "TS208",
    "error",
    "A service has no known ports",
    "The name is neither well known nor in `firewall.services`.",
    "dmz: {services: [htps]}",
    "dmz: {services: [https]}",
)
UNKNOWN_ZONE = declare(
    "TS209",
    "error",
    "A forward rule names no zone",
    "`from` and `to` are names of `firewall.zones`.",
    "forward:\n  - {from: intern, to: dmz, allow: all}",
    "forward:\n  - {from: internal, to: dmz, allow: all}",
)
SERVICE_SHADOWS = declare(
    "TS210",
    "info",
    "A service hides a well-known one",
    "A name in `firewall.services` wins over the well-known ports of that name, in every zone.",
    "services: {ssh: [tcp/2222]}",
    "services: {my-ssh: [tcp/2222]}",
)
NO_WAY_IN = declare(
    "TS211",
    "warning",
    "No zone opens SSH",
    "No zone opens port 22 or everything, and Tailscale SSH is off. Once the sessions that are open now "
    "end, nobody may get in again. An SSH server on another port is not seen by this check.",
    "zones:\n  dmz: {interfaces: [eth0], tcp: [443]}",
    "zones:\n"
    "  dmz: {interfaces: [eth0], tcp: [443]}\n"
    "  internal: {interfaces: [tailscale0], services: [ssh]}",
)
POLICY_ACCEPT = declare(
    "TS212",
    "warning",
    "What no zone opens is open",
    "With `default_policy: accept` the zones only count and log; nothing is closed.",
    "firewall: {default_policy: accept}",
    "firewall: {default_policy: drop}",
)
PROXIED_PORT_CLOSED = declare(
    "TS213",
    "warning",
    "A served port is closed to the tailnet",
    "The proxy serves on a port that no zone of the tailnet opens. A zone is the tailnet's if it lists "
    "tailscale0 or sources within 100.64.0.0/10 or fd7a:115c:a1e0::/48.",
    "proxy: {services: {db: {upstream: 5432, protocol: tcp}}}\n"
    "firewall:\n"
    "  zones: {internal: {interfaces: [tailscale0], services: [ssh]}}",
    "proxy: {services: {db: {upstream: 5432, protocol: tcp}}}\n"
    "firewall:\n"
    "  zones: {internal: {interfaces: [tailscale0], services: [ssh, postgresql]}}",
)
BOUND_TO_TAILSCALE = declare(
    "TS214",
    "info",
    "A source zone is bound to tailscale0",
    "Addresses of the tailnet are believed only on tailscale0. Anywhere else anyone could use them as a "
    "false sender (a LAN neighbour, for instance).",
    "admin: {sources: [100.64.0.10/32]}    # on eth0 too?",
    "admin: {sources: [100.64.0.10/32]}    # on tailscale0 only",
)
FORWARD_NOTHING = declare(
    "TS215",
    "warning",
    "A forward rule lets nothing pass",
    "The rule lists no services and no ports, and does not allow all.",
    "- {from: internal, to: dmz}",
    "- {from: internal, to: dmz, services: [https]}",
)
LISTS_BESIDE_ALL = declare(
    "TS216",
    "info",
    "Ports are listed beside `allow: all`",
    "The zone opens everything, so the lists of ports and services mean nothing.",
    "admin: {sources: [100.64.0.10/32], allow: all, tcp: [22]}",
    "admin: {sources: [100.64.0.10/32], allow: all}",
)
IN_NO_ZONE = declare(
    "TS217",
    "info",
    "An interface of a router belongs to no zone",
    "This host forwards, and it has an interface that no zone lists. What comes from there to this host "
    "gets the default policy; what it sends on to other networks is left alone, but for isolated zones. "
    "Bridges and links of containers and virtual machines are not named here: their engines filter them.",
    "# the host has eth0 and eth1\nzones: {dmz: {interfaces: [eth0]}}",
    "zones: {dmz: {interfaces: [eth0]}, lan: {interfaces: [eth1], services: [ssh]}}",
)
PORT_OF_A_BRIDGE = declare(
    "TS218",
    "warning",
    "A zone or the uplink names the port of a bridge or bond",
    "What comes in by a port of a bridge, a bond or a team is seen by the firewall as its master's, and what "
    "leaves is sent to the master: the port's own name matches nothing, so the zone opens nothing, and shuts "
    "off nothing. A member of a VRF is seen as the VRF when something comes in, and by its own name when "
    "something is sent on: its zone needs both.",
    "# the host has guest0, a port of br-guest\nzones: {isolated: {interfaces: [guest0]}}",
    "zones: {isolated: {interfaces: [br-guest]}}",
)
NO_TAILNET = declare(
    "TS301",
    "error",
    "The proxy needs the tailnet's name",
    "Virtual hosts and certificates are named after the tailnet (MagicDNS suffix, or Headscale's "
    "base_domain).",
    "host: {name: kernelcore}\nproxy: {services: {wiki: {upstream: 8000}}}",
    "host: {name: kernelcore, tailnet: your-tailnet.ts.net}\nproxy: {services: {wiki: {upstream: 8000}}}",
)
SAME_NAME = declare(
    "TS302",
    "error",
    "Two services have one name",
    "Both would be one virtual host; nginx would serve the first and drop the other. Names are compared "
    "without regard to case.",
    "a: {upstream: 1, subdomain: x}\nb: {upstream: 2, subdomain: x}",
    "a: {upstream: 1, subdomain: x}\nb: {upstream: 2, subdomain: y}",
)
SAME_PATH = declare(
    "TS303",
    "error",
    "Two services have one path",
    "Both would be one location. Paths are compared without the slash at the end.",
    "a: {upstream: 1, path: /x}\nb: {upstream: 2, path: /x/}",
    "a: {upstream: 1, path: /x}\nb: {upstream: 2, path: /y}",
)
SAME_PORT = declare(
    "TS304",
    "error",
    "Two listeners want one port",
    "Only one of them could bind it. The proxy's own ports (http_port, https_port, status) and the "
    "monitor's metrics count too.",
    "db: {upstream: 5432, protocol: tcp, port: 443}",
    "db: {upstream: 5432, protocol: tcp}",
)
PORT_NEEDED = declare(
    "TS305",
    "error",
    "A service has no port",
    "With `names: port` each service is told apart by its port alone.",
    "proxy: {names: port, services: {wiki: {upstream: 8000}}}",
    "proxy: {names: port, services: {wiki: {upstream: 8000, port: 8443}}}",
)
SUBDOMAIN_UNRESOLVABLE = declare(
    "TS306",
    "warning",
    "This tailnet does not resolve names below a host",
    "On Tailscale's own control plane wiki.host.tailnet.ts.net does not resolve: clients need the "
    "capability dns-subdomain-resolve, which it does not grant. What works: `names: path` or `port`, "
    "`names: service` (Tailscale Services, with tags), an own domain with split DNS, or Headscale with "
    "extra_records.",
    "host: {name: kernelcore, tailnet: your-tailnet.ts.net}\n"
    "proxy: {names: subdomain, services: {wiki: {upstream: 8000}}}",
    "host: {name: kernelcore, tailnet: your-tailnet.ts.net}\n"
    "proxy: {names: path, services: {wiki: {upstream: 8000}}}",
)
SERVICE_NEEDS_TAGS = declare(
    "TS307",
    "error",
    "Tailscale Services need a tagged host",
    "Only a node with tags may host a service; one that belongs to a person may not.",
    "tailscale: {}\nproxy: {names: service, services: {wiki: {upstream: 8000}}}",
    "tailscale: {tags: [tag:server]}\nproxy: {names: service, services: {wiki: {upstream: 8000}}}",
)
SERVICE_NEEDS_HOSTED = declare(
    "TS308",
    "error",
    "Tailscale Services need Tailscale's control plane",
    "Headscale has no Services. With it, `subdomain` (by extra_records), `path` and `port` work.",
    "tailscale: {login_server: https://hs.example.com}\n"
    "proxy: {names: service, services: {wiki: {upstream: 8000}}}",
    "tailscale: {login_server: https://hs.example.com}\n"
    "proxy: {names: subdomain, tls: local-ca, services: {wiki: {upstream: 8000}}}",
)
TLS_NEEDS_HOSTED = declare(
    "TS309",
    "error",
    "Headscale gives no certificates",
    "Certificates of `tls: tailscale` come through Tailscale's control plane, which answers the ACME "
    "challenge. Headscale does not.",
    "tailscale: {login_server: https://hs.example.com}\n"
    "proxy: {tls: tailscale, services: {wiki: {upstream: 8000}}}",
    "tailscale: {login_server: https://hs.example.com}\n"
    "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}",
)
TLS_COVERS_HOST_ONLY = declare(
    "TS310",
    "warning",
    "The certificate covers the host's own name only",
    "`tailscale cert` gives a certificate for host.tailnet.ts.net, and for no name below it. Browsers "
    "will refuse wiki.host.tailnet.ts.net.",
    "proxy: {names: subdomain, tls: tailscale, services: {wiki: {upstream: 8000}}}",
    "proxy: {names: path, tls: tailscale, services: {wiki: {upstream: 8000}}}",
)
ALLOW_ON_TCP = declare(
    "TS311",
    "error",
    "A TCP service cannot be limited to people",
    "`allow` asks tailscaled who a request comes from, for each HTTP request. A TCP service has no "
    "requests. Limit it by a zone of sources instead.",
    "db: {upstream: 5432, protocol: tcp, allow: [alice@example.com]}",
    "db: {upstream: 5432, protocol: tcp}\n"
    "# and firewall.zones: dba: {sources: [100.64.0.7/32], services: [postgresql]}",
)
HTTP_KEY_ON_TCP = declare(
    "TS312",
    "warning",
    "A key means nothing for a TCP service",
    "The bytes of a TCP service are passed on unread, so nothing about HTTP applies to it.",
    "db: {upstream: 5432, protocol: tcp, rate_limit: 5r/s}",
    "db: {upstream: 5432, protocol: tcp}",
)
HTTP3_NOT_IN_NGINX = declare(
    "TS313",
    "warning",
    "The installed nginx has no HTTP/3",
    "HTTP/3 needs nginx 1.25 or newer, built with it. Debian 12 has 1.22, Debian 13 has 1.26. Until then "
    "HTTP/2 is served.",
    "http3: true    # with nginx 1.22",
    "http3: false",
)
HTTP3_WITHOUT_TLS = declare(
    "TS314",
    "error",
    "HTTP/3 needs TLS",
    "HTTP/3 runs over QUIC, which is always encrypted (RFC 9001).",
    "proxy: {tls: off, http3: true}",
    "proxy: {tls: local-ca, http3: true}",
)
ONLY_BACKUPS = declare(
    "TS315",
    "error",
    "A service has only backup upstreams",
    "A backup serves when all others are down, so there must be another.",
    'wiki: {upstream: "192.168.15.9:8000 backup"}',
    'wiki: {upstream: [8000, "192.168.15.9:8000 backup"]}',
)
LOOP = declare(
    "TS316",
    "warning",
    "A service leads back to the proxy",
    "The upstream is a port of this host that the proxy itself serves: the request would go round until "
    "it fails.",
    "wiki: {upstream: 443}",
    "wiki: {upstream: 8000}",
)
MIXED_SCHEMES = declare(
    "TS317",
    "error",
    "A service mixes http and https upstreams",
    "nginx speaks one of them to all upstreams of a service.",
    'wiki: {upstream: [8000, "https://192.168.15.9:8443"]}',
    'wiki: {upstream: ["https://127.0.0.1:8443", "https://192.168.15.9:8443"]}',
)
KEY_WITHOUT_EFFECT = declare(
    "TS318",
    "info",
    "A key of a service has no effect",
    "It belongs to another name scheme, or to a key that is not set: `path` works with `names: path`, "
    "`subdomain` with `subdomain` or `service`, `port` with `port` or for TCP, `rate_burst` with "
    "`rate_limit`, `verify_upstream` with an https upstream.",
    "proxy: {names: subdomain, services: {wiki: {upstream: 8000, path: /w}}}",
    "proxy: {names: path, services: {wiki: {upstream: 8000, path: /w}}}",
)
HTTP3_PORT_CLOSED = declare(
    "TS319",
    "warning",
    "The UDP port of HTTP/3 is closed to the tailnet",
    "HTTP/3 runs over UDP on `https_port`. No zone of the tailnet opens it, so clients stay with HTTP/2.",
    "internal: {interfaces: [tailscale0], tcp: [443], udp: []}",
    "internal: {interfaces: [tailscale0], tcp: [443], udp: [443]}",
)
NGINX_LACKS_MODULE = declare(
    "TS320",
    "error",
    "The installed nginx lacks a module",
    "TCP services need the stream module (Debian: libnginx-mod-stream); `allow` needs the auth_request "
    "module.",
    "db: {upstream: 5432, protocol: tcp}    # without the module",
    "apt install libnginx-mod-stream",
)
