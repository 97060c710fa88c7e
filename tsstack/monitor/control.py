"""The monitor's socket: who may ask what, and the answers. Bounded in clients, in lines and in what waits.

Everyone on the host may read. Commands are for root and for the daemon's own user (SO_PEERCRED, unix(7)): the
kernel says who asks, so there is no password to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.monitor import protocol
from tsstack.monitor.choice import DIRECT
from tsstack.monitor.protocol import BadRequest, Request
from tsstack.monitor.snapshot import Event

if TYPE_CHECKING:
    from tsstack.monitor.daemon import Monitor

CLIENTS_MOST = 32
"""So many of all users together. Root and the daemon's own user have as many for themselves."""
CLIENTS_OF_ONE = 8
"""So many of one user."""
WAITING_MOST_BYTES = 1 << 20
"""A reader that lets more than this wait is dropped."""
_IDLE_S = 60.0
_STATE_EACH_S = 1.0
_EVENTS_MOST = 1000
_LONGEST_MAINTENANCE_S = 366 * 86400.0
_ANYBODY = 0o666

Reload = Callable[[], Awaitable[str]]
"""Reads the file anew; returns what is wrong with it, or nothing."""
TestAlert = Callable[[], Awaitable[list[dict[str, Any]]]]


class Refused(Exception):
    """A request that is understood and not done; `code` is stable."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class Control:
    """The listening socket. `start`, then `close`; belongs to the running event loop."""

    def __init__(
        self, path: Path, monitor: Callable[[], Monitor], *, reload: Reload, test_alert: TestAlert
    ) -> None:
        self._path = path
        self._monitor = monitor
        self._reload = reload
        self._test_alert = test_alert
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], int] = {}
        """Who is served, and the uid."""
        self._state: tuple[float, Mapping[str, Any]] | None = None

    async def start(self) -> None:
        """Listen. A socket that an earlier run left is replaced: the caller holds the instance's lock.

        Raises OSError.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        staged = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        staged.unlink(missing_ok=True)
        with contextlib.ExitStack() as undo:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            undo.callback(listener.close)
            listener.bind(str(staged))
            staged.chmod(_ANYBODY)
            listener.listen(CLIENTS_MOST)
            staged.rename(self._path)
            self._server = await asyncio.start_unix_server(
                self._welcome, sock=listener, limit=protocol.LINE_BYTES
            )
            undo.pop_all()

    async def close(self) -> None:
        """Listen no more; clients are let go."""
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _uid_of(writer.get_extra_info("socket"))
        if not self._has_room(uid):
            writer.write(protocol.error_line(None, "busy", "too many clients are served already"))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients[task] = uid
        task.add_done_callback(self._let_go)

    def _has_room(self, uid: int) -> bool:
        """Others, however many connections they hold, never keep out who may command."""
        served = list(self._clients.values())
        if _commands(uid):
            return sum(map(_commands, served)) < CLIENTS_MOST
        return (
            sum(not _commands(each) for each in served) < CLIENTS_MOST and served.count(uid) < CLIENTS_OF_ONE
        )

    def _let_go(self, task: asyncio.Task[None]) -> None:
        """A client is served no more. A fault of ours in serving it is told, and costs nobody else."""
        self._clients.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            text = f"a request could not be answered: {type(error).__name__}: {error}"
            self._monitor().tell("trouble", text, severity="warning", about="socket")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        may_command = _may_command(writer.get_extra_info("socket"))
        try:
            while True:
                try:
                    line = await asyncio.wait_for(reader.readline(), _IDLE_S)
                except ValueError:  # longer than the limit: where the next line begins is not known
                    writer.write(protocol.error_line(None, "too-long", "a request takes 16 KB at most"))
                    return
                if not line:
                    return
                if line.strip():
                    await self._answer(line, reader, writer, may_command)
        except (TimeoutError, OSError):
            return  # idle, or gone
        finally:
            await _hang_up(writer)

    async def _answer(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_command: bool
    ) -> None:
        mark = None
        try:
            request = protocol.parse_request(line)
            mark = request.mark
            if request.do in protocol.COMMANDS and not may_command:
                raise Refused(
                    "forbidden", f"`{request.do}` is for root and the monitor's own user", "sudo tsstack ..."
                )
            if request.do == "subscribe":
                await self._stream(request, reader, writer)
                return
            result = await self._do(request)
        except BadRequest as error:
            writer.write(protocol.error_line(error.mark, error.code, str(error)))
        except Refused as error:
            writer.write(protocol.error_line(mark, error.code, str(error), error.hint))
        else:
            writer.write(protocol.answer_line(mark, result))
        await asyncio.wait_for(writer.drain(), _IDLE_S)

    async def _do(self, request: Request) -> Any:
        monitor, given = self._monitor(), request.arguments
        if request.do in protocol.COMMANDS:
            self._state = None  # what is asked next shall show it
        match request.do:
            case "state":
                return self._snapshot()
            case "events":
                count = given.get("count", 100)
                if type(count) is not int or not 1 <= count <= _EVENTS_MOST:
                    raise Refused("bad-argument", f"`count` is 1 to {_EVENTS_MOST}")
                return [asdict(each) for each in list(monitor.listeners.recent)[-count:]]
            case "exit-node" | "maintenance" | "offer":
                asked = {"exit-node": self._choose, "maintenance": self._maintain, "offer": self._offer}
                return asked[request.do](monitor, given)
            case "reload":
                wrong = await self._reload()
                self._state = None
                if wrong:
                    raise Refused("bad-file", wrong, "the monitor goes on as before")
                return {"reloaded": True}
        return {"sent": await self._test_alert()}

    def _choose(self, monitor: Monitor, given: Mapping[str, Any]) -> Any:
        name, automatic = given.get("use"), given.get("auto")
        if (name is None) == (automatic is not True) or not isinstance(name, str | None):
            raise Refused("bad-argument", 'say either "use": NAME or "auto": true')
        wanted = DIRECT if name == "direct" else name
        try:
            note = monitor.choose(None if automatic else wanted)
        except ValueError as error:
            raise Refused("refused", str(error)) from None
        return {"manual": None if automatic else name, "note": note}

    def _offer(self, monitor: Monitor, given: Mapping[str, Any]) -> Any:
        network = given.get("network")
        if not isinstance(network, str):
            raise Refused("bad-argument", "`network` is an advertised network")
        try:
            monitor.offer(network)
        except ValueError as error:
            raise Refused("refused", str(error)) from None
        return {"offered": network}

    def _maintain(self, monitor: Monitor, given: Mapping[str, Any]) -> Any:
        on, for_s = given.get("on"), given.get("for_s")
        if not isinstance(on, bool):
            raise Refused("bad-argument", "`on` is true or false")
        if for_s is not None and (type(for_s) not in {int, float} or not 0 < for_s <= _LONGEST_MAINTENANCE_S):
            raise Refused("bad-argument", "`for_s` is a number of seconds, a year at most")
        until = time.time() + for_s if on and for_s is not None else None
        monitor.maintain(on, until)
        return {"maintenance": on, "until": until}

    async def _stream(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Events as they come, and the state each second if that is asked for, until the client goes."""
        with_state = request.arguments.get("state", False) is True
        listeners = self._monitor().listeners
        gone = asyncio.Event()

        def send(line: bytes) -> None:
            transport = writer.transport
            if transport.is_closing() or transport.get_write_buffer_size() > WAITING_MOST_BYTES:
                gone.set()  # too slow: it would only read what is long past
                return
            writer.write(line)

        def tell(event: Event) -> None:
            send(protocol.event_line(event))

        send(protocol.answer_line(request.mark, {"subscribed": True}))
        listeners.subscribers.add(tell)
        try:
            while not (gone.is_set() or reader.at_eof() or writer.transport.is_closing()):
                if with_state:
                    send(protocol.state_line(self._snapshot()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(gone.wait(), _STATE_EACH_S)
        finally:
            listeners.subscribers.discard(tell)
        writer.transport.abort()

    def _snapshot(self) -> Mapping[str, Any]:
        """The state, made once for all who ask within a moment."""
        now_s = time.monotonic()
        if self._state is None or now_s - self._state[0] > _STATE_EACH_S / 4:
            self._state = (now_s, self._monitor().snapshot().as_json())
        return self._state[1]


def _may_command(connection: Any) -> bool:
    return _commands(_uid_of(connection))


def _commands(uid: int) -> bool:
    return uid in {0, os.geteuid()}


def _uid_of(connection: Any) -> int:
    """Who is at the other end, as the kernel says; -1 when that is not known."""
    if not hasattr(connection, "getsockopt"):
        return -1
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
        await asyncio.wait_for(writer.wait_closed(), 1.0)
    writer.transport.abort()
