"""How tables of others are looked at: no more than is needed, and no warning of what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tsstack.doctor.foreign import check_foreign
from tsstack.doctor.gathering import foreign
from tsstack.errors import ConfigError, TsstackError
from tsstack.model.facts import Facts, Paths
from tsstack.parts.firewall.foreign import tables_on_the_way_on
from tsstack.parts.firewall.library import NftError
from tsstack.switch import intent
from tsstack.switch.site import Site

SITE = Site(paths=Paths(state=Path("/nonexistent"), run=Path("/nonexistent")))
_DROP: dict[str, Any] = {"drop": None}


class Kernel:
    """Answers as libnftables does, for one table `ip filter` with a base chain and ts-forward."""

    def __init__(self, **rules: list[list[dict[str, Any]]]) -> None:
        self._rules = {name.replace("_", "-"): listed for name, listed in rules.items()}

    def query(self, command: str) -> list[dict[str, Any]]:
        at = {"family": "ip", "table": "filter"}
        if command == "list chains":
            return [{"chain": {**at, "name": "FORWARD", "hook": "forward", "policy": "accept"}}]
        return [
            {"rule": {**at, "chain": chain, "expr": statements}}
            for chain, listed in self._rules.items()
            if not command.startswith("list chain ") or command.endswith(f" {chain}")
            for statements in listed
        ]


@pytest.mark.parametrize(
    ("rules", "is_on_the_way"),
    [
        ({"ts_forward": [[_DROP]], "FORWARD": [[{"jump": {"target": "ts-forward"}}]]}, False),
        ({"FORWARD": [[{"accept": None}]]}, False),
        ({"FORWARD": [[{"xt": {"type": "target", "name": "TCPMSS"}}]]}, False),
        ({"FORWARD": [[{"xt": {"type": "match", "name": "comment"}}, {"accept": None}]]}, False),
        ({"FORWARD": [[{"xt": {"type": "target", "name": "REJECT"}}]]}, True),
        ({"FORWARD": [[{"xt": None}]]}, True),
        ({"FORWARD": [[{"counter": None}, _DROP]]}, True),
        ({"mine": [[{"reject": None}]]}, True),
        ({"FORWARD": [[{"vmap": {"key": {"ct": {"key": "state"}}, "data": "@m"}}]]}, True),
    ],
)
def test_only_a_table_with_a_rule_that_may_drop_something_is_read(
    rules: dict[str, list[list[dict[str, Any]]]], is_on_the_way: bool
) -> None:
    kernel: Any = Kernel(**rules)
    assert tables_on_the_way_on(kernel) == ("ip filter",) * is_on_the_way


def test_where_tailscaled_alone_has_tables_the_file_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("it was loaded")

    own = Kernel(ts_forward=[[_DROP]], FORWARD=[[{"jump": {"target": "ts-forward"}}]])
    monkeypatch.setattr(foreign, "Session", lambda: own)
    monkeypatch.setattr(intent, "load", load)
    (finding,) = check_foreign(foreign.look_at_others(SITE, Facts()))
    assert finding.level == "ok"


@pytest.mark.parametrize("fault", [ConfigError("an unknown key"), NftError("busy"), OSError("no such file")])
def test_a_file_that_does_not_load_makes_no_warning_of_what_comes_in(
    monkeypatch: pytest.MonkeyPatch, fault: TsstackError | OSError
) -> None:
    """Of tables that stand on the way out alone nothing is known then, and nothing is said."""

    def load(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr(foreign, "Session", lambda: Kernel(FORWARD=[[{"counter": None}, _DROP]]))
    monkeypatch.setattr(foreign, "foreign_drops", lambda _: ())
    monkeypatch.setattr(intent, "load", load)
    others = foreign.look_at_others(SITE, Facts())
    assert (others.tables, others.fault) == ((), "")
    assert {each.level for each in check_foreign(others)} == {"ok"}
    monkeypatch.setattr(foreign, "filtering_tables", lambda _: ("ip filter",))
    others = foreign.look_at_others(SITE, Facts())
    assert (others.tables, others.fault) == (("ip filter",), str(fault))
    assert {each.level for each in check_foreign(others)} == {"warning"}
