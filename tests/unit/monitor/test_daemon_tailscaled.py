"""tailscaled through its faults: silent, hung, gone, refusing, moving by itself; played by a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tsstack.monitor import tailscaled as tailscaled_module
from tsstack.monitor.actuator import WRITING, Actuator
from tsstack.monitor.choice import DIRECT, Block, FreeFlows, GoDirect, Proof, ProveEgress, UseExit
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.probes.stamps import boot_s
from tsstack.monitor.sample import Path as MonitoredPath
from tsstack.monitor.sample import Sample
from tsstack.monitor.tailscaled import Seen, Tailscaled
from tsstack.monitor.troubles import Troubles
from tsstack.system.localapi import LocalApi, LocalApiError

PEERS = {
    "k1": {
        "ID": "11",
        "DNSName": "exit-a.t.test.",
        "HostName": "exit-a",
        "ExitNodeOption": True,
        "Online": True,
    },
    "k2": {
        "ID": "22",
        "DNSName": "exit-b.t.test.",
        "HostName": "exit-b",
        "ExitNodeOption": True,
        "Online": True,
    },
    "k3": {"ID": "33", "DNSName": "nas.t.test.", "HostName": "nas", "PrimaryRoutes": ["10.9.0.0/16"]},
}


class Script:
    """A LocalAPI that says what it is told to say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prefs: dict[str, Any] = {"ExitNodeID": "11", "AdvertiseRoutes": None}
        self.state = 6
        self.hung = False
        self.mapped = True
        self.read_only = False
        self.patches: list[dict[str, Any]] = []
        self._buses: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for bus in self._buses:
            bus.close()
        self._buses.clear()

    def tell(self, **message: Any) -> None:
        for bus in self._buses:
            bus.sendall(json.dumps(message).encode() + b"\n")

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split()
        length = int(
            next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")).split()[1]
        )
        while len(body) < length:
            body += client.recv(65536)
        if "watch-ipn-bus" in path:
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            self._buses.append(client)
            client.sendall(json.dumps({"State": self.state, "Prefs": self.prefs}).encode() + b"\n")
            return
        while self.hung:
            time.sleep(0.02)
        with client:
            if method == "PATCH" and self.read_only:
                client.sendall(b"HTTP/1.0 403 Forbidden\r\n\r\nprefs write access denied")
                return
            if method == "PATCH":
                patch = {name: value for name, value in json.loads(body).items() if not name.endswith("Set")}
                self.patches.append(patch)
                self.prefs = {**self.prefs, **patch}
            said = self.prefs if "prefs" in path else self._status()
            with contextlib.suppress(BrokenPipeError):  # it gave up waiting
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(said).encode())

    def _status(self) -> dict[str, Any]:
        state = tailscaled_module.STATES[self.state]
        return {"BackendState": state, "TailscaleIPs": ["100.64.0.9"], "Peer": PEERS if self.mapped else {}}


Body = Callable[[Script, Tailscaled], Awaitable[None]]


def play(
    tmp_path: Path, body: Body, monkeypatch: pytest.MonkeyPatch, seen: list[Seen] | None = None
) -> list[Seen]:
    monkeypatch.setattr(tailscaled_module, "_REQUEST_S", 0.3)
    monkeypatch.setattr(tailscaled_module, "_AGAIN_S", 0.05)
    script = Script(tmp_path / "ts.sock")
    seen = [] if seen is None else seen

    async def main() -> None:
        watched = Tailscaled(LocalApi(script.path), seen.append, names=("Exit-A", "exit-b"))
        try:
            async with asyncio.timeout(20):
                await until(lambda: watched.seen.actual is not None)
                await body(script, watched)
        finally:
            watched.close()
            script.hung = False

    asyncio.run(main())
    script.stop()
    return seen


async def until(happened: Callable[[], object]) -> None:
    while not happened():
        await asyncio.sleep(0.01)


def test_the_exit_node_is_told_by_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, watched: Tailscaled) -> None:
        assert watched.seen.actual == "Exit-A"
        assert watched.seen.offers("EXIT-B") and not watched.seen.offers("nas")
        assert watched.seen.id_of("exit-b") == "22"
        assert watched.seen.peer_routes == ("10.9.0.0/16",)
        script.tell(Prefs={"ExitNodeID": "22", "AdvertiseRoutes": ["10.1.0.0/16"]})
        await until(lambda: watched.seen.actual == "exit-b")
        assert watched.seen.advertised == ("10.1.0.0/16",)
        script.tell(Prefs={"ExitNodeID": "77"})
        await until(lambda: watched.seen.actual == "77")
        script.tell(Prefs={"ExitNodeID": "22", "AutoExitNode": "any"})
        await until(lambda: watched.seen.actual == "auto:any")
        script.tell(Prefs={"ExitNodeID": ""})
        await until(lambda: watched.seen.actual == DIRECT)

    seen = play(tmp_path, body, monkeypatch)
    assert "11" not in {each.actual for each in seen}  # not before its name is known


def test_a_tailscaled_that_goes_and_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(script: Script, watched: Tailscaled) -> None:
        script.stop()
        await until(lambda: watched.seen.actual is None)
        assert "tailscaled" in watched.seen.error
        assert watched.seen.hint == "systemctl start tailscaled"
        assert watched.seen.offers("exit-b")  # what was known is not forgotten
        script.prefs = {"ExitNodeID": "22"}
        script.start()
        await until(lambda: watched.seen.actual == "exit-b")
        assert watched.seen.error == ""
        # The bus is heard again, too.
        await until(lambda: script._buses)
        await asyncio.sleep(0.1)
        script.tell(Prefs={"ExitNodeID": "11"})
        await until(lambda: watched.seen.actual == "Exit-A")

    play(tmp_path, body, monkeypatch)


def test_a_hung_tailscaled_is_silent_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, watched: Tailscaled) -> None:
        script.hung = True
        begun_s = time.monotonic()
        with pytest.raises(LocalApiError, match="did not answer"):
            await watched.patch({"ExitNodeID": "22"})
        assert time.monotonic() - begun_s < 2
        assert watched.seen.actual is None
        script.hung = False
        await until(lambda: watched.seen.actual is not None)

    play(tmp_path, body, monkeypatch)


def test_doubt_finds_a_daemon_that_hangs_without_being_asked_for_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, watched: Tailscaled) -> None:
        watched.doubt()
        await asyncio.sleep(0.2)
        assert watched.seen.actual == "Exit-A"
        script.hung = True
        watched.doubt()
        await until(lambda: watched.seen.actual is None)
        assert watched.seen.hint == "systemctl restart tailscaled"
        script.hung = False
        await until(lambda: watched.seen.actual == "Exit-A")

    play(tmp_path, body, monkeypatch)


def test_a_tailscale_that_is_down_is_no_daemon_to_decide_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, watched: Tailscaled) -> None:
        script.state = 4
        script.tell(State=4)
        await until(lambda: watched.seen.actual is None)
        assert "Stopped" in watched.seen.error
        script.state = 6
        script.tell(State=6)
        await until(lambda: watched.seen.actual == "Exit-A")

    play(tmp_path, body, monkeypatch)


def test_nothing_is_known_until_tailscaled_runs_and_has_told_its_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart: it answers at once, with prefs and without a network map, and runs later."""

    async def body(script: Script, watched: Tailscaled) -> None:
        assert watched.seen.told_s == 0
        heard = len(seen_since)
        script.mapped = False
        script.stop()
        await until(lambda: watched.seen.actual is None)
        script.state = 0
        script.start()
        await until(lambda: watched.seen.state == "NoState" and not watched.seen.offered)
        await asyncio.sleep(0.2)
        script.state, script.mapped = 6, True
        restarted_s = boot_s()
        script.tell(State=6)
        await until(lambda: watched.seen.actual == "Exit-A")
        assert watched.seen.told_s is not None and watched.seen.told_s >= restarted_s
        away = [each for each in seen_since[heard:] if each.actual is not None and not each.offers("exit-b")]
        assert away == []

    seen_since: list[Seen] = []
    play(tmp_path, body, monkeypatch, seen_since)


class Answers:
    """What the proof asks; a target answers once so many were asked."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked = 0

    async def ask(self, probe: Probe) -> Sample:
        self.asked += 1
        ok = self.asked > self.after
        return Sample(probe.path.key, "icmp", boot_s(), 0.01 if ok else None, "" if ok else "timeout")


def act(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: Callable[[Script, Actuator, Troubles, list[Proof]], Awaitable[None]],
    *,
    after: int = 0,
) -> None:
    target = Probe(MonitoredPath("target:icmp:192.0.2.1", "", "tailscale0"), "icmp", host="192.0.2.1")

    async def inner(script: Script, watched: Tailscaled) -> None:
        troubles, proofs = Troubles(), []
        prober: Any = Answers(after)
        actuator = Actuator(
            watched,
            prober,
            troubles,
            proven=proofs.append,
            targets=lambda node: (target,),
            uplink=lambda: "eth0",
        )
        await until(lambda: watched.seen.offered)
        try:
            await body(script, actuator, troubles, proofs)
        finally:
            actuator.close()

    play(tmp_path, inner, monkeypatch)


def test_a_move_sets_prefs_by_id_then_proves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([UseExit("exit-b", 3), ProveEgress("exit-b", 3, boot_s() + 3)])
        await until(lambda: proofs)
        assert proofs == [Proof(3, ok=True)]
        assert script.patches == [{"ExitNodeID": "22"}]

    act(tmp_path, monkeypatch, body, after=2)


def test_a_proof_that_fails_says_what_each_target_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([UseExit("exit-b", 3), ProveEgress("exit-b", 3, boot_s() + 1)])
        await until(lambda: proofs)
        assert proofs == [Proof(3, ok=False, detail="icmp:192.0.2.1: timeout")]

    act(tmp_path, monkeypatch, body, after=10**9)


def test_a_proof_asks_nothing_before_tailscaled_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([ProveEgress("exit-b", 3, boot_s() + 0.8)])  # prefs still name exit-a
        await until(lambda: proofs)
        assert proofs == [Proof(3, ok=False, detail="no target was asked in time", unknown=True)]

    act(tmp_path, monkeypatch, body)


def test_a_proof_that_was_slept_through_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([UseExit("exit-b", 3)])
        await until(lambda: script.patches)
        actuator.do([ProveEgress("exit-b", 3, boot_s() + 1)])
        await asyncio.sleep(0.3)
        monkeypatch.setattr("tsstack.monitor.actuator.boot_s", lambda: boot_s() + 60)
        await until(lambda: proofs)
        assert proofs == [Proof(3, ok=False, detail="icmp:192.0.2.1: timeout", unknown=True)]

    act(tmp_path, monkeypatch, body, after=10**9)


def test_a_node_that_tailscaled_does_not_know_is_a_trouble_until_something_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([UseExit("nobody", 1)])
        await until(troubles.standing)
        assert "nobody cannot be set" in troubles.standing()[0].message
        actuator.do([UseExit("exit-b", 2)])
        await until(lambda: not troubles.standing())

    act(tmp_path, monkeypatch, body)


def test_whether_tailscaled_still_refuses_is_asked_now_and_then_by_a_change_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        script.read_only = True
        actuator.do([UseExit("exit-b", 1)])
        await until(lambda: actuator.read_only)
        actuator.look_again(boot_s() + 20)
        actuator.look_again(boot_s() + 40)
        await asyncio.sleep(0.2)
        assert actuator.read_only
        script.read_only = False
        actuator.look_again(boot_s() + 80)
        await until(lambda: not actuator.read_only and not troubles.standing())
        assert script.patches == [{}]

    act(tmp_path, monkeypatch, body)


def test_read_only_is_said_once_with_the_fix_and_is_over_when_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        script.read_only = True
        actuator.do([UseExit("exit-b", 1)])
        await until(lambda: actuator.read_only)
        (trouble,) = troubles.standing()
        assert trouble.about == WRITING and "denied" in trouble.message and "root" in trouble.hint
        script.read_only = False
        actuator.do([UseExit("exit-b", 1)])
        await until(lambda: not troubles.standing())
        assert not actuator.read_only

    act(tmp_path, monkeypatch, body)


def test_pitfall_30_block_keeps_what_is_set_and_sets_it_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([Block("exit-a")])
        await asyncio.sleep(0.1)
        assert script.patches == []
        actuator.do([GoDirect(1), Block("exit-a")])
        await until(lambda: len(script.patches) == 2)
        assert script.patches == [{"ExitNodeID": ""}, {"ExitNodeID": "11"}]

    act(tmp_path, monkeypatch, body)


def test_connections_are_freed_only_when_the_way_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[str] = []

    async def free(left: str, *_: object) -> int:
        freed.append(left)
        return 0

    monkeypatch.setattr("tsstack.monitor.actuator.free_flows", free)

    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        script.read_only = True
        actuator.do([UseExit("exit-b", 1), FreeFlows("exit-a"), GoDirect(2), FreeFlows("exit-b")])
        actuator.do([UseExit("nobody", 3), FreeFlows("exit-c")])
        await until(lambda: actuator.read_only and not actuator._waiting.qsize())
        await asyncio.sleep(0.1)
        assert freed == []
        script.read_only = False
        actuator.do([UseExit("exit-b", 4), FreeFlows("exit-d")])
        await until(lambda: freed)
        assert freed == ["exit-d"]

    act(tmp_path, monkeypatch, body)


def test_freeing_connections_holds_up_neither_the_proof_nor_the_next_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What frees them is a program that is started for it: on a slow machine that alone takes seconds."""
    freed: list[str] = []

    async def free(left: str, *_: object) -> int:
        await asyncio.sleep(1.0)
        freed.append(left)
        return 0

    monkeypatch.setattr("tsstack.monitor.actuator.free_flows", free)

    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([UseExit("exit-b", 1), FreeFlows("exit-a"), GoDirect(2), FreeFlows("exit-b")])
        await asyncio.wait_for(until(lambda: len(script.patches) == 2), 0.8)
        assert freed == []
        assert not actuator.idle
        actuator.do([FreeFlows("exit-b"), FreeFlows("exit-b")])  # what is yet to begin serves these, too
        await until(lambda: sorted(freed) == ["exit-a", "exit-b"])
        await asyncio.sleep(1.3)
        assert actuator.idle
        assert sorted(freed) == ["exit-a", "exit-b"]

    act(tmp_path, monkeypatch, body)


def test_a_new_proof_ends_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(script: Script, actuator: Actuator, troubles: Troubles, proofs: list[Proof]) -> None:
        actuator.do([ProveEgress("exit-b", 1, boot_s() + 0.7)])  # prefs name exit-a: it waits
        await asyncio.sleep(0.1)
        actuator.do([UseExit("exit-b", 2), ProveEgress("exit-b", 2, boot_s() + 3)])
        await asyncio.sleep(1)
        assert [proof.move for proof in proofs] == [2]

    act(tmp_path, monkeypatch, body)
