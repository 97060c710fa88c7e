"""How the proxy stands: whether nginx accepts its configuration, serves the live generation, reaches the
upstreams, and shows certificates that clients take. Looks only; nothing is left changed."""

from __future__ import annotations

import contextlib
import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import TsstackError
from tsstack.parts.proxy import doorkeeper
from tsstack.parts.proxy.engine import Engine, engine, workers
from tsstack.parts.proxy.faults import (
    IDENTITY_SILENT,
    NGINX_WITHOUT_MASTER,
    SILENT_DOORKEEPER,
    without_master,
)
from tsstack.parts.proxy.host import find_drift
from tsstack.parts.proxy.links import reload_command
from tsstack.parts.proxy.probe import ask_status, mute_upstreams, silent_upstreams
from tsstack.parts.proxy.tally import Level, worst
from tsstack.system.spans import time_left

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography import x509

    from tsstack.model.facts import Facts
    from tsstack.parts.part import Change
    from tsstack.parts.proxy.plan import Plan, Vhost
    from tsstack.parts.proxy.survey import Answer, Refusal

Fault = tuple[Level, str, str]
"""How bad it is, what it is, what to do about it."""

_RENEW = "tsstack certificates renew"
_SILENT_PORT = "fw-status    # and nginx's error log"
_MOST_DRIFT = 5
_DRIFT = ("link ", "certificate for ", "identity daemon")


@dataclass(frozen=True, slots=True)
class Point:
    """One judgement: about what, how it is, and what to do about it."""

    about: str
    level: Level
    words: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class VhostState:
    """One name on one port."""

    name: str
    port: int
    services: tuple[str, ...]
    level: Level
    words: str
    hint: str
    days_left: float | None
    """Of its certificate; None without TLS, or without an answer."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service and its upstreams."""

    name: str
    url: str
    level: Level
    answering: tuple[str, ...]
    silent: tuple[str, ...]
    mute: tuple[str, ...] = ()
    """Those that take a connection and do not answer a request in time."""
    words: str = ""
    """What is wrong with its own ports; empty: nothing, or it is HTTP, whose names are asked."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """All that `nginx-test` shows."""

    digest: str
    points: tuple[Point, ...]
    vhosts: tuple[VhostState, ...]
    services: tuple[ServiceState, ...]

    @property
    def level(self) -> Level:
        """The worst of all."""
        points, vhosts, services = self.points, self.vhosts, self.services
        return worst([*(p.level for p in points), *(v.level for v in vhosts), *(s.level for s in services)])


def look(generation: Path, plan: Plan, facts: Facts, mend: str) -> Standing:
    """Judge the nginx that runs, or would run, against the live `generation` and its `plan`.

    `mend`: the command that makes the host as that generation says, once more.
    """
    from tsstack.parts.proxy.authority import ca_certificate
    from tsstack.parts.proxy.survey import ask_ports, ask_vhosts

    answers = ask_vhosts(plan, ca_certificate(facts.paths.tls, plan.tailnet))
    by_vhost: dict[tuple[str, int], list[Answer]] = {}
    for answer in answers:
        by_vhost.setdefault((answer.vhost.name, answer.vhost.port), []).append(answer)
    leaves = _load_leaves(answers)
    now = datetime.datetime.now(datetime.UTC)
    silent = silent_upstreams(plan)
    nginx = engine(plan.main_config, facts)
    process = _judge_process(nginx, answers, mend) if facts.nginx else None
    serves = _judge_generation(plan, answers, mend)
    runs = serves.level == "ok" or (process is not None and process.level == "ok")
    points = [
        _judge_configuration(nginx, generation, plan, facts),
        *([process] if process else []),
        serves,
        *(_judge_drift(generation, facts, mend) if facts.nginx else []),
    ]
    return Standing(
        plan.digest,
        tuple(points),
        tuple(
            judge_vhost(
                plan.digest, vhost, by_vhost.get((vhost.name, vhost.port), []), leaves, now, mend=mend
            )
            for vhost in plan.vhosts
        ),
        judge_services(
            plan,
            silent,
            mute_upstreams(plan, set(silent)),
            ask_ports(plan, set(silent)),
            mend=(reload_command(plan, facts) if runs else "") or mend,
        ),
    )


def judge_vhost(
    digest: str,
    vhost: Vhost,
    answers: Sequence[Answer],
    leaves: dict[bytes, x509.Certificate],
    now: datetime.datetime,
    *,
    mend: str,
) -> VhostState:
    """The state of one name, from what it said at each of its addresses; `mend` as for `look`. Pure."""
    ends = [leaves[one.certificate].not_valid_after_utc for one in answers if one.certificate in leaves]
    faults = [fault for answer in answers for fault in _faults(digest, answer, leaves, now, mend)]
    if not answers:
        faults = [("critical", "nginx has no address for it", mend)]
    none: Fault = ("ok", "", "")
    level, words, hint = min(faults, key=lambda one: one[0] != "critical", default=none)
    return VhostState(
        name=vhost.name,
        port=vhost.port,
        services=vhost.services,
        level=level,
        words=words,
        hint=hint,
        days_left=(min(ends) - now).total_seconds() / 86400 if ends else None,
    )


def judge_services(
    plan: Plan,
    silent: Iterable[tuple[str, str]],
    mute: Iterable[tuple[str, str]] = (),
    refusals: Iterable[Refusal] = (),
    *,
    mend: str = "",
) -> tuple[ServiceState, ...]:
    """Each service: critical without any upstream or where one of its own ports takes no connection, a
    warning when an upstream is gone or gives no answer. `mend`: what makes a port listen. Pure.
    """
    gone, dumb = set(silent), set(mute)
    shut: dict[str, list[Refusal]] = {}
    for each in refusals:
        shut.setdefault(each.service, []).append(each)
    found = []
    for name, endpoints in sorted(plan.upstreams.items()):
        lost = tuple(each for each in endpoints if (name, each) in gone)
        left = tuple(each for each in endpoints if (name, each) not in gone)
        late = tuple(each for each in left if (name, each) in dumb)
        answering = tuple(each for each in left if each not in late)
        words = "; ".join(f"does not answer at {one.endpoint}: {one.trouble}" for one in shut.get(name, ()))
        refused = any(one.refused for one in shut.get(name, ()))
        hint = (mend if refused else _SILENT_PORT) if words else ""
        level: Level = "critical" if not left or words else "warning" if lost or late else "ok"
        found.append(ServiceState(name, plan.urls.get(name, ""), level, answering, lost, late, words, hint))
    return tuple(found)


def _faults(
    digest: str, answer: Answer, leaves: dict[bytes, x509.Certificate], now: datetime.datetime, mend: str
) -> list[Fault]:
    """What is wrong with one answer."""
    at = f"at {answer.endpoint}"
    if answer.trouble:
        return [("critical", f"does not answer {at}: {answer.trouble}", _SILENT_PORT)]
    found: list[Fault] = []
    if answer.digest != digest:
        who = f"generation {answer.digest}" if answer.digest else "something else"
        found.append(
            ("critical", f"{who} answers {at}, not the live one", f"{mend}    # and see nginx's error log")
        )
    leaf = leaves.get(answer.certificate)
    if leaf is None:
        return found
    return found + _certificate_faults(answer, leaf, now)


def _certificate_faults(answer: Answer, leaf: x509.Certificate, now: datetime.datetime) -> list[Fault]:
    from tsstack.parts.proxy.fitness import covers, level_of

    left = leaf.not_valid_after_utc - now
    if not covers(leaf, answer.vhost.name):
        return [("critical", "its certificate is not for this name", _RENEW)]
    if left < datetime.timedelta():
        return [("critical", f"its certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}", _RENEW)]
    if leaf.not_valid_before_utc > now:
        return [("critical", f"its certificate counts from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
                 "timedatectl    # is this host's clock right?")]  # fmt: skip
    if answer.distrust:
        return [("critical", f"clients refuse its certificate: {answer.distrust}", _RENEW)]
    level = level_of(leaf, now)
    if level != "ok":
        return [(level, f"its certificate ends in {time_left(left.total_seconds())}", _RENEW)]
    return []


def _load_leaves(answers: Iterable[Answer]) -> dict[bytes, x509.Certificate]:
    """The certificates that were shown, each parsed once; a damaged one is left out: no client took it."""
    raw = {answer.certificate for answer in answers if answer.certificate}
    if not raw:
        return {}
    from cryptography import x509

    leaves = {}
    for each in raw:
        with contextlib.suppress(ValueError):
            leaves[each] = x509.load_der_x509_certificate(each)
    return leaves


def _judge_configuration(nginx: Engine, generation: Path, plan: Plan, facts: Facts) -> Point:
    about = "configuration"
    if facts.nginx is None:
        return Point(about, "critical", "nginx is not installed", "apt install nginx")
    whole = nginx.included and os.geteuid() == 0
    try:
        if whole:
            _test_without_trace(nginx)
        else:
            from tsstack.parts.proxy.rehearsal import rehearse

            rehearse(generation, plan, facts, going_back=True)
    except TsstackError as error:
        # Somebody else's key, or a kernel that lets only root have a network namespace.
        hidden = isinstance(error.__cause__, PermissionError) or "unshare" in error.message
        if hidden and os.geteuid() != 0:
            return Point(
                about, "unknown", f"only root can let nginx judge it: {error.message}", "try with sudo"
            )
        return Point(about, "critical", error.message, error.hint)
    if whole or not nginx.included:
        return Point(about, "ok", f"nginx accepts {nginx.config}")
    return Point(about, "ok", "nginx accepts what tsstack renders; root can let it judge the whole")


def _test_without_trace(nginx: Engine) -> None:
    """`nginx -t`, which makes an empty pid file where none is (ngx_create_pidfile(), ngx_test_config).

    Raises ApplyFailed.
    """
    pid_file = nginx.pid_file
    before = pid_file.exists()
    try:
        nginx.test()
    finally:
        # One with something in it is that of an nginx which was started meanwhile.
        if not before and pid_file.exists() and pid_file.stat().st_size == 0:
            pid_file.unlink()


def _judge_process(nginx: Engine, answers: Sequence[Answer], mend: str) -> Point:
    about = "nginx"
    master = nginx.master()
    if master is not None:
        busy = [closing for closing in workers(master).values() if not closing]
        return Point(about, "ok", f"runs as pid {master.pid} with {len(busy)} workers")
    if orphans := nginx.orphans():
        return Point(about, NGINX_WITHOUT_MASTER, without_master(len(orphans)), mend)
    if os.geteuid() != 0:
        if any(answer.digest for answer in answers):
            return Point(about, "ok", "answers; only root sees its process")
        return Point(about, "unknown", "only root sees whether it runs", "try with sudo")
    return Point(about, "critical", "does not run", f"{mend}    # starts it")


def _judge_generation(plan: Plan, answers: Sequence[Answer], mend: str) -> Point:
    """Which generation is served: what the status endpoint says, else what the vhosts say."""
    about = "generation"
    said = ask_status(plan.status) if plan.status else ""
    served = {said} if said else {answer.digest for answer in answers if answer.digest}
    if served == {plan.digest}:
        return Point(about, "ok", f"nginx serves the live one, {plan.digest}")
    if not served:
        return Point(about, "unknown", "nothing says which one is served")
    others = ", ".join(sorted(served - {plan.digest}))
    return Point(about, "critical", f"nginx serves {others}, the live one is {plan.digest}", mend)


def _judge_drift(generation: Path, facts: Facts, mend: str) -> list[Point]:
    """What the points above do not cover: links, the identity daemon, certificates that are due."""
    if os.geteuid() != 0:
        return []
    try:
        changes = find_drift(generation, facts)
    except TsstackError as error:
        return [Point("drift", "unknown", error.message, error.hint)]
    found = [_judge_change(each, facts, mend) for each in changes if each.subject.startswith(_DRIFT)]
    found.sort(key=lambda one: one.level != "critical")
    if len(found) > _MOST_DRIFT:
        left = len(found) - _MOST_DRIFT
        found[_MOST_DRIFT:] = [Point("drift", "warning", f"and {left} more; `tsstack doctor` lists them")]
    return found


def _judge_change(change: Change, facts: Facts, mend: str) -> Point:
    if change.subject != "identity daemon" or change.after is None:
        return Point("drift", "warning", str(change), mend)
    if doorkeeper.answers(facts):
        words = "runs with other code or settings than the live generation's"
        return Point("identity daemon", "warning", words, mend)
    return Point("identity daemon", IDENTITY_SILENT, SILENT_DOORKEEPER, f"{mend}    # starts it")
