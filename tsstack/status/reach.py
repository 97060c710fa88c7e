"""Whether anybody gets to the services at all, in the words of every screen. Pure, and light."""

from __future__ import annotations

from tsstack.status.words import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tsstack.status.shape import Status


def out_of_reach(status: Status) -> str:
    """Why none, or not all, of them can be reached; empty where nothing is known against it."""
    if status["proxy"]["running"] is False:
        return "none is served: nginx does not answer"
    gone = [each["unreached"] for each in status["services"] if each["unreached"]]
    if not gone:
        return ""
    return f"{len(gone)} of {len(status['services'])} out of reach: {clean(gone[0])}"


def not_watched(status: Status) -> str:
    """Why nothing is known of any of them."""
    if status["monitor"]["state"] is not None:
        return "nothing is known yet"
    return f"not watched: {clean(status['monitor']['error'])}"
