"""A short-lived process that sends one notification: `python -m tsstack.monitor.alert_sender`.

The notification library and what it loads take 50 MB and a third of a second; here they are gone again when
it is sent. All comes by standard input, since an address holds tokens: {"url", "title", "body", "type",
"check", "timeout_s"}. It answers {"ok", "error", "hint"} on standard output. Errors are told in our own words
alone: what a library says of a failure may hold the address.
"""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import socket
import sys
from typing import Any

UNKNOWN = "the address is of no service that is known, or incomplete"

_HINTS: tuple[tuple[str, str, str], ...] = (
    (r"Connection refused", "the connection was refused", "is the server running, at that port?"),
    (
        r"NameResolutionError|Name or service not known|Temporary failure in name resolution|getaddrinfo",
        "the server's name does not resolve",
        "check the address and this host's DNS",
    ),
    (
        r"certificate verify failed|CERTIFICATE_VERIFY_FAILED",
        "the server's certificate is not trusted",
        "install its authority on this host",
    ),
    (r"timed out|Timeout|timeout", "no answer in time", "check the address, and that this host may reach it"),
    (
        r"No route to host|Network is unreachable",
        "there is no route to the server",
        "check this host's network",
    ),
    (
        r"Connection reset|RemoteDisconnected|Connection aborted",
        "the server hung up",
        "check the port and TLS",
    ),
)
_STATUS = re.compile(r"error=([1-5][0-9]{2})\b")


def reason_of(log: str) -> tuple[str, str]:
    """What went wrong and what to do, from the library's log; never a word of the log itself."""
    status = _STATUS.search(log)
    if status:
        code = int(status[1])
        if code in {401, 403}:
            return f"the service refused with {code}", "check the token or password in the address"
        if code == 404:
            return "the service answered 404", "check the path or topic in the address"
        if code == 429:
            return "the service answered 429: too many messages", "wait, or use another service"
        return f"the service answered {code}", "try later; see the service's own status"
    for pattern, error, hint in _HINTS:
        if re.search(pattern, log):
            return error, hint
    return (
        "the service did not take it",
        "check the address against the service's page in the wiki of apprise",
    )


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Send what was asked (or only `check` the address) and say what became of it."""
    import apprise

    log = io.StringIO()
    logger = logging.getLogger("apprise")
    logger.handlers[:] = [logging.StreamHandler(log)]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    service = apprise.Apprise.instantiate(asked["url"], suppress_exceptions=True)
    if service is None:
        hint = "see the list of services at https://github.com/caronc/apprise/wiki"
        return {"ok": False, "error": UNKNOWN, "hint": hint}
    if asked.get("check"):
        return {"ok": True, "error": "", "hint": ""}
    sent = service.notify(title=asked["title"], body=asked["body"], notify_type=asked["type"])
    if sent:
        return {"ok": True, "error": "", "hint": ""}
    error, hint = reason_of(log.getvalue())
    return {"ok": False, "error": error, "hint": hint}


def main() -> None:
    """One question in, one answer out."""
    asked = json.loads(sys.stdin.read())
    # The library's limits are for each turn of a connection; ours is for all, also when nobody waits for us.
    signal.alarm(max(1, int(asked.get("timeout_s", 20))))
    socket.setdefaulttimeout(10.0)
    try:
        told = answer(asked)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, LookupError) as error:
        name = type(error).__name__
        told = {
            "ok": False,
            "error": f"the notification library failed ({name})",
            "hint": "check the address",
        }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
