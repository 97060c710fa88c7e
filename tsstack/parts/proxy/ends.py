"""How bad it is that a certificate ends soon: the same on every screen. Pure, and light to import."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

_DAY_S = 86400.0
# The local CA's leaves are renewed at a third of their 90 days, tailscale's at 14 days or later: what is
# closer to its end than this was not renewed in time.
_WARNS_S, _IS_CRITICAL_S = 10 * _DAY_S, 3 * _DAY_S


def certificate_level(left_s: float, life_s: float | None = None) -> Literal["ok", "warning", "critical"]:
    """The level of a certificate that ends in so many seconds, and was made for `life_s` (None: not known).

    One that lives shortly is renewed late, mostly when a third of its life is left: it warns at a quarter,
    and is critical at a tenth.
    """
    warns_s, is_critical_s = _WARNS_S, _IS_CRITICAL_S
    if life_s is not None:
        warns_s = min(_WARNS_S, life_s / 4)
        is_critical_s = min(_IS_CRITICAL_S, life_s / 10)
    if left_s < is_critical_s:
        return "critical"
    return "warning" if left_s < warns_s else "ok"
