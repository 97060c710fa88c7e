"""Established connections: when they are looked for at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsstack.errors import CommandFailed
from tsstack.parts.firewall import flows


def test_where_nothing_is_connected_no_program_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(argv: list[str]) -> None:
        raise CommandFailed(f"{argv[0]} was started", returncode=127, stderr="")

    count = tmp_path / "nf_conntrack_count"
    monkeypatch.setattr(flows, "_COUNT", count)
    monkeypatch.setattr(flows, "run", refuse)
    count.write_text("0\n")
    assert flows.cut_refused("", "") == ([], [])
    for known in ("1\n", None):
        count.write_text(known) if known else count.unlink()
        cut, left = flows.cut_refused("", "")
        assert (cut, left) == ([], ["established connections were not looked at: conntrack was started"])
