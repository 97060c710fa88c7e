"""All that an undoing may load, loaded: the package may be moved away or exchanged while a change waits.

The dead man imports this before he says that he stands. What only a change needs (models, renderers,
cryptography) is not among it; tests/unit/switch/test_deadman_loaded.py finds what is missing here.
"""

# ruff: noqa: F401 - to load them is the point
from __future__ import annotations

import codecs
import contextlib
import locale
import shutil
import traceback

import tsstack.parts.firewall.flows
import tsstack.parts.firewall.judge

# He himself runs as __main__: what recovery takes from him is another module.
import tsstack.switch.deadman
from tsstack.parts.firewall.library import Session
from tsstack.parts.registry import all_parts


def load_libraries() -> None:
    """What is loaded at its first use only: the parts, encodings of files and engines, libnftables."""
    all_parts()
    for name in ("ascii", "idna", "latin-1", locale.getencoding()):
        with contextlib.suppress(LookupError):
            codecs.lookup(name)
    with contextlib.suppress(Exception):  # where it cannot be loaded there is no table to bring back
        Session()
