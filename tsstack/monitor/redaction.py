"""Addresses without what may be secret in them. Pure.

A page to probe can hold a token in its query, a notification address holds one nearly everywhere: in the
user's place, as the host, in the path. Logs, labels and messages get what these functions leave.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
# RFC 3986: scheme://[user[:password]@]host[:port][/path][?query][#fragment]
_USER = re.compile(r"(?<=://)[^/\s?#@]+@")
_QUERY = re.compile(r"(://[^\s?\"'<>]*\?)[^\s\"'<>]+")


def redacted(text: str) -> str:
    """A text whose addresses have lost their user, password and query."""
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def redacted_values(value: Any) -> Any:
    """JSON values with every text in them redacted, keys too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted(str(key)): redacted_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(each) for each in value]
    return value


def scheme_of(url: str) -> str:
    """The only part of a notification address that is safe to show: `ntfy`, `tgram`, `mailtos`."""
    return url.partition("://")[0]
