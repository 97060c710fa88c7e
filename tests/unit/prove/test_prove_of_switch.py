"""What of a switch is proven, and with which packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tsstack.errors import CheckFailed
from tsstack.model.firewall import Firewall
from tsstack.model.proxy import Proxy
from tsstack.model.sections import Host
from tsstack.model.stack import Stack
from tsstack.prove import proof as packets
from tsstack.prove import vhosts
from tsstack.switch.proof import Proving

NGINX = ("nginx/http.conf", "nginx/main.conf", "nginx/nginx.conf")


class Seen:
    """Stands for both experiments."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.vhosts = 0

    @contextmanager
    def rules(self, *_: Any, seed: int, **__: Any) -> Iterator[None]:
        self.seeds.append(seed)
        yield

    @contextmanager
    def services(self, *_: Any) -> Iterator[None]:
        self.vhosts += 1
        yield


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    monkeypatch.setattr(packets, "Experiment", found.rules)
    monkeypatch.setattr(packets, "has_table", lambda *_: True)
    monkeypatch.setattr(vhosts, "VhostExperiment", found.services)
    monkeypatch.setattr(vhosts, "has_vhosts", lambda *_: True)
    return found


def generation(folder: Path, **changed: str) -> Path:
    for name in (packets.FILE, *NGINX):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(path.stem, "the same"))
    return folder


def begin(staged: Path, live: Path | None, *names: str) -> None:
    loaded = SimpleNamespace(stack=None)
    proving = Proving(lambda: loaded, lambda: (), lambda _: None, live)  # type: ignore[arg-type, return-value]
    with proving.begin(staged, SimpleNamespace(names=names), None):  # type: ignore[arg-type]
        pass


def test_other_rules_are_proven_with_other_packets_and_the_same_with_the_same(
    tmp_path: Path, seen: Seen
) -> None:
    for at, text in enumerate(("one", "two", "one")):
        begin(generation(tmp_path / str(at), tsstack=text), None, "firewall")
    first, second, third = seen.seeds
    assert first == third != second


@pytest.mark.parametrize("name", ["http", "main", "nginx"])
def test_the_services_are_proven_when_any_text_of_nginx_changes(
    tmp_path: Path, seen: Seen, name: str
) -> None:
    """A service that is TCP alone stands in main.conf, and http.conf has no word of it."""
    live = generation(tmp_path / "live")
    begin(generation(tmp_path / "same"), live, "proxy")
    assert seen.vhosts == 0
    begin(generation(tmp_path / "other", **{name: "another"}), live, "proxy")
    assert seen.vhosts == 1
    begin(generation(tmp_path / "first"), None, "proxy")
    assert seen.vhosts == 2


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("section", ["firewall", "proxy"])
def test_what_the_file_asks_for_and_nothing_was_made_of_is_refused(
    tmp_path: Path, section: str, asked: bool
) -> None:
    """Nothing is to change then, or all of it goes; and the other way round."""
    has = {"firewall": Firewall() if section == "firewall" else None, "proxy": None}
    if section == "proxy":
        has["proxy"] = Proxy()
    staged = tmp_path / "generation"
    staged.mkdir()
    stack = Stack(host=Host(name="box"), **(has if asked else {}))
    if not asked:
        generation(staged)
        (staged / (NGINX[2] if section == "firewall" else packets.FILE)).unlink()
    loaded = SimpleNamespace(stack=stack)
    proving = Proving(lambda: loaded, lambda: (), lambda _: None, None)  # type: ignore[arg-type, return-value]
    for names in ((), (section,)):
        with (
            pytest.raises(CheckFailed, match=f"asks for (a|no) {section}, and "),
            proving.begin(staged, SimpleNamespace(names=names), None),  # type: ignore[arg-type]
        ):
            pass
