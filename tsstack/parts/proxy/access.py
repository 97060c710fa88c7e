"""One line of an access log, and what it says. Pure.

The lines are those of `log_format tsstack` and `tsstack_tcp` (templates/nginx). What stands in them was
partly written by clients: nothing here trusts a length, a type or a character, and nothing raises.
"""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

# nginx writes the time first; so a line's place in time is known without parsing it.
_TIME = re.compile(rb'\{"time":"([0-9T:+-]{19,32}Z?)"')
# ngx_http_variable_status(): a request that ended before it had a status is logged as 000, no number in JSON.
_ZEROS = re.compile(rb'"status":0+(?=\d)')
# ngx_http_upstream_response_time_variable(): one value for each server tried; ":" where nginx began anew.
_SEPARATORS = re.compile(r"\s*[,:]\s*")
_LARGEST = 1 << 62
_WORDS = (
    *("service", "client", "user", "method", "host", "uri"),
    *("upstream", "upstream_response_time", "limit", "agent"),
)


class Exchange(NamedTuple):
    """One request, or one session of a TCP service. Texts are as the client wrote them.

    A tuple, as there may be millions of them.
    """

    unix_s: float
    tcp: bool
    service: str
    """As the line says; empty in lines of TCP services."""
    client: str
    user: str
    """Login or tags of who was let in by `allow`; empty without it."""
    method: str
    host: str
    uri: str
    status: int
    """0 for a request that ended before it had one."""
    sent_bytes: int
    received_bytes: int
    took_s: float
    """Until the last byte was sent; of a session, until it ended."""
    upstream: str
    """The addresses that were tried; empty where nginx answered by itself."""
    upstream_s: float | None
    """What the upstreams took together; None where none was asked."""
    port: int
    """Where a TCP service was asked; 0 in lines of HTTP."""
    limit: str
    """PASSED, DELAYED, REJECTED, as limit_req says; empty without a limit."""
    agent: str

    @property
    def is_limited(self) -> bool:
        """Refused by the rate limit; a 429 that the upstream itself said does not count."""
        return self.limit == "REJECTED" or (not self.limit and self.status == 429 and not self.upstream)

    @property
    def is_denied(self) -> bool:
        """Refused by the allow list; a 403 that the upstream itself said does not count."""
        return self.status == 403 and not self.upstream

    @property
    def is_failure(self) -> bool:
        """What a person who looks for errors wants to see: 4xx, 5xx, and ends without any status."""
        return self.status >= 400 or self.status < 100


def time_of(line: bytes) -> float | None:
    """When a line was written, in Unix seconds; None for a line that does not begin with its time."""
    found = _TIME.match(line)
    return _unix_s(found[1]) if found else None


def parse_line(line: bytes) -> Exchange | None:
    """What a line says; None for one that is broken. Never raises."""
    when = time_of(line)
    if when is None:
        return None
    raw = _decoded(line)
    if raw is None and _ZEROS.search(line):
        raw = _decoded(_ZEROS.sub(b'"status":', line, count=1))
    if raw is None:
        return None
    tcp = "session_time" in raw
    took_s, status = _number(raw.get("session_time" if tcp else "request_time")), _number(raw.get("status"))
    sent = _number(raw.get("bytes"))
    if took_s is None or status is None or sent is None:
        return None
    words = [value if isinstance(value := raw.get(name), str) else "" for name in _WORDS]
    service, client, user, method, host, uri, upstream, upstream_time, limit, agent = words
    return Exchange(
        unix_s=when,
        tcp=tcp,
        service=service,
        client=client,
        user=user,
        method=method,
        host=host,
        uri=uri,
        status=int(status),
        sent_bytes=int(sent),
        received_bytes=int(_number(raw.get("received")) or 0),
        took_s=took_s,
        upstream="" if upstream == "-" else upstream,
        upstream_s=_sum_of(upstream_time),
        port=int(_number(raw.get("port")) or 0),
        limit=limit,
        agent=agent,
    )


@lru_cache(maxsize=256)
def _unix_s(text: bytes) -> float | None:
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _decoded(line: bytes) -> dict[str, Any] | None:
    # nginx escapes what JSON asks for and leaves bytes from 0x80 as they came, which need not be UTF-8.
    try:
        raw = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None


def _number(value: object) -> float | None:
    if type(value) is not float and type(value) is not int:  # bool is an int, too
        return None
    return value if 0 <= value < _LARGEST and math.isfinite(value) else None


def _sum_of(times: str) -> float | None:
    total: float | None = None
    if not times:
        return None
    for each in _SEPARATORS.split(times[:1024]):
        try:
            value = float(each)
        except ValueError:  # "-" for a server that was not reached
            continue
        if math.isfinite(value) and value >= 0:
            total = (total or 0.0) + value
    return total
