"""How the host joins the tailnet, against itself and against the rest of the file."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from tsstack.model import host_codes as codes
from tsstack.model.keypath import KeyPath
from tsstack.model.rules.view import Remark, View, in_tailnet, rule, takes_tailnet


@rule("tailscale", "host")
def exit_nodes(view: View) -> Iterator[Remark]:
    tailscale = view.stack.tailscale
    if tailscale is None or tailscale.exit_node is None:
        return
    if tailscale.advertise.exit_node:
        message = "this host offers an exit node and uses one; only one of the two works"
        yield Remark(
            codes.EXIT_NODE_BOTH, ("tailscale", "exit_node"), message, "remove one of them", rests_on=()
        )
    if tailscale.exit_node.use and tailscale.advertise.routes and not tailscale.exit_node.allow_lan_access:
        message = "while an exit node is in use, this host does not reach the networks that it routes for"
        hint = "write allow_lan_access: true"
        place: KeyPath = ("tailscale", "exit_node")
        yield Remark(codes.OWN_LAN_BEHIND_EXIT_NODE, place, message, hint, rests_on=())
    seen: set[str] = set()
    for index, name in enumerate(tailscale.exit_node.use):
        path: KeyPath = ("tailscale", "exit_node", "use", index)
        if name.lower() == view.stack.host.name.lower():
            yield Remark(codes.OWN_EXIT_NODE, path, f"{name} is this host", rests_on=(("host", "name"),))
        if name.lower() in seen:
            yield Remark(codes.LISTED_TWICE, path, f"{name} is listed twice", rests_on=())
        seen.add(name.lower())


@rule("tailscale")
def advertised_routes(view: View) -> Iterator[Remark]:
    tailscale = view.stack.tailscale
    if tailscale is None:
        return
    seen: set[str] = set()
    for index, route in enumerate(tailscale.advertise.routes):
        path: KeyPath = ("tailscale", "advertise", "routes", index)
        if route.prefixlen == 0:
            message = f"{route} is a default route"
            hint = "write exit_node: true instead"
            yield Remark(codes.DEFAULT_ROUTE_AS_SUBNET, path, message, hint, rests_on=())
        elif in_tailnet(route):
            message = f"{route} lies within the tailnet's own range"
            yield Remark(codes.TAILNET_AS_SUBNET, path, message, rests_on=())
        elif str(route) in seen:
            yield Remark(codes.LISTED_TWICE, path, f"{route} is listed twice", rests_on=())
        seen.add(str(route))
    if tailscale.accept_routes and tailscale.advertise.routes:
        message = "another router's offer of the same subnet would take over the own LAN"
        hint = "leave accept_routes off on a subnet router, or see that no other node offers its subnets"
        path = ("tailscale", "accept_routes")
        yield Remark(codes.ACCEPTS_OWN_SUBNET, path, message, hint, rests_on=())


@rule("tailscale", "secrets")
def enrolment(view: View) -> Iterator[Remark]:
    tailscale = view.stack.tailscale
    if tailscale is None:
        return
    if tailscale.auth_key and tailscale.auth_key.secret and view.stack.secrets is None:
        message = "there is no secrets section to take the key from"
        hint = "add secrets: {file: secrets.yaml}, or write auth_key: {file: PATH}"
        key_path: KeyPath = ("tailscale", "auth_key", "secret")
        yield Remark(codes.NO_SECRETS_FILE, key_path, message, hint, rests_on=(("secrets",),))
    if tailscale.tags and tailscale.auth_key and not view.hosted:
        message = "Headscale refuses a node that brings a key and asks for tags"
        hint = "take the tags out here and put them on the key: preauthkeys create --tags"
        yield Remark(codes.TAGS_WITH_HEADSCALE_KEY, ("tailscale", "tags"), message, hint, rests_on=())
    server = urlsplit(tailscale.login_server)
    if server.scheme == "http" and not _is_local(server.hostname or ""):
        message = f"{tailscale.login_server} is asked without TLS"
        path = ("tailscale", "login_server")
        yield Remark(codes.PLAIN_LOGIN_SERVER, path, message, "use https://", rests_on=())


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"


@rule("tailscale", "proxy", "firewall")
def reachable_from_tailnet(view: View) -> Iterator[Remark]:
    tailscale = view.stack.tailscale
    if tailscale is None:
        return
    serves = bool(view.services) or any(takes_tailnet(zone) for zone in view.zones.values())
    if tailscale.shields_up and serves:
        message = "tailscaled refuses what the proxy or the zones offer to the tailnet"
        yield Remark(codes.SHIELDS_UP, ("tailscale", "shields_up"), message)


@rule("tailscale", "firewall")
def hidden_sources(view: View) -> Iterator[Remark]:
    tailscale, firewall = view.stack.tailscale, view.stack.firewall
    if tailscale is None or tailscale.netfilter == "on" or not view.stack.routes_for_tailnet:
        return
    snat = tailscale.advertise.snat
    own_table = firewall is not None and firewall.enabled
    masquerades = firewall is not None and own_table and any(rule.masquerade for rule in firewall.forward)
    # Our table takes tailscaled's part. On the way to the internet hiding is needed, whatever snat says.
    if (own_table and snat) or masquerades or not (snat or tailscale.advertise.exit_node):
        return
    message = f"with {tailscale.netfilter} tailscaled does not hide the tailnet's addresses on the way out"
    if own_table:
        message += ", and with advertise.snat: false tsstack does not either"
        hint = "write snat: true, or add a forward rule with masquerade: true"
    else:
        message += ", and without a firewall section tsstack does not either"
        hint = "leave netfilter on, or write a firewall section"
    yield Remark(codes.NETFILTER_OFF, ("tailscale", "netfilter"), message, hint)


@rule("tailscale", "host")
def live_tailnet(view: View) -> Iterator[Remark]:
    """What tailscaled itself says, where it was asked."""
    live = view.facts.tailscale if view.facts else None
    tailscale = view.stack.tailscale
    if live is None or tailscale is None:
        return
    tailnet = view.stack.host.tailnet
    suffix = live.magic_dns_suffix.rstrip(".")
    if tailnet and suffix and suffix.lower() != tailnet.lower():
        message = f"tailscaled says that the tailnet is {suffix}"
        yield Remark(codes.OTHER_TAILNET, ("host", "tailnet"), message)
    control = live.control_url.rstrip("/")
    if control and live.backend_state == "Running" and control != tailscale.login_server.rstrip("/"):
        message = f"the host is logged in at {control}; this means a new login"
        yield Remark(codes.OTHER_TAILNET, ("tailscale", "login_server"), message)
    if live.backend_state == "NeedsLogin" and tailscale.auth_key is None:
        hint = "add tailscale.auth_key, or run `tailscale login` once"
        yield Remark(codes.NO_AUTH_KEY, ("tailscale",), "the host is not enrolled and has no key", hint)
