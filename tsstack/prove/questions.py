"""What nginx is asked in the throwaway world, and what of its answers is right. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

Scheme = Literal["https", "http", "tcp"]
Hello = Literal["", "old", "weak"]
REFUSED = "refused"
ASKED = "asked=?by=tsstack"
"""Below a service's own path, so that it is seen what of it comes through. No path of a file has a `=`."""
CLIENTS = 80
"""So many addresses a service's clients have; another try comes from the next so many."""
CLAIMING = ("127.0.0.1", 40000)
"""Where tailscaled connects from, and the port that it says its client has."""
NETWORK_4, NETWORK_6 = ("198.18.66.0", 24), ("2001:db8:c11e::", 64)
"""The clients' networks (RFC 2544, RFC 3849): nobody's."""

_DEFAULT_PORTS = {"https": 443, "http": 80}


class Asked(Protocol):
    """Anything that the file says and that can be looked at in the world."""

    @property
    def key(self) -> str:
        """The key path that decides: `proxy.services.wiki`."""

    @property
    def about(self) -> str:
        """What is tried, beside the plain question; empty for that one."""

    @property
    def passes(self) -> bool:
        """Whether the file lets it through."""

    @property
    def expected(self) -> str:
        """The answer, for people."""

    def agrees(self, seen: str) -> bool:
        """Whether what was seen is what the file says."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is so or is not, and no request: a socket, a list."""

    key: str
    text: str
    expected: str
    passes: bool = False
    about: str = "as it stands"

    def agrees(self, seen: str) -> bool:
        """Whether what was seen is what the file says."""
        return seen == self.expected

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Question:
    """One request to one name, at one address, and who may answer it."""

    key: str
    scheme: Scheme
    name: str
    """Empty: the client says none, as those of HTTP/1.0 need not."""
    address: str
    port: int
    path: str = "/"
    upstreams: tuple[str, ...] = ()
    """The endpoints of which any may answer; none: the request must end in nginx."""
    outcome: str = REFUSED
    """The answer where it ends in nginx: REFUSED, `413 from nginx`, `308 to https://..`."""
    refusals: tuple[int, ...] = (0, 421)
    """The statuses that count as REFUSED; 0 is a connection that just ends."""
    about: str = ""
    inner_path: str = "/"
    """The path that the upstream gets to see."""
    prefix: str = ""
    """What of the path is cut off, without its closing slash."""
    user: str = ""
    """Whom the identity daemon lets in; empty where it says no, or is not asked."""
    claimed: bool = False
    """The connection begins with a PROXY header, as tailscaled's do."""
    client: int = 1
    """Which of the clients asks."""
    certificate: str = ""
    """The file that the certificate must be; empty: one that tsstack makes or fetches."""
    any_certificate: bool = False
    """Whatever certificate is shown will do: nobody's name has none of its own."""
    greeted: str | None = None
    """The name in the TLS handshake, where it is another; empty for none."""
    hello: Hello = ""
    """A handshake of a bygone version, or of ciphers without forward secrecy."""
    upgrade: str = ""
    """The protocol that the client would rather speak."""
    upgraded: bool = False
    """Whether the upstream hears of that."""
    body: int = -1
    """The size of the body that the client announces; -1 for none."""
    alternative: bool = False
    """HTTP/3 is offered."""
    upstream_names: tuple[str, ...] = ()
    """An upstream that speaks TLS is greeted by one of these names."""
    untrusted: bool = False
    """The upstream's certificate is one that nobody vouches for."""
    down: tuple[str, ...] = ()
    """Endpoints that cannot be reached meanwhile."""

    @property
    def url(self) -> str:
        """As people write it."""
        port = "" if _DEFAULT_PORTS.get(self.scheme) == self.port else f":{self.port}"
        path = "" if self.scheme == "tcp" else self.path.removesuffix(ASKED)
        return f"{self.scheme}://{self.name or self.address}{port}{path}"

    @property
    def authority(self) -> str:
        """What a client sends as Host."""
        return self.name if _DEFAULT_PORTS.get(self.scheme) == self.port else f"{self.name}:{self.port}"

    @property
    def client_address(self) -> str:
        """Where the client is, or is said to be."""
        if self.claimed:
            return f"100.64.66.{self.client}"
        if ":" in self.address:
            return f"{NETWORK_6[0]}{self.client:x}"
        return f"{NETWORK_4[0].rpartition('.')[0]}.{self.client}"

    @property
    def passes(self) -> bool:
        """Whether an upstream is reached."""
        return bool(self.upstreams)

    @property
    def expected(self) -> str:
        """The answer, for people: the upstreams, or how it ends in nginx."""
        return " or ".join(self.upstreams) or self.outcome

    def agrees(self, seen: str) -> bool:
        """Whether what was seen is what the file says."""
        return seen in (self.upstreams or (self.outcome,))

    def __str__(self) -> str:
        as_whom = f" as {self.user}" if self.user else ""
        return f"{self.url} at {self.address}{as_whom}{f' ({self.about})' if self.about else ''}"


@dataclass(frozen=True, slots=True)
class Hit:
    """A request that came to an upstream: to which endpoint, its first line, its headers in lower case."""

    endpoint: str
    path: str
    protocol: str
    headers: dict[str, str]
    greeted: str | None = None
    """The name that TLS was begun with; None without TLS, empty without a name."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: a status (0 without one) and headers, names in lower case."""

    status: int
    headers: dict[str, str]


COOKIE, ELSEWHERE = "proof=1; Path={}", "there"
"""What an upstream of the proof sets, and where it sends people: below its root."""
LIE, LIE_ADDRESS = "somebody-else@example.com", "192.0.2.66"


def told_of(user: str) -> dict[str, str]:
    """What the identity daemon says of somebody whom it lets in, as an upstream sees it."""
    return {
        "x-tailscale-user": user,
        "x-tailscale-name": f"{user}-name" if user else "",
        "x-tailscale-node": f"{user}-node" if user else "",
        "x-tailscale-tags": f"tag:{user}" if user else "",
    }


def judge(question: Question, reply: Reply, hits: Iterable[Hit]) -> str:
    """What was seen: the endpoint that answered, how it ended in nginx, or words for what is wrong."""
    came = list(hits)
    if not came or question.body >= 0:  # a body that is passed on as it comes is announced to the upstream
        return _from_nginx(question, reply)
    hit = next((each for each in came if each.endpoint not in question.upstreams), came[-1])
    if question.scheme == "tcp":
        return hit.endpoint if reply.status == 200 else f"{hit.endpoint}, without its answer"
    wrong = _wrong_at_upstream(question, hit) or _wrong_at_client(question, reply)
    return f"{hit.endpoint} {wrong}" if wrong else hit.endpoint


def _from_nginx(question: Question, reply: Reply) -> str:
    if reply.status in question.refusals:
        return REFUSED
    where = reply.headers.get("location")
    return f"{reply.status} to {where}" if where else f"{reply.status} from nginx"


def _wrong_at_upstream(question: Question, hit: Hit) -> str:
    """What an upstream gets to see and should not, or should and does not; empty if all is well."""
    if hit.path != question.inner_path:
        return f"with the path {hit.path}"
    if hit.protocol != "HTTP/1.1":
        return f"by {hit.protocol}"
    if question.upstream_names and hit.greeted is None:
        return "without TLS"
    if question.upstream_names and (hit.greeted or "").lower() not in question.upstream_names:
        return f"greeted as {hit.greeted or 'nobody'}"
    for name, value in _headers_of(question).items():
        seen = hit.headers.get(name, "")
        if seen.lower() != value.lower():
            return f"with {name}: {seen}" if seen else f"without {name}: {value}"
    lies = [name for name, value in hit.headers.items() if LIE in value or LIE_ADDRESS in value]
    return f"with the client's own {lies[0]}" if lies else ""


def _headers_of(question: Question) -> dict[str, str]:
    """The headers that say who asks for what; empty ones must not be there."""
    return {
        "host": question.authority,
        "x-real-ip": question.client_address,
        "x-forwarded-for": question.client_address,
        "x-forwarded-proto": question.scheme,
        "x-forwarded-host": question.authority,
        "x-forwarded-port": str(question.port),
        "x-forwarded-prefix": question.prefix,
        "upgrade": question.upgrade if question.upgraded else "",
        "connection": "upgrade" if question.upgraded else "",
        **told_of(question.user),
    }


def _wrong_at_client(question: Question, reply: Reply) -> str:
    if reply.status != 200:
        return f"and {reply.status} from nginx"
    root = f"{question.prefix}/"
    offered = f'h3=":{question.port}"' if question.alternative else ""
    if reply.headers.get("alt-svc", "").partition(";")[0] != offered:
        return f"with alt-svc: {reply.headers.get('alt-svc', '')}" if not offered else f"without {offered}"
    for name, value in {"location": root + ELSEWHERE, "set-cookie": COOKIE.format(root)}.items():
        if reply.headers.get(name) != value:
            return f"with {name}: {reply.headers.get(name, '')}"
    return f"of {reply.headers['server']}" if "/" in reply.headers.get("server", "") else ""
