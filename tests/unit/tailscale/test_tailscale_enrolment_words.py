"""How the daemon's words during a login become one error. The daemon here is a script of messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsstack.errors import ApplyFailed
from tsstack.parts.tailscale.enrolment import enrol, is_enrolled, needs_login
from tsstack.system.localapi import LocalApi, LocalApiTimeout

KEY = "hskey-auth-do-not-show-me"


class Scripted(LocalApi):
    """Plays `messages`, then the time is over."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        super().__init__(Path("/nowhere"))
        self.messages = messages
        self.started: dict[str, Any] = {}

    def prefs(self) -> dict[str, Any]:
        return {
            "Hostname": "old",
            "PostureChecking": True,
            "AdvertiseTags": ["tag:a"],
            "Config": {"NodeID": "1"},
        }

    def start(self, auth_key: str, prefs: Any) -> None:
        assert auth_key == KEY
        self.started = dict(prefs)

    def login_interactive(self) -> None:
        assert self.started

    def status(self, *, peers: bool = True) -> dict[str, Any]:
        return {"TailscaleIPs": ["100.64.0.1"]}

    def watch(self, *, timeout_s: float, mask: int = 0) -> Iterator[dict[str, Any]]:
        yield from self.messages
        raise LocalApiTimeout("over")


def health(text: str) -> dict[str, Any]:
    return {
        "Health": {
            "Warnings": {"login-state": {"Text": f"You are logged out: {text}", "Args": {"error": text}}}
        }
    }


def join(messages: list[dict[str, Any]], folder: Path, *, hosted: bool = False) -> Scripted:
    (folder / "key").write_text(KEY)
    api = Scripted(messages)
    enrolment = {
        "login_server": "https://hs.example.com",
        "hostname": "new",
        "hosted": hosted,
        "auth_key": {"file": str(folder / "key")},
    }
    enrol(api, enrolment, {"Hostname": "new", "AdvertiseTags": ["tag:b"]}, timeout_s=1)
    return api


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"State": 2}, {"ErrMessage": f"bad key {KEY}"}], r"refused this host's key: bad key \(the key\)"),
        ([health(f"no route, {KEY}")], r"did not join .* within 1 s: no route, \(the key\)"),
        ([health("first"), health("second"), {"State": 2}], "within 1 s: second"),
        ([{"State": 2}], "within 1 s: tailscaled gives no reason"),
        ([{"State": 3}], "an admin has to approve it first"),
        ([{"BrowseToURL": "https://login.example.com/a/1"}], "asks for a login in a browser"),
    ],
)
def test_each_way_to_fail_is_one_sentence_without_the_key(
    messages: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ApplyFailed, match=words) as failure:
        join(messages, tmp_path)
    assert KEY not in f"{failure.value.message} {failure.value.hint}"


def test_the_daemons_other_prefs_are_sent_back_as_they_are(tmp_path: Path) -> None:
    sent = join([{"State": 6}], tmp_path).started
    assert sent == {
        "Hostname": "new",
        "PostureChecking": True,
        "AdvertiseTags": None,
        "ControlURL": "https://hs.example.com",
        "WantRunning": True,
        "LoggedOut": False,
    }
    assert join([{"State": 6}], tmp_path, hosted=True).started["AdvertiseTags"] == ["tag:b"]


@pytest.mark.parametrize(
    ("state", "prefs", "expected"),
    [
        ("NeedsLogin", {"Config": {"NodeID": "1"}}, True),
        ("NoState", {"Config": {"NodeID": "1"}}, False),
        ("NoState", {"Config": {"NodeID": "1"}, "LoggedOut": True}, True),
        ("NoState", {"Config": None}, True),
        ("Stopped", {"Config": {"NodeID": "1"}}, False),
        ("Running", {"Config": {"NodeID": "1"}}, False),
    ],
)
def test_when_a_key_is_needed(state: str, prefs: dict[str, Any], expected: bool) -> None:
    assert needs_login({"BackendState": state}, prefs) is expected


def test_a_node_that_logged_out_is_no_member() -> None:
    assert not is_enrolled({"Config": {"NodeID": "1"}, "LoggedOut": True})
    assert is_enrolled({"Config": {"NodeID": "1"}})
