"""The DNS part: split DNS through systemd-resolved, and plain words where it does not run."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed, RollbackFailed
from tsstack.parts.dns import desired
from tsstack.parts.dns.desired import TAILNET_INTERFACE, TAILNET_RESOLVER, Route
from tsstack.parts.dns.resolved import LinkDns, is_managed, link_towards, read_link, write_link
from tsstack.system.files import write_durably

if TYPE_CHECKING:
    from tsstack.model.facts import Facts, Paths
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Change, Report, Snapshot, Tree

RECORD = "dns-links.json"
"""In the state folder: link -> the settings that we gave it, so that they can be told from others'."""

_RESOLVED_SOCKET = "/run/systemd/resolve/io.systemd.Resolve"
# include/linux/net.h: __SO_ACCEPTCON. Its other ends have its path too, in the namespace of who connects.
_LISTENS = "00010000"

# tailscaled clears tailscale0's settings within milliseconds of being told to; see _await_tailscaled.
_PATIENCE_S = 2.0
_CALM_S = 0.4


class DnsPart:
    """See tsstack.parts.part.Part."""

    name = "dns"
    folder = desired.FOLDER

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        """The files of desired.py, empty when the file asks for nothing."""
        return desired.render(stack, facts)

    def check(self, generation: Path, facts: Facts) -> None:
        """Find a link for every domain. Raises CheckFailed with what to write instead."""
        if facts.resolved:
            found = desired.routes(_tree(generation))
            wanted = _links_wanted(found)
            record = read_record(facts.paths)
            for link, dns in wanted.items():
                if link != TAILNET_INTERFACE or not _check_tailnet_link(found):
                    _check_link(link, read_link(link), (dns, record.get(link)))

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        """What to do by hand: without resolved, or where tailscaled does not route what was asked."""
        found = desired.routes(_tree(generation))
        if not facts.resolved:
            return _without_resolved(found, facts)
        return (*_unrouted(found), *(doctor(facts.paths) if found else ()))

    def unmet(self, tree: Tree, snapshot: Snapshot, facts: Facts) -> tuple[str, ...]:
        """Without resolved nothing differs ever, and nothing is routed either."""
        return () if facts.resolved else _without_resolved(desired.routes(tree), facts)

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        """The settings of every link that `tree` needs or that we have set before."""
        if not facts.resolved:
            return {"resolved": False, "links": {}, "record": {}, "wanted": {}}
        record = read_record(facts.paths)
        wanted = _links_wanted(desired.routes(tree))
        links: dict[str, Any] = {}
        for link in sorted({*record, *wanted}):
            dns = read_link(link)
            links[link] = dns.as_json() if dns else None
        return {
            "resolved": True,
            "links": links,
            "record": {link: dns.as_json() for link, dns in record.items()},
            "wanted": {link: dns.as_json() for link, dns in wanted.items()},
        }

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        """One line per link whose servers and domains differ, or that we are to know nothing more of."""
        from tsstack.parts.part import Change

        steps = tuple(_steps(snapshot))
        told = {link for link, _, _ in steps}
        # Cleared or changed by somebody since: while it is on record the units would set it again.
        over = sorted({*_links(snapshot, "record")} - {*_links(snapshot, "wanted")} - told)
        return (
            *(Change(f"DNS of {link}", _shown(before), _shown(after)) for link, before, after in steps),
            *(Change(f"DNS of {link}", "kept, though not as it was set", "left as it is") for link in over),
        )

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        """Set what differs. What is ours is on record before it is set, and until it is gone."""
        if not facts.resolved:
            return
        try:
            _await_tailscaled(desired.routes(_tree(generation)), read_record(facts.paths))
            snapshot = self.observe(_tree(generation), facts)
        except CheckFailed as error:
            raise ApplyFailed(error.message, hint=error.hint) from error
        steps = tuple(_steps(snapshot))
        record = _links(snapshot, "record")
        wanted = _links(snapshot, "wanted")
        if steps:
            _write_record(facts.paths, {**record, **wanted})
        for link, before, after in steps:
            if before is None and link in wanted:
                raise ApplyFailed(f"DNS of {link}: there is no such link")
            try:
                write_link(link, after or LinkDns())
            except CommandFailed as error:
                raise ApplyFailed(f"DNS of {link}: {error.message}", hint=error.hint) from error
            report(f"DNS of {link}: {_shown(after) or 'as it was before tsstack'}")
        if any(link == TAILNET_INTERFACE and after is not None for link, _, after in steps):
            _outlast_tailscaled(wanted[TAILNET_INTERFACE])
        _write_record(facts.paths, wanted)

    def verify(self, generation: Path, facts: Facts) -> None:
        """Ask resolved for its settings again. Raises ApplyFailed with what is not as asked.

        What a slow tailscaled has cleared since `activate` is no fault of the change: it is set again first.
        """
        if not facts.resolved:
            return
        try:
            tailnet = _links_wanted(desired.routes(_tree(generation))).get(TAILNET_INTERFACE)
            if tailnet is not None and read_link(TAILNET_INTERFACE) not in (None, tailnet):
                _outlast_tailscaled(tailnet)
            for link, before, after in _steps(self.observe(_tree(generation), facts)):
                raise ApplyFailed(f"DNS of {link} is {_shown(before)} and not {_shown(after)}")
        except CheckFailed as error:
            raise ApplyFailed(error.message, hint=error.hint) from error

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        """Give every link of the snapshot, and every one set since, the settings it had."""
        if not snapshot.get("resolved"):
            return
        faults = []
        try:
            was = _links(snapshot, "links")
            links = sorted({*was, *read_record(facts.paths)})
            before = _links(snapshot, "record")
        except CheckFailed as error:
            raise RollbackFailed(f"DNS is not back: {error.message}", hint=error.hint) from error
        for link in links:
            goal = was.get(link, LinkDns())
            try:
                now = read_link(link)
                if now is not None and now != goal:
                    write_link(link, goal)
                if link == TAILNET_INTERFACE and now is not None and not goal.is_empty:
                    _outlast_tailscaled(goal)
            except (ApplyFailed, CheckFailed, CommandFailed) as error:
                faults.append(f"{link}: {error.message}")
        try:
            if not faults:
                _write_record(facts.paths, before)
        except ApplyFailed as error:
            faults.append(error.message)
        if faults:
            raise RollbackFailed(
                f"DNS is not wholly back: {'; '.join(faults)}", hint="resolvectl revert LINK clears a link"
            )


def _without_resolved(found: tuple[Route, ...], facts: Facts) -> tuple[str, ...]:
    suffix = facts.tailscale.magic_dns_suffix if facts.tailscale else ""
    return desired.advice_without_resolved(found, suffix or _own_domain(found))


def discover_resolved(paths: Paths) -> bool:
    """Whether systemd-resolved answers on this host and serves the network that we stand in.

    It is asked by its socket, for its files stay when it stops. In a network namespace that shares the
    machine's /run, the socket answers too, but its links are the machine's: that one is not ours to set.
    Each namespace lists the listeners that were made in it, to anybody (proc_net(5), unix), also where /proc
    hides who listens.
    The socket lies where systemd puts it, whatever `paths` says of our own files.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asker:
        asker.settimeout(1.0)
        if asker.connect_ex(_RESOLVED_SOCKET) != 0:
            return False
    sockets = Path("/proc/thread-self/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.endswith(f" {_RESOLVED_SOCKET}") and line.split()[3] == _LISTENS for line in sockets)


def doctor(paths: Paths) -> tuple[str, ...]:
    """Is /etc/resolv.conf in resolved's hands, where resolved runs?

    tailscaled may overwrite it beside a running resolved (tailscale issue 11342); split DNS is then set
    up and never asked.
    """
    file = paths.etc / "resolv.conf"
    try:
        text = file.read_text()
    except OSError as error:
        return (f"{file} cannot be read ({error.strerror}), so no program uses systemd-resolved",)
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    if any(server.startswith("127.0.0.5") for server in servers):
        return ()
    who = "tailscaled" if "tailscale" in text.lower() or TAILNET_RESOLVER in servers else "another program"
    return (
        f"systemd-resolved runs, but {file} was written by {who} and names {', '.join(servers) or 'nobody'}: "
        "split DNS is not used; ln -sf /run/systemd/resolve/stub-resolv.conf "
        f"{file}, then restart tailscaled",
    )


def _links_wanted(found: tuple[Route, ...]) -> dict[str, LinkDns]:
    """The links that have to be set, each with the one list of servers that its domains share.

    Raises CheckFailed for two lists on one link: resolved asks all servers of a link for all its domains.
    """
    links: dict[str, LinkDns] = {}
    first: dict[str, str] = {}
    for route in found:
        if route.by_tailscaled:
            continue
        link = _link_of(route)
        known = links.get(link)
        if known is not None and known.servers != route.servers:
            raise CheckFailed(
                f"dns.split.{route.domain}: {', '.join(route.servers)} is reached by {link}, and so is "
                f"{', '.join(known.servers)} of {first[link]}; systemd-resolved would ask both for both",
                hint="give both domains the same servers, or add them to the tailnet's split DNS "
                "(Headscale: dns.nameservers.split) and set tailscale.accept_dns: true",
            )
        links[link] = LinkDns(route.servers, (*(known.domains if known else ()), f"~{route.domain}"))
        first.setdefault(link, route.domain)
    return links


def _link_of(route: Route) -> str:
    if TAILNET_RESOLVER in route.servers:
        return TAILNET_INTERFACE  # also while tailscaled, which adds the route, has still to come up
    links = {link_towards(server) for server in route.servers}
    if len(links) > 1:
        raise CheckFailed(
            f"dns.split.{route.domain}: its servers lie behind several links: {', '.join(sorted(links))}",
            hint="write servers that lie behind one interface",
        )
    return links.pop()


def _check_link(link: str, live: LinkDns | None, fine: tuple[LinkDns | None, ...]) -> None:
    if live is None and link != TAILNET_INTERFACE:
        raise CheckFailed(f"dns.split: there is no interface {link}")
    if link == "lo":
        raise CheckFailed(
            "dns.split: a server on this host itself cannot be asked through systemd-resolved's links",
            hint="add the domain to the tailnet's split DNS, or write an address of another host",
        )
    if is_managed(link):
        raise CheckFailed(
            f"dns.split: {link} is managed by systemd-networkd, which alone may set its DNS",
            hint="write DNS= and Domains=~DOMAIN in its .network file",
        )
    if live is not None and not live.is_empty and live not in fine:
        raise CheckFailed(
            f"dns.split: {link} already has DNS settings that are not ours: {_shown(live)}",
            hint="add the domain where those come from (tailscaled: the tailnet's split DNS), or clear them: "
            f"resolvectl revert {link}",
        )


def _check_tailnet_link(found: tuple[Route, ...]) -> bool:
    """Whether what tailscale0 has now does not matter, since tailscaled is told to give it up."""
    for route in found:
        if route.accept_dns and not route.by_tailscaled and _link_of(route) == TAILNET_INTERFACE:
            raise CheckFailed(
                f"dns.split.{route.domain}: with tailscale.accept_dns, tailscaled alone writes the DNS "
                f"settings of {TAILNET_INTERFACE}, behind which {', '.join(route.servers)} lies",
                hint="add the domain to the tailnet's split DNS (Headscale: dns.nameservers.split), or set "
                "tailscale.accept_dns: false",
            )
    return any(route.accept_dns is False for route in found)


def _await_tailscaled(found: tuple[Route, ...], record: Mapping[str, LinkDns]) -> None:
    """Let a tailscaled that gives up tailscale0's DNS finish first, or it would clear ours."""
    if not any(route.accept_dns is False and TAILNET_RESOLVER in route.servers for route in found):
        return
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        live = read_link(TAILNET_INTERFACE)
        if live is None or live.is_empty or live == record.get(TAILNET_INTERFACE):
            return
        time.sleep(0.05)


def _outlast_tailscaled(ours: LinkDns) -> None:
    """Set tailscale0's DNS again should a tailscaled that was just told something clear it once more.

    With any change of its routes it writes its own DNS settings too, which are empty here, and that takes
    it a moment after its answer.
    """
    began = calm_since = time.monotonic()
    while (now := time.monotonic()) < calm_since + _CALM_S and now < began + _PATIENCE_S:
        time.sleep(0.05)
        if read_link(TAILNET_INTERFACE) != ours:
            try:
                write_link(TAILNET_INTERFACE, ours)
            except CommandFailed as error:
                raise ApplyFailed(f"DNS of {TAILNET_INTERFACE}: {error.message}", hint=error.hint) from error
            calm_since = time.monotonic()


def _steps(snapshot: Mapping[str, Any]) -> Iterator[tuple[str, LinkDns | None, LinkDns | None]]:
    """Link, what it has (None: no such link), what it is to have (None: ours goes away)."""
    live, record = _links(snapshot, "links"), _links(snapshot, "record")
    wanted = _links(snapshot, "wanted")
    for link, dns in wanted.items():
        if live.get(link) != dns:
            yield link, live.get(link), dns
    for link, ours in record.items():
        # What somebody else has set since is theirs.
        if link not in wanted and live.get(link) == ours and not ours.is_empty:
            yield link, ours, None


def _links(snapshot: Mapping[str, Any], key: str) -> dict[str, LinkDns]:
    found = snapshot.get(key)
    if not isinstance(found, dict):
        raise CheckFailed(f"the snapshot of DNS is damaged: {key}")
    return {link: LinkDns.from_json(dns) for link, dns in found.items() if dns is not None}


def _unrouted(found: tuple[Route, ...]) -> Iterator[str]:
    """Domains that were left to tailscaled and that it does not route."""
    owned = [route for route in found if route.by_tailscaled]
    live = read_link(TAILNET_INTERFACE) if owned else None
    for route in owned:
        names = {domain.lstrip("~") for domain in live.domains} if live else set()
        if not any(name in {"", "."} or f".{route.domain}".endswith(f".{name}") for name in names):
            yield (
                f"{route.domain} is not routed to {TAILNET_RESOLVER} by tailscaled: add it to the tailnet's "
                "split DNS (Headscale: dns.nameservers.split), or set tailscale.accept_dns: false so that "
                "tsstack routes it"
            )


def _own_domain(found: tuple[Route, ...]) -> str:
    """The domain that is the tailnet's own, as far as the file tells, while tailscaled is not up."""
    owned = [route.domain for route in found if route.by_tailscaled]
    return owned[0] if len(owned) == 1 else ""


def read_record(paths: Paths) -> dict[str, LinkDns]:
    """The links that have DNS settings of ours, with these. Raises CheckFailed for a damaged record."""
    path = paths.state / RECORD
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckFailed(f"{path} cannot be read: {error}", hint="move it away to go on") from error
    return _links({"record": data}, "record")


def _write_record(paths: Paths, record: Mapping[str, LinkDns]) -> None:
    if record == read_record(paths):
        return
    data = {link: dns.as_json() for link, dns in sorted(record.items())}
    try:
        paths.state.mkdir(parents=True, exist_ok=True)
        write_durably(paths.state / RECORD, json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise ApplyFailed(f"{paths.state / RECORD} cannot be written: {error.strerror}") from error


def _tree(generation: Path) -> dict[str, str]:
    path = generation / desired.FILE
    return {desired.FILE: path.read_text()} if path.is_file() else {}


def _shown(dns: LinkDns | None) -> str | None:
    if dns is None or dns.is_empty:
        return None
    return f"{' '.join(dns.domains) or 'no domain'} at {' '.join(dns.servers) or 'no server'}"


PART = DnsPart()
