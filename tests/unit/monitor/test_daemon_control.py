"""The socket: what may be asked by whom, and that no client can harm the monitor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tsstack.errors import CheckFailed, TsstackError
from tsstack.monitor import control as control_module
from tsstack.monitor.client import Client, NotRunning
from tsstack.monitor.control import CLIENTS_MOST, Control
from tsstack.monitor.daemon import Listeners, Monitor
from tsstack.monitor.snapshot import Event, Snapshot


class Pretended:
    """What the socket needs of a monitor; notes what it was told to do."""

    def __init__(self) -> None:
        self.listeners = Listeners()
        self.done: list[Any] = []

    def snapshot(self) -> Snapshot:
        return Snapshot(1.0, 0.5, "h", "0", (), None)

    def choose(self, name: str | None) -> str:
        if name == "z":
            raise ValueError("z is not among them")
        self.done.append(("choose", name))
        return "later"

    def offer(self, network: str) -> None:
        if network != "10.0.0.0/8":
            raise ValueError(f"{network} is not withdrawn")
        self.done.append(("offer", network))

    def maintain(self, on: bool, until: float | None = None) -> None:
        self.done.append(("maintain", on, until))


def event(text: str) -> Event:
    return Event(1.0, "moved", "warning", "exit-node", text, {})


def serve(tmp_path: Path, body: Callable[[Pretended, Path], Awaitable[None]], wrong: str = "") -> Pretended:
    """Run `body` beside a socket that is served."""
    monitor = Pretended()
    path = tmp_path / "run" / "m.sock"

    async def reload() -> str:
        return wrong

    async def test_alert() -> list[dict[str, Any]]:
        return [{"to": "x", "ok": True}]

    async def main() -> None:
        control = Control(path, lambda: cast("Monitor", monitor), reload=reload, test_alert=test_alert)
        await control.start()
        try:
            async with asyncio.timeout(20):
                await body(monitor, path)
        finally:
            await control.close()

    asyncio.run(main())
    assert not path.exists()
    return monitor


async def say(path: Path, data: bytes) -> list[dict[str, Any]]:
    """Everything that comes back until the monitor hangs up or we have said all."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return [json.loads(line) for line in answer.splitlines()]


async def ask(path: Path, **request: Any) -> dict[str, Any]:
    (answer,) = await say(path, json.dumps({"v": 1, **request}).encode() + b"\n")
    return answer


def test_state_events_and_commands(tmp_path: Path) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        assert (await ask(path, do="state", id=7)) == {
            "v": 1,
            "id": 7,
            "ok": True,
            "result": json.loads(json.dumps(monitor.snapshot().as_json())),
        }
        for number in range(5):
            monitor.listeners.tell(event(str(number)))
        told = await ask(path, do="events", count=2)
        assert [each["text"] for each in told["result"]] == ["3", "4"]
        assert (await ask(path, do="exit-node", use="b"))["result"] == {"manual": "b", "note": "later"}
        assert (await ask(path, do="exit-node", use="direct"))["ok"]
        assert (await ask(path, do="exit-node", auto=True))["ok"]
        assert (await ask(path, do="maintenance", on=True, for_s=60))["result"]["until"] > 0
        assert (await ask(path, do="offer", network="10.0.0.0/8"))["result"] == {"offered": "10.0.0.0/8"}
        assert (await ask(path, do="maintenance", on=False))["result"] == {
            "maintenance": False,
            "until": None,
        }
        assert (await ask(path, do="reload"))["result"] == {"reloaded": True}
        assert (await ask(path, do="test-alert"))["result"] == {"sent": [{"to": "x", "ok": True}]}

    done = serve(tmp_path, body).done
    assert done[:3] == [("choose", "b"), ("choose", ""), ("choose", None)]
    assert [each[:2] for each in done[3:]] == [
        ("maintain", True),
        ("offer", "10.0.0.0/8"),
        ("maintain", False),
    ]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"hello\n", "garbled"),
        (b"[1, 2]\n", "garbled"),
        (b"\xff\xfe\n", "garbled"),
        (b"[" * 9000 + b"\n", "garbled"),
        (b'{"v": 1, "do": "state", "id": {}}\n', "garbled"),
        (b'{"v": 1, "do": "state", "id": NaN}\n', "garbled"),
        (b'{"v": 1, "do": "state", "id": 1e999}\n', "garbled"),
        (b'{"v": 2, "do": "state"}\n', "version"),
        (b'{"v": true, "do": "state"}\n', "version"),
        (b'{"v": 1.0, "do": "state"}\n', "version"),
        (b'{"do": "state"}\n', "version"),
        (b'{"v": 1, "do": "shutdown"}\n', "unknown"),
        (b'{"v": 1, "do": ["state"]}\n', "unknown"),
        (b'{"v": 1, "do": "events", "count": 0}\n', "bad-argument"),
        (b'{"v": 1, "do": "events", "count": true}\n', "bad-argument"),
        (b'{"v": 1, "do": "exit-node"}\n', "bad-argument"),
        (b'{"v": 1, "do": "exit-node", "use": "b", "auto": true}\n', "bad-argument"),
        (b'{"v": 1, "do": "exit-node", "use": 5}\n', "bad-argument"),
        (b'{"v": 1, "do": "exit-node", "use": "z"}\n', "refused"),
        (b'{"v": 1, "do": "maintenance", "on": "yes"}\n', "bad-argument"),
        (b'{"v": 1, "do": "offer"}\n', "bad-argument"),
        (b'{"v": 1, "do": "offer", "network": ["10.0.0.0/8"]}\n', "bad-argument"),
        (b'{"v": 1, "do": "offer", "network": "10.1.0.0/16"}\n', "refused"),
        (b'{"v": 1, "do": "maintenance", "on": true, "for_s": -1}\n', "bad-argument"),
        (b'{"v": 1, "do": "maintenance", "on": true, "for_s": 1e999}\n', "bad-argument"),
        (b'{"v": 1, "do": "maintenance", "on": true, "for_s": NaN}\n', "bad-argument"),
        (b'{"v": 1, "do": "maintenance", "on": true, "for_s": true}\n', "bad-argument"),
        (b"x" * 20000 + b"\n", "too-long"),
        (b"x" * 20000, "too-long"),
    ],
)
def test_garbage_is_answered_with_an_error_and_changes_nothing(
    tmp_path: Path, sent: bytes, code: str
) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        (answer,) = await say(path, sent)
        assert (answer["ok"], answer["error"]["code"]) == (False, code)
        assert answer["error"]["message"]
        assert (await ask(path, do="state"))["ok"]

    assert serve(tmp_path, body).done == []


def test_after_an_error_the_same_connection_goes_on(tmp_path: Path) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        answers = await say(path, b'nonsense\n\n{"v": 1, "do": "state", "id": "x"}\n')
        assert [(each["ok"], each["id"]) for each in answers] == [(False, None), (True, "x")]

    serve(tmp_path, body)


def test_others_than_root_and_the_monitors_own_user_may_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "_may_command", lambda connection: False)

    async def body(monitor: Pretended, path: Path) -> None:
        for do in ("exit-node", "maintenance", "offer", "reload", "test-alert"):
            answer = await ask(path, do=do, use="b", on=True)
            assert answer["error"]["code"] == "forbidden"
        assert (await ask(path, do="state"))["ok"]
        assert (await ask(path, do="events"))["ok"]

    assert serve(tmp_path, body).done == []


def connect_as(uid: int, name: str) -> int:
    """A child of this process that connects as another user, and waits; its pid."""
    child = os.fork()
    if child:
        return child
    os.setuid(uid)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect("\0" + name)
        link.recv(1)
    os._exit(0)


def test_the_kernel_says_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.getuid() == 0, "another user is needed to ask"
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"tsstack-peer-{os.getpid()}"
        listener.bind("\0" + name)
        listener.listen()
        for uid in (0, 65534):
            child = connect_as(uid, name)
            client, _ = listener.accept()
            with client:
                assert control_module._may_command(client) == (uid == 0)
                with monkeypatch.context() as patched:
                    patched.setattr(os, "geteuid", lambda: 65534)
                    assert control_module._may_command(client)  # the monitor's own user, and root
            os.waitpid(child, 0)
    assert not control_module._may_command(None)


def test_the_socket_of_a_killed_run_is_replaced_and_everyone_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "run" / "m.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def body(monitor: Pretended, path: Path) -> None:
        assert (await ask(path, do="state"))["ok"]
        assert path.stat().st_mode & 0o777 == 0o666

    serve(tmp_path, body)


def test_more_clients_than_there_is_room_for_are_sent_away(tmp_path: Path) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(CLIENTS_MOST)]
        for _, writer in held:
            writer.write(b'{"v": 1, "do": "state"}\n')
        for reader, _ in held:
            await reader.readline()
        (answer,) = await say(path, b"")
        assert answer["error"]["code"] == "busy"
        for _, writer in held:
            writer.close()
        while True:  # until they are let go
            with contextlib.suppress(ConnectionError):
                if (await ask(path, do="state"))["ok"]:
                    return
            await asyncio.sleep(0.05)

    serve(tmp_path, body)


def test_no_other_user_keeps_root_out_or_takes_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = iter([*[1000] * 9, *[uid for uid in range(1001, 1004) for _ in range(8)], 1004, 0])
    monkeypatch.setattr(control_module, "_uid_of", lambda _: next(uids))

    async def body(monitor: Pretended, path: Path) -> None:
        held = []

        async def is_served() -> bool:
            reader, writer = await asyncio.open_unix_connection(str(path))
            held.append(writer)
            writer.write(b'{"v": 1, "do": "state"}\n')
            return bool(json.loads(await reader.readline())["ok"])

        monkeypatch.setattr(control_module, "_may_command", lambda _: False)
        assert [await is_served() for _ in range(9)] == [True] * 8 + [False]
        assert all([await is_served() for _ in range(24)])
        assert not await is_served()  # 32 are there
        assert await is_served()  # root
        for writer in held:
            writer.close()

    serve(tmp_path, body)


def test_a_subscriber_hears_events_and_the_state(tmp_path: Path) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"v": 1, "do": "subscribe", "state": true}\n')
        assert json.loads(await reader.readline())["result"] == {"subscribed": True}
        assert json.loads(await reader.readline())["state"]["host"] == "h"
        monitor.listeners.tell(event("now"))
        assert json.loads(await reader.readline())["event"]["text"] == "now"
        assert "state" in json.loads(await reader.readline())
        writer.close()
        while monitor.listeners.subscribers:
            await asyncio.sleep(0.05)

    serve(tmp_path, body)


def test_a_subscriber_that_does_not_read_is_dropped_and_holds_nobody_up(tmp_path: Path) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        _, writer = await asyncio.open_unix_connection(str(path), limit=1)
        writer.write(b'{"v": 1, "do": "subscribe"}\n')
        while not monitor.listeners.subscribers:
            await asyncio.sleep(0.01)
        for number in range(4000):
            monitor.listeners.tell(event("x" * 1000))
            if number % 100 == 0:
                await asyncio.sleep(0)
        while monitor.listeners.subscribers:
            await asyncio.sleep(0.01)
        assert (await ask(path, do="state"))["ok"]
        writer.close()

    serve(tmp_path, body)


def test_a_bad_file_is_told_to_who_asked_for_the_reload(tmp_path: Path) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        answer = await ask(path, do="reload")
        assert answer["error"]["code"] == "bad-file"
        assert answer["error"]["message"] == "f.yaml:3:1: no"

    serve(tmp_path, body, wrong="f.yaml:3:1: no")


def test_the_client_asks_and_follows_and_says_what_is_wrong(tmp_path: Path) -> None:
    async def body(monitor: Pretended, path: Path) -> None:
        client = Client(path)
        state = await asyncio.to_thread(client.ask, "state")
        assert state["host"] == "h"
        with pytest.raises(CheckFailed, match="z is not among them"):
            await asyncio.to_thread(client.ask, "exit-node", use="z")
        following = client.follow()
        pending = asyncio.ensure_future(asyncio.to_thread(next, following))
        while not monitor.listeners.subscribers:
            await asyncio.sleep(0.01)
        monitor.listeners.tell(event("now"))
        assert (await pending)["event"]["text"] == "now"
        await asyncio.to_thread(following.close)

    serve(tmp_path, body)
    with pytest.raises(NotRunning, match="no monitor listens") as absent:
        Client(tmp_path / "none").ask("state")
    assert "tsstack units install --monitor" in absent.value.hint
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        with pytest.raises(TsstackError, match=r"did not answer within 0\.2 s"):
            Client(tmp_path / "mute", timeout_s=0.2).ask("state")
