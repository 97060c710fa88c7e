"""The state of a host in a few words: on ts-status and on the dashboard."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tsstack.status.shape import Status

_HEADLINES = {"ok": "all is well", "warning": "to be looked at", "critical": "something is broken"}


def headline(status: Status) -> str:
    """The level, with how many remarks there are, and whether all could be seen."""
    count = len(status["warnings"])
    blind = status["firewall"]["error"] or any(
        each["expires"] is None and each["error"] == "reading it needs root"
        for each in status["certificates"]
    )
    if status["level"] == "ok" and blind:
        return f"{_HEADLINES['ok']}, as far as this user may look"
    return _HEADLINES[status["level"]] + (f" ({count})" if count else "")
