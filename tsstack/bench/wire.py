"""The words of our own throughput test. Pure.

A test is up to four TCP connections at a time: one alone backs off before it has filled a queue in seconds.
On each a line each way, then bytes that mean nothing:

    client: tsstack-bench 1 up 5.000 8589934592      seconds and bytes at most
    server: ok 5.000 8589934592                      what it agrees to, never more; or `busy`, or `no WORDS`
    up:     the client sends; after that time the server answers `done BYTES SECONDS` and reads no more
    down:   the server sends for that time, then closes

`hello` asks whether somebody is there: the server answers and closes. A line has 100 bytes at most, in ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PORT = 5299
LONGEST_LINE_BYTES = 100
MOST_S = 30.0
MOST_BYTES = 2 << 30
"""The limits of one connection at the server, whatever a client asks for."""
STREAMS = 4
"""Connections of one test."""

_REQUEST = re.compile(rb"tsstack-bench 1 (hello|up|down) (\d{1,4}\.\d{3}) (\d{1,16})\n")
_OK = re.compile(rb"ok (\d{1,4}\.\d{3}) (\d{1,16})\n")
_DONE = re.compile(rb"done (\d{1,15}) (\d{1,4}\.\d{6})\n")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    verb: str
    span_s: float
    most_bytes: int

    def line(self) -> bytes:
        return f"tsstack-bench 1 {self.verb} {self.span_s:.3f} {self.most_bytes}\n".encode()


class WireError(ValueError):
    """The other end speaks another language."""


class Busy(WireError):
    """The other end serves somebody else, or has not noticed yet that the last test is over."""


def read_request(line: bytes) -> Request:
    """Raises WireError for anything that is no request."""
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise WireError("no request of tsstack's benchmark")
    return Request(match[1].decode(), float(match[2]), int(match[3]))


def agree(asked: Request, most_s: float = MOST_S, most_bytes: int = MOST_BYTES) -> Request:
    """The request within the server's limits."""
    return Request(asked.verb, min(asked.span_s, most_s), min(asked.most_bytes, most_bytes))


def ok_line(agreed: Request) -> bytes:
    return f"ok {agreed.span_s:.3f} {agreed.most_bytes}\n".encode()


def read_ok(line: bytes, asked: Request) -> Request:
    """What the server agreed to. Raises WireError with its words when it did not.

    A server that agrees to more than was asked is held to what was asked.
    """
    match = _OK.fullmatch(line)
    if match is None:
        words = line.decode("ascii", "replace").strip()
        if words == "busy":
            raise Busy("it serves somebody else; try again in a minute")
        refusal = words.removeprefix("no ") if words.startswith("no ") else ""
        raise WireError(refusal or "what listens there is no `ts-benchmark --serve`")
    return agree(asked, float(match[1]), int(match[2]))


def done_line(moved_bytes: int, span_s: float) -> bytes:
    return f"done {moved_bytes} {span_s:.6f}\n".encode()


def read_done(line: bytes) -> tuple[int, float]:
    """Bytes and seconds that the receiver counted. Raises WireError."""
    match = _DONE.fullmatch(line)
    if match is None:
        raise WireError("the other end broke off")
    return int(match[1]), float(match[2])
