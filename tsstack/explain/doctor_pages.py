"""What `tsstack explain` says of what `tsstack doctor` finds beside the remarks of `ts-status`."""

from __future__ import annotations

from tsstack.explain.status_pages import Remark

FINDINGS = (
    Remark(
        "TS801",
        "error",
        "The file that was named is not there",
        "Everything that rests on it was left out; the live generation was looked at all the same. Without "
        "`-c` the file is /etc/tsstack/tsstack.yaml, and that it is not there is no fault. Faults of a file "
        "that is there have their own codes (TS0xx to TS6xx) and their lines.",
        "there is no /root/tsstack.yaml",
        "tsstack init > /root/tsstack.yaml",
    ),
    Remark(
        "TS802",
        "warning",
        "The file was changed since the last switch",
        "The live generation was made from this very file, and the file says something else by now. What is "
        "live is not what you read in it.",
        "/etc/tsstack/tsstack.yaml is not what generation 7 was made from: it was changed since",
        "tsstack dry-activate    # what a switch would change\ntsstack switch",
    ),
    Remark(
        "TS803",
        "error",
        "Nothing can be made of the file",
        "It cannot be read, or it is sound and what it asks for cannot be rendered on this host. A switch "
        "would refuse it with the same words.",
        "/etc/tsstack/tsstack.yaml cannot be read: Permission denied",
        "tsstack check",
    ),
    Remark(
        "TS804",
        "warning",
        "Not everything could be asked",
        "The packet filter, private keys and whose a socket is are for root to see. What was not asked may "
        "be wrong, so this is no clean bill of health.",
        "not root, so not asked: what differs from the live generation, the packet filter, other firewalls",
        "sudo tsstack doctor",
    ),
    Remark(
        "TS805",
        "warning",
        "A check could not be made",
        "What it would ask did not answer, or is damaged. The message says why; the other checks were made.",
        "this could not be asked: tailscaled did not answer within 10 s",
        "tsstack doctor    # again, when that is mended",
    ),
    Remark(
        "TS811",
        "error",
        "An engine is not installed",
        "The file asks for something that this program does. Where neither a file nor a generation says what "
        "is needed, it is a warning.",
        "nginx: not installed; `proxy` needs it",
        "apt install nginx",
    ),
    Remark(
        "TS812",
        "error",
        "nginx lacks a module",
        "TCP services need the stream module, services with `allow` the auth_request module.",
        "nginx: 1.22.1 has no stream module, and TCP services needs it",
        "apt install libnginx-mod-stream",
    ),
    Remark(
        "TS813",
        "warning",
        "A version with known troubles",
        "Headscale 0.29 and later refuse clients before 1.80. Odd minor versions of tailscale are builds of "
        "its unstable track.",
        "tailscaled: 1.78.1: Headscale 0.29 and later refuse clients before 1.80",
        "tailscale update --track=stable",
    ),
    Remark(
        "TS814",
        "error",
        "The kernel lacks something that the file needs",
        "nf_tables for the firewall, tun for tailscaled, a token bucket (and ifb, u32 and mirred for "
        "ingress) for `bandwidth`, a congestion control that the file names (a warning). Most come as "
        "modules; in a container the machine outside has to load them.",
        "tun: /dev/net/tun cannot be opened: No such file or directory",
        "modprobe tun\necho tun > /etc/modules-load.d/tsstack.conf",
    ),
    Remark(
        "TS821",
        "warning",
        "Little room is left on a disk",
        "Below 100 MiB; below 8 MiB (error) a switch may find no room to be written. A rollback still works: "
        "room for its record is set aside.",
        "/var/lib/tsstack: 42 MiB free",
        "df -h /var/lib/tsstack\ntsstack generations --prune 5\njournalctl --vacuum-size=200M",
    ),
    Remark(
        "TS822",
        "warning",
        "Few inodes are left on a disk",
        "There is room, but soon no new file can be made: a folder somewhere holds very many.",
        "/var/lib/tsstack: 120 inodes free: no new file can be made soon",
        "df -i /var/lib/tsstack\ndu --inodes -x / | sort -n | tail",
    ),
    Remark(
        "TS823",
        "error",
        "A file system is read-only",
        "The kernel makes it so after errors of the disk. Nothing can be changed, noted or renewed.",
        "/var/lib/tsstack: the file system is read-only: no switch can work",
        "dmesg | tail\nmount -o remount,rw /var/lib",
    ),
    Remark(
        "TS824",
        "warning",
        "Nothing keeps the clock",
        "The kernel says that no time service disciplines it (adjtimex(2)), and the control server could not "
        "be asked for its time. Certificates, logins and logs need a clock that is right.",
        "nothing keeps the clock: the kernel says that it is not synchronised",
        "timedatectl set-ntp true\ntimedatectl timesync-status",
    ),
    Remark(
        "TS825",
        "warning",
        "The clock is wrong",
        "It differs from the control server's by more than 5 s (a minute: error), the answer's own travel "
        "taken off. One of the two is wrong; certificates that are fresh or about to end are refused.",
        "clock: 3600 s behind controlplane.tailscale.com",
        "timedatectl set-ntp true\nchronyc makestep",
    ),
    Remark(
        "TS826",
        "warning",
        "The control server gives no time",
        "It was asked over HTTP for the Date of its answer, as tailscaled would reach it. Without the "
        "control server the tailnet goes on as it is, and learns of nothing new.",
        "10.77.0.1: the control server gives no time: Connection refused",
        "curl -vI http://10.77.0.1:8080/health\ntailscale netcheck",
    ),
    Remark(
        "TS827",
        "warning",
        "A boot would not bring the host up",
        "The units that activate the boot generation are missing or not enabled.",
        "a boot would not bring this up: tsstack-boot.service not enabled; `tsstack units install`",
        "tsstack units install",
    ),
    Remark(
        "TS828",
        "warning",
        "Units of another version",
        "The units in /etc/systemd/system were put there by another tsstack than the one that runs.",
        "of another version: tsstack-boot.service",
        "tsstack units install",
    ),
    Remark(
        "TS831",
        "warning",
        "The host differs from the live generation",
        "Somebody or something changed it since the switch. One finding for each part, with what a switch "
        "would change back.",
        "kernel: the host differs from generation 7: ~ net.ipv4.ip_forward: 0 -> 1",
        "tsstack dry-activate       # all of it, where the file is that of the live generation\n"
        "tsstack rollback --to N    # the live generation: makes it so again, whatever the file says by now",
    ),
    Remark(
        "TS832",
        "warning",
        "A part has something to say of the live generation",
        "What `tsstack switch` said after it was activated, asked anew: an upstream that does not answer, a "
        "name that is taken, tags that did not come with the key.",
        "proxy: wiki: nothing answers at 127.0.0.1:8000; its clients get 502 until it does",
        "the sentence says what to do",
    ),
    Remark(
        "TS833",
        "error",
        "The host cannot be compared with the live generation",
        "An engine did not answer, so nobody knows whether the host is as it should be.",
        "tailscaled does not answer on /var/run/tailscale/tailscaled.sock: No such file or directory",
        "systemctl status tailscaled\ntsstack doctor",
    ),
    Remark(
        "TS834",
        "error",
        "An engine refuses what is live",
        "It was asked to judge the live generation's files anew, and would not load them now: after an "
        "upgrade, or for something that came since. What runs goes on; a boot or a rollback would fail.",
        "proxy: refuses what is live, so a boot or a rollback would fail: nginx refuses ...",
        "tsstack check\ntsstack switch",
    ),
    Remark(
        "TS835",
        "error",
        "A switch was cut off half-way",
        "Its command is dead and its record is there: the host is between two generations. The next switch "
        "undoes it, or `tsstack recover` at once.",
        "the switch to generation 8 was cut off half-way",
        "tsstack recover",
    ),
    Remark(
        "TS836",
        "error",
        "The generation of the next boot is not whole",
        "The link `boot` names one whose files are gone or whose manifest is damaged. A boot brings up "
        "the newest whole one before it, and says so: `tsstack-early` and `tsstack-boot` fail once. Where "
        "only the manifest is damaged that one itself comes up, and `tsstack-boot` says so.",
        "what the next boot wants is not whole: generation 6 is missing",
        "tsstack switch             # makes a new one, for every boot too\n"
        "tsstack rollback --to 5    # or an older one",
    ),
    Remark(
        "TS841",
        "error",
        "A service's name does not resolve on the tailnet",
        "Clients of the tailnet ask 100.100.100.100, the resolver inside their own tailscaled; this host "
        "asked its own. With Headscale a name below a host's needs an extra record; the host's own name "
        "needs MagicDNS.",
        "wiki.kernelcore.tail.test: no such name, says 100.100.100.100",
        "# on the Headscale host, in the file of dns.extra_records_path:\n"
        '{"name": "wiki.kernelcore.tail.test", "type": "A", "value": "100.64.0.2"}',
    ),
    Remark(
        "TS842",
        "error",
        "A service's name leads to another host",
        "The tailnet's resolver gives an address that is not this host's: an old record, or a host that "
        "joined anew and has another address now.",
        "wiki.kernelcore.tail.test is 100.64.0.9 to 100.100.100.100, and this host is 100.64.0.2",
        "mend the record (Headscale: dns.extra_records_path), or remove the old node",
    ),
    Remark(
        "TS843",
        "warning",
        "Programs of this host get another answer",
        "The tailnet's resolver is right, but /etc/resolv.conf names another, which is not. Clients are not "
        "hurt; programs here that use the services by name are.",
        "programs of this host itself, by 192.168.1.1, get another answer for wiki.kernelcore.tail.test: "
        "no such name",
        "tailscale: {accept_dns: true}\n# or\ndns: {split: {tail.test: [100.100.100.100]}}",
    ),
    Remark(
        "TS844",
        "error",
        "The name scheme cannot work on this tailnet",
        "Tailscale's own control plane has no names below a host's, so `names: subdomain` never resolves "
        "there (see TS306).",
        "wiki.kernelcore.your-tailnet.ts.net: Tailscale's control plane has no names below a host's",
        "proxy: {names: path}    # or port, or service",
    ),
    Remark(
        "TS845",
        "warning",
        "/etc/resolv.conf was taken from systemd-resolved",
        "systemd-resolved runs and nobody asks it, so split DNS is set up and never used.",
        "systemd-resolved runs, but /etc/resolv.conf was written by tailscaled",
        "ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf\nsystemctl restart tailscaled",
    ),
    Remark(
        "TS846",
        "error",
        "A certificate does not cover a name",
        "Clients refuse it for these names (RFC 9525: a wildcard stands for the leftmost label alone).",
        "/etc/ssl/own.pem does not cover wiki.kernelcore.tail.test",
        "tsstack certificates renew --force    # or a certificate of your own for these names",
    ),
    Remark(
        "TS847",
        "error",
        "A certificate is not valid yet",
        "It begins in the future: this host's clock is late, or that of whoever made it was early.",
        "/var/lib/tsstack/tls/wiki.pem is not valid yet: it begins in 3.0 hours by this clock",
        "date -u\ntsstack certificates renew --force",
    ),
    Remark(
        "TS848",
        "error",
        "A certificate and its key cannot be loaded",
        "One of them is missing, damaged, encrypted, or the key is another certificate's. nginx goes on with "
        "what it has loaded, and does not start with it any more.",
        "proxy.tls: the key /etc/ssl/own.key does not belong to the certificate /etc/ssl/own.pem",
        "openssl x509 -noout -pubkey -in CERTIFICATE\nopenssl pkey -pubout -in KEY    # the same?",
    ),
    Remark(
        "TS849",
        "error",
        "A certificate does not lead to an authority that clients trust",
        "A leaf of the local CA has to be signed by the CA that clients installed. Of a certificate of your "
        "own (a warning) the chain is asked with this system's authorities: mostly the intermediate "
        "certificates are missing behind it, or the authority is your own.",
        "/etc/ssl/own.pem: no authority that this system trusts has signed it, nor one of the certificates "
        "behind it",
        "cat leaf.pem intermediate.pem > own.pem\ntsstack certificates renew",
    ),
    Remark(
        "TS851",
        "warning",
        "A private key may be read by others",
        "Everybody in its group, or on this host, can serve as you. nginx reads it as root.",
        "the key /etc/ssl/own.key may be read by others than root (mode 0644)",
        "chmod go= /etc/ssl/own.key",
    ),
    Remark(
        "TS861",
        "error",
        "Forwarding is off, and this host routes",
        "It offers routes or an exit node, or the file has forward rules, and the kernel passes nothing on. "
        "A host that learns its IPv6 default route from router advertisements loses it when IPv6 forwarding "
        "goes on, unless accept_ra is 2 there before: a switch does both, in that order. For IPv4 each "
        "interface has a switch of its own, and what comes in there is passed on by its word: tailscale0 "
        "and the interface that the route leads out by both need it.",
        "net.ipv4.ip_forward is 0, and this host has to forward for 192.168.15.0/24",
        "sysctl -w net.ipv4.ip_forward=1\n"
        "sysctl -w net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.all.forwarding=1    # in this order\n"
        "sysctl -w net.ipv4.conf.eth1.forwarding=1",
    ),
    Remark(
        "TS862",
        "warning",
        "The reverse-path filter is strict",
        "rp_filter 1 drops what comes in by another interface than the answer would leave by; traffic of "
        "exit nodes and subnet routers does. The larger of `all` and the interface's own value counts, so 2 "
        "for `all` is loose everywhere.",
        "the reverse-path filter is strict on eth0",
        "sysctl -w net.ipv4.conf.all.rp_filter=2",
    ),
    Remark(
        "TS863",
        "warning",
        "UDP GRO forwarding is off",
        "Packets of the tunnel are forwarded one by one, which costs a router much of its throughput. Linux "
        "6.2 and later can put them together. The words are tailscaled's.",
        "UDP GRO forwarding is suboptimally configured on eth0",
        "ethtool -K eth0 rx-udp-gro-forwarding on rx-gro-list off\n"
        "# or leave kernel.udp_gro out of the file: tsstack switches it on",
    ),
    Remark(
        "TS864",
        "error",
        "A firewall of somebody else drops what the zones open",
        "A drop in any chain is final, whatever another one accepts (nft(8)), and a rule that sends a packet "
        "elsewhere (DNAT, as `docker -p 443:443`) takes it from what the file serves. The doctor sends "
        "packets that the zones open through a copy of all tables, and names the rule. tsstack leaves "
        "tables of others alone: it has to be accepted there too, now and in that program's own "
        "configuration, or that firewall has to go: what no zone opens is closed by tsstack's table. What "
        "goes through this host and what it answers is not tried: there a rule that may drop it is a "
        "warning, which an `accept` above that rule ends.",
        "tcp/443 from 100.64.0.9 on tailscale0 (zone internal) is dropped by table ip filter, chain INPUT",
        "nft insert rule ip filter INPUT iifname tailscale0 tcp dport '{ 443 }' accept\n"
        "ufw disable    # or the like: table inet tsstack closes the rest",
    ),
    Remark(
        "TS865",
        "error",
        "Another program holds a port of the proxy",
        "nginx cannot bind it, so what should be served there is that program's, or nobody's.",
        "100.64.0.2:443 (proxy.https_port) is held by caddy (pid 812), so nginx cannot have it",
        "ss -ltnp 'sport = :443'\nsystemctl disable --now caddy",
    ),
    Remark(
        "TS866",
        "error",
        "nginx does not serve the live generation",
        "It does not run, or it runs on something else: a reload was refused, or somebody edited its files.",
        "nginx does not run: no service is served",
        "tsstack rollback --to N    # the live generation: starts nginx\n"
        "systemctl restart nginx    # where it runs and is silent\ntail /var/log/nginx/error.log",
    ),
    Remark(
        "TS871",
        "error",
        "No new connection over loopback",
        "The host cannot even reach itself: lo is down, or a rule drops its packets. Connections that were "
        "open go on under any ruleset, so only a new one shows this.",
        "no new connection over loopback: timed out",
        "ip link set lo up\nnft list ruleset",
    ),
    Remark(
        "TS872",
        "error",
        "No new connection to a socket of the proxy",
        "This host tried its own address: refused means that nobody listens, no answer that a rule drops it. "
        "An nginx that was reloaded while a link of ours was away does not listen, and does after a reload.",
        "no new connection to 100.64.0.2:443 (proxy.https_port): Connection refused",
        "nginx -s reload\nss -ltnp 'sport = :443'\nnginx-test",
    ),
    Remark(
        "TS873",
        "error",
        "A service does not answer by its name as it should",
        "Each name was asked with a new connection, its certificate was judged, and nginx said which "
        "configuration serves it.",
        "wiki.kernelcore.tail.test at 100.64.0.2:443 does not answer: certificate has expired",
        "tsstack certificates renew\ntsstack switch",
    ),
    Remark(
        "TS874",
        "error",
        "A peer does not answer through the tunnel",
        "`--from PEER` sends TSMP pings, which go through WireGuard and are answered by the peer's "
        "tailscaled. Nothing that the peer sends arrives either.",
        "laptop: nothing comes back through the tunnel (control sees it offline): no answer within 2 s",
        "tailscale ping laptop\ntailscale netcheck",
    ),
    Remark(
        "TS876",
        "error",
        "The rules refuse a peer's connection to a socket of the proxy",
        "A packet from the peer's address was sent through a copy of the live rules of all owners, in a "
        "throwaway network.",
        "tcp/443 from 100.64.0.10 would be dropped: no rule of zone `internal` opens tcp/443",
        "tsstack explain --live laptop tcp/443    # each decision, with its line",
    ),
    Remark(
        "TS877",
        "warning",
        "The rules could not be asked for a peer",
        "Copying the live rules needs root, and a kernel that gives a network namespace and a tun device.",
        "not asked: copying the live rules needs root",
        "sudo tsstack doctor --from laptop",
    ),
)
