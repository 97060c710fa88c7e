"""The daemon's life: one instance, ready, reload, watchdog, end. Everything that is not watching."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsstack.errors import ConfigError, LockedError, TsstackError
from tsstack.model.facts import Paths
from tsstack.monitor.client import DEFAULT_PATH
from tsstack.monitor.control import Control
from tsstack.monitor.daemon import Hands, Monitor
from tsstack.monitor.generation import is_switching, is_without, live_generation, live_source
from tsstack.monitor.kept import Kept
from tsstack.monitor.listeners import Audience, earlier_events
from tsstack.monitor.metrics import More
from tsstack.monitor.notify import Notify
from tsstack.monitor.reading import read_apart
from tsstack.monitor.settings import Settings, at_rest
from tsstack.system.localapi import LocalApi

_LOOK_S = 1.0
_OVERDUE_S = 10.0
"""Probing that is late by so much is held up for good: the watchdog is not fed."""
_KEEP_S, _TOLD_S = 600.0, 10.0
# What accept(2) fails with for want of something; asyncio tells of these alone.
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SCARCE_S = 10.0


@dataclass(frozen=True)
class Home:
    """Where the daemon lives."""

    file: Path
    paths: Paths = field(default_factory=Paths)
    socket: Path = DEFAULT_PATH
    more: More | None = None
    """What the page of metrics tells beside what the monitor knows itself."""

    @property
    def state(self) -> Path:
        """Its own folder for what lasts."""
        return self.paths.state / "monitor"


def run(home: Home, *, notify: Notify | None = None) -> None:
    """Watch until SIGTERM or SIGINT. Blocks.

    Raises ConfigError for a faulty file, LockedError when a monitor runs already, and whatever ends it.
    """
    generation = live_generation(home.paths.state)
    settings = read_apart(*_watched(home))
    with one_instance(home.state / "lock"):
        asyncio.run(Life(home, settings, notify or Notify(), generation).live())


@contextlib.contextmanager
def one_instance(lock: Path) -> Iterator[None]:
    """Hold the lock of the only monitor (flock(2): it goes with its holder). Raises LockedError."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TsstackError(f"{lock} cannot be opened: {error.strerror}", hint="run it as root") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise LockedError(
                f"a monitor runs on this host already (pid {holder or 'unknown'})",
                hint="tsstack monitor status",
            ) from None
        with contextlib.suppress(OSError):  # a full disk: only the name of the holder is lost
            os.pwrite(descriptor, f"{os.getpid():<10}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class Life:
    """One run of the daemon."""

    def __init__(self, home: Home, settings: Settings, notify: Notify, generation: str | None = None) -> None:
        """`settings` are those of the live generation, which was `generation` before they were read."""
        self._home = home
        self._read = settings
        """The latest good ones, whether they are in force or not."""
        self._settings = self._in_force(settings)
        self._notify = notify
        self._generation = live_generation(home.paths.state) if generation is None else generation
        self._ending = asyncio.Event()
        self._failure: BaseException | None = None
        self._reloads: asyncio.Task[str] | None = None
        self._again: asyncio.Task[str] | None = None
        self._scarce: asyncio.TimerHandle | None = None
        self._monitor: Monitor
        self._audience: Audience

    async def live(self) -> None:
        """From the first probe to the last word."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._fail)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        home = self._home
        kept = Kept(home.state / "state.json")
        hands = Hands(LocalApi(home.paths.tailscale_socket), self._is_changing)
        self._audience = Audience(home.state / "history.db", self._settings, home.more)
        self._monitor = Monitor(self._settings, hands, kept=kept)
        self._monitor.listeners.voices = self._audience.voices
        self._monitor.listeners.recent.extend(earlier_events(home.state / "history.db"))
        control = Control(home.socket, lambda: self._monitor, reload=self.reload, test_alert=self._test_alert)
        self._tell_of_rest()
        try:
            await control.start()
            self._say_what_is_watched("started", f"watches {self._monitor.paths} paths")
            self._notify.ready(self._status())
            await self._wait()
        finally:
            self._notify.stopping()
            if not self._failure:
                self._monitor.tell("stopped", "the monitor ends; the exit node stays as it is")
            await control.close()
            self._monitor.close()
            self._audience.close()
            kept.close()
        if self._failure:
            raise self._failure

    async def reload(self) -> str:
        """Read what is live now; returns what is wrong with it, or nothing. Bad: the old stays in force."""
        return await asyncio.shield(self._reload_soon())

    def _reload_soon(self) -> asyncio.Task[str]:
        """At once, or once more after the one that is at work: it may have read what has changed since."""
        if not self._is_reloading():
            self._reloads = self._begin_reload()
            return self._reloads
        if self._again is None:
            self._again = asyncio.get_running_loop().create_task(self._reload_again())
        return self._again

    async def _reload_again(self) -> str:
        while self._reloads is not None and not self._reloads.done():
            await asyncio.wait([self._reloads])
        self._again = None
        self._reloads = self._begin_reload()
        return await asyncio.shield(self._reloads)

    def _is_reloading(self) -> bool:
        return self._again is not None or (self._reloads is not None and not self._reloads.done())

    def _begin_reload(self) -> asyncio.Task[str]:
        task = asyncio.get_running_loop().create_task(self._reload())
        task.add_done_callback(self._reloaded)
        return task

    def _reloaded(self, task: asyncio.Task[str]) -> None:
        """A fault of ours in reloading ends the daemon: it must not stay `reloading` for good."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(task.get_loop(), {"exception": error})

    async def _reload(self) -> str:
        self._notify.reloading()
        wrong = ""
        try:
            self._read = await asyncio.to_thread(read_apart, *_watched(self._home))
        except (TsstackError, OSError) as error:
            wrong = _first_fault(error)
            hint = "the old one stays in force; see `tsstack check`, then reload"
            self._monitor.troubles.begin("file", wrong, hint)
        else:
            self._monitor.troubles.end("file")
        self._tell_of_rest()
        settings = self._in_force(self._read)
        if not wrong or settings.rests != self._settings.rests:
            self._settings = settings
            self._monitor.follow(settings)
            self._audience.follow(settings)
            self._monitor.listeners.voices = self._audience.voices
            self._say_what_is_watched("reloaded", f"watches {self._monitor.paths} paths")
        self._notify.ready(self._status())
        return wrong

    def _in_force(self, settings: Settings) -> Settings:
        return at_rest(settings) if is_without(self._home.paths.state) else settings

    def _tell_of_rest(self) -> None:
        if is_without(self._home.paths.state):
            words = "generation 0 is live, the host without tsstack: it is watched, and nothing is changed"
            self._monitor.troubles.begin("generation", words, "tsstack switch")
        else:
            self._monitor.troubles.end("generation")

    def _say_what_is_watched(self, code: str, text: str) -> None:
        monitor, settings = self._monitor, self._settings
        file, source = _watched(self._home)
        monitor.tell(code, text, file=str(file))
        if source is not None and self._is_file_ahead(source):
            words = f"{self._home.file} differs from the live generation, which is what is watched"
            if file.resolve() != self._home.file.resolve():
                words += f" and was made from {file}"
            monitor.tell(code, f"{words}; `tsstack switch` makes it so", about="file")
        for finding in settings.findings:
            monitor.tell(code, str(finding), about=finding.path or "file", severity="warning")
        if settings.default_targets and settings.policy is not None:
            keys = settings.witnesses(settings.policy.use[0])
            names = ", ".join(key.removeprefix("target:") for key in keys)
            text = f"the file names no target that shows whether a way out works: {names} are asked besides"
            monitor.tell(code, text, about="monitor.targets")

    def _is_file_ahead(self, source: bytes) -> bool:
        """Whether the file says something else than what is live, which was made from `source`."""
        try:
            return source != self._home.file.read_bytes()
        except OSError:
            return True

    async def _wait(self) -> None:
        """Until the end is asked for, or something fails that nobody foresaw."""
        loop = asyncio.get_running_loop()
        watchdog_s = self._notify.watchdog_s
        pace_s = min(_LOOK_S, watchdog_s / 3) if watchdog_s else _LOOK_S
        kept_s = told_s = loop.time()
        ending = loop.create_task(self._ending.wait())
        try:
            while not ending.done():
                tasks = {ending, *self._monitor.tasks}
                await asyncio.wait(tasks, timeout=pace_s, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks - {ending}:
                    if task.done() and not task.cancelled():
                        raise task.exception() or TsstackError("a part of the monitor has ended by itself")
                if self._failure:
                    return
                if self._monitor.prober.overdue_s < _OVERDUE_S:
                    self._notify.alive()
                self._look_at_generation()
                self._notify.status(self._status())
                if loop.time() - told_s > _TOLD_S:
                    told_s = loop.time()
                    self._audience.keep()
                if loop.time() - kept_s > _KEEP_S:
                    kept_s = loop.time()
                    self._monitor.keep()
        finally:
            ending.cancel()

    def _is_changing(self) -> bool:
        """Whether a switch is at work, or is done and its file is not in force here yet."""
        state = self._home.paths.state
        return self._is_reloading() or live_generation(state) != self._generation or is_switching(state)

    def _look_at_generation(self) -> None:
        """After a switch or a rollback: the file as the live generation was made from it."""
        state = self._home.paths.state
        live = live_generation(state)
        if live == self._generation or is_switching(state):
            return
        if not self._is_reloading():
            self._generation = live
            self._reloads = self._begin_reload()

    def _status(self) -> str:
        snapshot_exit = self._monitor.exit_status()
        if snapshot_exit is None:
            return f"{self._monitor.paths} paths"
        at = snapshot_exit.at or "the uplink"
        words = "blocked" if snapshot_exit.blocked else f"by {at}"
        return f"{words}; {'; '.join(snapshot_exit.why)}"

    def _fail(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault in a callback is the daemon's own: it ends, and the service manager starts it anew."""
        error = context.get("exception")
        if error is None:
            loop.default_exception_handler(context)
            return
        if isinstance(error, OSError) and error.errno in _SCARCE and "socket" in context:
            self._tell_of_scarcity(loop, error)
            return
        self._failure = self._failure or error
        self._ending.set()

    def _tell_of_scarcity(self, loop: asyncio.AbstractEventLoop, error: OSError) -> None:
        """Nobody can be let in at the socket just now. asyncio tries again by itself, once a second."""
        if self._scarce is not None:
            self._scarce.cancel()
        words = f"{self._home.socket} takes no connection: {error.strerror}"
        self._monitor.troubles.begin("socket", words, "raise LimitNOFILE of the service")
        self._scarce = loop.call_later(_SCARCE_S, self._monitor.troubles.end, "socket")

    async def _test_alert(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._audience.test)


def _watched(home: Home) -> tuple[Path, bytes | None]:
    """The file that says what is watched, and its content where that is the live generation's."""
    return live_source(home.paths.state) or (home.file, None)


def _first_fault(error: TsstackError | OSError) -> str:
    findings = error.findings if isinstance(error, ConfigError) else ()
    errors = [each for each in findings if each.severity == "error"]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return (str(errors[0]) if errors else str(error)) + more
