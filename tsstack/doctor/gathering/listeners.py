"""Looks who holds the sockets that the live generation asks for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tsstack.doctor.listeners import ListenerFacts
from tsstack.errors import CommandFailed
from tsstack.parts.proxy.engine import engine
from tsstack.parts.proxy.faults import reload_nginx
from tsstack.parts.proxy.probe import ask_status
from tsstack.parts.proxy.sockets import find_holders
from tsstack.status.fixes import restart_nginx

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Plan
    from tsstack.status.shape import Status


def look_at_listeners(plan: Plan | None, facts: Facts, status: Status) -> ListenerFacts:
    """Whose a socket is only root can tell: others learn whether nginx answers at its status address."""
    if plan is None or not plan.listeners:
        return ListenerFacts()
    served = ask_status(plan.status) if plan.status else ""
    running: bool | None = True if served else None
    holders: tuple[tuple[str, str, str], ...] = ()
    log = "/var/log/nginx/error.log"
    if os.geteuid() == 0:
        nginx = engine(plan.main_config, facts)
        try:
            master = nginx.master()
        except CommandFailed:  # nginx itself is gone: TS811
            master = None
        running, log = master is not None, str(nginx.error_log)
        found = find_holders(plan.listeners, [master.pid] if master else nginx.orphans())
        holders = tuple((one.endpoint, one.path, program) for one, program in found)
    return ListenerFacts(
        wanted=len(plan.listeners),
        running=running,
        holders=holders,
        wanted_digest=plan.digest,
        served_digest=served,
        asks_status=bool(plan.status),
        error_log=log,
        start=restart_nginx(status).partition("    # ")[0],
        reload=reload_nginx(status["proxy"]["unit"]).partition("    # ")[0],
    )
