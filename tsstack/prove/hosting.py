"""What the file says of its services, as questions to nginx and the answers that are right. Pure.

Nothing here is shared with the part that renders nginx's configuration. The semantics are those of
docs/proxy.md, read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count

from tsstack.model.facts import Facts
from tsstack.model.proxy import Proxy, TlsFiles
from tsstack.model.stack import Stack
from tsstack.prove.places import (
    LOOPBACK,
    Door,
    Vhost,
    addresses_of,
    doors_of,
    is_published,
    names_of_host,
    redirects,
    speaks_http3,
    vhosts_of,
)
from tsstack.prove.questions import ASKED, CLIENTS, Question
from tsstack.prove.strangers import ask_by_nobody

_EACH = 150
"""So many places, a name at an address each, are all asked; of more each name at one address."""
_TRIED = 40
"""So many services are asked more than plainly, those that differ in their settings first."""
_UNLIMITED, _COUNTABLE = 1 << 33, 1 << 60
_DENIED = (403,)


def ask_everyone(stack: Stack, facts: Facts, written: Iterable[str] = ()) -> Iterator[Question]:
    """All questions. `written` are names that the configuration has and that may be nobody's.

    Each asks as a client of its own, as far as its service is concerned: a low limit of one must not count.
    """
    clients: dict[str, Iterator[int]] = {}
    for each in _ask(stack, facts, written):
        number = next(clients.setdefault(each.key, count()))
        yield replace(each, client=1 + number % CLIENTS)


def _ask(stack: Stack, facts: Facts, written: Iterable[str]) -> Iterator[Question]:
    proxy = stack.proxy
    if proxy is None:
        return
    vhosts = list(vhosts_of(stack))
    http = [each for each in vhosts if each.scheme != "tcp"]
    doors = doors_of(stack, facts)
    places = list(_places(http, doors))
    asked = [(_plainly(stack, facts, vhost, door), vhost) for vhost, door in places]
    own = addresses_of(stack, facts)
    streams = [
        Question(each.path, "tcp", each.name, address, each.port, upstreams=each.primaries)
        for each in vhosts
        if each.scheme == "tcp"
        for address in own
    ]
    for at, (question, vhost) in enumerate(asked):
        # Every other one would rather speak another protocol: websockets are passed on, nothing else is.
        wish = "websocket" if at % 2 else ""
        heard = vhost.service.websockets and bool(wish)
        yield from _as_both(replace(question, upgrade=wish, upgraded=heard), vhost)
    yield from streams
    if redirects(stack):
        for vhost, door in places:
            yield _redirected(vhost, door, proxy.http_port, proxy)
    yield from ask_by_nobody(stack, facts, vhosts, doors, written)
    first: dict[str, Question] = {}
    for question, vhost in asked:
        first.setdefault(vhost.key, question)
    for vhost in _chosen(http):
        yield from _more_of(first[vhost.key], vhost, proxy)
    if is_published(stack):
        for port in dict.fromkeys(each.port for each in http):
            example = next(question for question, vhost in asked if vhost.port == port)
            unsaid = replace(example, address=LOOPBACK, claimed=False, upstreams=(), refusals=(0, 400))
            yield replace(unsaid, key="proxy.names", about="by a program of this host")
    yield from _ask_status(proxy, {each.port for each in vhosts})
    # Last: an upstream that was away is left alone for a while.
    for vhost in _chosen(vhosts):
        example = first.get(vhost.key) or next(each for each in streams if each.key == vhost.path)
        yield from _with_some_down(example, vhost)


def _places(http: list[Vhost], doors: list[Door]) -> Iterator[tuple[Vhost, Door]]:
    for at, vhost in enumerate(http):
        if len(http) * len(doors) <= _EACH:
            yield from ((vhost, door) for door in doors)
        else:
            yield vhost, doors[at % len(doors)]


def _plainly(stack: Stack, facts: Facts, vhost: Vhost, door: Door) -> Question:
    tls = stack.proxy.tls if stack.proxy else "off"
    return Question(
        vhost.path,
        vhost.scheme,
        vhost.name,
        door.address,
        vhost.port,
        f"{vhost.prefix}/{ASKED}",
        vhost.primaries,
        inner_path=f"/{ASKED}",
        prefix=vhost.prefix,
        claimed=door.claimed,
        certificate=tls.certificate if isinstance(tls, TlsFiles) else "",
        alternative=speaks_http3(stack, facts),
        upstream_names=_names_of_upstreams(vhost),
    )


def _names_of_upstreams(vhost: Vhost) -> tuple[str, ...]:
    """By which one that speaks TLS may be greeted."""
    hosts = [each.host.lower() for each in vhost.service.upstream if each.scheme == "https"]
    return tuple(dict.fromkeys(name for host in hosts for name in names_of_host(host)))


def _as_both(question: Question, vhost: Vhost) -> Iterator[Question]:
    """As somebody whom the identity daemon lets in, and as somebody else, where it is asked."""
    if vhost.service.allow is None:
        yield question
        return
    yield _let_in(question, vhost)
    yield replace(question, upstreams=(), refusals=_DENIED)


def _let_in(question: Question, vhost: Vhost) -> Question:
    return question if vhost.service.allow is None else replace(question, user=f"prove-{vhost.key}")


def _redirected(vhost: Vhost, door: Door, port: int, proxy: Proxy) -> Question:
    """Plain HTTP, to the port for it or to that of TLS."""
    path = f"{vhost.prefix}/{ASKED}"
    target = Question("", "https", vhost.name, "", vhost.port).authority
    return Question(
        "proxy.http_port" if port == proxy.http_port else vhost.path,
        "http",
        vhost.name,
        door.address,
        port,
        path,
        outcome=f"308 to https://{target}{path}",
        refusals=(),
        claimed=door.claimed,
        about="by plain HTTP",
    )


def _chosen(vhosts: list[Vhost]) -> list[Vhost]:
    """Some of many: of each kind the first, then the others in order."""
    kinds: dict[str, Vhost] = {}
    for each in vhosts:
        settings = each.service.model_dump(exclude={"upstream", "subdomain", "path", "port", "allow"})
        backups = [upstream.backup for upstream in each.service.upstream]
        schemes = [upstream.scheme for upstream in each.service.upstream]
        guarded = each.service.allow is None
        kinds.setdefault(repr((settings, backups, schemes, guarded, bool(each.prefix))), each)
    firsts = list(kinds.values())[:_TRIED]
    keys = {each.key for each in firsts}
    return [*firsts, *(each for each in vhosts if each.key not in keys)][:_TRIED]


def _more_of(question: Question, vhost: Vhost, proxy: Proxy) -> Iterator[Question]:
    """What is asked of one service beside its name."""
    service, door = vhost.service, Door(question.address, question.claimed)
    let_in = _let_in(question, vhost)
    yield replace(let_in, upgrade="h2c", about="asking for HTTP/2")
    heard = {"upgrade": "websocket", "upgraded": service.websockets, "about": "asking for a websocket"}
    yield replace(let_in, **heard)  # type: ignore[arg-type]  # fields of its own
    most = service.max_body_size
    in_nginx = replace(let_in, upstreams=(), refusals=())
    yield replace(
        in_nginx,
        body=most or _UNLIMITED,
        outcome="100 from nginx",
        about="with the largest body that it may have",
    )
    if 0 < most < _COUNTABLE:
        yield replace(
            in_nginx, body=most + 1, outcome="413 from nginx", about="with a body that is a byte too large"
        )
    if vhost.scheme == "https":
        yield replace(_redirected(vhost, door, vhost.port, proxy), about="by plain HTTP on the port for TLS")
    if vhost.prefix:
        path = f"{vhost.prefix}?by=tsstack"
        to = f"308 to {vhost.prefix}/?by=tsstack"
        yield replace(in_nginx, path=path, outcome=to, about="without the closing slash")
    if service.allow is not None:
        inner = f"/.tsstack/identity/{vhost.key}?by=tsstack"
        shut = replace(question, path=inner, upstreams=(), refusals=(403, 404))
        yield replace(shut, user=f"prove-{vhost.key}", about="asking the identity daemon itself")
    if any(each.scheme == "https" for each in service.upstream):
        alone = replace(let_in, untrusted=True, about="whose upstream nobody vouches for")
        yield replace(alone, upstreams=(), outcome="502 from nginx") if service.verify_upstream else alone


def _ask_status(proxy: Proxy, ports: set[int]) -> Iterator[Question]:
    if not proxy.status:
        return
    address, _, port = proxy.status.rpartition(":")
    if int(port) in {*ports, proxy.http_port, proxy.https_port}:
        return
    for path, status in (("/nginx_status?by=tsstack", 200), (f"/{ASKED}", 404)):
        ends = {"outcome": f"{status} from nginx", "refusals": (), "about": "the status"}
        yield Question("proxy.status", "http", address, address, int(port), path, **ends)  # type: ignore[arg-type]


def _with_some_down(example: Question, vhost: Vhost) -> Iterator[Question]:
    """Where an upstream cannot be reached: whoever waits takes over; nobody else answers."""
    question = _let_in(example, vhost)
    if vhost.backups and not set(vhost.backups) & set(vhost.primaries):
        yield replace(
            question, down=vhost.primaries, upstreams=vhost.backups, about="none there but a backup"
        )
    ends = replace(question, upstreams=(), down=(*vhost.primaries, *vhost.backups), about="no upstream there")
    yield replace(ends, outcome="502 from nginx", refusals=()) if vhost.scheme != "tcp" else ends
