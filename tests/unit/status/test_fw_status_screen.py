"""The screen of `fw-status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from status_bed import a_status

from tsstack.cli.fw_screen import firewall_lines
from tsstack.cli.fw_status import Found
from tsstack.cli.glyphs import Terminal
from tsstack.parts.firewall import kernel_log
from tsstack.parts.firewall.drops import Drops
from tsstack.parts.firewall.kernel_log import Reading
from tsstack.status.logged import why_silent
from tsstack.status.words import width_of

PLAIN = Terminal(colour=False, unicode=False, width=80)


def found(*, drops: tuple[Drops, ...] = (), foreign: tuple[str, ...] = (), **firewall: Any) -> Found:
    return Found(
        firewall={**a_status()["firewall"], **firewall},
        lines={"firewall.zones.dmz": "tsstack.yaml:12"},
        reading=Reading((), "kmsg", 0.0, ""),
        drops=drops,
        foreign=foreign,
        foreign_level="warning" if foreign else "ok",
        at=1000.0,
    )


def test_tables_of_others_that_cannot_be_read_are_no_all_clear() -> None:
    seen = found()
    seen.foreign_trouble = "other tables cannot be read: Operation not permitted"
    assert (seen.level, seen.as_json()["foreign_trouble"]) == ("warning", seen.foreign_trouble)
    assert "other tables cannot be read" in firewall_lines(seen, PLAIN)[0]


def test_zones_with_their_rules_and_lines() -> None:
    drop = Drops("dmz", "198.51.100.7", "tcp", 22, 31, 900.0, 990.0, "eth0", "", "192.0.2.1")
    assert firewall_lines(found(drops=(drop,)), PLAIN) == [
        "* table inet tsstack: loaded, as the file says, by default drop",
        "  zone  accepted  through  refused  members",
        "  dmz      12.3k        -       42  eth0",
        "        12.3k       1B  tcp 443                                  tsstack.yaml:12",
        "           42       1B  refused                                  tsstack.yaml:12",
        "  dropped above the zones: 3 unzoned",
        "",
        "  dropped lately, as logged",
        "      31 x  dmz          198.51.100.7         tcp/22     eth0         10 s ago",
    ]


def test_a_file_with_a_wide_name_bends_no_table() -> None:
    seen = found()
    seen.lines = {"firewall.zones.dmz": "コンフィグ設定コンフィグ設定.yaml:12"}
    lines = firewall_lines(seen, Terminal(colour=False, unicode=True, width=80))
    assert max(map(width_of, lines)) <= 80
    assert "\n".join(firewall_lines(seen, PLAIN)).isascii()


@pytest.mark.parametrize(
    ("change", "foreign", "level", "words"),
    [
        ({}, (), "ok", "as the file says"),
        ({}, ("table ip filter drops too",), "warning", "table ip filter drops too"),
        ({"changed": True}, (), "critical", "something changed it"),
        ({"loaded": False}, (), "critical", "not loaded: nothing is closed"),
        (
            {"loaded": False, "dormant": True, "changed": True},
            (),
            "critical",
            "switched off (flags dormant): nothing is closed",
        ),
        ({"changed": None}, (), "warning", "loaded; whether it was changed since is not known"),
        ({"changed": None}, ("table ip filter drops too",), "warning", "table ip filter drops too"),
        ({"loaded": None, "error": "needs root"}, (), "unknown", "needs root"),
        ({"enabled": False}, (), "ok", "closes nothing"),
    ],
)
def test_its_level_and_its_first_words(
    change: dict[str, Any], foreign: tuple[str, ...], level: str, words: str
) -> None:
    seen = found(foreign=foreign, **change)
    assert seen.level == level
    assert words in "\n".join(firewall_lines(seen, PLAIN))


@pytest.mark.parametrize(
    "change",
    [
        {"changed": True},
        {"changed": None},
        {"loaded": False, "changed": None},
        {"loaded": None, "changed": None},
    ],
)
def test_the_file_s_default_is_told_only_of_a_table_that_is_as_it_was_loaded(change: dict[str, Any]) -> None:
    assert firewall_lines(found(), PLAIN)[0].endswith(", by default drop")
    assert "by default" not in firewall_lines(found(**change), PLAIN)[0]


def test_its_fix_is_that_of_ts_status() -> None:
    seen = found(changed=True)
    seen.fix = "tsstack rollback --to 7"
    assert "  fix: tsstack rollback --to 7" in firewall_lines(seen, PLAIN)


@pytest.mark.parametrize("width", [40, 48, 60, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    drop = Drops(
        "a" * 40,
        "fd7a:115c:a1e0:1234:5678:9abc:def0:1234",
        "tcp",
        65535,
        1,
        0.0,
        0.0,
        "e" * 15,
        "f" * 15,
        "x",
    )
    out = Terminal(colour=False, unicode=True, width=width)
    lines = firewall_lines(found(drops=(drop,) * 30, foreign=("other table " * 20,)), out)
    assert max(map(len, lines)) <= width, [line for line in lines if len(line) > width]


def test_on_a_narrow_terminal_every_rule_is_told_apart_and_has_its_line() -> None:
    zone = a_status()["firewall"]["zones"][0]
    names = ("exit", "routes", "published")
    rules = [*zone["rules"], *({**zone["rules"][0], "name": f"dmz.{name}", "packets": 7} for name in names)]
    seen = found(zones=[{**zone, "name": "a-long-name-of-a-zone", "rules": rules}])
    lines = firewall_lines(seen, Terminal(colour=False, unicode=True, width=40))
    assert max(map(len, lines)) <= 40
    assert lines[1].split() == ["zone", "accepted", "through", "refused"]
    told = [line[11:].removesuffix(":12").strip() for line in lines if line.endswith(":12")]
    assert len(set(told)) == len(told) == len(rules), told


@pytest.mark.parametrize(
    ("log", "words"),
    [("", "firewall.log"), ('log prefix "x" ', "nf_log_all_netns"), (None, None)],
    ids=["not asked for", "another namespace", "unknown"],
)
def test_why_nothing_is_logged_though_something_was_refused(
    log: str | None, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if log is not None:
        (tmp_path / "nftables").mkdir()
        (tmp_path / "nftables" / "tsstack.nft").write_text(f"{log}drop\n")
    monkeypatch.setattr(
        kernel_log, "namespace_trouble", lambda: "only where net.netfilter.nf_log_all_netns = 1"
    )
    seen = found()
    seen.reading = Reading((), "kmsg", 0.0, why_silent(seen.firewall, tmp_path))
    text = " ".join(" ".join(firewall_lines(seen, PLAIN)).split())
    assert (words in text) if words else "logged drops" not in text
    zones = [{**zone, "refused": {"packets": 0, "bytes": 0}} for zone in seen.firewall["zones"]]
    assert why_silent({**seen.firewall, "zones": zones}, tmp_path) == ""


def test_json_has_every_rule_with_its_line() -> None:
    told = found().as_json()
    assert told["zones"][0]["rules"][0]["line"] == "tsstack.yaml:12"
    assert told["level"] == "ok"


def test_where_nothing_is_live_that_is_said() -> None:
    nothing = found(enabled=False)
    assert nothing.level == "ok", "a generation without a firewall is as the file says"
    nothing.generation = False
    assert nothing.level == "unknown"
    assert firewall_lines(nothing, PLAIN) == ["? no generation is live: tsstack closes nothing here"]
