"""The services of the proxy. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsstack.parts.proxy.ends import certificate_level
from tsstack.status.words import milliseconds, time_left
from tsstack.tui.cells import LOOK_OF, Cells, Column, Line, Signs, Span, Table, dimmed, joined, labelled, say
from tsstack.tui.frame import Frame

if TYPE_CHECKING:
    from tsstack.status.shape import Service

SERVICES = (
    Column("", 1),
    Column("service", 12, grow=1),
    Column("level", 7, leave=3),
    Column("answers in", 10, right=True),
    Column("certificate", 11, right=True, leave=1),
    Column("address", 20, grow=4, leave=2),
)


def services(frame: Frame, signs: Signs) -> Table:
    """All services, those that are dead first."""
    known = sorted(frame.status["services"], key=lambda each: each["level"] != "dead")
    at = frame.status["at"]

    def cells(row: int, _: Sequence[int]) -> Cells:
        made = service_cells(known[row], at, signs)
        return tuple(map(dimmed, made)) if known[row]["name"] in frame.remembered else made

    return Table(
        SERVICES,
        [each["name"] for each in known],
        cells,
        empty="the live generation has no services",
    )


def service_cells(service: Service, at: float, signs: Signs) -> Cells:
    """One service in the columns of `SERVICES`."""
    ends = service["certificate_expires"]
    return (
        (signs.level(service["level"]),),
        say(signs.words(service["name"])),
        say(service["level"], LOOK_OF[service["level"]]),
        say("" if service["level"] == "dead" else milliseconds(service["rtt_s"])),
        say(time_left(ends - at) if ends is not None else "", _look(ends, at, service["certificate_life_s"])),
        say(signs.words(service["url"]), "accent"),
    )


def _look(ends: float | None, at: float, life_s: float | None) -> str:
    level = "ok" if ends is None else certificate_level(ends - at, life_s)
    return "" if level == "ok" else level


def service_details(frame: Frame, signs: Signs, key: str) -> list[Line]:
    """One service in full: where, how its upstreams do, what it is served with."""
    status = frame.status
    service = next((each for each in status["services"] if each["name"] == key), None)
    if service is None:
        return []
    lines = [labelled("address", (signs.words(service["url"]), "accent"))]
    paths = (status["monitor"]["state"] or {}).get("paths") or ()
    for path in paths:
        if path["kind"] == "service" and path["key"].removeprefix("service:").rpartition("#")[0] == key:
            sign, look = signs.level(path["level"])
            said = signs.words(path["error"]) or milliseconds(path["rtt_s"])
            spans: list[Span] = [
                (f"{sign} {path['level']}", look),
                (said, ""),
                (signs.words(path["key"]), "dim"),
            ]
            line = labelled("upstream", *joined([each for each in spans if each[0]], "  "))
            lines.append(dimmed(line) if "monitor" in frame.away else line)
    if service["error"]:
        line = labelled("error", (signs.words(service["error"]), "critical"))
        lines.append(dimmed(line) if key in frame.remembered else line)
    host = service["url"].partition("://")[2].partition("/")[0].partition(":")[0]
    for each in status["certificates"]:
        if host in each["names"] or f"*.{host.partition('.')[2]}" in each["names"]:
            ends = each["expires"]
            left = time_left(ends - status["at"]) if ends is not None else ""
            told = left if left == "expired" else f"ends in {left}" if left else each["error"]
            look = _look(ends, status["at"], each["life_s"])
            lines.append(labelled("certificate", (f"{each['kind']}, {signs.words(told)}", look)))
    return lines
