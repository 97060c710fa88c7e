"""Shared by all tiers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# What a screen shows hangs on both. Tests of the locale and of the width say their own.
os.environ["LC_ALL"] = "C.UTF-8"
os.environ.pop("COLUMNS", None)

sys.path.insert(0, str(Path(__file__).parent / "fakes"))
