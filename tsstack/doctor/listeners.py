"""nginx and its sockets: does it run, is it ours, does nobody else hold its ports? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tsstack.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class ListenerFacts:
    """What holds the sockets that the live generation asks for."""

    wanted: int = 0
    """How many sockets; 0: there is no proxy."""
    running: bool | None = None
    """Whether its nginx runs; None: that cannot be told (not root)."""
    holders: tuple[tuple[str, str, str], ...] = ()
    """(endpoint, key path, program) of each socket that another program holds."""
    wanted_digest: str = ""
    served_digest: str = ""
    """What nginx says it has loaded; empty where it does not say."""
    asks_status: bool = False
    error_log: str = "/var/log/nginx/error.log"
    start: str = "systemctl restart nginx"
    """What brings it back."""
    reload: str = "nginx -s reload"
    """What makes it load what is there."""


def check_listeners(facts: ListenerFacts) -> Iterator[Finding]:
    """Nothing where there is no proxy."""
    if not facts.wanted:
        yield Finding("TS866", "ok", "nginx", "no proxy is asked for")
        return
    bad = False
    for endpoint, path, program in facts.holders:
        bad = True
        port = endpoint.rpartition(":")[2]
        words = f"{endpoint} ({path}) is held by {program}, so nginx cannot have it"
        yield Finding("TS865", "error", endpoint, words, f"ss -ltnp 'sport = :{port}'    # end that program")
    if facts.running is False:
        bad = True
        words = "nginx does not run: no service is served"
        yield Finding("TS866", "error", "nginx", words, f"{facts.start}; tail {facts.error_log}")
    elif facts.asks_status and not facts.served_digest:
        bad = True
        words = "nginx runs and does not answer: no service is served"
        yield Finding("TS866", "error", "nginx", words, f"{facts.start}; tail {facts.error_log}")
    elif facts.asks_status and facts.served_digest != facts.wanted_digest:
        bad = True
        words = f"nginx serves another configuration than the live generation's: {facts.served_digest}"
        yield Finding("TS866", "error", "nginx", words, f"{facts.reload}; tail {facts.error_log}")
    if not bad:
        yield Finding("TS866", "ok", "nginx", f"serves the live generation on {facts.wanted} sockets")
