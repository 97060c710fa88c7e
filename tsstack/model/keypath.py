"""Key paths: `firewall.zones.dmz.tcp[0]`, and `kernel.sysctl["net.core.rmem_max"]` where a key has dots."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable

KeyPath = tuple[str | int, ...]

_SIMPLE = re.compile(r"[A-Za-z0-9_-]+")
_INDEX = re.compile(r"\[(\d{1,9})\]")
_QUOTED = re.compile(r'\[("(?:[^"\\]|\\.)*")\]')


def format_path(path: Iterable[str | int]) -> str:
    """Steps as text, each in the file's own spelling."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif len(step) <= 80 and _SIMPLE.fullmatch(step):
            text += f".{step}" if text else step
        else:
            shown = step if len(step) <= 80 else f"{step[:77]}..."
            text += f"[{json.dumps(shown, ensure_ascii=not shown.isprintable())}]"
    return text


def match_step(text: str, keys: Container[str]) -> tuple[str | int, str]:
    """The first step of a written path and the rest of it.

    Of the keys that are really there, the longest that the text starts with wins, so that
    `kernel.sysctl.net.core.rmem_max` is understood without quotes.
    """
    rest = text.removeprefix(".")
    if index := _INDEX.match(rest):
        return int(index[1]), rest[index.end() :]
    if quoted := _QUOTED.match(rest):
        return str(json.loads(quoted[1], strict=False)), rest[quoted.end() :]
    # A key may hold dots itself. Its end is tried, not every key: there may be thousands.
    for end in [len(rest), *(at for at in range(len(rest) - 1, 0, -1) if rest[at] in ".[")]:
        if end and rest[:end] in keys:
            return rest[:end], rest[end:]
    end = min((at for at in (rest.find("."), rest.find("[")) if at > 0), default=len(rest))
    return rest[:end], rest[end:]
