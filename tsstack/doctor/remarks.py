"""The remarks of `ts-status` (TS7xx) as findings, so that the two never differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsstack.doctor.finding import Finding, Level
from tsstack.status.shape import Level as StatusLevel
from tsstack.status.shape import Status, Warning_

LEVELS: dict[StatusLevel, Level] = {"ok": "ok", "warning": "warning", "critical": "error"}
"""The doctor's word for each level of a status."""
STATUS_LEVEL: dict[Level, StatusLevel] = {own: level for level, own in LEVELS.items()}
# Each remark stands where the chain has its place, by the first digits of its code.
_AREAS = {"TS70": "tailnet", "TS71": "tailnet", "TS72": "services", "TS73": "firewall", "TS74": "monitor",
          "TS75": "generation", "TS86": "forwarding"}  # fmt: skip
_CERTIFICATES = ("TS722", "TS723", "TS729")


def area_of(code: str) -> str:
    """The doctor's area for a remark's code."""
    return "certificates" if code in _CERTIFICATES else _AREAS[code[:4]]


def check_remarks(status: Status, area: str) -> Iterator[Finding]:
    """The remarks of one area; a good word of it where there are none."""
    remarks = [each for each in status["warnings"] if area_of(each["code"]) == area]
    for each in remarks:
        yield _finding(each)
    if not remarks:
        yield from _GOOD[area](status) if area in _GOOD else ()


def codes_of(findings: Sequence[Finding]) -> set[str]:
    """The codes of what is not well."""
    return {each.code for each in findings if each.level != "ok"}


def _finding(remark: Warning_) -> Finding:
    return Finding(
        remark["code"], LEVELS[remark["level"]], remark["about"], remark["message"], remark["hint"]
    )


def _tailnet(status: Status) -> Iterator[Finding]:
    tailnet = status["tailnet"]
    addresses = " ".join(tailnet["addresses"]) or "no address"
    yield Finding("TS702", "ok", "tailscaled", f"{tailnet['state']}, {tailnet['name']}, {addresses}")
    offered = [offer["route"] for offer in tailnet["offers"] if not offer["withdrawn"]]
    if tailnet["offers_exit"]:
        offered.append("exit node")
    withdrawn = [offer["route"] for offer in tailnet["offers"] if offer["withdrawn"]]
    told = (("approved", offered), ("withdrawn by the monitor", withdrawn))
    if words := "; ".join(f"{how}: {', '.join(routes)}" for how, routes in told if routes):
        yield Finding("TS704", "ok", "offers", words)
    if status["exit"]["using"]:
        yield Finding("TS708", "ok", "exit node", f"{status['exit']['using']} is in use")


def _monitor(status: Status) -> Iterator[Finding]:
    monitor = status["monitor"]
    if monitor["state"] is not None:
        paths = len(monitor["state"].get("paths") or ())
        yield Finding("TS741", "ok", "monitor", f"runs and answers; it watches {paths} paths")
    else:
        words = monitor["error"] if monitor["running"] else "not asked for"
        yield Finding("TS741", "ok", "monitor", words)


def _firewall(status: Status) -> Iterator[Finding]:
    firewall = status["firewall"]
    if not firewall["enabled"]:
        yield Finding("TS731", "ok", "firewall", "not asked for")
    elif firewall["loaded"] is not None:
        count = len(firewall["zones"])
        words = f"table inet tsstack is as it was loaded; {count} zone{'' if count == 1 else 's'}"
        yield Finding("TS731", "ok", "firewall", words)


_GOOD = {"tailnet": _tailnet, "monitor": _monitor, "firewall": _firewall}
