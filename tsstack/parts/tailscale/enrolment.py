"""Joining the tailnet with a key.

The LocalAPI answers 204 whatever happens, so the outcome is read from the daemon's event stream: the
state, its error messages and the health text `login-state`. `tailscale up` is never used: it fails unless
every setting is repeated, and can wait for ever. The daemon is never restarted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tsstack.errors import ApplyFailed, SecretError
from tsstack.parts.tailscale.desired import is_hosted
from tsstack.system.localapi import STATES, Json, LocalApi, LocalApiError, LocalApiTimeout

# controlclient/direct.go: "weird: regen=true but server says NodeKeyExpired".
_EXPIRED = "NodeKeyExpired"
_AFTER_EXPIRED_S = 8.0
_NEW_KEY = "make a new key and put it where tailscale.auth_key points"


def is_enrolled(prefs: Mapping[str, Any]) -> bool:
    """Whether the daemon holds a node of some tailnet (an expired one counts)."""
    persisted = prefs.get("Config") or {}
    return bool(persisted.get("NodeID")) and not prefs.get("LoggedOut")


def needs_login(status: Mapping[str, Any], prefs: Mapping[str, Any]) -> bool:
    """Whether a key is needed: never enrolled, logged out, or the node's own key has expired."""
    state = status.get("BackendState")
    return state == "NeedsLogin" or (state == "NoState" and not is_enrolled(prefs))


def read_auth_key(enrolment: Mapping[str, Any]) -> str:
    """The key that `enrolment.json` refers to. Raises SecretError, also when it refers to none."""
    from tsstack.system.secrets import read_key_file, read_secret

    reference = enrolment["auth_key"]
    if reference is None:
        raise SecretError(
            f"this host has not joined {enrolment['login_server']} yet, and tailscale.auth_key is missing",
            hint="write tailscale.auth_key: {secret: authkey} or {file: /run/keys/ts}",
        )
    if "file" in reference:
        return read_key_file(Path(reference["file"]))
    if not reference["secrets_file"]:
        raise SecretError(
            f"tailscale.auth_key names the secret {reference['key']}, but secrets.file is missing",
            hint="write secrets: {file: /etc/tsstack/secrets.yaml}",
        )
    return read_secret(Path(reference["secrets_file"]), reference["key"])


def enrol(
    api: LocalApi, enrolment: Mapping[str, Any], wanted_prefs: Mapping[str, Any], *, timeout_s: float
) -> None:
    """Join, with the wanted prefs in place from the first moment; returns when the node has addresses.

    Raises SecretError, LocalApiError, or ApplyFailed with the daemon's reason after `timeout_s` at most.
    """
    key = read_auth_key(enrolment)
    prefs = {name: value for name, value in api.prefs().items() if name != "Config"}
    prefs |= wanted_prefs
    prefs |= {"ControlURL": enrolment["login_server"], "WantRunning": True, "LoggedOut": False}
    if not enrolment["hosted"]:
        prefs["AdvertiseTags"] = None
    api.start(key, prefs)
    api.login_interactive()
    try:
        _await_running(api, enrolment, key, timeout_s)
    except LocalApiError as error:
        # Nothing that the daemon says may carry the key further.
        raise ApplyFailed(_redact(error.message, key), hint=error.hint) from None


def _await_running(api: LocalApi, enrolment: Mapping[str, Any], key: str, timeout_s: float) -> None:
    server = enrolment["login_server"]
    reasons = [""]
    try:
        for message in _messages(api, reasons, timeout_s):
            # Only what control itself refuses comes as an error message; a network that fails does not.
            if refusal := message.get("ErrMessage"):
                raise _refused(server, _redact(str(refusal), key), hosted=enrolment["hosted"])
            state = STATES[message["State"]] if message.get("State") is not None else ""
            if state == "NeedsMachineAuth":
                raise ApplyFailed(
                    f"{server} knows this host now, but an admin has to approve it first",
                    hint="approve the device, or use a pre-approved key, and switch again",
                )
            if state == "Running" and api.status(peers=False).get("TailscaleIPs"):
                return
            if message.get("BrowseToURL"):
                raise ApplyFailed(f"{server} asks for a login in a browser instead of the key", hint=_NEW_KEY)
    except LocalApiTimeout:
        if _EXPIRED in reasons[-1]:
            raise _expired(enrolment) from None
        said = _redact(reasons[-1], key) or "tailscaled gives no reason"
        raise ApplyFailed(
            f"this host did not join {server} within {timeout_s:g} s: {said}",
            hint=f"is {server} up, and reachable from here?",
        ) from None


def _messages(api: LocalApi, reasons: list[str], timeout_s: float) -> Iterator[Json]:
    """What the daemon says, until LocalApiTimeout; why it cannot log in is added to `reasons`.

    The server's last word on an old node whose key has expired may be from before the new key was tried: that
    gets its chance, and then nothing more is to be waited for.
    """
    for message in api.watch(timeout_s=timeout_s):
        reasons += filter(None, [_login_text(message)])
        yield message
        if _EXPIRED in reasons[-1]:
            break
    for message in api.watch(timeout_s=min(timeout_s, _AFTER_EXPIRED_S)):
        reasons += filter(None, [_login_text(message)])
        yield message


def _expired(enrolment: Mapping[str, Any]) -> ApplyFailed:
    """The server goes on with the old node of this host, whose key has ended: by a logout, or by its time."""
    server, name = enrolment["login_server"], enrolment["hostname"]
    message = (
        f"{server} refuses this host: it still has a node of it whose key has expired or was logged out, and "
        "does not renew that with an auth key"
    )
    if enrolment["hosted"]:
        hint = f"remove {name} at https://login.tailscale.com/admin/machines, and switch again with a new key"
    else:
        hint = (
            f"on the server: `headscale nodes list` for the ID of {name}, then `headscale nodes expire -i ID "
            "--disable`: it comes back by itself, with its addresses. Or `headscale nodes delete -i ID`, and "
            "switch again, with a new key if the old one was for one use: it gets other addresses"
        )
    return ApplyFailed(message, hint=hint)


def _login_text(message: Json) -> str:
    warnings = (message.get("Health") or {}).get("Warnings") or {}
    login = warnings.get("login-state") or {}
    return str((login.get("Args") or {}).get("error") or login.get("Text") or "")


def _refused(server: str, words: str, *, hosted: bool) -> ApplyFailed:
    hint = _NEW_KEY
    if "tags" in words:
        hint = (
            "let the tailnet's policy name an owner for each of tailscale.tags"
            if hosted
            else "put the tags on the key: headscale preauthkeys create --tags tag:NAME"
        )
    return ApplyFailed(f"{server} refused this host's key: {words}", hint=hint)


def _redact(text: str, key: str) -> str:
    return text.replace(key, "(the key)")


def describe_control(url: str) -> str:
    """A control server in words."""
    return "Tailscale's own control server" if is_hosted(url) else url
