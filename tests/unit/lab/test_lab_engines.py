"""Which engine is taken, where built ones lie, and that the pins travel with the package."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

import tsstack
from tsstack.errors import CheckFailed
from tsstack.lab import engines
from tsstack.lab.engines import ENGINES, Engine, parse_version
from tsstack.system import command


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.102.3-ERR-BuildInfo\n  go version: go1.26.6", (1, 102, 3)),
        ("headscale version v0.29.2\ncommit: unknown", (0, 29, 2)),
        ("sops 3.9.1 (latest)", (3, 9, 1)),
        ("go version go1.26.6 linux/amd64", (1, 26, 6)),
        ("no number", ()),
    ],
)
def test_versions_are_read_from_what_programs_say(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_versions_compare_as_numbers() -> None:
    assert parse_version("1.102.3") > parse_version("1.80.0")
    assert parse_version("0.9") < (0, 28)
    assert parse_version("nothing") < (0, 1)


def program(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_installed_engines_count_only_when_all_are_there_and_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    engine = Engine("thing", ("thingd", "thing"), ("thingd", "thing"), (1, 80))
    assert engines.installed(engine) is None
    program(tmp_path, "thingd", "1.102.3")
    assert engines.installed(engine) is None
    program(tmp_path, "thing", "1.9.9")
    assert engines.installed(engine) is None
    program(tmp_path, "thing", "1.80.0")
    assert engines.installed(engine) == {"thingd": tmp_path / "thingd", "thing": tmp_path / "thing"}


def test_missing_packages_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "PACKAGED", {"no-such-program": "no-such-package"})
    with pytest.raises(CheckFailed, match="no-such-program") as refused:
        engines.prepare(print)
    assert refused.value.hint == "apt install no-such-package"


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.module)
def test_pins_name_the_programs_and_their_go_and_no_host(engine: Engine) -> None:
    files = engines.pins(engine)
    module = files["go.mod"].decode()
    assert "\ngo 1.26.6\n" in module
    for name in engine.programs:
        assert f"cmd/{name}\n" in module
    assert b"h1:" in files["go.sum"]
    assert "replace" not in module
    assert "://" not in module


def test_pins_are_found_in_an_installed_layout(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(
        Path(tsstack.__file__).parent, site / "tsstack", ignore=shutil.ignore_patterns("__pycache__")
    )
    code = (
        "import tsstack.lab.engines as e; print(e.__file__);"
        "print(*(e.pins_digest(e.pins(x)) for x in e.ENGINES))"
    )
    said = command.run([sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(site)}).stdout.split("\n")
    assert said[0].startswith(str(site))
    assert said[1].split() == [engines.pins_digest(engines.pins(engine)) for engine in ENGINES]


def test_digest_changes_with_any_byte() -> None:
    files = {"go.mod": b"a", "go.sum": b"b"}
    assert engines.pins_digest(files) == engines.pins_digest(dict(reversed(files.items())))
    assert engines.pins_digest(files) != engines.pins_digest({"go.mod": b"ab", "go.sum": b""})


def test_cache_follows_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert engines.cache_folder() == tmp_path / "tsstack/engines"
    # The specification: a relative path there is to be ignored.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert engines.cache_folder() == Path("/home/someone/.cache/tsstack/engines")


def fake_go(folder: Path, body: str) -> None:
    path = folder / "go"
    path.write_text(f"#!/bin/sh\nif [ $1 = version ]; then echo go version go1.26.8; exit; fi\n{body}\n")
    path.chmod(0o755)


ENGINE = ENGINES[1]


def test_builds_once_for_two_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path, f"sleep 0.3; echo built >> {tmp_path}/count; cp /bin/true $GOBIN/headscale")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    results: list[dict[str, Path]] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(engines.build(ENGINE, lambda _: None, cache=tmp_path / "cache"))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert os.access(results[0]["headscale"], os.X_OK)
    assert (tmp_path / "count").read_text() == "built\n"


def test_failed_build_says_why_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, "cp /bin/true $GOBIN/headscale; echo 'verifying: checksum mismatch' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CheckFailed, match="checksum mismatch"):
        engines.build(ENGINE, lambda _: None, cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_go_is_told_to_take_the_pins_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path, f"env > {tmp_path}/env; echo $* > {tmp_path}/words; cp /bin/true $GOBIN/headscale")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("SECRET", "hidden")
    engines.build(ENGINE, lambda _: None, cache=tmp_path / "cache")
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert env["GOFLAGS"].split()[0] == "-mod=readonly"
    assert (env["CGO_ENABLED"], env["GOPROXY"], env["GOTOOLCHAIN"]) == ("0", "off", "local")
    assert "SECRET" not in env
    assert (tmp_path / "words").read_text().endswith("install tool\n")


def test_an_old_go_on_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "go", "go version go1.19.8 linux/amd64")
    wheel = tmp_path / "wheel"
    wheel.mkdir()
    new = program(wheel, "go", "go version go1.26.6 linux/amd64")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(engines, "_go_of_wheel", lambda: new)
    assert engines.find_go(lambda _: None) == new
