"""What stands in nginx's way on this host already: told before anything is touched, not after."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed
from tsstack.parts.proxy.engine import Engine, engine, explain_refusal, place_of
from tsstack.parts.proxy.links import links
from tsstack.parts.proxy.sockets import find_holders
from tsstack.system.command import Process, popen

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Plan

_LIMIT_S = 60


@contextmanager
def unhindered(plan: Plan, facts: Facts) -> Iterator[None]:
    """Raise CheckFailed for a port that another program holds, and for a host's nginx that is broken now.

    nginx judges the configuration as it is live while the body runs: two processors, one wait. Only root
    can tell whose a socket is and read every key, so for others nothing is said.
    """
    if os.geteuid() != 0:
        yield
        return
    nginx = engine(plan.main_config, facts)
    master = nginx.master()
    # The workers of a master that was killed are ended before the next one starts.
    own = [master.pid] if master else nginx.orphans()
    # Before the tailnet is joined, loopback stands for its addresses.
    held = find_holders(plan.listeners, own) if plan.addresses_known else []
    if held:
        words = "; ".join(f"{one.endpoint} ({one.path}) is held by {program}" for one, program in held[:5])
        raise CheckFailed(
            f"nginx cannot bind: {words}",
            hint="end that program, choose another port, or for tailscaled: `tailscale serve reset`",
        )
    if master is None or not nginx.included:  # `nginx -t` would leave a pid file
        yield
        return
    trial = popen(nginx.trial())
    try:
        yield
    except BaseException:
        trial.kill()
        raise
    finally:
        _, said = trial.communicate(timeout=_LIMIT_S)
    _judge(nginx, trial, said.decode(errors="replace"), facts)


def _judge(nginx: Engine, trial: Process, said: str, facts: Facts) -> None:
    """Raise CheckFailed when the live configuration is refused for a reason that is not ours.

    Ours is what the change is about to replace; and two of one thing may be one of ours and one of theirs.
    """
    if trial.returncode == 0 or "duplicate" in said:
        return
    # Somebody removed the live generation: nginx then names our link, and the line that includes it.
    if any(str(link) in said for link in links(facts) if link.is_symlink() and not link.exists()):
        return
    message, hint = explain_refusal(said)
    place = place_of(message)
    if place is None or place[0].resolve().is_relative_to(facts.paths.state.resolve()):
        return
    raise CheckFailed(
        f"nginx refuses {nginx.config} as it is now, without this change: {message}",
        hint=hint or "mend it, or move it away, then switch again",
    )
