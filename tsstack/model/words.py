"""How findings speak: what was found, the nearest known word, and never a secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

# tailscale.com/kb/1085 (tskey-), Headscale (hskey-), age(1) identities, RFC 7468 private keys.
SECRET = re.compile(
    r"(?:tskey|hskey)-[A-Za-z0-9_-]+|AGE-SECRET-KEY-[A-Z0-9]+|-----BEGIN [A-Z ]*PRIVATE KEY-----",
    re.IGNORECASE,
)
HIDDEN = "(hidden)"
_SHOWN_CHARACTERS = 60


def redact(text: str) -> str:
    """The text with anything that looks like a key left out."""
    return SECRET.sub(HIDDEN, text)


def may_hold_secret(text: str) -> bool:
    """False where no secret can be: quicker than to look for one in a large file."""
    return "key-" in text.lower()  # a part of every alternative of SECRET


def show(value: Any, text: str = "") -> str:
    """A value as a message shows it, short and printable. `text` is how the file spells a scalar."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        if SECRET.search(value):
            return HIDDEN
        short = value if len(value) <= _SHOWN_CHARACTERS else f"{value[: _SHOWN_CHARACTERS - 3]}..."
        return json.dumps(short, ensure_ascii=not short.isprintable())
    return redact((text or json.dumps(value))[:_SHOWN_CHARACTERS])


def printable(text: str) -> str:
    """A part of the file as a hint repeats it; what a terminal would obey or hide becomes escapes."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def nearest_of(word: str, known: Iterable[str]) -> str:
    """The known word that a misspelt one is nearest to, or nothing when none is near."""
    words = list(known)
    lower = {candidate.lower(): candidate for candidate in words}
    match = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return lower[match[0]] if match else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean "sources"?`, or nothing when no known word is near."""
    near = nearest_of(word, known)
    return f'did you mean "{near}"?' if near else ""


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = list(words)
    return f"{', '.join(most)} or {last}" if most else last
