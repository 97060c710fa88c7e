"""Split DNS that another program has cleared from a link is set again, from the record of what was set.

tailscaled writes its interface's DNS settings whenever its routes change, and without `accept_dns` these are
empty. Nothing is decided here: no route is asked and no link chosen, as that is for a switch and its checks.
"""

from __future__ import annotations

from tsstack.model.facts import Paths
from tsstack.parts.dns.host import discover_resolved, read_record
from tsstack.parts.dns.resolved import LinkDns, read_link, write_link


def lost_links(paths: Paths) -> dict[str, LinkDns]:
    """The links that are there and have less than they had from us, each with that.

    Less, not none: servers and domains are two calls, and what clears them may come between ours. A link that
    somebody gave settings of their own is theirs. Raises CheckFailed when resolved does not answer.
    """
    record = read_record(paths)
    if not record or not discover_resolved(paths):
        return {}
    live = {link: read_link(link) for link in record}
    return {
        link: ours
        for link, ours in record.items()
        if (now := live[link]) is not None
        and now != ours
        and {*now.servers} <= {*ours.servers}
        and {*now.domains} <= {*ours.domains}
    }


def set_again(paths: Paths) -> tuple[str, ...]:
    """Set what is lost; returns the links. Raises CheckFailed, CommandFailed."""
    lost = lost_links(paths)
    for link, ours in lost.items():
        write_link(link, ours)
    return tuple(lost)
