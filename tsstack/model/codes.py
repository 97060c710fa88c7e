"""Every remark that tsstack can make about a file.

A code is stable: it is never given to another remark. TS0xx the file as such, TS1xx keys and values,
TS2xx zones, TS3xx the proxy, TS4xx the tailnet, TS5xx kernel, DNS and bandwidth, TS6xx the monitor.
They are declared in three modules, so that loading a sound file does not load all the texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from tsstack.model import file_codes, host_codes, lint_codes
from tsstack.model.code import DECLARED, Code

DECLARING = (file_codes, lint_codes, host_codes)

CODES: Mapping[str, Code] = dict(sorted(DECLARED.items()))
