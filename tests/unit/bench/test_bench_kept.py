"""The runs of the past."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsstack.bench import kept


def a_run(peer: str, second: int) -> dict[str, object]:
    return {"at": f"2026-11-20T10:{second // 60:02d}:{second % 60:02d}.000Z", "peer": peer, "way": {}}


def test_runs_come_back_oldest_first_and_by_peer(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "benchmarks"
    assert kept.load(folder) == ((), ())
    for second, peer in ((3, "nas"), (1, "exit-b"), (2, "nas")):
        kept.save(folder, a_run(peer, second))
    assert [str(run["at"])[17:19] for run in kept.load(folder).runs] == ["01", "02", "03"]
    assert [str(run["at"])[17:19] for run in kept.load(folder, "nas").runs] == ["02", "03"]


@pytest.mark.parametrize("name", ["nas", "NAS", "nas.tail.test", "nas.tail.test.", "100.64.0.9"])
def test_a_peer_is_found_by_whatever_it_was_measured_by(tmp_path: Path, name: str) -> None:
    kept.save(tmp_path, {**a_run("nas", 1), "address": "100.64.0.9"})
    kept.save(tmp_path, {**a_run("nas-2", 2), "address": "100.64.0.8"})
    assert [run["peer"] for run in kept.load(tmp_path, name).runs] == ["nas"]


def test_the_number_is_bounded_for_each_peer_and_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_RUNS_PER_PEER", 3)
    monkeypatch.setattr(kept, "MOST_RUNS", 5)
    for second in range(10):
        kept.save(tmp_path, a_run("nas", second))
    assert [str(run["at"])[17:19] for run in kept.load(tmp_path).runs] == ["07", "08", "09"]
    for second in range(10, 20):
        kept.save(tmp_path, a_run(f"peer-{second}", second))
    assert len(list(tmp_path.iterdir())) == 5


def test_a_hostile_name_stays_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    path = kept.save(folder, a_run("../../etc/\n" + "x" * 300, 1))
    assert path.parent == folder
    assert kept.load(folder).runs[0]["peer"] == "../../etc/\n" + "x" * 300


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "run": {}}', '{"version": 1, "run": {"at": 7}}']
)
def test_a_damaged_file_is_told_and_left(tmp_path: Path, text: str) -> None:
    good = kept.save(tmp_path, a_run("nas", 1))
    bad = good.with_name(good.name.replace("100001", "100002"))
    bad.write_text(text)
    (tmp_path / "notes.txt").write_text("mine")
    found = kept.load(tmp_path)
    assert (len(found.runs), found.damaged) == (1, (bad,))
    assert bad.exists()


@pytest.mark.parametrize(
    ("environment", "root", "folder"),
    [
        ({"HOME": "/root"}, True, "/var/lib/tsstack/benchmarks"),
        ({"HOME": "/home/a"}, False, "/home/a/.local/state/tsstack/benchmarks"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "/s"}, False, "/s/tsstack/benchmarks"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "relative"}, False, "/home/a/.local/state/tsstack/benchmarks"),
    ],
)
def test_where_runs_lie(environment: dict[str, str], root: bool, folder: str) -> None:
    assert str(kept.usual_folder(environment, root=root)) == folder
