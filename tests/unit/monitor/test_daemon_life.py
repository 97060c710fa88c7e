"""The daemon's life: reloads that fail, faults of its own, the watchdog, the generation in force."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tsstack.errors import TsstackError
from tsstack.model.facts import Paths
from tsstack.monitor import life as life_module
from tsstack.monitor.life import Home, Life
from tsstack.monitor.notify import Notify
from tsstack.monitor.reading import read_settings
from tsstack.monitor.settings import Settings


class Fault(Exception):
    """What nobody foresaw."""


class Told(Notify):
    """Notes what systemd is told."""

    def __init__(self) -> None:
        super().__init__({})
        self.words: list[str] = []

    def _send(self, text: str) -> None:
        self.words.append(text.split("\n", maxsplit=1)[0])


Body = Callable[[Life, Told], Awaitable[None]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(life_module, "_LOOK_S", 0.02)
    file = tmp_path / "tsstack.yaml"
    file.write_text("host: {name: h, tailnet: t.test}\nmonitor: {targets: [{icmp: 127.0.0.1}]}\n")
    (tmp_path / "state").mkdir()
    return Home(
        file, Paths(state=tmp_path / "state", tailscale_socket=tmp_path / "none"), tmp_path / "m.sock"
    )


def live(home: Home, body: Body) -> Told:
    """One life, until `body` is done or it ends by itself."""
    told = Told()

    async def main() -> None:
        life = Life(home, read_settings(home.file), told)
        living = asyncio.create_task(life.live())
        try:
            async with asyncio.timeout(15):
                await until(lambda: "READY=1" in told.words)
                await body(life, told)
                life._ending.set()
                await living
        finally:
            living.cancel()

    asyncio.run(main())
    return told


async def until(happened: Callable[[], object]) -> None:
    while not happened():
        await asyncio.sleep(0.01)


def test_a_fault_in_a_callback_ends_the_daemon(home: Home) -> None:
    async def body(life: Life, told: Told) -> None:
        def fail() -> None:
            raise Fault

        asyncio.get_running_loop().call_soon(fail)
        await until(life._ending.is_set)

    with pytest.raises(Fault):
        live(home, body)


def test_a_reload_that_fails_in_a_way_that_nobody_foresaw_ends_the_daemon(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path, source: bytes | None = None) -> Settings:
        raise Fault

    async def body(life: Life, told: Told) -> None:
        monkeypatch.setattr(life_module, "read_apart", fail)
        life._reload_soon()
        await until(life._ending.is_set)

    with pytest.raises(Fault):
        live(home, body)


@pytest.mark.parametrize("error", [TsstackError("no presets"), OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_read_is_a_trouble_and_the_old_one_stays(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(file: Path, source: bytes | None = None) -> Settings:
        raise error

    async def body(life: Life, told: Told) -> None:
        monkeypatch.setattr(life_module, "read_apart", fail)
        assert await life.reload() == str(error)
        assert [each.about for each in life._monitor.troubles.standing()] == ["file"]
        assert told.words.count("READY=1") == 2

    live(home, body)


def test_each_fault_of_the_file_is_told(home: Home) -> None:
    async def body(life: Life, told: Told) -> None:
        good = home.file.read_bytes()

        def said() -> list[str]:
            events = life._monitor.listeners.recent
            return [each.text for each in events if each.about == "file" and each.code == "trouble"]

        home.file.unlink()
        await life.reload()
        await until(lambda: len(said()) == 1)
        home.file.write_bytes(b"\x00\xff\x00")
        await life.reload()
        await until(lambda: len(said()) == 2)
        home.file.unlink()
        home.file.mkdir()
        await life.reload()
        await until(lambda: len(said()) == 3)
        home.file.rmdir()
        home.file.write_bytes(good)
        assert await life.reload() == ""
        await until(lambda: len(said()) == 4)
        assert said()[3].removeprefix("over: ") in said()[2]

    live(home, body)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, reads = threading.Event(), []

    def read(file: Path, source: bytes | None = None) -> Settings:
        reads.append(file)
        may_go.wait(10)
        return read_settings(file, source)

    async def body(life: Life, told: Told) -> None:
        monkeypatch.setattr(life_module, "read_apart", read)
        life._reload_soon()
        await until(lambda: reads)
        life._reload_soon()
        life._reload_soon()
        may_go.set()
        await until(lambda: told.words.count("READY=1") == 3)
        assert len(reads) == 2

    live(home, body)


@pytest.mark.parametrize("by_generation", [True, False])
def test_a_reload_during_any_other_answers_for_what_is_live_when_it_was_asked_for(
    home: Home, monkeypatch: pytest.MonkeyPatch, by_generation: bool
) -> None:
    may_go, reads = threading.Event(), []

    def read(file: Path, source: bytes | None = None) -> Settings:
        if "montor" in file.read_text():
            reads.append(file)
            raise TsstackError("no such section: montor")
        settings = read_settings(file, source)
        reads.append(file)
        may_go.wait(10)
        return settings

    async def body(life: Life, told: Told) -> None:
        monkeypatch.setattr(life_module, "read_apart", read)
        if by_generation:
            (home.paths.state / "current").symlink_to("generations/2")
        else:
            first = asyncio.create_task(life.reload())
        await until(lambda: reads)
        home.file.write_text("montor: {}\n")
        life._reload_soon()  # a SIGHUP
        asked = asyncio.create_task(life.reload())
        await asyncio.sleep(0.05)
        may_go.set()
        assert "montor" in await asked
        assert by_generation or await first == ""
        assert len(reads) == 2 and not life._is_reloading()

    live(home, body)


def test_a_connection_that_cannot_be_taken_for_want_of_descriptors_is_told_and_no_end(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_module, "_SCARCE_S", 0.2)

    def abouts(life: Life) -> set[str]:
        return {each.about for each in life._monitor.troubles.standing()}

    async def body(life: Life, told: Told) -> None:
        loop = asyncio.get_running_loop()
        scarce = OSError(errno.EMFILE, "Too many open files")
        for _ in range(3):
            loop.call_exception_handler({"message": "out of resource", "exception": scarce, "socket": None})
        assert "socket" in abouts(life) and not life._ending.is_set()
        await until(lambda: "socket" not in abouts(life))

    live(home, body)


def test_the_watchdog_is_fed_only_while_probes_go_out(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(life: Life, told: Told) -> None:
        await until(lambda: "WATCHDOG=1" in told.words)
        monkeypatch.setattr(type(life._monitor.prober), "overdue_s", 11.0)
        await asyncio.sleep(0.1)
        told.words.clear()
        await until(lambda: told.words.count("STATUS=1 paths") > 3)
        assert "WATCHDOG=1" not in told.words

    live(home, body)


@pytest.mark.parametrize("file", ["good", "faulty", "gone"])
def test_a_host_that_was_brought_back_to_nothing_is_only_watched(home: Home, file: str) -> None:
    async def body(life: Life, told: Told) -> None:
        assert life._monitor.settings.why_idle == ""
        if file == "faulty":
            home.file.write_text("montor: {}\n")
        elif file == "gone":
            home.file.unlink()
        (home.paths.state / "current").symlink_to("generations/0")
        await until(lambda: life._monitor.settings.rests)
        assert not life._monitor.settings.failover
        assert "generation 0 is live" in life._monitor.settings.why_idle
        assert "generation" in {each.about for each in life._monitor.troubles.standing()}
        (home.paths.state / "current").unlink()
        (home.paths.state / "current").symlink_to("generations/1")
        await until(lambda: not life._monitor.settings.rests)
        assert life._monitor.settings.failover

    live(home, body)


def test_a_switch_is_at_work_until_the_file_of_its_generation_is_in_force(home: Home) -> None:
    async def body(life: Life, told: Told) -> None:
        assert not life._is_changing()
        (home.paths.state / "current").symlink_to("generations/2")
        assert life._is_changing()
        await until(lambda: not life._is_changing())
        assert life._generation == "generations/2"

    live(home, body)


def test_what_is_live_is_watched_whatever_the_file_says_by_now(home: Home) -> None:
    """A file that a switch refused, or that was undone, must not move the exit node."""
    live_text = home.file.read_text()
    folder = home.paths.state / "generations" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"source": str(home.file)}))
    (folder / "source.yaml").write_text(live_text)
    (home.paths.state / "current").symlink_to("generations/1")
    home.file.write_text(live_text + "tailscale: {exit_node: {use: [exit-z], otherwise: direct}}\n")

    async def body(life: Life, told: Told) -> None:
        said = [each.text for each in life._monitor.listeners.recent]
        assert any("differs from the live generation" in each for each in said)
        assert await life.reload() == ""
        assert life._monitor.settings.policy is None
        home.file.write_text("montor: {}\n")
        assert await life.reload() == "", "what nobody has switched to is not judged here"
        (folder / "source.yaml").write_text(
            live_text + "tailscale: {exit_node: {use: [exit-a], otherwise: direct}}\n"
        )
        await life.reload()
        assert life._monitor.settings.policy is not None
        assert life._monitor.settings.policy.use == ("exit-a",)

    live(home, body)


def test_a_switch_to_another_file_is_followed(home: Home) -> None:
    """The generation is the host's: what it no longer has is watched no more, whatever -c once said."""
    text = home.file.read_text()
    folder = home.paths.state / "generations" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"source": "/etc/tsstack/other.yaml"}))
    (folder / "source.yaml").write_text(text)
    home.file.write_text(text + "tailscale: {exit_node: {use: [exit-z], otherwise: direct}}\n")

    async def body(life: Life, told: Told) -> None:
        assert life._monitor.settings.policy is not None
        (home.paths.state / "current").symlink_to("generations/1")
        await until(lambda: life._monitor.settings.policy is None)
        said = [each.text for each in life._monitor.listeners.recent]
        assert any("was made from /etc/tsstack/other.yaml" in each for each in said)

    live(home, body)


def test_as_many_paths_are_told_as_the_state_has_though_a_node_has_two_probes(home: Home) -> None:
    exits = "tailscale: {exit_node: {use: [exit-a, exit-b], otherwise: block}}\n"
    home.file.write_text(home.file.read_text() + exits)

    async def body(life: Life, told: Told) -> None:
        monitor = life._monitor
        (said,) = [each.text for each in monitor.listeners.recent if each.text.startswith("watches ")]
        assert said == f"watches {len(monitor.snapshot().paths)} paths"
        assert len(monitor.prober.probes) > len(monitor.snapshot().paths)

    live(home, body)
