"""What `tsstack explain` says of the remarks on a running host: of `ts-status`, `doctor` and `top`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remark:
    """One remark: its stable code, how bad it is, how it is seen, and what to do."""

    code: str
    level: str
    title: str
    text: str
    seen: str
    mend: str


REMARKS = (
    Remark(
        "TS701",
        "critical",
        "tailscaled does not answer",
        "Nothing of the tailnet can be told, changed or failed over. Traffic that was set up may still flow. "
        "The message says what the socket answered.",
        "tailscaled does not answer on /var/run/tailscale/tailscaled.sock",
        "systemctl restart tailscaled\njournalctl -u tailscaled -n 50",
    ),
    Remark(
        "TS702",
        "critical",
        "This host is not connected to its tailnet",
        "tailscaled runs, and its state is another than Running: it wants a login, an approval, or was "
        "stopped.",
        "tailscaled is not connected: NeedsLogin",
        "tsstack switch      # enrols with the file's key\ntailscale up        # after a `tailscale down`",
    ),
    Remark(
        "TS703",
        "warning",
        "tailscaled complains",
        "The daemon's own words, as `tailscale status` ends with. It says so for as long as it is so, "
        "but of forwarding that is off: TS861 tells that.",
        "tailscaled says: no internet connection",
        "tailscale status\ntailscale netcheck\ntsstack doctor       # where it speaks of DNS",
    ),
    Remark(
        "TS704",
        "warning",
        "A route is offered and not approved",
        "The file offers a subnet, and as far as this node has heard nobody approved it: no peer gets the "
        "route. Headscale tells a node of an approval only with its next full map, so it may be there "
        "already.",
        "192.168.15.0/24: offered, and not approved as far as this node knows",
        "headscale nodes list-routes\nheadscale nodes approve-routes -i ID -r 192.168.15.0/24",
    ),
    Remark(
        "TS705",
        "warning",
        "An exit node is offered and not approved",
        "As TS704, for 0.0.0.0/0 and ::/0: nobody can use this host as an exit node.",
        "offered as an exit node, and not approved as far as this node knows",
        "headscale nodes approve-routes -i ID -r 0.0.0.0/0,::/0",
    ),
    Remark(
        "TS706",
        "warning",
        "This node's key expires soon",
        "When it has expired (critical) the host drops out of the tailnet until somebody logs it in again, "
        "and whoever can reach it only by the tailnet is locked out. On Headscale the server's command makes "
        "the key good again and the host comes back by itself, with its addresses. A node that was deleted "
        "there instead joins anew by `tsstack switch` and gets other addresses.",
        "this node's key expires in 9 days",
        "headscale nodes list\n"
        "headscale nodes expire -i ID --disable    # on the server, also after its end\n"
        "# on Tailscale: extend the key, or disable its expiry, in the admin console",
    ),
    Remark(
        "TS707",
        "critical",
        "No exit node works, and nothing may leave",
        "All candidates of `tailscale.exit_node.use` are bad and the file says `otherwise: block`. What "
        "leaves this host for the internet is dropped until one of them is good again.",
        "no exit node works, and nothing may leave: exit-a is dead: no answer for 3.2 s",
        "tsstack exit-node list\nts-quality",
    ),
    Remark(
        "TS708",
        "critical",
        "The exit node in use is offline",
        "Control sees it offline, tailscaled goes on sending there, so there is no internet for this host. "
        "With `monitor.failover` the next candidate is taken within seconds; without, nobody moves.",
        "exit-a is in use and offline: no internet through it",
        "tsstack exit-node list\nsystemctl status tsstack-monitor",
    ),
    Remark(
        "TS709",
        "warning",
        "Traffic leaves by the uplink instead of an exit node",
        "No candidate works and the file says `otherwise: direct`: what this host sends is seen with its own "
        "address.",
        "traffic leaves by the uplink, not by exit-a: exit-a is dead: no answer for 3.2 s",
        "ts-quality\ntsstack exit-node list",
    ),
    Remark(
        "TS710",
        "warning",
        "Another exit node stands in",
        "The monitor has moved away from the first candidate, and goes back when that has been healthy for "
        "`restore_after`.",
        "exit-b stands in for exit-a: exit-a is dead: no answer for 3.2 s",
        "ts-monitor-logs --about exit-node",
    ),
    Remark(
        "TS711",
        "warning",
        "The exit node was chosen by hand",
        "It stays, good or bad, until the choice is given back to the monitor.",
        "exit-b was chosen by hand and stays",
        "tsstack exit-node auto",
    ),
    Remark(
        "TS712",
        "warning",
        "Maintenance is on",
        "Everything is measured and reported, and nothing is changed.",
        "maintenance: nothing is changed whatever happens",
        "tsstack monitor maintenance off",
    ),
    Remark(
        "TS713",
        "warning",
        "An advertised network is withdrawn",
        "Nothing behind it answered, so the monitor has taken it back, for another router to take over. It "
        "is offered again when it was well for `monitor.restore_after`, after relapses for ten minutes at "
        "most; `tsstack monitor offer` does it at once. A monitor that has ended brings nothing back: "
        "then going to the live generation once more offers it.",
        "192.168.15.0/24: withdrawn by the monitor; it is well, and offered again in 9 min",
        "ts-quality 192.168.15.0/24\ntsstack monitor offer 192.168.15.0/24",
    ),
    Remark(
        "TS714",
        "critical",
        "This host has no way out",
        "No default route leads out, or the link of the only interface that has one is down. The exit node "
        "is reached by the same way. A link that is down is told at once; that there is no default route, "
        "once tailscaled has lost its control server too, since rules may lead out by other tables.",
        "eth0 has no link",
        "ip -brief link\nip route",
    ),
    Remark(
        "TS715",
        "critical",
        "There is no internet through the exit node in use",
        "It is online, and what the monitor asks through it gets no answer. The monitor stays: no other "
        "candidate is better, it has moved too often of late, somebody chose this one by hand, or it may not "
        "move at all.",
        "no internet through exit-b, which is in use: exit-a is barred for 240 s more",
        "tsstack exit-node list\nts-quality exit",
    ),
    Remark(
        "TS716",
        "critical",
        "What leaves this host goes nowhere",
        "tailscaled has lost its tailnet and left its routes to the exit node where they are, so the kernel "
        "hands it what leaves for the internet and nothing comes out. `tailscale up` brings it back after a "
        "`tailscale down`; for an expired key see TS706. `tailscale down` ends it at once: then all leaves "
        "by the uplink.",
        "nothing leaves this host: its packets go to tailscaled, and tailscaled is NeedsLogin",
        "tsstack explain TS706\nip route get 192.0.2.1",
    ),
    Remark(
        "TS717",
        "warning",
        "The control server does not hear this host",
        "tailscaled runs and has no connection to its control server. What is there goes on: tunnels, "
        "routes, the exit node. Nothing new comes: no new node, no approval, no change of the policy, no "
        "peer's new address. A server that restarts is back within seconds.",
        "no connection to https://hs.example.org: nothing new of the tailnet is heard here, and nobody can "
        "join or come back",
        "tsstack doctor       # asks it past the exit node\nsystemctl status headscale    # on the server",
    ),
    Remark(
        "TS718",
        "critical",
        "What leaves this host goes past the exit node in use",
        "tailscaled names an exit node, and the kernel sends an unmarked packet to the internet by another "
        "way: what `otherwise: block` is to keep in leaves by the uplink. tailscaled does not look after its "
        "routes: after `ip route flush table 52`, or where tailscale0 was set down and up, they stay away "
        "for minutes. Or a rule of another program (another VPN's) is asked before tailscaled's, which "
        "stand at 5210 to 5270. Asked of the kernel for IPv4 and IPv6 each, for this host's own packets; not "
        "while the exit node is being changed, and not in the first seconds of a tailscaled. A rule for some "
        "ports, one protocol or one source alone is not seen.",
        "IPv4 leaves this host by eth0 (tailscaled's routes or rules are missing), and not by exit-a, which "
        "tailscaled says is in use",
        "systemctl restart tailscaled\nip rule; ip route show table 52\nip route get 192.0.2.1",
    ),
    Remark(
        "TS720",
        "critical",
        "The identity daemon does not answer",
        "nginx asks it who each client of a service with `allow` is, and answers everybody with 500 while it "
        "is gone. Services without `allow` are served.",
        "identity daemon: does not answer: services with `allow` refuse everybody",
        "tsstack rollback --to N    # the live generation: starts it\njournalctl -u tsstack-identity -n 50",
    ),
    Remark(
        "TS721",
        "critical",
        "A service is down",
        "None of its upstreams answers the monitor. nginx answers its clients with 502.",
        "no upstream of https://wiki.kernelcore.tail.test/ answers: refused",
        "nginx-test\nnginx-logs wiki --errors",
    ),
    Remark(
        "TS722",
        "critical",
        "A certificate cannot be read",
        "nginx loads it at its next start or reload, and would not start without it.",
        "wiki.kernelcore.tail.test: it is not there",
        "tsstack certificates renew\ntsstack switch",
    ),
    Remark(
        "TS723",
        "warning",
        "A certificate was not renewed in time",
        "Its end is nearer than any renewal should let it come (critical: less than three days, or a tenth "
        "of its life where that is less). The timer renews, or your own files were not replaced.",
        "the certificate of wiki.kernelcore.tail.test expires in 6 days",
        "tsstack certificates renew\nsystemctl list-timers tsstack-renew.timer",
    ),
    Remark(
        "TS724",
        "warning",
        "The live generation cannot be read",
        "What this user may not read, or what is damaged, is left out of the status.",
        "the generation's services cannot be read: Permission denied",
        "sudo ts-status\ntsstack generations",
    ),
    Remark(
        "TS725",
        "critical",
        "nginx does not run",
        "Nothing answers at its status endpoint (`proxy.status`, on loopback), so no service is served, "
        "however well the upstreams are. Or its master is dead and its workers serve on what it had loaded: "
        "no reload, no renewed certificate and no restart reaches them, and none that ends is replaced.",
        "nginx does not answer on 127.0.0.1:9180: connection refused: nothing is served",
        "nginx-test                  # says what it refuses\nsystemctl restart nginx\n"
        "tsstack rollback --to N     # the live generation: ends workers without a master, and starts nginx",
    ),
    Remark(
        "TS726",
        "critical",
        "nginx serves another configuration",
        "It answers, with another configuration than that of the live generation: it was not reloaded, or "
        "was started with another file.",
        "nginx serves another configuration than the live generation's",
        "nginx-test           # says what it refuses\nnginx -s reload",
    ),
    Remark(
        "TS727",
        "warning",
        "An upstream of a service is dead",
        "The service is served by its other upstreams, or by its backup. Nobody notices until they fail too.",
        "wiki: an upstream does not answer; others serve it",
        "ts-quality service:wiki\nnginx-test",
    ),
    Remark(
        "TS728",
        "critical",
        "nginx listens where the tailnet does not come in",
        "The tailnet has given this host another address, as it does when the node was deleted on the "
        "control server and joined anew; nginx still listens on the old one.",
        "nobody of the tailnet gets to wiki: 100.64.0.5 is no address of this host any more",
        "tsstack switch",
    ),
    Remark(
        "TS729",
        "warning",
        "nginx still serves the certificate before",
        "The file is newer than nginx's workers: whoever renewed it has not reloaded nginx. How long the old "
        "one is good for no file says; when it has ended, clients refuse it.",
        "the certificate of wiki.test was renewed, and nginx serves what it loaded before that",
        "nginx -s reload\nnginx-test          # asks for the certificates that are served",
    ),
    Remark(
        "TS731",
        "critical",
        "The firewall's table is not loaded",
        "The live generation has zones and the kernel has no table inet tsstack: somebody flushed the "
        "ruleset, and nothing is closed. Or the table is there with `flags dormant`, which switches all of "
        "it off.",
        "table inet tsstack is not loaded: nothing is closed",
        "tsstack rollback --to N    # the live generation: makes the host so once more",
    ),
    Remark(
        "TS732",
        "critical",
        "The firewall's table was changed by something else",
        "It is not what was loaded: rules or elements were added or removed by hand or by another program, "
        "so what it lets in is not what the file says. `nft flush table` leaves a table without any rule.",
        "table inet tsstack is not as it was loaded",
        "nft list table inet tsstack\ntsstack rollback --to N    # the live generation: puts it right",
    ),
    Remark(
        "TS733",
        "warning",
        "The fallback stands in for the firewall",
        "The live generation has no firewall, or there is none yet: the first switch failed, was not "
        "confirmed, or was rolled back. What `tsstack fallback set` was given stands meanwhile. On NixOS "
        "that is what networking.firewall would let in.",
        "the live generation has no firewall: the fallback's zones stand",
        "journalctl -u tsstack-switch    # on NixOS: why the switch failed\ntsstack switch",
    ),
    Remark(
        "TS734",
        "warning",
        "Nobody can tell whether the firewall is as it was loaded",
        "The table is there, and what it was when it was loaded is not noted or could not be compared: the "
        "note in /run was lost, or others change the ruleset without pause. Or the packet filter, or what "
        "the live generation says of its zones, cannot be read.",
        "table inet tsstack is loaded; whether it was changed since is not known",
        "fw-status\ntsstack rollback --to N    # the live generation: loads it anew, and notes it",
    ),
    Remark(
        "TS741",
        "warning",
        "The file asks for a monitor and none tells how things are",
        "None runs: nothing is measured, nobody is alerted and nothing fails over. Or one runs and refuses "
        "to answer, since too many ask it at once: it does its work, and what it measures is not known here.",
        "no monitor runs: nothing fails over",
        "systemctl start tsstack-monitor\ntsstack units install --monitor    # where there is no such unit",
    ),
    Remark(
        "TS742",
        "critical",
        "A path is dead",
        "What the monitor watches there does not answer any more.",
        "dead: target:icmp:1.1.1.1",
        "ts-quality 1.1.1.1\nts-monitor-logs --about target:icmp:1.1.1.1",
    ),
    Remark(
        "TS743",
        "warning",
        "A path is poor",
        "Beyond the file's limits for latency or loss, or changed for the worse.",
        "poor: exit:exit-a",
        "ts-quality exit-a",
    ),
    Remark(
        "TS744",
        "warning",
        "The monitor has trouble",
        "Something that a person should mend. It is told once when it begins and once when it is over.",
        "exit node exit-c is not offered by anyone",
        "tsstack monitor status",
    ),
    Remark(
        "TS745",
        "warning",
        "A path is suspect",
        "So many probes were lost in a row as the file's `failures` says, and it may be the end of the path "
        "or a short burst: in some seconds it is dead, poor or good again. No alert is sent for it.",
        "suspect: target:icmp:1.1.1.1",
        "ts-quality 1.1.1.1",
    ),
    Remark(
        "TS751",
        "warning",
        "A switch waits for its confirmation",
        "It is undone by itself when the time is over.",
        "12 is undone in 43 s by itself",
        "tsstack confirm     # keeps it\ntsstack rollback    # undoes it now",
    ),
    Remark(
        "TS752",
        "warning",
        "A switch is not over",
        "A switch is at work, or was killed; in that case the next command, or the boot, brings the host "
        "wholly to one generation.",
        "a switch to 12 is at work, or was cut off",
        "tsstack recover",
    ),
    Remark(
        "TS754",
        "critical",
        "The live generation is damaged",
        "`current` points at a generation whose folder or manifest is gone or cannot be read. What is live "
        "in the kernel and in nginx stays until a switch or rollback, which look at every part then. A boot "
        "brings up the newest whole generation before it, or where only the manifest is damaged that "
        "one itself.",
        "generation 99 is live and cannot be read: it is not there",
        "tsstack switch             # makes a new one\n"
        "tsstack rollback --to 98   # or the newest whole one: tsstack generations",
    ),
    Remark(
        "TS755",
        "warning",
        "The host is no longer as the live generation says",
        "Somebody or something changed a setting of tailscaled, a kernel parameter or the DNS of a link "
        "since the switch. Queues, links in /etc and all else that may drift is for `tsstack doctor`.",
        "drift: net.ipv4.ip_forward is 0, not 1",
        "tsstack rollback --to N    # the live generation: puts it right, whatever the file says by now\n"
        "tsstack doctor             # shows all drift",
    ),
    Remark(
        "TS753",
        "warning",
        "The next boot brings up another generation",
        "After `tsstack test` or `tsstack boot` the live generation is not the one that a reboot brings up.",
        "the next boot brings up generation 11, not 12",
        "tsstack switch",
    ),
)
