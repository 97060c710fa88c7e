"""nginx itself: test it, start it, reload it, stop it, and know which process is the one.

The master is found by its pid file alone, never by its name: several hosts of a lab, and other people's
nginx, may share one process table.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed
from tsstack.parts.proxy.discovery import option
from tsstack.system.command import run, which
from tsstack.system.processes import network_of, process_start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tsstack.model.facts import Facts
    from tsstack.parts.part import Report

_TRIAL = Path(__file__).with_name("trial.py")
_WAIT_S = 10.0
# src/core/ngx_log.c: only `emerg` ends a reload; the lesser ones stand beside it (a limit that the system
# does not grant to a worker), and explain a failure only where nothing else does.
_REFUSAL = re.compile(r"\[emerg\]\s*(?:\d+#\d+:\s*)?(.*)")
_ERROR = re.compile(r"\[(?:alert|crit)\]\s*(?:\d+#\d+:\s*)?(.*)")
_PLACE = re.compile(r" in (\S+):(\d+)$")
# src/core/ngx_connection.c: nginx tries five times, half a second apart, before it says this.
_BIND_RETRY = re.compile(r"bind\(\) to \S+ failed \(98:")
_BIND_GIVEN_UP = "still could not bind()"
UNIT = "tsstack-nginx"
# Those of templates/nginx/nginx.conf.j2, in the run folder.
_TEMPORARY = ("nginx-body", "nginx-proxy", "nginx-fastcgi", "nginx-uwsgi", "nginx-scgi")
_ELF = b"\x7fELF"


class AddressHeld(ApplyFailed):
    """nginx refused a reload because a socket that it wants is taken, maybe by itself."""


@dataclass(frozen=True, slots=True)
class Master:
    """A running master process; `start` (clock ticks since boot) tells it from a later one of its pid."""

    pid: int
    start: str


@dataclass(frozen=True, slots=True)
class Engine:
    """One nginx on one main file. `included`: the file is the distribution's and only includes ours."""

    config: Path
    included: bool
    log: Path
    run_folder: Path
    systemd: bool

    @property
    def pid_file(self) -> Path:
        """From the main file, else compiled in."""
        if not self.included:
            return self.run_folder / "nginx.pid"
        found = re.search(r"^\s*pid\s+([^;\s]+)\s*;", self._text(), re.MULTILINE)
        if found:
            return Path(found[1])
        return Path(option(run(["nginx", "-V"], timeout_s=10).stderr, "pid-path") or "/run/nginx.pid")

    @property
    def error_log(self) -> Path:
        """Where the master writes why it refused a reload."""
        if not self.included:
            return self.log / "tsstack-error.log"
        found = re.search(r"^\s*error_log\s+(/[^;\s]+)", self._text(), re.MULTILINE)
        return Path(found[1]) if found else Path("/var/log/nginx/error.log")

    def _text(self) -> str:
        return self.config.read_text(encoding="utf-8", errors="replace") if self.config.exists() else ""

    def master(self) -> Master | None:
        """The running master of this configuration in this network namespace, None when none runs."""
        return _master(self._noted_pid())

    def is_outdated(self, master: Master) -> bool:
        """Whether it runs another program than the one installed now; False where nobody can tell.

        Only of our own nginx: a distribution's packages exchange the one that they start. A reload keeps the
        program, so a library or nginx itself that was mended would wait for the next boot.
        """
        installed = None if self.included else which("nginx")
        if installed is None:
            return False
        try:
            with installed.open("rb") as file:
                if file.read(4) != _ELF:  # a script around it, which says nothing
                    return False
            return not os.path.samestat(installed.stat(), Path(f"/proc/{master.pid}/exe").stat())
        except OSError:  # it ended meanwhile, or is not ours to look at
            return False

    def _noted_pid(self) -> int:
        try:
            return int(self.pid_file.read_text(encoding="ascii").strip() or "0")
        except (FileNotFoundError, ValueError):
            return 0

    def test(self) -> None:
        """`nginx -t` of the whole configuration, on the host's own addresses. Raises ApplyFailed."""
        words = self.trial()
        if os.geteuid() == 0 and not self.included and self.master() is None and not self.orphans():
            # `nginx -t` gives new folders to the user of its workers, for which there is no CAP_CHOWN at
            # boot, behind the unit's walls. Root's own it leaves as they are; the start gives them away.
            self._remove_temporary()
            words = [*words, "-g", "user root;"]
        done = run(words, timeout_s=60, check=False)
        if done.returncode != 0:
            message, hint = explain_refusal(done.stderr)
            raise ApplyFailed(f"nginx refuses the host's configuration: {message}", hint=hint)

    def trial(self) -> list[str | Path]:
        """The command that lets nginx judge the whole configuration."""
        return ["nginx", "-t", "-q", "-c", self.config]

    def _remove_temporary(self) -> None:
        """Nobody uses them: the next start makes them anew."""
        for name in _TEMPORARY:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.run_folder / name)

    def end_orphans(self) -> None:
        """End the workers of a master that was killed. Raises ApplyFailed when they do not go.

        They hold its sockets and serve on what it had loaded, and no signal to a master reaches them any
        more. systemd ends them with their unit; without it nobody does. The master had a session of its
        own (setsid(2), when nginx goes to the background), so its pid tells its workers from anybody's.
        """
        deadline_s = time.monotonic() + _WAIT_S
        while orphans := self.orphans():
            if time.monotonic() > deadline_s:
                raise ApplyFailed(f"nginx's workers {orphans} do not end, and their master is dead")
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.01)

    def orphans(self) -> list[int]:
        """The workers that live on although their master was killed."""
        session = self._noted_pid()
        return [] if session <= 0 or _master(session) is not None else workers_of_session(session)

    def start(self) -> Master:
        """Start it and wait for its pid file. Raises ApplyFailed."""
        self.end_orphans()
        try:
            if self.systemd and self.included:
                run(["systemctl", "start", "nginx"], timeout_s=60)
            elif self.systemd:
                run(
                    [
                        "systemd-run", "--quiet", "--collect", f"--unit={UNIT}",
                        "--property=Type=forking", f"--property=PIDFile={self.pid_file}",
                        "nginx", "-c", self.config,
                    ],
                    timeout_s=60,
                )  # fmt: skip
            else:
                # Upstream names may take long to resolve. Should we be killed meanwhile, nginx must not come
                # up after the undoing, with what was undone (prctl(2), PR_SET_PDEATHSIG).
                run(["setpriv", "--pdeathsig", "KILL", "nginx", "-c", self.config], timeout_s=60)
        except CommandFailed as error:
            message, hint = explain_refusal(error.stderr)
            raise ApplyFailed(f"nginx did not start: {message or error.message}", hint=hint) from error
        deadline_s = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline_s:
            master = self.master()
            if master is not None and workers(master):
                return master
            time.sleep(0.01)
        raise ApplyFailed("nginx was started but is not running", hint=f"see {self.error_log}")

    def has_failed(self) -> bool:
        """Whether its unit wanted to run and could not (systemctl(1): is-failed)."""
        done = run(["systemctl", "is-failed", "--quiet", "nginx"], check=False) if self.systemd else None
        return done is not None and done.returncode == 0

    def reload(self, master: Master) -> None:
        """Let the master load its configuration anew, and wait until only new workers take connections.

        Raises ApplyFailed when it refuses (it then goes on with what it had) or does not get there.
        """
        before = set(workers(master))
        log, offset = self.error_log, _size(self.error_log)
        if self.systemd and self.included:
            try:
                run(["systemctl", "reload", "nginx"], timeout_s=60)
            except CommandFailed as error:
                raise ApplyFailed(f"nginx was not reloaded: {error.message}") from error
        else:
            os.kill(master.pid, signal.SIGHUP)
        deadline_s = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline_s:
            # workers() misses processes that end while it looks; the next round sees them gone.
            now = workers(master)
            if set(now) - before and all(now[pid] for pid in set(now) & before):
                return
            _raise_refusal(_tail(log, offset), master.pid)
            if _master(master.pid) != master:
                raise ApplyFailed("nginx ended while it was reloaded", hint=f"see {log}")
            time.sleep(0.01)
        raise ApplyFailed(f"nginx has no new workers {_WAIT_S:g} s after the reload", hint=f"see {log}")

    def load(self, master: Master, report: Report) -> None:
        """Reload; where that cannot work, restart. Raises ApplyFailed.

        nginx opens new sockets before it closes old ones, so it can never go from one address to all of
        them on the same port, or back, by a reload.
        """
        if self.is_outdated(master):
            self.stop()
            self.start()
            report("nginx restarted, as its program was exchanged")
            return
        try:
            self.reload(master)
            report("nginx reloaded")
        except AddressHeld as held:
            self.stop()
            try:
                self.start()
            except ApplyFailed as error:
                raise ApplyFailed(f"{held.message}, but {error.message}", hint=held.hint) from error
            report("nginx restarted, as its old and new addresses overlap")

    def stop(self) -> None:
        """End it and wait until it is gone; nothing happens when none runs. Raises ApplyFailed."""
        master = self.master()
        unit = "nginx" if self.included else UNIT
        if master is None:
            if self.systemd:
                # A start that a killed command had asked for may be under way. There may be no such unit.
                run(["systemctl", "stop", unit], timeout_s=60, check=False)
            self.end_orphans()
            return
        if self.systemd:
            run(["systemctl", "stop", unit], timeout_s=60)
        else:
            os.kill(master.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline_s:
            if _master(master.pid) != master:
                return
            time.sleep(0.01)
        raise ApplyFailed(f"nginx (pid {master.pid}) does not end")


def engine(main_config: str, facts: Facts) -> Engine:
    """The nginx that serves a plan: the distribution's when it has a main file, else our own."""
    paths = facts.paths
    config = Path(main_config) if main_config else paths.current / "nginx" / "nginx.conf"
    return Engine(config, bool(main_config), paths.log, paths.run, facts.systemd)


def try_config(config: Path, *, shown: Mapping[str, str]) -> None:
    """`nginx -t -c config` in a network namespace of its own, as any user. Raises CheckFailed.

    The caller has made sure that every path in it can be written and read. Messages name the folders in
    `shown` by their values.
    """
    as_root = os.geteuid() == 0
    isolate = ["unshare", "--net"] if as_root else ["unshare", "--net", "--map-current-user", "--keep-caps"]
    words: list[str | Path] = [
        *isolate,
        sys.executable,
        "-I",
        "-S",
        _TRIAL,
        "nginx",
        "-t",
        "-q",
        "-c",
        config,
    ]
    try:
        done = run(words, timeout_s=60, check=False)
    except CommandFailed as error:
        raise CheckFailed(error.message, hint=error.hint) from error
    if done.returncode != 0:
        message, hint = explain_refusal(done.stderr)
        for folder in sorted(shown, key=len, reverse=True):
            message = message.replace(folder, shown[folder])
        raise CheckFailed(f"nginx refuses the configuration: {message}", hint=hint)


def explain_refusal(stderr: str) -> tuple[str, str]:
    """nginx's own words with the key of the file that the line comes from, and a hint for known cases."""
    found = _REFUSAL.search(stderr) or _ERROR.search(stderr)
    text = (found[1] if found else stderr.strip().splitlines()[-1] if stderr.strip() else "").strip()
    place = place_of(text)
    key = key_at(*place) if place else ""
    hint = ""
    if "Cannot assign requested address" in text or "99:" in text:
        hint = (
            "the address is not on this host (yet): is tailscaled running? `tailscale ip` shows what it has"
        )
    elif "Permission denied" in text and "bind()" in text:
        hint = "ports below 1024 need root"
    elif "Address already in use" in text:
        hint = "another program holds that port; `ss -ltnp` shows it"
    elif "cannot load certificate" in text:
        hint = "a certificate that tsstack made can be removed: the next switch makes it anew"
    elif "host not found in upstream" in text:
        hint = "write the upstream's address, or make its name resolvable before nginx starts"
    elif '"stream" directive is duplicate' in text:
        hint = "the host's own configuration has a stream block; move its servers into the file"
    elif "duplicate default server" in text:
        hint = "another site is the default for that address: remove it, or use proxy.listen: tailnet"
    elif "directive is duplicate" in text:
        hint = "the distribution's configuration sets it in a file that tsstack does not look into"
    return (f"{key}: {text}" if key else text), hint


def place_of(refusal: str) -> tuple[Path, int] | None:
    """File and line that nginx's words end with, if they do."""
    place = _PLACE.search(refusal)
    return (Path(place[1]), int(place[2])) if place else None


def key_at(path: Path, line: int) -> str:
    """The key that the nearest marker above `line` of a rendered file names; empty without one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:line]
    except OSError:
        return ""
    marks = [text.strip()[3:] for text in lines if text.strip().startswith("#@ ")]
    return marks[-1] if marks else ""


def _raise_refusal(text: str, master_pid: int) -> None:
    """Raise what the master wrote into the error log since the reload, if anything; else return."""
    for line in text.splitlines():
        refused = _REFUSAL.search(line)
        if refused is None or f"[emerg] {master_pid}#" not in line or _BIND_RETRY.search(line):
            continue
        if _BIND_GIVEN_UP in line:
            held = _BIND_RETRY.search(text)
            message, hint = explain_refusal(f"[emerg] {held[0] if held else line} Address already in use)")
            raise AddressHeld(f"nginx refused the reload: {message}", hint=hint)
        message, hint = explain_refusal(refused[0])
        raise ApplyFailed(f"nginx refused the reload and goes on as before: {message}", hint=hint)


def workers(master: Master) -> dict[int, bool]:
    """The master's workers: pid -> whether it only finishes what it has (proc(5): cmdline, children)."""
    found: dict[int, bool] = {}
    for child in _words(Path(f"/proc/{master.pid}/task/{master.pid}/children")):
        title = _title(int(child))
        if "worker process" in title:
            found[int(child)] = "shutting down" in title
    return found


def _master(pid: int) -> Master | None:
    try:
        if pid <= 0 or not _title(pid).startswith("nginx: master process"):
            return None
        ours = network_of("self") == network_of(pid)
        start = process_start(pid)
    except OSError:
        return None
    return Master(pid, start) if start and ours else None


def workers_of_session(session: int) -> list[int]:
    """The nginx workers of a session in this network namespace (proc(5): stat, field 6)."""
    found, own = [], network_of("self")
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _title(int(process.name)).startswith("nginx: worker process"):
            try:
                fields = (process / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
                if fields[3] == str(session) and fields[0] != "Z" and network_of(process.name) == own:
                    found.append(int(process.name))
            except OSError:  # it ended meanwhile
                continue
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(path: Path, offset: int) -> str:
    try:
        with path.open("rb") as log:
            log.seek(offset)
            return log.read(65536).decode(errors="replace")
    except OSError:
        return ""
