"""How a console script ends: at once."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process with `code`, when what it printed is out.

    Without the interpreter's own ending, which takes everything apart object by object where the kernel
    needs no time: an eighth of a verb's. A process with other threads ends the usual way, as they are
    waited for, and so does one whose output cannot be written: Python says why.
    """
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            sys.exit(code)
    os._exit(code)
