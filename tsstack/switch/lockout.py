"""What helps past the guard, in the words of a hint: not every verb has the option that `switch` has."""

from __future__ import annotations

PAST_IT = "use --force-lockout together with --confirm"
_SWITCH = "`tsstack switch --force-lockout --confirm 60s`"
AT_BOOT = f"if it is meant so, make it live by {_SWITCH}: once it is confirmed, the next boot has it too"
AS_FALLBACK = (
    f"if it is meant so, first make a file with this firewall live by {_SWITCH} and confirm it: "
    "where a firewall is live already a fallback is only kept"
)
