"""`tsstack explain`: why a packet passes or not, and what a code means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.options import DEFAULT_FILE, file_option, json_option
from tsstack.cli.output import result, result_json, style
from tsstack.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from tsstack.explain.packet import Explanation
    from tsstack.explain.pages import Page
    from tsstack.explain.places import Places
    from tsstack.explain.question import Asked, Surroundings
    from tsstack.explain.world import World
    from tsstack.model.facts import Facts
    from tsstack.model.loaded import LoadedStack
    from tsstack.model.stack import Stack

_FORM = "[CODE | SOURCE [INTERFACE] PROTO/PORT]"


@dataclass(frozen=True, slots=True)
class Request:
    """The words and options of a question about a packet, as they were typed."""

    words: tuple[str, ...]
    to: str
    out: str
    version: int
    source_port: int

    def understood(self, stack: Stack) -> Asked:
        """Raises UsageError for what has not the form of an interface or a service."""
        from tsstack.explain.question import Asked
        from tsstack.explain.services import parse_service

        interface = self.words[1] if len(self.words) == 3 else ""
        for name in (interface, self.out):
            if name and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}", name) is None:
                raise UsageError(f"{name!r} is no interface", hint="at most 15 letters, digits and _ . @ -")
        if re.match(r"(tcp|udp|icmp|icmpv6)/", self.words[0]):
            turned = " ".join((*self.words[1:], self.words[0]))
            raise UsageError("SOURCE comes first, PROTO/PORT last", hint=f"tsstack explain {turned}")
        service = parse_service(self.words[-1], stack)
        return Asked(self.words[0], service, interface, self.to, self.out, self.source_port, self.version)


def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """What may stand here: codes and the file's zones first, then interfaces, protocols and services."""
    from tsstack.model.services import WELL_KNOWN

    if context.params.get("words"):
        links = Path("/sys/class/net")
        interfaces = sorted(each.name for each in links.iterdir()) if links.is_dir() else []
        words = [*interfaces, "tcp/", "udp/", "icmp", "icmpv6", "ping", *WELL_KNOWN]
    else:
        from tsstack.explain.pages import all_pages

        words = [*_zones(context), *(page.code for page in all_pages())]
    return [word for word in words if word.lower().startswith(incomplete.lower())]


def _zones(context: click.Context) -> list[str]:
    """The zones of the file, as far as it can be read."""
    from tsstack.errors import ConfigError
    from tsstack.model.document import read_document

    above = context.parent.params.get("file") if context.parent else None
    named = context.params.get("file")
    chosen = above if named in (None, DEFAULT_FILE) and above else named or DEFAULT_FILE
    try:
        node = read_document(Path(chosen)).node(("firewall", "zones"))
    except ConfigError:
        return []
    return list(node.value) if node is not None and isinstance(node.value, dict) else []


@click.command()
@file_option
@json_option
@click.option("--to", metavar="WHERE", default="", help="Where it goes: an address, a zone or a node.")
@click.option("--out", metavar="INTERFACE", default="", help="The interface it leaves by, with --to.")
@click.option("--live", is_flag=True, help="Ask a copy of the live ruleset, everybody's tables; needs root.")
@click.option("-4", "version", flag_value=4, type=int, default=0, help="Somebody with an IPv4 address.")
@click.option("-6", "version", flag_value=6, type=int, help="Somebody with an IPv6 address.")
@click.option("--source-port", type=click.IntRange(1, 65535), default=None, help="The port it comes from.")
@click.argument("words", nargs=-1, metavar=_FORM, shell_complete=complete)
def explain(
    *,
    file: Path,
    as_json: bool,
    to: str,
    out: str,
    live: bool,
    version: int,
    source_port: int | None,
    words: tuple[str, ...],
) -> None:
    """Say why a packet passes or not, or what a code means.

    SOURCE is an address, a zone of the file, or a node of the tailnet. The packet is sent through the rules
    in a throwaway network; each decision of the kernel is shown with the line of the file behind it, the
    verdict last. Ends with 0 whatever the verdict is: --json has it as `verdict`.

    Without words: all codes.

    \b
    Examples:
      tsstack explain dmz tcp/5432
      tsstack explain 192.168.1.7 eth0 ssh
      tsstack explain laptop tcp/443 --to 192.168.15.9
      sudo tsstack explain --live 203.0.113.9 tcp/8080
      tsstack explain TS205
    """
    about_packet = live or to or out or version or source_port
    if len(words) < 2 and not about_packet:
        _explain_code(words[0] if words else "", as_json)
        return
    if not 2 <= len(words) <= 3:
        from tsstack.explain.question import FORMS

        raise UsageError(f"{' '.join(words) or 'nothing'!r} is no question about a packet", hint=FORMS)
    from tsstack.explain.world import World

    request = Request(words, to, out, version, source_port or 0)
    with World() as world:
        explained = _ask_live(world, file, request) if live else _ask_staged(world, file, request)
    if as_json:
        from tsstack.cli.explained import explanation_dict

        result_json(explanation_dict(explained, live=live))
    else:
        from tsstack.cli.explained import print_explanation

        print_explanation(explained, live=live)
    if not explained.agrees and not live:
        raise CheckFailed(
            f"the file says {explained.expected}, the kernel does otherwise: a fault of tsstack",
            hint="please report it with the file and this question",
        )


def _ask_staged(world: World, file: Path, request: Request) -> Explanation:
    """Through the rules that the file renders to."""
    from tsstack.explain.packet import Ground, explain_staged
    from tsstack.explain.question import resolve
    from tsstack.parts.firewall.desired import FILE, desired

    loaded, places = _load_file(file)
    facts, around = _look()
    asked = request.understood(loaded.stack)
    tree = desired(loaded.stack, facts)
    if FILE not in tree:
        raise UsageError(
            "the file asks for no firewall: tsstack decides nothing about packets",
            hint="--live asks the ruleset that this host has",
        )
    question = resolve(asked, loaded.stack, around)
    return explain_staged(world, question, Ground(loaded.stack, facts, places), tree[FILE])


def _ask_live(world: World, file: Path, request: Request) -> Explanation:
    """Through a copy of the rules that this host has."""
    from tsstack.explain.kernel_copy import read_ruleset
    from tsstack.explain.packet import Ground, explain_live
    from tsstack.explain.question import resolve
    from tsstack.explain.surroundings import read_land

    loaded, places = _load_live(file)
    stack = loaded.stack if loaded else _empty_stack()
    facts, around = _look()
    question = resolve(request.understood(stack), stack, around)
    land = read_land(around)
    return explain_live(world, question, Ground(stack, facts, places), read_ruleset(), land)


def _load_file(file: Path) -> tuple[LoadedStack, Places]:
    """A sound file. Raises ConfigError. Not by `switch.intent`, which loads all that a switch needs."""
    from tsstack import assets
    from tsstack.explain.places import Places
    from tsstack.model.lint import require_sound
    from tsstack.model.loader import load_presets, load_stack

    loaded = load_stack(file, load_presets(assets.folder("zones")))
    require_sound(loaded, None)
    return loaded, Places(loaded)


def _load_live(file: Path) -> tuple[LoadedStack | None, Places | None]:
    """What the live table was made from: the live generation's own copy of its file, unless one was named."""
    from tsstack.explain.places import Places
    from tsstack.model.facts import Paths
    from tsstack.switch.generations import Store

    if file != DEFAULT_FILE:
        return _load_file(file)
    store = Store(Paths().state)
    number = store.current()
    if not number:
        return _load_file(file) if file.exists() else (None, None)
    source, original = store.path(number) / "source.yaml", Path(store.manifest(number).source)
    loaded, places = _load_file(source)
    if original.is_file() and original.read_bytes() == loaded.source:
        places = Places(loaded, str(original))
    return loaded, places


def _empty_stack() -> Stack:
    from tsstack.model.sections import Host
    from tsstack.model.stack import Stack

    return Stack(host=Host(name="host"))


def _look() -> tuple[Facts, Surroundings]:
    """This host, as far as it matters to packets."""
    from tsstack.explain.surroundings import look_around
    from tsstack.model.facts import Facts, Paths
    from tsstack.parts.tailscale.host import discover_tailscale
    from tsstack.switch.facts import default_interface

    paths = Paths()
    tailscale = discover_tailscale(paths)
    uplink = default_interface()
    around = look_around(uplink, paths.tailscale_socket, tailscale.addresses if tailscale else ())
    return Facts(around.interfaces, uplink, tailscale=tailscale, paths=paths), around


def _explain_code(code: str, as_json: bool) -> None:
    from tsstack.explain.pages import all_pages, find_pages

    if not code:
        pages = all_pages()
        if as_json:
            result_json({"codes": [_summary(page) for page in pages]})
            return
        width = max(len(page.code) for page in pages)
        for page in pages:
            result(f"{style(f'{page.code:<{width}}', bold=True)}  {page.kind:<8}  {page.title}")
        return
    found = find_pages(code)
    if as_json:
        shown = [_page_dict(page) for page in found]
        result_json(shown[0] if len(shown) == 1 else {"codes": shown})
        return
    for at, page in enumerate(found):
        if at:
            result()
        _print_page(page)


def _summary(page: Page) -> dict[str, Any]:
    return {"code": page.code, "severity": page.kind, "title": page.title}


def _page_dict(page: Page) -> dict[str, Any]:
    return {
        **_summary(page),
        "explanation": page.text,
        "wrong": page.wrong,
        "right": page.right,
        "example": page.example,
    }


def _print_page(page: Page) -> None:
    from tsstack.cli.explained import wrap

    result(style(f"{page.code} ({page.kind}): {page.title}", bold=True))
    result()
    result(wrap(page.text))
    from tsstack.explain.pages import titles_of

    for title, text in zip(titles_of(page), (page.wrong, page.right), strict=True):
        result()
        result(title)
        for line in text.splitlines():
            result(f"    {line}")
