"""The proxy on the host: what nginx serves, how it is brought to serve something else, and back.

Distribution files are included into, never edited: two links in /etc/nginx point through
`paths.current` into the live generation. `paths.run/proxy.json` remembers what the running master has
loaded, so that nginx is reloaded only for a difference.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.errors import ApplyFailed, CheckFailed, RollbackFailed, TsstackError
from tsstack.parts.proxy import doorkeeper
from tsstack.parts.proxy.before import DID_NOT_RUN, RAN, note_before, ran_before
from tsstack.parts.proxy.discovery import discover_nginx
from tsstack.parts.proxy.engine import Engine, Master, engine
from tsstack.parts.proxy.given_back import (
    forget_held,
    give_back,
    held_by_others,
    note_held,
    start_again,
)
from tsstack.parts.proxy.links import is_linked, links, put_links, set_links, target_of
from tsstack.parts.proxy.pem import read_plain
from tsstack.parts.proxy.plan import PLAN, Plan, parse_plan, read_plan
from tsstack.parts.proxy.probe import ask_status, describe_silent, probe_tcp, probe_vhosts
from tsstack.parts.proxy.seen import Seen, changed_settings, list_changes, parse_seen
from tsstack.parts.proxy.supply import (
    Marks,
    list_due,
    mark_certificates,
    marks_of,
    provide_certificates,
)
from tsstack.parts.proxy.tried import tried
from tsstack.system.files import write_durably, write_note

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Change, JsonValue, Report, Snapshot, Tree

__all__ = ["PART", "ProxyPart", "discover_nginx", "find_drift", "renew", "root_certificate"]

_BAD_PLAN = (ValueError, KeyError, TypeError)


class ProxyPart:
    """The `proxy` section; folder `nginx`. See `tsstack.parts.part.Part` for the contract."""

    name = "proxy"
    folder = "nginx"

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        from tsstack import assets
        from tsstack.parts.proxy.desired import render_proxy

        return render_proxy(stack, facts, assets.folder("templates") / "nginx")

    def check(self, generation: Path, facts: Facts) -> None:
        from tsstack.parts.proxy.hindrance import unhindered
        from tsstack.parts.proxy.neighbours import refuse_shared_sockets
        from tsstack.parts.proxy.rehearsal import rehearse
        from tsstack.parts.proxy.serve import refuse_served

        plan = _plan(generation)
        if plan is not None:
            refuse_served(plan, facts)
            refuse_shared_sockets(plan, facts)
            with unhindered(plan, facts):
                rehearse(generation, plan, facts, going_back=_was_live(generation, facts))

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        plan = _plan(generation)
        if plan is None:
            return ()
        from tsstack.parts.proxy.neighbours import find_covered_sites

        lines = describe_silent(plan)
        if plan.upstream_names:
            lines.append(
                f"nginx resolves {', '.join(plan.upstream_names)} when it starts, and does not start if that "
                "fails; an address is safer"
            )
        if any(certificate.kind == "files" for certificate in plan.certificates):
            from tsstack.parts.proxy.fitness import list_warnings

            for certificate in plan.certificates:
                lines += list_warnings(certificate)
        lines += [
            f"http://{endpoint}/ no longer reaches {site}: only tailscaled may speak there; "
            "other addresses of this host still do"
            for endpoint, site in find_covered_sites(plan, facts)
        ]
        return tuple(lines)

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        plan = parse_plan(tree[PLAN]) if PLAN in tree else None
        live = _live_plan(facts)
        nginx = engine(_main_config(plan, live, facts), facts)
        master = nginx.master()
        record = _read_record(facts)
        loaded = _loaded(live, record, master)
        known: dict[str, Any] = {}
        if live is not None and live.digest == loaded:
            known = {**live.services}
        elif record.get("digest") == loaded:
            known = dict(record.get("services", {}))
        return Seen(
            main_config=str(nginx.config) if nginx.included else "",
            links={str(link): target_of(link) for link in links(facts)},
            running=master is not None,
            outdated=master is not None and nginx.is_outdated(master),
            loaded=loaded,
            services=known,
            settings=changed_settings(plan, live, known),
            identity=doorkeeper.is_running(facts),
            identity_started=doorkeeper.was_started(facts),
            due=list_due(plan, marks_of(record)),
            record=record,
            ran_before=ran_before(facts),
        ).to_snapshot()

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        seen = parse_seen(snapshot)
        return list_changes(parse_plan(tree[PLAN]) if PLAN in tree else None, seen)

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        plan = _plan(generation)
        live_before = _read_record(facts)
        if plan is None:
            _withdraw(facts, live_before, report)
            _tidy(generation, facts, report)
            return
        if not plan.addresses_known:
            raise ApplyFailed(
                "the tailnet's addresses were not known when this was rendered, so nginx has nothing to bind",
                hint="see that tailscaled is logged in (`tailscale status`), then switch again",
            )
        for folder in (facts.paths.run, facts.paths.log):
            folder.mkdir(parents=True, exist_ok=True)
        known = marks_of(live_before)
        marks = mark_certificates(plan, known)
        renewed = provide_certificates(plan, facts, report, known)
        if plan.identity:
            doorkeeper.ensure_running(facts)
        nginx = engine(plan.main_config, facts)
        master = nginx.master()
        loaded = _loaded(plan, live_before, master)
        if nginx.included and not ran_before(facts):
            note_before(facts, DID_NOT_RUN if master is None else RAN)
        if master is None:
            nginx.end_orphans()
        links_before = {link: target_of(link) for link in links(facts)}
        set_links(plan, facts)
        kept = master is not None and not nginx.is_outdated(master)
        if kept and loaded == plan.digest and not renewed:
            report("nginx already serves this")
        else:
            try:
                _refuse_unloadable(nginx, master, plan, held_by_others(facts))
                # Until it is done nobody knows what is loaded; a kill in between must not look like it.
                _write_record(facts, replace(plan, digest=""), None, {})
                _load(nginx, master, plan, report)
            except ApplyFailed:
                # At a boot nobody undoes this, and nginx must run for what others serve.
                put_links(links_before)
                if nginx.included and nginx.master() is None:
                    _give_back(nginx, plan, facts, report, ran=master is not None)
                raise
        _write_record(facts, plan, nginx.master(), marks)
        forget_held(facts)
        if not plan.identity:
            doorkeeper.ensure_stopped(facts)
        _tidy(generation, facts, report)

    def verify(self, generation: Path, facts: Facts) -> None:
        from tsstack.parts.proxy.authority import ca_certificate

        plan = _plan(generation)
        if plan is None:
            return
        probe_tcp(plan)
        probe_vhosts(plan, ca_certificate(facts.paths.tls, plan.tailnet))
        if plan.identity and not doorkeeper.is_running(facts):
            raise ApplyFailed("the identity daemon does not answer")

    def step_aside(self, facts: Facts) -> bool:
        """Take our links out of a distribution's nginx that is yet to start; `activate` puts them back."""
        if facts.nginx is None or engine(facts.nginx.main_config, facts).master() is not None:
            return False
        return put_links(dict.fromkeys(links(facts)))

    def needs_generation(self, snapshot: Snapshot) -> bool:
        """An nginx that ran has its configuration there: all of it, or what our links lead to."""
        targets = snapshot.get("links")
        linked = isinstance(targets, dict) and any(targets.values())
        return bool(snapshot.get("running")) and (linked or not snapshot.get("main_config"))

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        try:
            _restore(snapshot, facts)
        except (TsstackError, OSError) as error:
            raise RollbackFailed(
                f"nginx is not back to what it served: {error}", hint="see `nginx -t` and the error log"
            ) from error


PART = ProxyPart()


def renew(facts: Facts, report: Report, *, force: bool = False) -> tuple[str, ...]:
    """Renew the live generation's certificates that are due (all with `force`), reload nginx once if any was.

    Due is also what the user has replaced on disk. Returns the first names. Raises CheckFailed for such a
    pair that clients would refuse, and ApplyFailed; what was there before is served on then.
    """
    plan = _live_plan(facts)
    if plan is None:
        return ()
    record = _read_record(facts)
    known = marks_of(record)
    marks = mark_certificates(plan, known)
    due = list_due(plan, known, force=force)
    for certificate in plan.certificates:
        if certificate.kind == "files" and certificate.names[0] in due:
            from tsstack.parts.proxy.fitness import refuse_unusable

            refuse_unusable(certificate)
    renewed = provide_certificates(plan, facts, report, known, force=force)
    nginx = engine(plan.main_config, facts)
    master = nginx.master()
    if renewed and master is not None and not is_linked(plan, facts):
        report("nginx runs without these services now; it takes the certificates with them")
    elif renewed and master is not None:
        nginx.test()
        nginx.load(master, lambda _: None)
        report("nginx serves the new certificates")
        _write_record(facts, plan, nginx.master(), marks)
    return renewed


def find_drift(generation: Path, facts: Facts) -> tuple[Change, ...]:
    """What activating `generation` anew would change. Only root sees all of it. Raises as `Part.observe`."""
    tree = {PLAN: (generation / PLAN).read_text(encoding="utf-8")}
    return PART.changes(tree, PART.observe(tree, facts))


def root_certificate(facts: Facts, tailnet: str) -> str:
    """The local CA's certificate as PEM, made if there is none yet. Raises ApplyFailed when it is damaged.

    Clients install it once: Debian, Ubuntu: /usr/local/share/ca-certificates/NAME.crt, then
    update-ca-certificates; Fedora: /etc/pki/ca-trust/source/anchors, then update-ca-trust; macOS:
    `security add-trusted-cert`; Firefox keeps a store of its own.
    """
    import datetime

    from tsstack.parts.proxy.authority import ca_certificate, open_ca

    facts.paths.tls.mkdir(parents=True, exist_ok=True)
    facts.paths.tls.chmod(0o700)
    open_ca(facts.paths.tls, tailnet, (), datetime.datetime.now(datetime.UTC))
    return read_plain(ca_certificate(facts.paths.tls, tailnet)).decode("ascii")


def _plan(generation: Path) -> Plan | None:
    try:
        return read_plan(generation)
    except _BAD_PLAN as error:
        raise CheckFailed(
            f"{generation / PLAN} is damaged: {error}",
            hint="switch again, or roll back to another generation",
        ) from error


def _was_live(generation: Path, facts: Facts) -> bool:
    """Whether this would go back: what has a number has passed its checks, and this one is not live."""
    return generation.name.isdigit() and generation.resolve() != facts.paths.current.resolve()


def _live_plan(facts: Facts) -> Plan | None:
    try:
        return read_plan(facts.paths.current)
    except _BAD_PLAN:
        return None  # a damaged live generation: the wanted one replaces it


def _main_config(plan: Plan | None, live: Plan | None, facts: Facts) -> str:
    for known in (plan, live):
        if known is not None:
            return known.main_config
    return facts.nginx.main_config if facts.nginx else ""


def _tidy(generation: Path, facts: Facts, report: Report) -> None:
    from tsstack.parts.proxy.leftovers import remove_leftovers

    try:
        removed = remove_leftovers(generation, facts.paths.tls)
    except OSError as error:
        report(f"certificates that nothing names any more stay in {facts.paths.tls}: {error}")
        return
    if removed:
        report(f"removed certificates that no generation names: {', '.join(removed)}")


def _loaded(plan: Plan | None, record: dict[str, Any], master: Master | None) -> str:
    """Digest of what the running nginx has loaded from us; empty when it has nothing or does not run.

    nginx itself says so at the status endpoint; without one, what was noted at the last reload holds
    for the same master process only.
    """
    if master is None:
        return ""
    for status in dict.fromkeys(filter(None, (plan.status if plan else None, record.get("status")))):
        answer = ask_status(status)
        if answer:
            return answer
    same = record.get("pid") == master.pid and record.get("start") == master.start
    return str(record.get("digest", "")) if same else ""


def _refuse_unloadable(nginx: Engine, master: Master | None, plan: Plan, foreign: Container[str]) -> None:
    """Raises ApplyFailed for what would make nginx refuse the plan, whose links are in place."""
    from tsstack.parts.proxy.sockets import find_foreign_addresses, find_holders

    missing = find_foreign_addresses(plan.listeners)
    if missing:
        words = ", ".join(f"{one.endpoint} ({one.path})" for one in missing[:5])
        raise ApplyFailed(
            f"nginx cannot bind {words}: this host has no such address",
            hint="is tailscaled running? `tailscale ip` shows the address that it has now",
        )
    held = find_holders(plan.listeners, [master.pid] if master else [], foreign)
    if held:
        words = "; ".join(f"{one.endpoint} ({one.path}) is held by {program}" for one, program in held[:5])
        raise ApplyFailed(
            f"nginx cannot bind: {words}",
            hint="end that program, choose another port, or for tailscaled: `tailscale serve reset`",
        )
    nginx.test()


def _load(nginx: Engine, master: Master | None, plan: Plan, report: Report) -> None:
    """Bring nginx to serve `plan`. Raises ApplyFailed."""
    if master is None:
        nginx.start()
        report("nginx started")
    else:
        nginx.load(master, report)
    if plan.status and (answer := ask_status(plan.status)) != plan.digest:
        raise ApplyFailed(
            f"nginx serves generation {answer or 'unknown'} after the reload, not {plan.digest}",
            hint=f"see {nginx.error_log}",
        )


def _give_back(nginx: Engine, plan: Plan, facts: Facts, report: Report, *, ran: bool) -> None:
    """nginx is down, and our links are out of it: who had it before us has it again."""
    from tsstack.parts.proxy.sockets import find_sockets

    others = find_sockets(plan.listeners)
    if ran:
        give_back(nginx, report)
    elif ran_before(facts) == RAN:
        start_again(nginx, report)
    with contextlib.suppress(OSError):  # it spares a restart at most
        note_held(facts, others)


def _withdraw(facts: Facts, record: dict[str, Any], report: Report) -> None:
    """Take back all that is ours; nginx goes on with what others serve, or stops if it ran for us alone."""
    if facts.nginx is None and not record:
        return
    own = engine("", facts)
    if own.master() is not None:  # beside which another nginx may run that serves others alone
        own.stop()
        report("nginx stopped")
    removed = put_links(dict.fromkeys(links(facts)))
    included = str(record.get("main_config", "")) or (facts.nginx.main_config if facts.nginx else "")
    if included and (removed or record.get("main_config")):
        _leave_to_others(engine(included, facts), facts, report)
    doorkeeper.ensure_stopped(facts)
    _record_path(facts).unlink(missing_ok=True)
    note_before(facts, "")


def _leave_to_others(nginx: Engine, facts: Facts, report: Report) -> None:
    master = nginx.master()
    if master is None:
        if ran_before(facts) == RAN:
            start_again(nginx, report)
    elif ran_before(facts) == DID_NOT_RUN:
        nginx.stop()
        report("nginx stopped")
    else:
        nginx.test()
        nginx.load(master, report)


def _restore(snapshot: Snapshot, facts: Facts) -> None:
    """`paths.current` is back at what it was when the snapshot was taken."""
    seen, plan = parse_seen(snapshot), _live_plan(facts)
    left: list[str] = []
    with tried(left):
        note_before(facts, seen.ran_before)
    with tried(left):
        if plan is not None and plan.identity:
            doorkeeper.ensure_running(facts)
        elif not seen.identity_started:
            doorkeeper.ensure_stopped(facts)
    with tried(left):
        _restore_nginx(seen, plan, facts)
    if left:
        raise ApplyFailed("; ".join(left))


def _restore_nginx(seen: Seen, plan: Plan | None, facts: Facts) -> None:
    links_now = {link: target_of(link) for link in links(facts)}
    put_links({Path(link): target for link, target in seen.links.items()})
    nginx = engine(seen.main_config, facts)
    master = nginx.master()
    marks = marks_of(_read_record(facts))
    fresh = mark_certificates(plan, marks) if plan is not None else {}
    if not seen.running:
        nginx.stop()
    elif master is None:
        nginx.test()
        nginx.start()
        marks = fresh
    elif _in_doubt(facts) or _loaded(plan, _read_record(facts), master) != seen.loaded:
        try:
            nginx.test()
        except ApplyFailed:
            put_links(links_now)  # what runs must be able to start again
            raise
        nginx.load(master, lambda line: None)
        marks = fresh
    if not seen.record:
        _record_path(facts).unlink(missing_ok=True)
    elif plan is not None and seen.running:
        _write_record(facts, plan, nginx.master(), marks, write=write_note)


def _in_doubt(facts: Facts) -> bool:
    """Whether a reload was begun whose end nobody noted."""
    record = _read_record(facts)
    return bool(record) and not record.get("digest")


def _record_path(facts: Facts) -> Path:
    return facts.paths.run / "proxy.json"


def _read_record(facts: Facts) -> dict[str, Any]:
    try:
        record = json.loads(_record_path(facts).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(
    facts: Facts,
    plan: Plan,
    master: Master | None,
    marks: Marks,
    write: Callable[[Path, str], None] = write_durably,
) -> None:
    record: dict[str, JsonValue] = {
        "digest": plan.digest,
        "main_config": plan.main_config,
        "pid": master.pid if master else 0,
        "start": master.start if master else "",
        "status": plan.status,
        "services": {**plan.services},
        "certificates": {**marks},
    }
    text = json.dumps(record, sort_keys=True)
    if not _record_path(facts).exists() or _record_path(facts).read_text(encoding="ascii") != text:
        write(_record_path(facts), text)
