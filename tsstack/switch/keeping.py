"""Split DNS is kept between two switches: monitor/tsstack-dns.path calls when a link's DNS has changed."""

from __future__ import annotations

from tsstack.parts.dns.kept import lost_links, set_again
from tsstack.switch.lock import host_lock
from tsstack.switch.site import Site

_ROUNDS = 5
# tailscaled writes several times in a row. Longer than a command takes between two of them.
_CALM_S = 0.5


def keep_dns(site: Site) -> tuple[str, ...]:
    """Set again what links have lost, until nothing has cleared it for a while. Returns the links.

    The host's lock is held only while something is written: a look makes no command wait.
    Raises LockedError while a change is under way, CheckFailed, CommandFailed where resolved refuses.
    """
    done: list[str] = []
    for _ in range(_ROUNDS):
        if not lost_links(site.paths):
            break
        with host_lock(site.paths.state, site.clock, wait_s=60.0):
            done += set_again(site.paths)  # looks once more: the change that held the lock has seen to it
        site.clock.sleep(_CALM_S)
    return tuple(dict.fromkeys(done))
