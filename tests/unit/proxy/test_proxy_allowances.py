"""Who may use a service, from whois replies as they were recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tsstack.parts.proxy.identity import Allowances, Doorkeeper, _answer, decide
from tsstack.system.localapi import LocalApi

REPLIES = Path(__file__).parent / "whois"


def reply(name):
    return json.loads((REPLIES / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("who", "allow", "allowed"),
    [
        # Headscale 0.29.2, a local user: the login has no domain.
        ("headscale-user", ["alice@"], True),
        ("headscale-user", ["Alice@"], True),
        ("headscale-user", ["alice@example.com"], False),
        ("headscale-user", ["bob@"], False),
        ("headscale-user", [], False),
        # The same with an e-mail address: that is the login, and no shorter form of it.
        ("headscale-user-with-email", ["bob@example.com"], True),
        ("headscale-user-with-email", ["BOB@Example.com"], True),
        ("headscale-user-with-email", ["bob@"], False),
        ("headscale-user-with-email", ["bob@example.org"], False),
        # A tagged node is nobody's.
        ("headscale-tagged", ["tag:client"], True),
        ("headscale-tagged", ["tag:other"], False),
        ("headscale-tagged", ["tagged-devices@", "alice@"], False),
    ],
)
def test_pitfall_22_logins_and_tags(who, allow, allowed):
    decision = decide(reply(who), allow)
    assert decision.allowed is allowed
    assert decision.reason


def test_a_tag_in_the_list_is_no_login():
    who = {"Node": {}, "UserProfile": {"LoginName": "tag:client"}}
    assert not decide(who, ["tag:client"]).allowed


@pytest.mark.parametrize(
    "who", [None, {}, {"Node": None}, {"Node": {}}, {"Node": {}, "UserProfile": {"LoginName": "@"}}]
)
def test_nobody_is_never_allowed(who):
    assert not decide(who, ["@", "alice@", "tag:x", ""]).allowed


def test_the_answer_cannot_be_split_by_a_name():
    who = {
        "Node": {"Name": "n.tail.test."},
        "UserProfile": {"LoginName": "a@", "DisplayName": "A\r\nX-Tailscale-Tags: tag:admin"},
    }
    head = _answer(decide(who, ["a@"])).decode()
    assert head.startswith("HTTP/1.1 204") and "\nX-Tailscale-Tags" not in head


def test_a_broken_list_or_a_silent_tailscaled_is_a_no(tmp_path):
    path = tmp_path / "identity.json"
    keeper = Doorkeeper(Allowances(path), LocalApi(tmp_path / "none.sock", timeout_s=0.2))

    def judge():
        return asyncio.run(keeper.judge("wiki", "100.64.0.7:1"))

    assert "cannot be read" in judge().reason
    path.write_text("{not json")
    assert "cannot be read" in judge().reason
    path.write_text('{"services": {}}')
    assert "no allow list" in judge().reason
    path.write_text('{"services": {"wiki": ["a@"]}}')
    assert "tailscaled cannot be asked" in judge().reason
    assert not judge().allowed


def test_what_whois_said_is_kept_for_three_seconds_and_not_longer(tmp_path, monkeypatch):
    asked, now_s = [], [100.0]

    class Api:
        def whois(self, address):
            asked.append(address)
            return reply("headscale-user")

    allowances = tmp_path / "identity.json"
    allowances.write_text(json.dumps({"services": {"wiki": ["alice@"]}}))
    monkeypatch.setattr("tsstack.parts.proxy.identity.time.monotonic", lambda: now_s[0])
    doorkeeper = Doorkeeper(Allowances(allowances), Api())
    for later_s, times in ((0.0, 1), (2.9, 1), (3.1, 2)):
        now_s[0] = 100.0 + later_s
        assert asyncio.run(doorkeeper.judge("wiki", "100.64.0.7:1")).allowed
        assert len(asked) == times
