"""What is known of a host at one moment: the one type that every screen, `--json` and the dashboard render.

Plain dictionaries, because `ts-status` must start within three times what a bare Python takes: these types
are for the type checker alone and nobody imports them while running. Times that people read (`at`, `made`,
`expires`) are seconds since 1970, spans end in `_s` and are seconds, shares are 0 to 1. What is not known
is None. docs/status.md describes the same for others; keys may be added, none is renamed or taken away while
`v` is 1.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Level = Literal["ok", "warning", "critical"]
Way = Literal["direct", "relay", "peer-relay", "idle", "unknown"]


class Warning_(TypedDict):
    """Something a person should know or mend."""

    code: str
    """Stable; `tsstack explain CODE` says more."""
    level: Level
    about: str
    message: str
    hint: str


class Offer(TypedDict):
    """A route that this host offers to the tailnet."""

    route: str
    approved: bool
    withdrawn: bool
    """Taken back by the monitor while its LAN side is dead."""


class Tailnet(TypedDict):
    """This host's place in its tailnet, as tailscaled says."""

    state: str
    """ipn.State, for example Running, NeedsLogin, Stopped; empty when tailscaled does not answer."""
    error: str
    """Why tailscaled cannot be asked; empty when it can."""
    since: float | None
    """Since when its socket is there: when tailscaled started."""
    control: str
    """The control server's URL; empty when it does not answer."""
    id: str
    """This node's ID on the control server."""
    version: str
    name: str
    """The name in DNS, without the dot at the end."""
    addresses: list[str]
    tags: list[str]
    relay: str
    """The home DERP region."""
    online: bool | None
    """Whether it is connected to its control server, as it says itself."""
    key_expires: float | None
    health: list[str]
    """tailscaled's own complaints."""
    offers: list[Offer]
    offers_exit: bool
    exit_approved: bool


class Uplink(TypedDict):
    """An interface that a default route leads out by."""

    interface: str
    up: bool | None
    """Whether its link is up; None where the kernel does not say."""


class Bypass(TypedDict):
    """How what leaves goes past the exit node in use."""

    version: int
    """Of IP: 4 or 6."""
    interface: str
    rule: int | None
    """The preference of one asked before tailscaled's own; None: tailscaled's routes or rules are missing."""


class Exit(TypedDict):
    """Which way out is in use, and why."""

    known: bool
    """False while tailscaled runs and does not answer: then `using` says nothing."""
    using: str
    """The exit node's name; empty: the bare uplink."""
    online: bool | None
    """Whether control sees it online; None without one."""
    level: str
    """The monitor's verdict on the internet through it; empty: there is none."""
    wanted: list[str]
    """The file's candidates, in order; empty when it names none."""
    blocked: bool
    stuck: bool
    """Whether the kernel hands what leaves to a tailscaled that carries nothing."""
    bypassed: list[Bypass]
    """For each IP version that leaves otherwise, whatever tailscaled says is in use."""
    manual: str | None
    maintenance: bool
    moving: bool
    why: list[str]


class Peer(TypedDict):
    """Another node of the tailnet."""

    name: str
    names: list[str]
    """What the file may call it as an exit node, in lower case: its DNS label, then its own host name."""
    address: str
    os: str
    online: bool
    way: Way
    relay: str
    rtt_s: float | None
    """Of the monitor's latest probe; None when it is not watched."""
    answers: bool | None
    """Whether it answers the monitor, whatever control says; None when it is not watched."""
    exit_node: bool
    """Whether it offers to be an exit node."""
    routes: list[str]
    received_bytes: int
    sent_bytes: int
    last_seen: float | None


class Certificate(TypedDict):
    """What a name is served with."""

    names: list[str]
    kind: str
    expires: float | None
    """Of the file."""
    life_s: float | None
    """From its beginning to its end: one that lives shortly is renewed late."""
    served: bool | None
    """Whether nginx has loaded it since it was written; None when that cannot be told."""
    error: str


class Service(TypedDict):
    """A service of the proxy."""

    name: str
    url: str
    level: str
    """As the monitor sees its upstreams, the best of them: good, suspect, poor, dead, unknown.

    Dead as well where nginx does not answer: then nobody is served, however well they are. Where the
    tailnet's clients do not get to nginx (`unreached`) dead too, or unknown.
    """
    unreached: str
    """Why nobody gets to it by the tailnet; empty: nothing speaks against it."""
    rtt_s: float | None
    """To its best upstream."""
    error: str
    dead_upstreams: int
    """So many of those that are watched do not answer."""
    certificate_expires: float | None
    certificate_life_s: float | None


class Proxy(TypedDict):
    """nginx itself."""

    enabled: bool
    """Whether the live generation serves anything."""
    unit: str
    """systemd's name for it: the distribution's own, or ours where there is none."""
    running: bool | None
    """Whether it answers at `proxy.status`; None where the file has none."""
    current: bool | None
    """Whether it serves the live generation; None when that is not known."""
    orphans: int
    """So many workers serve on although their master is dead."""
    identity: bool | None
    """Whether the identity daemon takes connections; None where no service has `allow`."""
    error: str


class Counter(TypedDict):
    """What a counter of the kernel's table has seen since the table was loaded."""

    packets: int
    bytes: int


class Rule(TypedDict):
    """What one rule has counted, and the line of the file behind it."""

    name: str
    """The counter's: `dmz.tcp`, `forward.2`, `dmz.refused`."""
    path: str
    packets: int
    bytes: int


class Opening(TypedDict):
    """Ports that a zone may reach on this host, and the line of the file that says so."""

    protocol: str
    ports: str
    path: str


class Zone(TypedDict):
    """A zone of the firewall."""

    name: str
    path: str
    interfaces: list[str]
    sources: list[str]
    source_count: int
    allow: str
    ping: bool
    open: list[Opening]
    accepted: Counter | None
    """New connections to this host; None where the counters cannot be read."""
    forwarded: Counter | None
    """New connections through this host."""
    refused: Counter | None
    rules: list[Rule]


class Firewall(TypedDict):
    """The zones and the table in the kernel."""

    enabled: bool
    """Whether the live generation has a firewall, or there is a fallback."""
    fallback: bool
    """Whether it is the fallback's (`tsstack fallback`), since the live generation has none."""
    loaded: bool | None
    """Whether the table is there and in force; None when that cannot be read."""
    dormant: bool
    """Whether it is there, and switched off as a whole (`flags dormant`): so it is not `loaded`."""
    changed: bool | None
    """Whether it is no longer as it was loaded; None when that cannot be read."""
    error: str
    default_policy: str
    zones: list[Zone]
    dropped: dict[str, Counter]
    """What no zone refused but the rules above them: invalid, spoofed, misdirected, unzoned."""


class Pending(TypedDict):
    """A switch that is not over."""

    change: str
    """Which one: generations' numbers are given again. Empty where it is not known."""
    generation: int
    phase: str
    """`activating` or `unconfirmed`; `unknown` to who may not read its record, `damaged` where nobody can."""
    left_s: float | None
    """Until it is undone by itself."""


class Generation(TypedDict):
    """What the host was told to be."""

    current: int
    """0: the host without tsstack."""
    boot: int
    made: float | None
    source: str
    pending: Pending | None
    error: str
    """Why the live generation cannot be read; empty when it can."""
    drift: list[str]
    """Settings of tailscaled and kernel parameters that are not as it says, a sentence each."""


class Monitor(TypedDict):
    """What the monitor says; `docs/monitor-socket.md` describes `state`."""

    running: bool
    """Whether one answers, be it that it refuses."""
    wanted: bool
    """Whether the live generation asks for one."""
    error: str
    state: dict[str, Any] | None
    """None where none runs, and where it refuses to tell."""


class Status(TypedDict):
    """All of it."""

    v: int
    at: float
    host: str
    version: str
    level: Level
    """The worst of `warnings`."""
    uplinks: list[Uplink] | None
    """None where the kernel tells no routes."""
    forwarding_off: list[str]
    """The interfaces that alone forward no IPv4, of those that the offered routes and exit node need."""
    tailnet: Tailnet
    exit: Exit
    peers: list[Peer]
    proxy: Proxy
    services: list[Service]
    certificates: list[Certificate]
    firewall: Firewall
    generation: Generation
    monitor: Monitor
    warnings: list[Warning_]
