"""Every part, in the order in which a switch activates them.

The firewall comes first, so that nothing is reachable that the file does not open; then the tailnet,
whose address the rest needs; the proxy when there is an address to bind and names to serve; the monitor
last, since it watches all of that.
Undoing runs the other way round.
"""

from __future__ import annotations

from tsstack.parts.part import Part


def all_parts() -> tuple[Part, ...]:
    """The parts in activation order."""
    from tsstack.parts.dns.host import PART as DNS
    from tsstack.parts.firewall.host import PART as FIREWALL
    from tsstack.parts.kernel.host import PART as KERNEL
    from tsstack.parts.monitor.host import PART as MONITOR
    from tsstack.parts.proxy.host import PART as PROXY
    from tsstack.parts.tailscale.host import PART as TAILSCALE

    return (FIREWALL, TAILSCALE, KERNEL, DNS, PROXY, MONITOR)
