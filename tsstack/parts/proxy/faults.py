"""What ails nginx and the daemon beside it, how bad that is, and what mends it: the same on every screen.

Pure, and light to import.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Level = Literal["ok", "warning", "critical"]

NGINX_WITHOUT_MASTER: Level = "critical"
"""Its workers serve on, and no reload, renewal or restart reaches them (TS725)."""
IDENTITY_SILENT: Level = "critical"
"""nginx asks it of each client of a service with `allow`, and refuses without an answer (TS720)."""
SILENT_DOORKEEPER = "does not answer: services with `allow` refuse everybody"


def without_master(workers: int) -> str:
    """What is said of an nginx whose master is dead."""
    serve = "1 worker serves on" if workers == 1 else f"{workers} workers serve on"
    return f"its master is dead, {serve}"


def reload_nginx(unit: str) -> str:
    """Without a main file of the distribution's there is only the pid file to go by."""
    own = "kill -HUP $(cat /run/tsstack/nginx.pid)"
    return ("nginx -s reload" if unit == "nginx" else own) + "    # nginx-test says what it refuses"
