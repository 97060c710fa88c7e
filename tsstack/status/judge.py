"""What of a status a person should know, and how bad it is. Pure.

Each remark has a stable code, which `explain/status_pages.py` declares and `tsstack explain` explains.
"""

from __future__ import annotations

from tsstack.parts.proxy.ends import certificate_level
from tsstack.parts.proxy.faults import (
    IDENTITY_SILENT,
    NGINX_WITHOUT_MASTER,
    SILENT_DOORKEEPER,
    reload_nginx,
    without_master,
)
from tsstack.status.fixes import (
    approve,
    ask_about,
    connect,
    has_expired,
    pasted,
    reapply,
    renew_certificate,
    renew_key,
    restart_nginx,
    settle,
    start_monitor,
)
from tsstack.status.forwarding import SWITCHES, alone_off, forwards_for, off_words, own_switch, switched_off
from tsstack.status.severity import (
    EXIT_BYPASSED,
    FALLBACK_STANDS,
    FORWARDING_OFF,
    LEVEL_OF_PATH,
    RANK,
    SERVED_BY_OTHERS,
    TABLE_CHANGED,
    TABLE_MISSING,
    TABLE_NOT_COMPARED,
    TROUBLE,
    of_table,
    worst_of,
)
from tsstack.status.tailnet import BLOCKED, settles
from tsstack.status.words import time_left, why_open
from tsstack.system.bypass import Bypass, in_words, way_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from tsstack.status.shape import Level, Monitor, Status, Warning_

_DAY_S = 86400.0
_KEY_WARNS_S = 14 * _DAY_S
# Of tailscale's health/warnings: a host that routes, and does not forward.
_FORWARDING = "IP forwarding is disabled"
# tsstack.monitor.past's own; that module would cost the screen its speed.
_PAST_EXIT = "past the exit node"


def judge(status: Status) -> list[Warning_]:
    """The remarks on a status, the worst first, else causes before what follows from them: a firewall that is
    flushed closes the tailnet and the services. Reads no `warnings`."""
    found = [
        *_uplinks(status),
        *_firewall(status),
        *_tailnet(status),
        *_exit(status),
        *_services(status),
        *_certificates(status),
        *_monitor(status),
        *_generation(status),
    ]
    return sorted(found, key=lambda each: -RANK[each["level"]])


def worst(warnings: list[Warning_]) -> Level:
    """The worst of their levels; ok without any."""
    return worst_of([each["level"] for each in warnings])


def _say(code: str, level: Level, about: str, message: str, hint: str = "") -> Warning_:
    return {"code": code, "level": level, "about": about, "message": message, "hint": hint}


def _uplinks(status: Status) -> Iterator[Warning_]:
    uplinks = status["uplinks"]
    if uplinks is None:
        return
    if uplinks and all(each["up"] is False for each in uplinks):
        names = ", ".join(each["interface"] for each in uplinks)
        yield _say("TS714", "critical", "uplink", f"{names} has no link", "ip -brief link")
    # Whoever is heard by the control server has a way out that is not seen here: rules, several next hops.
    elif not uplinks and status["tailnet"]["online"] is False:
        message = "no default route: nothing beyond this host's own networks is reached"
        yield _say("TS714", "critical", "uplink", message, "ip route; ip -brief link")


def _tailnet(status: Status) -> Iterator[Warning_]:
    tailnet = status["tailnet"]
    if tailnet["error"]:
        yield _say("TS701", "critical", "tailnet", tailnet["error"], connect(status))
        return
    expired = has_expired(status)
    if expired:
        said = "this node's key has expired, and the control server lets it in no more"
        yield _say("TS706", "critical", "tailnet", said, connect(status))
    elif tailnet["state"] != "Running":
        said = f"tailscaled is not connected: {tailnet['state'] or 'no state'}"
        yield _say("TS702", "critical", "tailnet", said, connect(status))
    if tailnet["state"] == "Running":
        yield from _connection(status)
    waiting = [offer["route"] for offer in tailnet["offers"] if not offer["approved"]]
    exits = ["0.0.0.0/0", "::/0"] if tailnet["offers_exit"] else []
    fix = approve(tailnet, [*(offer["route"] for offer in tailnet["offers"]), *exits])
    if waiting:
        said = f"{', '.join(waiting)}: offered, and not approved as far as this node knows"
        yield _say("TS704", "warning", "tailnet", said, fix)
    if tailnet["offers_exit"] and not tailnet["exit_approved"]:
        said = "offered as an exit node, and not approved as far as this node knows"
        yield _say("TS705", "warning", "tailnet", said, fix)
    expires = tailnet["key_expires"]
    if expires is not None and not expired and expires - status["at"] < _KEY_WARNS_S:
        said = f"this node's key expires in {time_left(expires - status['at'])}"
        yield _say("TS706", "warning", "tailnet", said, renew_key(tailnet, expired=False))


def _connection(status: Status) -> Iterator[Warning_]:
    """Of a tailscaled that is up. What one that is not up complains of has its remark already."""
    tailnet = status["tailnet"]
    for line in tailnet["health"]:
        if _FORWARDING in line and (status["forwarding_off"] or any(switched_off(status))):
            continue  # TS861 tells it, and what puts it right
        yield _say("TS703", "warning", "tailnet", f"tailscaled says: {line}", ask_about(line))
    if tailnet["online"] is False and not settles(tailnet, status["at"]) and not any(_uplinks(status)):
        server = tailnet["control"] or "the control server"
        said = (
            f"no connection to {server}: nothing new of the tailnet is heard here, and nobody can join or "
            "come back"
        )
        yield _say(
            "TS717", "warning", "tailnet", said, f"tsstack doctor    # asks {server} past the exit node"
        )


def _exit(status: Status) -> Iterator[Warning_]:
    way = status["exit"]
    listing = "tsstack exit-node list"
    if way["stuck"]:
        said = f"nothing leaves this host: its packets go to tailscaled, and {_why(status)}"
        yield _say("TS716", "critical", "exit node", said, connect(status))
    elif way["bypassed"]:
        past = [Bypass(**each) for each in way["bypassed"]]
        said = f"{in_words(past)}, and not by {way['using']}, which tailscaled says is in use"
        yield _say("TS718", EXIT_BYPASSED, "exit node", said, way_back(past))
    elif way["blocked"]:
        said = f"no exit node works, and nothing may leave: {_why(status).replace(BLOCKED, '')}"
        yield _say("TS707", "critical", "exit node", said, listing)
    elif way["using"] and way["online"] is False:
        said = f"{way['using']} is in use and offline: no internet through it"
        yield _say("TS708", "critical", "exit node", said, listing)
    elif way["level"] == "dead" and not way["moving"]:
        said = f"no internet through {way['using']}, which is in use: {_why(status)}"
        yield _say("TS715", "critical", "exit node", said, listing)
    elif way["wanted"] and way["known"] and way["manual"] is None:
        home = way["wanted"][0]
        if not way["using"]:
            said = f"traffic leaves by the uplink, not by {home}: {_why(status)}"
            up = status["tailnet"]["state"] == "Running"
            yield _say("TS709", "warning", "exit node", said, listing if up else connect(status))
        elif way["using"].lower() != home.lower():
            said = f"{way['using']} stands in for {home}: {_why(status)}"
            yield _say("TS710", "warning", "exit node", said, "ts-monitor-logs --about exit-node")
    if way["manual"] is not None:
        said = f"{way['manual'] or 'direct'} was chosen by hand and stays"
        yield _say("TS711", "warning", "exit node", said, "tsstack exit-node auto")
    if way["maintenance"]:
        said = "maintenance: nothing is changed whatever happens"
        yield _say("TS712", "warning", "exit node", said, "tsstack monitor maintenance off")


def _why(status: Status) -> str:
    return "; ".join(status["exit"]["why"]) or status["monitor"]["error"] or "the monitor gives no reason"


def _services(status: Status) -> Iterator[Warning_]:
    proxy = status["proxy"]
    if proxy["running"] is False:
        yield _say(
            "TS725", "critical", "nginx", f"{proxy['error']}: nothing is served", restart_nginx(status)
        )
    elif proxy["current"] is False:
        message = "nginx serves another configuration than the live generation's"
        yield _say("TS726", "critical", "nginx", message, reload_nginx(proxy["unit"]))
    elif proxy["error"]:
        yield _say("TS724", "warning", "services", proxy["error"], "sudo nginx-test")
    if proxy["orphans"] and proxy["running"] is not False:
        said = without_master(proxy["orphans"])
        yield _say("TS725", NGINX_WITHOUT_MASTER, "nginx", said, restart_nginx(status))
    if proxy["identity"] is False:
        generation = status["generation"]
        hint = reapply(generation["current"], generation["boot"], generation["pending"])
        yield _say("TS720", IDENTITY_SILENT, "identity daemon", SILENT_DOORKEEPER, hint)
    gone = [each for each in status["services"] if each["unreached"] and _is_connected(status)]
    if gone:
        names = ", ".join(each["name"] for each in gone[:3]) + ("" if len(gone) < 4 else ", ...")
        said = f"nobody of the tailnet gets to {names}: {gone[0]['unreached']}"
        yield _say("TS728", "critical", "services", said, "tsstack switch")
    for service in status["services"]:
        if proxy["running"] is False:
            break  # one remark tells it for all
        if service["unreached"]:
            continue  # that of tailscaled tells it
        if service["level"] == "dead":
            why = f": {service['error']}" if service["error"] else ""
            said = f"no upstream of {service['url']} answers{why}"
            hint = f"nginx-logs {service['name']} --errors    # what nginx saw; then start what serves it"
            yield _say("TS721", LEVEL_OF_PATH["dead"], service["name"], said, hint)
        elif service["dead_upstreams"]:
            count = service["dead_upstreams"]
            words = "an upstream does not answer" if count == 1 else f"{count} upstreams do not answer"
            said = f"{words}; others serve it"
            which = f"ts-quality service:{service['name']}    # which: start it, or take it out of the file"
            yield _say("TS727", SERVED_BY_OTHERS, service["name"], said, which)


def _certificates(status: Status) -> Iterator[Warning_]:
    for certificate in status["certificates"]:
        names = ", ".join(certificate["names"][:3]) + ("" if len(certificate["names"]) < 4 else ", ...")
        expires, renew = certificate["expires"], renew_certificate(certificate["kind"])
        if expires is None:
            if certificate["error"] != "reading it needs root":
                yield _say("TS722", "critical", "certificate", f"{names}: {certificate['error']}", renew)
            continue
        if certificate["served"] is False:
            said = f"the certificate of {names} was renewed, and nginx serves what it loaded before that"
            yield _say("TS729", "warning", "certificate", said, reload_nginx(status["proxy"]["unit"]))
        left_s = expires - status["at"]
        level = certificate_level(left_s, certificate["life_s"])
        if level != "ok":
            when = f"expires in {time_left(left_s)}" if left_s > 0 else "has expired"
            yield _say(
                "TS723",
                level,
                "certificate",
                f"the certificate of {names} {when}",
                renew,
            )


def _firewall(status: Status) -> Iterator[Warning_]:
    firewall, generation = status["firewall"], status["generation"]
    if not firewall["enabled"]:
        return
    live = 0 if firewall["fallback"] else generation["current"]
    mend = reapply(live, generation["boot"], generation["pending"])
    if firewall["loaded"] is False:
        said = f"table inet tsstack is {why_open(firewall)}"
        yield _say("TS731", TABLE_MISSING, "firewall", said, mend)
        return
    if firewall["changed"]:
        yield _say("TS732", TABLE_CHANGED, "firewall", "table inet tsstack is not as it was loaded", mend)
        return
    if firewall["changed"] is None and of_table(firewall) == TABLE_NOT_COMPARED and not generation["error"]:
        said = firewall["error"] or "table inet tsstack is loaded; whether it was changed since is not known"
        yield _say("TS734", TABLE_NOT_COMPARED, "firewall", said, "fw-status")
    if firewall["fallback"]:
        said = "the live generation has no firewall: the fallback's zones stand"
        yield _say("TS733", FALLBACK_STANDS, "firewall", said, "tsstack switch")


def _monitor(status: Status) -> Iterator[Warning_]:
    monitor = status["monitor"]
    state = monitor["state"]
    if not monitor["running"] or state is None:
        if monitor["wanted"]:
            yield _silent(monitor)
        yield from _left_withdrawn(status)
        return
    for route in state["routes"]:
        if route["withdrawn"]:
            yield _withdrawn(route)
    for verdict, code in (("dead", "TS742"), ("poor", "TS743"), ("suspect", "TS745")):
        # A dead upstream is told with its service (TS721, TS727).
        keys = [
            path["key"]
            for path in state["paths"]
            if path["level"] == verdict and not (verdict == "dead" and path["kind"] == "service")
        ]
        if keys:
            shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
            yield _say(code, LEVEL_OF_PATH[verdict], "links", f"{verdict}: {shown}", "ts-quality")
    for trouble in state["troubles"]:
        of_tailscaled = trouble["about"] == "tailscaled" or "tailscale0" in trouble["message"]
        if of_tailscaled and not _is_connected(status):
            continue  # TS701, TS702 and TS706 tell it
        if trouble["about"] == _PAST_EXIT and status["exit"]["bypassed"]:
            continue  # TS718 tells it
        yield _say("TS744", TROUBLE, "monitor", trouble["message"], pasted(trouble["hint"]))


def _silent(monitor: Monitor) -> Warning_:
    """A monitor that says nothing. One that refuses to answer runs, and is to be left alone."""
    if monitor["running"]:
        said = f"{monitor['error']}: what it measures is not known here"
        hint = "ss -xp | grep monitor.sock    # who asks it all the time"
    else:
        said = f"{monitor['error']}: nothing fails over"
        gone = monitor["error"] == "no monitor runs"
        hint = start_monitor() if gone else "systemctl restart tsstack-monitor"
    return _say("TS741", "warning", "monitor", said, hint)


def _is_connected(status: Status) -> bool:
    return status["tailnet"]["state"] == "Running"


def _withdrawn(route: Mapping[str, Any]) -> Warning_:
    back_in_s = route.get("back_in_s")
    if route["level"] != "good" or back_in_s is None:
        return _say(
            "TS713",
            "warning",
            "tailnet",
            f"{route['network']}: withdrawn by the monitor, nothing behind it answers",
            f"ts-quality {route['network']}",
        )
    left = f"{back_in_s / 60:.0f} min" if back_in_s >= 90 else f"{back_in_s:.0f} s"
    return _say(
        "TS713",
        "warning",
        "tailnet",
        f"{route['network']}: withdrawn by the monitor; it is well, and offered again in {left}",
        f"tsstack monitor offer {route['network']}",
    )


def _left_withdrawn(status: Status) -> Iterator[Warning_]:
    """Nobody brings back what a monitor withdrew that is gone. One that hangs is told, and keeps it."""
    generation, monitor = status["generation"], status["monitor"]
    hint = reapply(generation["current"], generation["boot"], generation["pending"])
    for offer in status["tailnet"]["offers"]:
        if offer["withdrawn"] and monitor["error"] == "no monitor runs":
            said = f"{offer['route']}: withdrawn by the monitor, and {monitor['error']}"
            yield _say("TS713", "warning", "tailnet", said, hint)


def _generation(status: Status) -> Iterator[Warning_]:
    generation = status["generation"]
    hint = reapply(generation["current"], generation["boot"], generation["pending"])
    off = dict(switched_off(status))
    for name in off:
        said = off_words(name, forwards_for(status["tailnet"]) or "the live generation")
        yield _say("TS861", FORWARDING_OFF, "forwarding", said, hint)
    if status["forwarding_off"] and SWITCHES[0][1] not in off:
        said, fix = alone_off(status["forwarding_off"], forwards_for(status["tailnet"]))
        yield _say("TS861", FORWARDING_OFF, "forwarding", said, fix)
    told = {*off.values(), *(f"{own_switch(each)} is 0, not 1" for each in status["forwarding_off"])}
    drift = [line for line in generation["drift"] if line not in told]
    if drift:
        more = f"; and {len(drift) - 3} more" if len(drift) > 3 else ""
        yield _say("TS755", "warning", "generation", f"drift: {'; '.join(drift[:3])}{more}", hint)
    pending = generation["pending"]
    if generation["error"] and generation["error"] != "reading it needs root":
        message = f"generation {generation['current']} is live and cannot be read: {generation['error']}"
        hint = "tsstack switch    # makes a new one; tsstack rollback --to N goes to another"
        yield _say("TS754", "critical", "generation", message, hint)
    if pending is None:
        if generation["current"] != generation["boot"]:
            yield _say(
                "TS753",
                "warning",
                "generation",
                f"the next boot brings up generation {generation['boot']}, not {generation['current']}",
                "tsstack switch    # makes what the file says permanent",
            )
    elif pending["phase"] == "unconfirmed":
        left_s = pending["left_s"]
        when = "soon" if left_s is None or left_s <= 0 else f"in {left_s:.0f} s"
        yield _say(
            "TS751",
            "warning",
            "generation",
            f"{pending['generation']} is undone {when} by itself",
            "tsstack confirm    # keeps it; tsstack rollback undoes it now",
        )
    else:
        said = {
            "unknown": "a switch is not over; root may read more of it",
            "damaged": "a switch is not over, and its record is damaged",
        }.get(pending["phase"], f"a switch to {pending['generation']} is at work, or was cut off")
        yield _say("TS752", "warning", "generation", said, settle(pending))
