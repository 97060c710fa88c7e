"""The codes of contradictions in the tailnet, the kernel, DNS, bandwidth and the monitor."""

from __future__ import annotations

from tsstack.model.code import declare

EXIT_NODE_BOTH = declare(
    "TS401",
    "error",
    "An exit node is offered and used at once",
    "tailscaled refuses it: a node that sends its own traffic elsewhere cannot be the exit of others.",
    "advertise: {exit_node: true}\nexit_node: {use: [exit-a]}",
    "exit_node: {use: [exit-a]}",
)
ACCEPTS_OWN_SUBNET = declare(
    "TS402",
    "warning",
    "Routes of others may take over the own subnet",
    "This host routes to a subnet and accepts the routes of others. If another node offers the same "
    "subnet, traffic to the own LAN goes through the tailnet and LAN access is cut.",
    "accept_routes: true\nadvertise: {routes: [192.168.15.0/24]}",
    "accept_routes: false\nadvertise: {routes: [192.168.15.0/24]}",
)
NO_SECRETS_FILE = declare(
    "TS403",
    "error",
    "A secret is named, but there is no secrets file",
    "`{secret: KEY}` is a key of the sops-encrypted file in `secrets.file`.",
    "tailscale: {auth_key: {secret: authkey}}",
    "secrets: {file: secrets.yaml}\ntailscale: {auth_key: {secret: authkey}}",
)
TAGS_WITH_HEADSCALE_KEY = declare(
    "TS404",
    "warning",
    "Headscale refuses tags beside a key",
    "With Headscale the tags come with the pre-auth key (`preauthkeys create --tags`). A node that asks "
    "for tags itself is not enrolled.",
    "tailscale:\n  login_server: https://hs.example.com\n  auth_key: {secret: authkey}\n  tags: [tag:server]",
    "tailscale:\n  login_server: https://hs.example.com\n  auth_key: {secret: authkey}",
)
DEFAULT_ROUTE_AS_SUBNET = declare(
    "TS405",
    "error",
    "A default route is offered as a subnet",
    "Offering 0.0.0.0/0 or ::/0 is being an exit node, which has its own key and its own approval.",
    "advertise: {routes: [0.0.0.0/0]}",
    "advertise: {exit_node: true}",
)
TAILNET_AS_SUBNET = declare(
    "TS406",
    "error",
    "A subnet route lies within the tailnet's own range",
    "100.64.0.0/10 and fd7a:115c:a1e0::/48 are the addresses of the nodes; offering a part of them would "
    "draw their traffic here.",
    "advertise: {routes: [100.64.0.0/24]}",
    "advertise: {routes: [192.168.15.0/24]}",
)
OWN_EXIT_NODE = declare(
    "TS407",
    "error",
    "The host is its own exit node",
    "A node cannot send its traffic through itself; name other nodes of the tailnet.",
    "host: {name: a}\ntailscale: {exit_node: {use: [a]}}",
    "host: {name: a}\ntailscale: {exit_node: {use: [b]}}",
)
LISTED_TWICE = declare(
    "TS408",
    "warning",
    "An entry is listed twice",
    "The second mention changes nothing; perhaps another entry was meant.",
    "use: [exit-a, exit-a]",
    "use: [exit-a, exit-b]",
)
SHIELDS_UP = declare(
    "TS409",
    "warning",
    "The host refuses what the file serves",
    "tailscaled then refuses every connection from the tailnet, so neither the proxy nor any zone of the "
    "tailnet is reached.",
    "tailscale: {shields_up: true}\nproxy: {services: {wiki: {upstream: 8000}}}",
    "tailscale: {shields_up: false}\nproxy: {services: {wiki: {upstream: 8000}}}",
)
NETFILTER_OFF = declare(
    "TS410",
    "warning",
    "Nothing hides the tailnet's addresses",
    "With `netfilter: off`, and with `nodivert` where nobody jumps to its chains, tailscaled does not "
    "masquerade, so answers from the subnets and the internet do not find back. With a `firewall` section "
    "tsstack masquerades instead, while `advertise.snat` is on; without one nobody does. Leave netfilter on, "
    "write a firewall section, or let a forward rule masquerade.",
    "tailscale: {netfilter: off, advertise: {exit_node: true}}",
    "tailscale: {netfilter: on, advertise: {exit_node: true}}",
)
PLAIN_LOGIN_SERVER = declare(
    "TS411",
    "warning",
    "The login server is asked without TLS",
    "Over plain HTTP to a host that is not local, others on the way can see and hinder the login. The "
    "tunnel's own keys stay safe.",
    "login_server: http://hs.example.com",
    "login_server: https://hs.example.com",
)
OTHER_TAILNET = declare(
    "TS412",
    "warning",
    "The host is on another tailnet than the file says",
    "tailscaled reports another MagicDNS suffix or control server. Changing the control server means a "
    "new login.",
    "host: {name: kernelcore, tailnet: old.ts.net}    # tailscaled says new.ts.net",
    "host: {name: kernelcore, tailnet: new.ts.net}",
)
NO_AUTH_KEY = declare(
    "TS413",
    "warning",
    "The host is not enrolled and there is no key",
    "tailscaled needs a login, and the file names no `auth_key`.",
    "tailscale: {}",
    "tailscale: {auth_key: {secret: authkey}}",
)
FORWARDING_OFF = declare(
    "TS501",
    "error",
    "Forwarding is switched off, but this host routes",
    "An exit node or subnet router must forward, and so must a host with rules in `firewall.forward`. "
    "tsstack sets the parameters itself, and an own key wins over that: nothing would go through this host.",
    "tailscale: {advertise: {exit_node: true}}\nkernel: {sysctl: {net.ipv4.ip_forward: 0}}",
    "tailscale: {advertise: {exit_node: true}}",
)
RP_FILTER_STRICT = declare(
    "TS502",
    "error",
    "Strict reverse path filtering breaks exit nodes",
    "Answers come back by another interface than the route says, and mode 1 drops them. Mode 2 (loose) is"
    " needed.",
    "kernel: {sysctl: {net.ipv4.conf.all.rp_filter: 1}}",
    "kernel: {sysctl: {net.ipv4.conf.all.rp_filter: 2}}",
)
SYSCTL_TWICE = declare(
    "TS503",
    "error",
    "A kernel parameter is written in two spellings",
    "sysctl(8) takes dots and slashes for the same parameter; only one value can win.",
    "sysctl: {net.core.rmem_max: 1, net/core/rmem_max: 2}",
    "sysctl: {net.core.rmem_max: 2}",
)
SYSCTL_WITHOUT_RETURN = declare(
    "TS507",
    "error",
    "A kernel parameter cannot be taken back",
    "With `disable_ipv6` at 1 the kernel deletes the IPv6 addresses and routes of the interface, those of "
    "the tailnet too (kernel.org, ip-sysctl, disable_ipv6); writing 0 again does not bring them back, so "
    "no rollback could. `stable_secret` cannot be unset once it is written. `net.ipv4.route.flush` and "
    "`net.ipv6.route.flush` act once and hold no value. `kernel.hostname` and `kernel.domainname` are those "
    "of whoever asks: the units that bring a host up and undo a change have names of their own "
    "(uts_namespaces(7)). "
    "Write such a parameter into /etc/sysctl.d and reboot, with another way into the machine at hand.",
    "kernel: {sysctl: {net.ipv6.conf.all.disable_ipv6: 1}}",
    "# in /etc/sysctl.d/90-local.conf, and a reboot: net.ipv6.conf.all.disable_ipv6 = 1\n"
    "kernel: {profile: throughput}",
)
SPLIT_COVERS_LOGIN = declare(
    "TS504",
    "error",
    "The login server's name is asked inside the tailnet",
    "To log in, the name of the login server must resolve; but its domain is sent to a DNS server that is"
    " reached only after the login.",
    "tailscale: {login_server: https://hs.example.com}\ndns: {split: {example.com: [100.100.100.100]}}",
    "tailscale: {login_server: https://hs.example.com}\ndns: {split: {tail.example.com: [100.100.100.100]}}",
)
BURST_TOO_SMALL = declare(
    "TS505",
    "warning",
    "The burst is too small for the rate",
    "tc-tbf(8): a bucket must hold what passes between two timer ticks (here 1 ms) and at least one whole"
    " packet, or the rate is never reached.",
    "bandwidth: {eth0: {egress: 1gbit, burst: 32kbit}}",
    "bandwidth: {eth0: {egress: 1gbit, burst: 1mb}}",
)
LIMIT_NOT_HELD = declare(
    "TS508",
    "error",
    "A bandwidth limit is beyond what the kernel's token bucket can hold",
    "tc-tbf(8) counts its queue (the rate times `latency`, and the burst) in 32 bits of bytes: 4 GiB. "
    "It counts the time that a burst takes at the rate in 32 bits of 64 ns: 274 s at most. And it counts "
    "whole bytes per second. Outside of that the kernel would hold another limit than the file says.",
    "bandwidth: {eth0: {egress: 10gbit, latency: 10s}}",
    "bandwidth: {eth0: {egress: 10gbit, latency: 400ms}}",
)
PING_UNANSWERED = declare(
    "TS509",
    "warning",
    "A zone answers pings, and the kernel does not",
    "`ping` of a zone lets echo requests in. Whether they are answered is the kernel's: with "
    "`icmp_echo_ignore_all` it answers nobody, whatever the zones say. IPv4 and IPv6 have one each.",
    "firewall: {zones: {dmz: {interfaces: [eth0]}}}\nkernel: {sysctl: {net.ipv4.icmp_echo_ignore_all: 1}}",
    "firewall: {zones: {dmz: {interfaces: [eth0], ping: false}}}\n"
    "kernel: {sysctl: {net.ipv4.icmp_echo_ignore_all: 1}}",
)
ONE_FAMILY_NOT_FORWARDED = declare(
    "TS510",
    "warning",
    "The forward rules hold for one IP version alone",
    "A rule of `firewall.forward` lists zones and ports, of both IP versions. With "
    "`net.ipv6.conf.all.forwarding: 0` the kernel forwards nothing of IPv6, with `net.ipv4.ip_forward: 0` "
    "nothing of IPv4, whatever the rules say. Without the key tsstack switches it on.",
    "firewall:\n  zones: {dmz: {interfaces: [eth0]}, lan: {interfaces: [eth1]}}\n"
    "  forward: [{from: lan, to: dmz, tcp: [443]}]\n"
    "kernel: {sysctl: {net.ipv6.conf.all.forwarding: 0}}",
    "firewall:\n  zones: {dmz: {interfaces: [eth0]}, lan: {interfaces: [eth1]}}\n"
    "  forward: [{from: lan, to: dmz, tcp: [443]}]",
)
INTERFACE_MISSING = declare(
    "TS506",
    "warning",
    "An interface is not on this host",
    "It may come later (a bridge, a VPN) and is then covered at once. A typo looks the same.",
    "zones: {dmz: {interfaces: [ehh0]}}",
    "zones: {dmz: {interfaces: [eth0]}}",
)
PACE = declare(
    "TS601",
    "warning",
    "The monitor's times contradict each other",
    "Probes on the path in use must be at least as frequent as reports, and a path must be healthy for "
    "longer (`restore_after`) than it takes to call it bad (`failures` times `probe`), or it is left and "
    "taken again in turn.",
    "monitor: {probe: 10s, failures: 30, restore_after: 1m}",
    "monitor: {probe: 1s, failures: 3, restore_after: 2m}",
)
NOTHING_TO_FAIL_OVER = declare(
    "TS602",
    "info",
    "There is nothing to fail over to",
    "`failover: true` moves along `tailscale.exit_node.use`, which names fewer than two nodes.",
    "tailscale: {exit_node: {use: [exit-a]}}\nmonitor: {failover: true}",
    "tailscale: {exit_node: {use: [exit-a, exit-b]}}\nmonitor: {failover: true}",
)
LOSS_NEVER_BAD = declare(
    "TS603",
    "warning",
    "No loss makes a path bad",
    "With `max_loss: 100%` a path that loses nearly everything counts as good; only `failures` in a row "
    "count.",
    "monitor: {max_loss: 100%}",
    "monitor: {max_loss: 5%}",
)
METRICS_EXPOSED = declare(
    "TS604",
    "warning",
    "The metrics are open on every address",
    "They name peers, paths and services. Listen on loopback or on the tailnet's address.",
    'monitor: {metrics: "0.0.0.0:9464"}',
    'monitor: {metrics: "127.0.0.1:9464"}',
)
OWN_LAN_BEHIND_EXIT_NODE = declare(
    "TS414",
    "warning",
    "An exit node takes the own networks with it",
    "While an exit node is in use tailscaled sends all that leaves through the tunnel, what goes to the "
    "networks that this host routes for too, unless `allow_lan_access` is on. Whoever asks for the subnet "
    "then gets no answer.",
    "advertise: {routes: [192.168.15.0/24]}\nexit_node: {use: [exit-a]}",
    "advertise: {routes: [192.168.15.0/24]}\nexit_node: {use: [exit-a], allow_lan_access: true}",
)
