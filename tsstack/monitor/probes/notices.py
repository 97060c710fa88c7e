"""What people are told once: causes that somebody has to mend. A lost packet is none of these."""

from __future__ import annotations

from collections.abc import Callable

from tsstack.monitor.probes import dns, icmp, tailnet
from tsstack.monitor.probes.probe import Notice, Probe

Tell = Callable[[Notice], None]

NO_INTERFACE = "no interface"
UNRESOLVED = "does not resolve"
NEARBY = "of this network"
"""What is asked whether a way out works has, by its name, an address on this side of it."""
_DAEMON, _FILES = "tailscaled", "files"
_FOR_ALL = {
    icmp.NOT_PERMITTED: ("icmp", icmp.PERMISSION_HINT),
    tailnet.SILENT: (_DAEMON, "systemctl start tailscaled"),
    tailnet.FORBIDDEN: (_DAEMON, "run as root, or let this user open tailscaled's socket"),
    dns.NO_RESOLVER: ("dns", "name a server in /etc/resolv.conf"),
    "too many open files": (_FILES, "raise LimitNOFILE of the service, or slow the probes down"),
}
_SPENT = frozenset({"no buffer space", "busy"})
_TAILNET_KINDS = frozenset({"disco", "tsmp", "peer-icmp"})


class Notices:
    """Keeps what was said, so that it is said once, and says when it is over."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._said: dict[str, Notice] = {}
        self._paths: dict[str, set[str]] = {}
        """The paths that each was said for."""

    def failed(self, probe: Probe, error: str) -> None:
        """A probe failed for this cause."""
        notice = _notice(probe, error)
        # A name may not resolve because its resolver gets no descriptor either.
        if (notice is None or notice.about != _FILES) and not error.startswith(UNRESOLVED):
            self._had_a_file(probe)
        if notice is None:
            return
        self._paths.setdefault(notice.about, set()).add(probe.path.key)
        if self._said.get(notice.about) != notice:
            self._said[notice.about] = notice
            self._tell(notice)

    def worked(self, probe: Probe) -> None:
        """A probe worked: what stood in its way is over."""
        if not self._said:
            return
        self._end(probe.path.key)
        self._end(f"interface {probe.path.interface}")
        if probe.kind == "icmp":
            self._end("icmp")
        elif probe.kind in _TAILNET_KINDS:
            self._end(_DAEMON)
        elif probe.kind == "dns":
            self._end("dns")
        self._had_a_file(probe)

    def _had_a_file(self, probe: Probe) -> None:
        """Descriptors are short until each probe that got none was sent, whatever became of it."""
        without = self._paths.get(_FILES)
        if without is not None:
            without.discard(probe.path.key)
            if not without:
                self._end(_FILES)

    def keep_only(self, paths: set[str]) -> None:
        """What was said for paths alone that are not watched any more is over."""
        for about, by in list(self._paths.items()):
            by.intersection_update(paths)
            if not by:
                self._end(about)

    def _end(self, about: str) -> None:
        said = self._said.pop(about, None)
        self._paths.pop(about, None)
        if said is not None:
            self._tell(Notice(about, said.message, over=True))


def is_ours(error: str) -> bool:
    """Whether the cause is on this host, so that it says nothing of the path."""
    return error in _FOR_ALL or error in _SPENT or error == NEARBY or error.startswith(NO_INTERFACE)


def _notice(probe: Probe, error: str) -> Notice | None:
    if error in _FOR_ALL:
        about, hint = _FOR_ALL[error]
        return Notice(about, error, hint)
    if error == tailnet.UNKNOWN:
        return Notice(
            probe.path.key, f"{probe.host} is no node of this tailnet", "see `tailscale status` for the names"
        )
    if error.startswith(UNRESOLVED):
        return Notice(probe.path.key, f"{host_of(probe)} {error}", "check the name and this host's DNS")
    if error == NEARBY:
        words = f"{host_of(probe)} has an address of your own network, which tells nothing of the way out"
        return Notice(probe.path.key, words, "name a target beyond it in monitor.targets")
    if error.startswith(NO_INTERFACE):
        return Notice(f"interface {probe.path.interface}", error, "ip -brief link    # for the names")
    return None


def host_of(probe: Probe) -> str:
    """The name or address that has to be resolved for a probe; empty when there is nothing to resolve."""
    if probe.url:
        from tsstack.monitor.probes.https import page_of

        try:
            return page_of(probe.url).host
        except ValueError:
            return ""
    return "" if probe.socket else probe.host
