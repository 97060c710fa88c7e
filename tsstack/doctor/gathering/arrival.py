"""Makes new connections: to loopback, to each socket of ours, and by ping through the tunnel to a peer."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tsstack.doctor.arrival import ArrivalFacts, PeerFacts, Ruling, Socket
from tsstack.errors import ApplyFailed, CommandFailed, TsstackError, UsageError
from tsstack.parts.proxy.authority import ca_certificate
from tsstack.parts.proxy.engine import engine
from tsstack.parts.proxy.links import reload_command
from tsstack.parts.proxy.probe import ask_status, probe_vhosts
from tsstack.status.tailnet import peer_name
from tsstack.system.localapi import LocalApi, LocalApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tsstack.model.facts import Facts
    from tsstack.model.loaded import LoadedStack
    from tsstack.parts.proxy.plan import Listener, Plan

_TIMEOUT_S = 2.0
_PING_S = 2.0
_PINGS = 3
_MOST_RULINGS = 12
_RENEW = "tsstack certificates renew"
# Not 127.0.0.1, where a socket for tailscaled alone may be.
_LOOPBACK = {"0.0.0.0": "127.0.0.2", "::": "::1"}  # noqa: S104  (looked up, not bound)


def connect_to_self(plan: Plan | None, facts: Facts) -> ArrivalFacts:
    """Blocks for some seconds where packets are dropped."""
    loopback = _try_loopback()
    if plan is None or not plan.listeners:
        return ArrivalFacts(loopback)
    sockets = tuple(_try_all([each for each in plan.listeners if each.protocol == "tcp"]))
    fault = hint = reload = ""
    if any(each.refused for each in sockets) and _runs(plan, facts):
        reload = reload_command(plan, facts)
    if not any(each.fault for each in sockets):
        try:
            probe_vhosts(plan, ca_certificate(facts.paths.tls, plan.tailnet))
        except ApplyFailed as error:
            fault = error.message
            hint = _RENEW if "certificate" in fault else f"nginx-test    # {error.hint}"
        except PermissionError:  # the CA's folder: TS804 says that not everything was asked
            return ArrivalFacts(loopback, sockets)
        except OSError as error:
            fault, hint = f"the services were not asked by name: {error}", _RENEW
    return ArrivalFacts(loopback, sockets, fault, hint, len(plan.vhosts), reload)


def _runs(plan: Plan, facts: Facts) -> bool:
    """Whether nginx runs, as far as this user may know."""
    if plan.status and ask_status(plan.status):
        return True
    try:
        return os.geteuid() == 0 and engine(plan.main_config, facts).master() is not None
    except CommandFailed:  # nginx itself is gone: TS811
        return False


def ask_peer(name: str, plan: Plan | None, facts: Facts, loaded: LoadedStack | None) -> PeerFacts:
    """Ping a peer through its tunnel, and ask a copy of the live rules for it. Raises LocalApiError."""
    api = LocalApi(facts.paths.tailscale_socket)
    peers = list((api.status().get("Peer") or {}).values())
    peer = _find(name, peers)
    if peer is None:
        return PeerFacts(name, near=_near(name, [peer_name(each) for each in peers]))
    address = str((peer.get("TailscaleIPs") or [""])[0])
    tunnel_s, fault = _ping(api, address)
    rulings: tuple[Ruling, ...] = ()
    rules_fault = "" if os.geteuid() == 0 else "copying the live rules needs root"
    services = dict.fromkeys(f"{each.protocol}/{each.port}" for each in plan.listeners) if plan else {}
    if not rules_fault and services:
        try:
            sources = [str(each) for each in peer["TailscaleIPs"]]
            rulings = tuple(_rule(sources, list(services)[:_MOST_RULINGS], facts, loaded))
        except (TsstackError, OSError) as error:
            rules_fault = str(error)
    return PeerFacts(
        name=peer_name(peer),
        address=address,
        online=bool(peer.get("Online")),
        tunnel_s=tunnel_s,
        tunnel_fault=fault,
        way=_way(api, address) if tunnel_s is not None else "",
        rulings=rulings,
        rules_fault=rules_fault,
    )


def _try_loopback() -> str:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.settimeout(_TIMEOUT_S)
            client.connect(server.getsockname())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _try_all(listeners: list[Listener]) -> Iterator[Socket]:
    """All at once: a host that drops its own packets costs one time limit, not one for each socket."""
    begun: dict[socket.socket, Listener] = {}
    faults: dict[str, str] = {}
    with selectors.DefaultSelector() as selector:
        try:
            for listener in listeners:
                family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
                link = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                code = link.connect_ex((_LOOPBACK.get(listener.address, listener.address), listener.port))
                if code in {0, errno.EINPROGRESS}:
                    begun[link] = listener
                    selector.register(link, selectors.EVENT_WRITE)
                else:
                    link.close()
                    faults[listener.endpoint] = os.strerror(code)
            deadline_s = time.monotonic() + _TIMEOUT_S
            waiting = set(begun)
            while waiting and (left_s := deadline_s - time.monotonic()) > 0:
                for ready, _ in selector.select(left_s):
                    link = next(each for each in waiting if each is ready.fileobj)
                    selector.unregister(link)
                    waiting.discard(link)
                    if code := link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        faults[begun[link].endpoint] = os.strerror(code)
            for link in waiting:
                faults[begun[link].endpoint] = f"no answer within {_TIMEOUT_S:g} s: its packets are dropped"
        finally:
            for link in begun:
                link.close()
    for listener in listeners:
        fault = faults.get(listener.endpoint, "")
        refused = fault == os.strerror(errno.ECONNREFUSED)
        yield Socket(listener.endpoint, listener.path, fault, refused)


def _find(name: str, peers: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    wanted = name.rstrip(".").lower()
    for peer in peers:
        known = {peer_name(peer), str(peer.get("DNSName", "")).rstrip("."), *(peer.get("TailscaleIPs") or ())}
        if wanted in {each.lower() for each in known}:
            return peer
    return None


def _near(name: str, names: list[str]) -> tuple[str, ...]:
    import difflib

    return tuple(difflib.get_close_matches(name, names, 3, 0.5) or sorted(names))


def _ping(api: LocalApi, address: str) -> tuple[float | None, str]:
    """The best of some TSMP pings: the first one may have to open the tunnel."""
    best: float | None = None
    fault = ""
    for _ in range(_PINGS):
        try:
            found_s = float(api.ping(address, "TSMP", timeout_s=_PING_S)["LatencySeconds"])
            best = found_s if best is None else min(best, found_s)
        except (LocalApiError, KeyError) as error:
            fault = str(error)
            if best is None and fault.startswith("tailscaled did not answer"):
                fault = f"no answer within {_PING_S:g} s"
    return best, fault


def _way(api: LocalApi, address: str) -> str:
    try:
        answer = api.ping(address, "disco", timeout_s=_PING_S)
    except LocalApiError:
        return ""
    if answer.get("Endpoint"):
        return f"direct by {answer['Endpoint']}"
    return f"by relay {answer['DERPRegionCode']}" if answer.get("DERPRegionCode") else ""


def _rule(
    sources: list[str], services: list[str], facts: Facts, loaded: LoadedStack | None
) -> Iterator[Ruling]:
    """As `tsstack explain --live` does it: each packet is sent through a copy of all owners' rules."""
    from tsstack.explain.kernel_copy import read_ruleset
    from tsstack.explain.others import Hit
    from tsstack.explain.packet import Ground, explain_live
    from tsstack.explain.places import Places
    from tsstack.explain.question import Asked, resolve
    from tsstack.explain.services import parse_service
    from tsstack.explain.surroundings import look_around, read_land
    from tsstack.explain.world import World
    from tsstack.model.sections import Host
    from tsstack.model.stack import Stack

    stack = loaded.stack if loaded else Stack(host=Host(name="host"))
    own = facts.tailscale.addresses if facts.tailscale else ()
    around = look_around(facts.default_interface, facts.paths.tailscale_socket, own)
    land = read_land(around)
    ground = Ground(stack, facts, Places(loaded) if loaded else None)
    copy = read_ruleset()
    for source, service in ((source, service) for source in sources for service in services):
        to = next((each for each in own if (":" in each) == (":" in source)), "")
        with World() as world:
            try:
                asked = Asked(source, parse_service(service, stack), "tailscale0", to)
                explained = explain_live(world, resolve(asked, stack, around), ground, copy, land)
            except UsageError as error:
                raise ApplyFailed(error.message, hint=error.hint) from error
        answer = explained.answer
        place = f"{explained.place}: " if explained.place else ""
        fix = answer.fix.words if answer.fix else ""
        by = answer.decision
        foreign = answer.verdict != "accepted" and by is not None and not by.ours
        hit = Hit(service, "", source, "tailscale0", by) if foreign and by else None
        if by := explained.taken_by:
            chain = f"{by.family} {by.table} {by.chain}"
            words = f"chain {chain}: `{by.rule}`; what listens here for the file does not get it"
            yield Ruling(service, "sent elsewhere", words, f"nft -a list chain {chain}", source)
            continue
        yield Ruling(service, answer.verdict, f"{place}{answer.reason}", fix, source, hit)
