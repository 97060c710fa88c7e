"""What the starter file says of tailscaled: its settings as they are, or why they cannot be written. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable

from tsstack.model.document import resolve
from tsstack.model.names import fits
from tsstack.model.rules.view import HOSTED, in_tailnet
from tsstack.system.inventory import Found, TailscalePrefs

_DEFAULT_ROUTES = {"0.0.0.0/0", "::/0"}


def yaml_word(text: str) -> str:
    """A text as YAML, in quotes only where it needs them."""
    simple = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) is not None
    return text if simple and isinstance(resolve(text), str) else json.dumps(text)


def yaml_list(words: Iterable[str | int]) -> str:
    return f"[{', '.join(str(word) if isinstance(word, int) else yaml_word(word) for word in words)}]"


def plain(text: str) -> str:
    """A text that may stand in a comment."""
    return re.sub(r"[^A-Za-z0-9_.@-]+", "-", text)


def _label(hostname: str) -> str:
    label = re.sub(r"[^A-Za-z0-9-]+", "-", hostname.split(".", maxsplit=1)[0]).strip("-")[:63].strip("-")
    return label or "myhost"


def host_name(found: Found) -> str:
    """The name that tailscaled was given, else the machine's own."""
    given = found.prefs.hostname if found.tailscale_running else ""
    return given if fits("label", given) else _label(found.hostname)


def is_hosted(found: Found) -> bool:
    return found.login_server.rstrip("/") in ("", HOSTED)


def tailscale_block(found: Found) -> list[str]:
    if not found.tailscale_running:
        return [
            "# tailscaled is not logged in here. It is left alone while this section is absent.",
            "# tailscale:",
            "#   login_server: https://hs.example.com    # default: Tailscale's own",
            "#   auth_key: {secret: authkey}             # or {file: /run/keys/ts}",
        ]
    section = _tailscale_section(found)
    reasons = without_words(found)
    if not reasons:
        return ["# As tailscaled is set now.", *section]
    return [
        "# As tailscaled is set now, but for what this file has no words for:",
        *(f"#   {reason}" for reason in reasons),
        "# It is left alone while this section is absent. With it, that would be lost.",
        *(f"# {line}" for line in section),
    ]


def _tailscale_section(found: Found) -> list[str]:
    prefs = found.prefs
    lines = ["tailscale:"]
    if not is_hosted(found) and fits("login server", found.login_server):
        lines.append(f"  login_server: {json.dumps(found.login_server)}")
    tags = [tag for tag in prefs.tags if fits("tag", tag)]
    if tags:
        lines.append(f"  tags: {yaml_list(tags)}")
    for key in ("accept_dns", "accept_routes", "ssh", "shields_up"):
        lines.append(f"  {key}: {_truth(getattr(prefs, key))}")
    if prefs.netfilter not in ("", "on"):
        lines.append(f"  netfilter: {prefs.netfilter}")
    if fits("user", prefs.operator):
        lines.append(f"  operator: {yaml_word(prefs.operator)}")
    offer = _advertise(prefs)
    lines.append(offer or "  # advertise: {routes: [192.168.15.0/24], exit_node: true}")
    if _exit_node_fits(found):
        lan = _truth(prefs.allow_lan_access)
        lines.append(
            f"  exit_node: {{use: [{yaml_word(found.exit_node)}], allow_lan_access: {lan}, otherwise: block}}"
        )
    else:
        lines.append("  # exit_node: {use: [exit-a, exit-b]}")
    return lines


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _advertise(prefs: TailscalePrefs) -> str:
    """The line about what is offered; empty where nothing is."""
    words = []
    routes = [route for route in prefs.routes if route not in _DEFAULT_ROUTES and _is_subnet(route)]
    if prefs.routes:
        words += [
            f"routes: {yaml_list(routes)}",
            f"exit_node: {_truth(set(prefs.routes) >= _DEFAULT_ROUTES)}",
        ]
    if not prefs.snat:
        words.append("snat: false")
    return f"  advertise: {{{', '.join(words)}}}" if words else ""


def _exit_node_fits(found: Found) -> bool:
    return fits("label", found.exit_node) and found.exit_node.lower() != host_name(found).lower()


def without_words(found: Found) -> list[str]:
    """What tailscaled is set to and the file cannot say, a line for each."""
    if not found.tailscale_running:
        return []
    prefs = found.prefs
    offers_exit = set(prefs.routes) & _DEFAULT_ROUTES
    strange = [route for route in prefs.routes if route not in _DEFAULT_ROUTES and not _is_subnet(route)]
    checks = (
        (not is_hosted(found) and not fits("login server", found.login_server), "login server", ""),
        (bool(prefs.hostname) and not fits("label", prefs.hostname), "host name", prefs.hostname),
        (not prefs.netfilter, "netfilter mode", ""),
        (bool(prefs.operator) and not fits("user", prefs.operator), "operator", prefs.operator),
        (not all(fits("tag", tag) for tag in prefs.tags), "tags", " ".join(prefs.tags)),
        (bool(strange), "routes", " ".join(strange)),
        (len(offers_exit) == 1, "exit node of one address family", ""),
        (prefs.auto_exit_node, "exit node that tailscaled chooses by itself", ""),
        (prefs.uses_exit_node and not _exit_node_fits(found), "exit node whose name is not known now", ""),
        (prefs.uses_exit_node and bool(offers_exit), "exit node that is used beside one that is offered", ""),
    )
    return [f"{what} {plain(value)}".strip() for wrong, what, value in checks if wrong]


def _is_subnet(text: str) -> bool:
    try:
        return not in_tailnet(ipaddress.ip_network(text))
    except ValueError:
        return False
