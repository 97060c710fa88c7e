"""Which units a host has, as its files say; that they work is tried with a real systemd."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tsstack import assets
from tsstack.errors import CheckFailed
from tsstack.switch import units
from tsstack.switch.units import ALL_UNITS, BOOT_UNITS, look, missing_at_boot, text_of

ETC = "etc/systemd/system"


def put(
    root: Path, name: str, folder: str, *, wanted_by: str = "", program: str = "/usr/bin/tsstack"
) -> None:
    (root / "usr" / "bin").mkdir(parents=True, exist_ok=True)
    (root / "usr" / "bin" / "tsstack").touch()
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((assets.folder("monitor") / name).read_text().replace("/usr/bin/tsstack", program))
    if wanted_by:
        wants = root / ETC / f"{wanted_by}.wants" / name
        wants.parent.mkdir(parents=True, exist_ok=True)
        wants.symlink_to(path)


def test_every_shipped_unit_can_be_installed() -> None:
    shipped = {
        path.name
        for path in assets.folder("monitor").iterdir()
        if path.suffix in {".service", ".socket", ".timer", ".path"}
    }
    assert shipped == set(ALL_UNITS)


def test_a_host_without_units_is_told_what_a_boot_would_miss(tmp_path: Path) -> None:
    told = missing_at_boot(root=tmp_path)
    assert all(name in told for name in BOOT_UNITS)
    assert "tsstack units install" in told


@pytest.mark.parametrize("folder", [ETC, "usr/lib/systemd/system", "run/systemd/system"])
def test_units_count_wherever_systemd_finds_them_once_they_are_enabled(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "tsstack-early.service", folder, wanted_by="sysinit.target")
    put(tmp_path, "tsstack-boot.service", folder)
    told = missing_at_boot(root=tmp_path)
    assert "tsstack-boot.service" in told
    assert "tsstack-early.service" not in told
    put(tmp_path, "tsstack-boot.service", folder, wanted_by="multi-user.target")
    assert missing_at_boot(root=tmp_path) == ""


def test_one_whose_program_is_gone_is_told(tmp_path: Path) -> None:
    """As after a change from pipx to the package, whose units those in /etc hide."""
    for name, target in (
        ("tsstack-early.service", "sysinit.target"),
        ("tsstack-boot.service", "multi-user.target"),
    ):
        put(tmp_path, name, ETC, wanted_by=target, program="/opt/gone/tsstack")
        put(tmp_path, name, "usr/lib/systemd/system")
    told = missing_at_boot(root=tmp_path)
    assert "tsstack-early.service starts /opt/gone/tsstack, which is gone" in told
    assert "tsstack units install" in told
    assert not any(unit.standing for unit in look(BOOT_UNITS, root=tmp_path))


def test_one_that_another_target_wants_is_not_enabled(tmp_path: Path) -> None:
    put(tmp_path, "tsstack-boot.service", ETC, wanted_by="rescue.target")
    (unit,) = look(["tsstack-boot.service"], root=tmp_path)
    assert not unit.standing


def test_ours_of_an_older_version_differs_and_one_with_another_path_does_not(tmp_path: Path) -> None:
    put(tmp_path, "tsstack-boot.service", ETC, program="/opt/pipx/bin/tsstack")
    (unit,) = look(["tsstack-boot.service"], root=tmp_path)
    assert not unit.differs
    path = tmp_path / ETC / "tsstack-boot.service"
    path.write_text(path.read_text() + "# older\n")
    (unit,) = look(["tsstack-boot.service"], root=tmp_path)
    assert unit.differs


def test_what_a_package_brought_is_not_compared(tmp_path: Path) -> None:
    put(tmp_path, "tsstack-boot.service", "usr/lib/systemd/system")
    path = tmp_path / "usr/lib/systemd/system/tsstack-boot.service"
    path.write_text("[Service]\nExecStart=/nix/store/x/bin/tsstack recover --boot\n")
    (unit,) = look(["tsstack-boot.service"], root=tmp_path)
    assert not unit.differs


@pytest.mark.parametrize(
    "path", ["/opt/a b/tsstack", "/opt/$HOME/tsstack", "/opt/%n/tsstack", '/opt/"/tsstack']
)
def test_a_path_that_systemd_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(CheckFailed, match="cannot name"):
        text_of("tsstack-boot.service", Path(path))


def test_every_command_of_a_unit_names_the_program_that_was_asked_for() -> None:
    for name in ALL_UNITS:
        assert "/usr/bin/tsstack" not in text_of(name, Path("/opt/pipx/bin/tsstack"))


def test_an_installation_in_a_home_is_refused_for_the_sandboxed_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "home" / "tsstack"
    program.parent.mkdir()
    program.touch()
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setattr(units, "_HIDDEN", (str(program.parent),))
    monkeypatch.setattr(units, "_HOMES", ())
    with pytest.raises(CheckFailed, match="lies in a home"):
        units.install(["tsstack-boot.service", "tsstack-monitor.service"], root=tmp_path)
    assert not (tmp_path / ETC).exists()


def test_a_masked_unit_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tsstack"
    program.touch()
    monkeypatch.setattr(sys, "argv", [str(program)])
    path = tmp_path / ETC / "tsstack-boot.service"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/null")
    with pytest.raises(CheckFailed, match="masked"):
        units.install(["tsstack-boot.service"], root=tmp_path)
    assert path.readlink() == Path("/dev/null")


def test_a_unit_as_it_is_shipped_is_not_of_another_version(tmp_path: Path) -> None:
    """A timer names no program; each was taken for old."""
    folder = tmp_path / ETC
    folder.mkdir(parents=True)
    for name in ALL_UNITS:
        (folder / name).write_text(text_of(name, Path("/opt/bin/tsstack")))
    assert [unit.name for unit in look(root=tmp_path) if unit.differs] == []
    (folder / "tsstack-renew.timer").write_text("[Timer]\nOnCalendar=weekly\n")
    assert [unit.name for unit in look(root=tmp_path) if unit.differs] == ["tsstack-renew.timer"]
