"""The daemon put together: a tailscaled that is played, samples by hand, and what it decides of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from tsstack.monitor import tailscaled as tailscaled_module
from tsstack.monitor.daemon import Hands, Monitor
from tsstack.monitor.probes.probe import Notice, Probe
from tsstack.monitor.probes.stamps import boot_s
from tsstack.monitor.reading import read_settings
from tsstack.monitor.sample import Sample
from tsstack.system.localapi import LocalApi

FILE = """\
host: {name: h, tailnet: t.test, uplink: eth0}
tailscale:
  exit_node: {use: [exit-a, exit-b], otherwise: %s}
monitor: {targets: [{icmp: 192.0.2.1}], failover: %s}
"""
PEERS = {
    name: {"ID": number, "DNSName": f"{name}.t.test.", "HostName": name, "ExitNodeOption": True}
    for name, number in (("exit-a", "11"), ("exit-b", "22"))
}
PATHS = ("exit:exit-a", "exit:exit-b", "target:icmp:192.0.2.1")


class Daemon:
    """A LocalAPI that hangs when it is told to."""

    def __init__(self, path: Path) -> None:
        self.prefs: dict[str, Any] = {"ExitNodeID": "11"}
        self.state = 6
        self.hung = False
        self.patches: list[dict[str, Any]] = []
        self.buses: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def tell(self, **message: Any) -> None:
        for bus in self.buses:
            bus.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self.hung = False
        self.listener.shutdown(socket.SHUT_RDWR)
        for each in (self.listener, *self.buses):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        head, _, body = client.recv(65536).partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split()
        if "watch-ipn-bus" in path:
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            self.buses.append(client)
            client.sendall(json.dumps({"State": self.state, "Prefs": self.prefs}).encode() + b"\n")
            return
        while self.hung:
            time.sleep(0.01)
        with client, contextlib.suppress(OSError):
            if method == "PATCH":
                body = body or client.recv(65536)
                patch = {name: each for name, each in json.loads(body).items() if not name.endswith("Set")}
                self.patches.append(patch)
                self.prefs = {**self.prefs, **patch}
            state = tailscaled_module.STATES[self.state]
            said = self.prefs if "prefs" in path else {"BackendState": state, "Peer": PEERS}
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(said).encode())


class Played:
    """Instead of the prober: it sends nothing, samples are given by hand."""

    behind_s = overdue_s = 0.0

    def __init__(self, sink: Callable[[Sample], None], **more: Any) -> None:
        self.sink, self.notice = sink, cast("Callable[[Notice], None]", more["tell"])
        self.probes: tuple[Probe, ...] = ()
        self.reaches = True

    def update(self, probes: Iterable[Probe]) -> None:
        self.probes = tuple(probes)

    def set_pace(self, path: str, pace: str) -> None:
        pass

    def set_paces(self, *, fast_s: float, slow_s: float) -> None:
        pass

    def close(self) -> None:
        pass

    async def ask(self, probe: Probe) -> Sample:
        return self.sample(probe.path.key, boot_s(), "" if self.reaches else "timeout")

    @staticmethod
    def sample(path: str, sent_s: float, error: str = "") -> Sample:
        return Sample(path, "icmp", sent_s, None if error else 0.01, error)

    def feed(self, count: int, error: str = "", *, paths: Iterable[str] = PATHS, end_s: float = 0.0) -> None:
        """So many outcomes of each path, half a second apart, the last one now."""
        end_s = end_s or boot_s()
        for number in range(count):
            for path in paths:
                self.sink(self.sample(path, end_s - (count - 1 - number) * 0.5, error))


Body = Callable[[Monitor, Daemon, Played], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Monitor]:
    monkeypatch.setattr(tailscaled_module, "_REQUEST_S", 0.5)
    monkeypatch.setattr(tailscaled_module, "_AGAIN_S", 0.05)
    monkeypatch.setattr("tsstack.monitor.actuator.free_flows", AsyncMock(return_value=0))

    def start(body: Body, otherwise: str = "block", failover: str = "true", **hands: Any) -> Monitor:
        file = tmp_path / "tsstack.yaml"
        file.write_text(FILE % (otherwise, failover))
        daemon = Daemon(tmp_path / "ts.sock")

        async def main() -> Monitor:
            given = Hands(LocalApi(tmp_path / "ts.sock"), prober=cast("Any", Played), **hands)
            monitor = Monitor(read_settings(file), given)
            played = cast("Played", monitor.prober)
            try:
                async with asyncio.timeout(20):
                    await until(lambda: exit_of(monitor).actual is not None)
                    # The clock of the evidence: what is fed below was sent long after the first answer.
                    monitor._evidence.blind_until_s -= 60
                    monitor._egress._ways = [(at_s - 60, node) for at_s, node in monitor._egress._ways]
                    await body(monitor, daemon, played)
            finally:
                monitor.close()
                daemon.close()
            return monitor

        return asyncio.run(main())

    return start


async def until(happened: Callable[[], object]) -> None:
    while not happened():
        await asyncio.sleep(0.01)


def exit_of(monitor: Monitor) -> Any:
    return monitor.exit_status()


def codes(monitor: Monitor) -> list[str]:
    return [event.code for event in monitor.listeners.recent]


def level(monitor: Monitor, path: str) -> str:
    return monitor._book.verdict(path, boot_s()).level


def test_a_hang_of_tailscaled_is_no_evidence_against_the_nodes_not_even_after_it(
    run: Callable[..., Monitor],
) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        direct = "direct:icmp:192.0.2.1"
        now_s = boot_s()
        played.feed(10, end_s=now_s - 6)
        daemon.hung = True
        played.feed(12, "timeout", end_s=now_s)
        played.feed(12, paths=[direct], end_s=now_s)
        await until(lambda: exit_of(monitor).actual is None)
        assert level(monitor, PATHS[0]) == "unknown"
        played.feed(6, "timeout", end_s=boot_s())
        hung_s = boot_s()
        daemon.hung = False
        await until(lambda: exit_of(monitor).actual is not None)
        for _ in range(8):  # those that were under way when it fell silent are known late
            played.feed(8, "timeout", end_s=hung_s)
            played.feed(3, paths=[direct])
            await asyncio.sleep(0.05)
        assert level(monitor, PATHS[0]) == "unknown"
        egress = monitor._egress.verdict("exit-a", boot_s())
        assert egress is not None and egress.level == "unknown"
        await asyncio.sleep(0.7)
        assert daemon.patches == [] and exit_of(monitor).at == "exit-a"
        assert not {"direct", "moved"} & {*codes(monitor)}
        played.feed(3)
        assert level(monitor, PATHS[0]) == "good"  # fresh evidence counts
        assert monitor._book.verdict(direct, boot_s()).level == "good"  # it needs no tailscaled

    run(body, "direct")


def test_a_hang_of_tailscaled_is_told_before_anything_is_told_against_a_path(
    run: Callable[..., Monitor],
) -> None:
    """Its answer is awaited, longer than the paths' own silence lasts."""

    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        played.feed(10, end_s=boot_s() - 6)
        await asyncio.sleep(0.1)
        monitor._tailscaled.answered_s = boot_s() - 60
        daemon.hung = True
        played.feed(12, "timeout")
        assert level(monitor, PATHS[0]) == "dead"
        await asyncio.sleep(0.2)
        assert {each.level for each in monitor.snapshot().paths} == {"good"}  # nor is it shown
        await until(lambda: "no-daemon" in codes(monitor))
        assert not [code for code in codes(monitor) if code.startswith("path-")]

    run(body)


def test_what_tailscaled_does_not_name_just_after_its_start_is_neither_left_nor_blocked(
    run: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        played.feed(10)
        monkeypatch.setitem(globals(), "PEERS", {})  # no network map yet
        daemon.state = 0
        daemon.tell(State=0)
        await until(lambda: exit_of(monitor).actual is None)
        await asyncio.sleep(0.3)  # the peers are read, and there are none
        daemon.state = 6
        daemon.tell(State=6)
        await until(lambda: exit_of(monitor).actual is not None)
        await asyncio.sleep(0.7)
        assert not {"blocked", "moved", "path-dead"} & {*codes(monitor)}
        assert not exit_of(monitor).blocked and daemon.patches == []
        # What it goes on to say is believed.
        watched = monitor._tailscaled
        watched.seen = replace(watched.seen, told_s=boot_s() - 60)
        await until(lambda: exit_of(monitor).blocked)

    run(body)


def test_a_slow_answer_of_tailscaled_shows_that_it_hung(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        played.feed(8, end_s=boot_s() - 4)
        daemon.hung = True
        played.feed(4, "timeout")
        await until(lambda: level(monitor, PATHS[0]) == "suspect")
        await asyncio.sleep(0.3)
        daemon.hung = False
        await asyncio.sleep(0.2)
        assert level(monitor, PATHS[0]) == "unknown"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tailscaled_module, "_HUNG_S", 0.2)
        patch.setattr(tailscaled_module, "_REQUEST_S", 5.0)
        run(body)


def test_a_decision_to_block_waits_until_tailscaled_has_answered(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        played.feed(10, end_s=boot_s() - 6)
        monitor._tailscaled.answered_s = boot_s() - 60
        daemon.hung = True
        played.feed(12, "timeout")
        assert level(monitor, PATHS[0]) == "dead"
        await until(lambda: exit_of(monitor).actual is None)
        assert "no-daemon" in codes(monitor) and "blocked" not in codes(monitor)
        assert not exit_of(monitor).blocked

    run(body)


def test_what_is_dead_while_tailscaled_answers_is_left_at_once(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        played.feed(22, paths=PATHS[1:2])
        played.feed(10, end_s=boot_s() - 6, paths=PATHS[:1])
        monitor._tailscaled.answered_s = boot_s() - 60
        begun_s = boot_s()
        played.feed(12, "timeout", paths=PATHS[:1])
        await until(lambda: daemon.patches)
        assert daemon.patches == [{"ExitNodeID": "22"}] and boot_s() - begun_s < 1
        await until(lambda: exit_of(monitor).at == "exit-b" and not exit_of(monitor).moving)

    run(body)


@pytest.mark.parametrize(
    "error",
    [
        "no permission for ICMP",
        "tailscaled does not answer",
        "tailscaled's socket is not permitted",
        "too many open files",
        "no interface tailscale0",
        "no buffer space",
    ],
)
def test_what_fails_on_this_host_says_nothing_of_a_path(run: Callable[..., Monitor], error: str) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        now_s = boot_s()
        played.feed(10, end_s=now_s - 13)
        played.feed(24, error, end_s=now_s)
        assert {level(monitor, path) for path in PATHS} == {"unknown"}
        snapshot = monitor.snapshot()
        (status,) = [each for each in snapshot.paths if each.key == PATHS[0]]
        assert (status.error, status.windows[1].lost, snapshot.probes_lost) == (error, 0, 0)

    run(body)


def test_a_socket_that_was_moved_away_is_noticed_though_the_bus_still_speaks(
    run: Callable[..., Monitor], tmp_path: Path
) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        (tmp_path / "ts.sock").rename(tmp_path / "away")
        played.notice(Notice("tailscaled", "tailscaled does not answer"))
        await until(lambda: exit_of(monitor).actual is None)
        await until(lambda: [each.about for each in monitor.snapshot().troubles] == ["tailscaled"])

    run(body)


def test_a_tailscale_that_is_down_is_said_to_be_down(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        daemon.state = 4
        daemon.tell(State=4)
        await until(lambda: "no-daemon" in codes(monitor))
        (told,) = [event.text for event in monitor.listeners.recent if event.code == "no-daemon"]
        assert "Stopped" in told and "does not answer" not in told
        (trouble,) = monitor.snapshot().troubles
        assert "Stopped" in trouble.message and trouble.hint == "tailscale up"

    run(body)


def test_a_proof_that_this_host_cannot_make_leaves_things_as_they_are(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        async def ask(probe: Probe) -> Sample:
            return played.sample(probe.path.key, boot_s(), "too many open files")

        played.ask = ask  # type: ignore[method-assign]
        monitor.choose("exit-b")
        monitor.choose(None)
        monitor.choose("exit-b")
        await until(lambda: daemon.patches)
        await until(lambda: not exit_of(monitor).moving)
        assert exit_of(monitor).at == "exit-b"
        assert exit_of(monitor).candidates[1].barred_s == 0

    run(body)


def test_a_proof_under_way_when_tailscaled_hangs_is_made_again(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        played.reaches = False
        monitor.choose("exit-b")
        await until(lambda: daemon.patches)
        daemon.hung = True
        monitor._tailscaled.doubt()
        await until(lambda: exit_of(monitor).actual is None)
        await asyncio.sleep(5)
        daemon.hung = False
        played.reaches = True
        await until(lambda: exit_of(monitor).actual == "exit-b" and not exit_of(monitor).moving)
        assert "proven" in codes(monitor) and "unproven" not in codes(monitor)

    run(body)


def test_a_choice_by_hand_says_what_keeps_it_from_being_done(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        monitor.maintain(True)
        assert "maintenance" in monitor.choose("EXIT-B")
        assert exit_of(monitor).manual == "exit-b" and daemon.patches == []
        monitor.maintain(False)
        await until(lambda: daemon.patches)
        assert monitor.choose("exit-b") == ""
        monitor.actuator._refused_s = boot_s()
        assert "refuses" in monitor.choose("exit-b")
        daemon.state = 4
        daemon.tell(State=4)
        await until(lambda: exit_of(monitor).actual is None)
        assert "until tailscaled answers" in monitor.choose("exit-a")

    run(body)


def test_a_choice_by_hand_is_refused_where_the_monitor_changes_nothing(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        with pytest.raises(ValueError, match="failover: false"):
            monitor.choose("exit-b")
        assert exit_of(monitor).manual is None

    run(body, failover="false")


def test_what_a_switch_sets_is_neither_drift_nor_undone(run: Callable[..., Monitor]) -> None:
    switching = [True]

    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        daemon.prefs = {"ExitNodeID": ""}
        daemon.tell(Prefs=daemon.prefs)
        await until(lambda: exit_of(monitor).actual == "" or monitor._tailscaled.seen.actual == "")
        await asyncio.sleep(0.7)
        assert daemon.patches == [] and not {"drift", "repaired"} & {*codes(monitor)}
        switching[0] = False
        await until(lambda: daemon.patches)
        assert daemon.patches == [{"ExitNodeID": "11"}] and "repaired" in codes(monitor)

    run(body, is_switching=lambda: switching[0])


def test_routes_are_left_alone_while_a_switch_is_at_work(run: Callable[..., Monitor]) -> None:
    switching = [True]

    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        monitor._withdrawal.wanted = lambda advertised: ("10.1.0.0/16",)  # type: ignore[method-assign]
        await asyncio.sleep(1.3)
        assert daemon.patches == []
        switching[0] = False
        await until(lambda: daemon.patches)
        assert daemon.patches[0] == {"AdvertiseRoutes": ["10.1.0.0/16"]}

    run(body, is_switching=lambda: switching[0])


def test_a_node_that_becomes_suspect_makes_tailscaled_doubted(run: Callable[..., Monitor]) -> None:
    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        played.feed(8, end_s=boot_s() - 2)
        await asyncio.sleep(0.1)
        asked_s = monitor._tailscaled.answered_s
        played.feed(3, "timeout", paths=PATHS[1:2])  # not the one in use: nothing is decided of it
        await until(lambda: monitor._tailscaled.answered_s > asked_s)
        assert level(monitor, PATHS[1]) == "suspect"

    run(body)


def test_targets_are_asked_by_the_uplink_once_it_is_in_use_and_a_new_stay_is_judged_afresh(
    run: Callable[..., Monitor],
) -> None:
    def ways(played: Played) -> dict[str, str]:
        return {probe.path.key: probe.path.interface for probe in played.probes}

    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        target = PATHS[2]
        assert ways(played)[target] == "tailscale0" and "direct:icmp:192.0.2.1" in ways(played)
        played.feed(12, "timeout", paths=[target])
        before = monitor._book.entries[target].judge
        monitor.choose("")
        await until(lambda: daemon.patches == [{"ExitNodeID": ""}])
        await until(lambda: ways(played)[target] == "eth0")
        assert "direct:icmp:192.0.2.1" not in ways(played)
        await until(lambda: monitor._book.entries[target].judge is not before)
        assert level(monitor, target) == "unknown"

    run(body, "direct")


def test_a_page_that_answers_keeps_the_host_where_it_is_while_the_light_target_is_silent(
    run: Callable[..., Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FILE", FILE.replace("1}]", '1}, {https: "https://example.org/"}]'))
    page = "target:https:https://example.org/"

    async def body(monitor: Monitor, daemon: Daemon, played: Played) -> None:
        assert page in monitor._book.entries
        now_s = boot_s()
        played.feed(10, paths=[*PATHS, page], end_s=now_s - 5.5)
        played.feed(10, paths=PATHS[:2], end_s=now_s)
        played.feed(3, "timeout", paths=PATHS[2:], end_s=now_s - 4)
        await asyncio.sleep(0.05)  # it is suspect, and the page is called
        played.feed(1, paths=[page])
        played.feed(8, "timeout", paths=PATHS[2:], end_s=now_s)
        assert level(monitor, PATHS[2]) == "dead"
        for _ in range(20):
            await asyncio.sleep(0.05)
            played.feed(1, paths=[*PATHS[:2], page])
            assert page in monitor._paces.quick
        assert daemon.patches == [] and not {"moved", "blocked"} & {*codes(monitor)}

    run(body)
