"""What undoing a change of the proxy depends on."""

from __future__ import annotations

import pytest

from tsstack.parts.part import NeedsGeneration, Snapshot
from tsstack.parts.proxy.host import PART
from tsstack.parts.registry import all_parts

LINK = "/etc/nginx/conf.d/tsstack.conf"
MAIN = "/etc/nginx/nginx.conf"


@pytest.mark.parametrize(
    ("snapshot", "needed"),
    [
        ({"running": True, "main_config": "", "links": {LINK: None}}, True),
        ({"running": True, "main_config": MAIN, "links": {LINK: "/state/current/nginx/http.conf"}}, True),
        # The distribution's nginx without ours, or one that is only to be stopped: another try may do.
        ({"running": True, "main_config": MAIN, "links": {LINK: None}}, False),
        ({"running": False, "main_config": "", "links": {LINK: None}}, False),
        ({}, False),
    ],
)
def test_an_nginx_that_ran_with_ours_needs_the_generation(snapshot: Snapshot, needed: bool) -> None:
    assert PART.needs_generation(snapshot) is needed


def test_no_other_part_does() -> None:
    assert [part.name for part in all_parts() if isinstance(part, NeedsGeneration)] == ["proxy"]
