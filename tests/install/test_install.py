"""The package as users get it: wheel, wheel from the source distribution, editable."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOK = """
import json, pathlib, sys
from importlib import resources
from tsstack import assets
folders = {
    name: sorted(p.name for p in assets.folder(name).rglob("*") if p.is_file()) for name in assets.FOLDERS
}
modules = sorted(p.name for p in (resources.files("tsstack") / "lab" / "engines").iterdir())
print(json.dumps({"root": str(assets.root()), "folders": folders, "engines": modules}))
"""

pytestmark = pytest.mark.install


def build(kind: str, source: Path, out: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_from_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sdist = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-xf", str(sdist), "-C", str(unpacked)], check=True)
    (source,) = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel-from-sdist"))


def install(what: list[str], folder: Path) -> Path:
    """A new environment with tsstack; its dependencies are those of the environment that runs this."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", *what],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": sysconfig.get_path("purelib"), "PATH": "/usr/bin:/bin"},
    )
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "zz-dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def look(python: Path, cwd: Path) -> dict[str, object]:
    import json

    out = subprocess.run([str(python), "-c", LOOK], check=True, capture_output=True, text=True, cwd=cwd)
    found: dict[str, object] = json.loads(out.stdout)
    return found


def assert_complete(found: dict[str, object], cwd: Path, python: Path) -> None:
    folders = found["folders"]
    assert isinstance(folders, dict)
    assert "dmz.yaml" in folders["zones"]
    assert any(name.endswith(".j2") for name in folders["templates"])
    assert "kernelcore.yaml" in folders["examples"]
    assert {"modules", "monitor"} <= folders.keys()
    assert {"headscale", "sops", "tailscale"} <= set(found["engines"])  # type: ignore[call-overload]
    tsstack = python.with_name("tsstack")
    said = subprocess.run([str(tsstack), "--version"], check=True, capture_output=True, text=True, cwd=cwd)
    assert "tsstack" in said.stdout
    example = Path(str(found["root"])) / "examples" / "kernelcore.yaml"
    checked = subprocess.run(
        [str(tsstack), "-c", str(example), "check", "--file-only"],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    python = install([str(wheel)], tmp_path / "venv")
    found = look(python, tmp_path)
    assert str(found["root"]).endswith("tsstack/_assets")
    assert_complete(found, tmp_path, python)


def test_wheel_from_sdist_is_the_same(wheel: Path, wheel_from_sdist: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(wheel_from_sdist) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
    python = install([str(wheel_from_sdist)], tmp_path / "venv")
    found = look(python, tmp_path)
    assert str(found["root"]).endswith("tsstack/_assets")
    assert_complete(found, tmp_path, python)


def test_editable_finds_the_checkout(tmp_path: Path) -> None:
    python = install(["--editable", str(ROOT)], tmp_path / "venv")
    found = look(python, tmp_path)
    assert found["root"] == str(ROOT)
    assert_complete(found, tmp_path, python)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: build(kind, ROOT, tmp_path_factory.mktemp(kind)) for kind in ("wheel", "sdist")}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
@pytest.mark.parametrize("tool", ["pipx", "uv"])
def test_the_tools_of_users_install_it(
    tool: str, kind: str, distributions: dict[str, Path], tmp_path: Path
) -> None:
    """As docs/install.md has it, with its dependencies from the index; nothing of this checkout is used."""
    programs, cwd = tmp_path / "bin", tmp_path / "elsewhere"
    cwd.mkdir()
    words = {"pipx": ["-m", "pipx", "install"], "uv": ["-m", "uv", "tool", "install"]}[tool]
    env = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    env |= {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(programs), "UV_SYSTEM_CERTS": "1"}
    env |= {"UV_TOOL_DIR": str(tmp_path / "home"), "UV_TOOL_BIN_DIR": str(programs)}
    python = os.path.realpath(sys.executable)
    done = subprocess.run(
        [sys.executable, *words, "--python", python, str(distributions[kind])],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {each.name for each in programs.iterdir()} == set(scripts)

    def use(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for name in scripts:
        assert "sage: " in use(str(programs / name), "--help")
    tsstack = str(programs / "tsstack")
    (cwd / "one.yaml").write_text("host: {name: one}\nfirewall: {zones: {dmz: {tcp: [22]}}}\n")
    use(tsstack, "-c", "one.yaml", "build", "--out", "built")
    assert "dport" in (cwd / "built" / "nftables" / "tsstack.nft").read_text()


def test_no_machine_or_registry_is_named(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            text = archive.read(name).decode("utf-8", "replace")
            for host in ("files.pythonhosted", "pypi.org", "proxy.golang", "deb.debian"):
                assert host not in text, f"{name} names {host}"
