"""The feed against real sockets: who is away, who comes back, and that nobody waits for anybody."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from status_bed import PREFS, TAILSCALED, a_path, a_state, answering, as_http
from tui_bed import EVENTS, event

from tsstack.parts.firewall.kernel_log import Reading
from tsstack.status.gather import Sources
from tsstack.tui.cells import Signs, lay_out, text_of
from tsstack.tui.feed import Feed, Places
from tsstack.tui.views.bars import banner
from tsstack.tui.views.generations import generation_details, generations


def places(folder: Path) -> Places:
    names = {name: str(folder / name) for name in ("state", "run", "tailscaled", "monitor")}
    return Places(Sources(**names, timeout_s=1.0), folder / "history.db")


@contextmanager
def running(folder: Path, every_s: float = 0.05) -> Iterator[Feed]:
    feed = Feed(places(folder), every_s=every_s)
    feed.start()
    try:
        yield feed
    finally:
        feed.stop()


def wait_for(holds: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 8
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def codes(feed: Feed) -> list[str]:
    return [each["code"] for each in feed.latest.status["warnings"]] if feed.latest else []


def tailscaled(asked: bytes) -> bytes:
    return as_http(PREFS if b"/prefs " in asked else TAILSCALED)


class FakeMonitor:
    """The monitor's socket: state, events, subscribe."""

    def __init__(self, path: Path) -> None:
        self.events = [dict(each) for each in EVENTS]
        self._links: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._path = path
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            with link, link.makefile("rb") as lines:
                for line in lines:
                    do = json.loads(line)["do"]
                    result: Any = {"subscribed": True}
                    if do == "state":
                        result = a_state(a_path("exit:exit-a"))
                    elif do == "events":
                        result = list(self.events)
                    link.sendall(
                        json.dumps({"v": 1, "id": None, "ok": True, "result": result}).encode() + b"\n"
                    )
                    if do == "subscribe":
                        self._links.append(link)
        except OSError:
            return

    def happen(self, each: dict[str, Any], *, silently: bool = False) -> None:
        self.events.append(each)
        for link in self._links if not silently else ():
            link.sendall(json.dumps({"v": 1, "event": each}).encode() + b"\n")

    def subscribed(self) -> int:
        return len(self._links)

    def end(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._server.close()
        self._path.unlink()
        for link in self._links:
            link.shutdown(socket.SHUT_RDWR)


def test_frames_come_at_their_pace_and_tailscaled_is_asked_once_a_second(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def counted(request: bytes) -> bytes:
        asked.append(request)
        return tailscaled(request)

    with answering(tmp_path / "tailscaled", counted), running(tmp_path) as feed:
        frames = []
        feed.on_news = lambda: frames.append(feed.latest)
        wait_for(lambda: len(frames) > 12, "a dozen frames")
        assert len(asked) <= 4, "status and prefs, once a second"
        assert feed.latest is not None
        assert [peer["name"] for peer in feed.latest.status["peers"]] == ["exit-a", "phone", "attic"]
        assert len({id(frame) for frame in frames}) > 3


def test_a_tailscaled_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "tailscaled"))
        silent.listen()
        with running(tmp_path) as feed:
            start = time.monotonic()
            wait_for(lambda: feed.latest, "a frame")
            assert time.monotonic() - start < 0.9
            assert feed.latest is not None
            assert "tailscaled has not answered yet" in feed.latest.away["tailscaled"].why
            assert "TS701" not in codes(feed), "nobody knows that yet"
            wait_for(lambda: "did not answer within" in feed.latest.away["tailscaled"].why, "its time is up")
            assert "TS701" in codes(feed)


def test_who_goes_away_is_told_with_its_last_words_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path) as feed:
        with answering(tmp_path / "tailscaled", tailscaled):
            wait_for(lambda: feed.latest and feed.latest.status["peers"], "peers")
            assert not feed.latest.away
        (tmp_path / "tailscaled").unlink()
        wait_for(lambda: "tailscaled" in feed.latest.away, "it is away")
        assert feed.latest.status["peers"], "its last words stay"
        since = feed.latest.away["tailscaled"].since
        time.sleep(0.2)
        assert feed.latest.away["tailscaled"].since == since
        with answering(tmp_path / "tailscaled", tailscaled):
            wait_for(lambda: not feed.latest.away, "it is back")


def test_an_answer_that_nobody_has_foreseen_is_told_and_asked_again(tmp_path: Path) -> None:
    broken = True

    def strange(asked: bytes) -> bytes:
        answer = {"v": 1, "id": None, "ok": True, "result": {"paths": [7]} if broken else a_state()}
        return json.dumps(answer).encode() + b"\n"

    with answering(tmp_path / "monitor", strange), running(tmp_path) as feed:
        wait_for(lambda: feed.failed, "it fails")
        told = text_of(banner(feed.latest, Signs(unicode=True), 80, time.time(), feed.failed)[0])
        assert told.startswith("! asking went wrong: TypeError")
        broken = False
        wait_for(lambda: feed.latest and not feed.failed, "it is asked again")


def test_events_are_those_of_the_monitor_live_and_none_is_missed_or_doubled(tmp_path: Path) -> None:
    monitor = FakeMonitor(tmp_path / "monitor")
    try:
        with running(tmp_path) as feed:
            wait_for(lambda: len(feed.events) == len(EVENTS) and monitor.subscribed(), "what was before")
            monitor.happen(event(1.0, "x", "info", "a", "between the two questions"), silently=True)
            monitor.happen(event(2.0, "y", "info", "b", "live"))
            wait_for(lambda: len(feed.events) == len(EVENTS) + 2, "both")
            assert feed.events_from == ""
            wait_for(lambda: feed.latest and feed.latest.status["monitor"]["state"], "the state")
            monitor.end()
            wait_for(lambda: feed.events_from, "it is away")
            assert len(feed.events) == len(EVENTS) + 2, "what it told stays"
            wait_for(lambda: "monitor" in feed.latest.away, "so is its state")
            assert feed.latest.status["monitor"]["state"]["paths"]
    finally:
        if monitor._server.fileno() >= 0:
            monitor.end()


def test_without_a_monitor_the_events_are_those_of_the_history(tmp_path: Path) -> None:
    from tsstack.monitor.history import History
    from tsstack.monitor.snapshot import Event

    history = History(tmp_path / "history.db")
    history.start()
    history.on_event(Event(time.time(), "moved", "warning", "exit-node", "moved to exit-b", {}))
    history.close()
    with running(tmp_path) as feed:
        wait_for(lambda: feed.events, "the history's events")
        assert [each["text"] for each in feed.events] == ["moved to exit-b"]
        assert "no monitor listens" in feed.events_from


def test_the_kernel_s_log_is_read_while_somebody_looks_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = [], threading.Event()

    def read(since_unix_s: float) -> Reading:
        asked.append(since_unix_s)
        go_on.wait(8)
        return Reading((), "kmsg", since_unix_s, "the kernel's log may not be read by this user")

    monkeypatch.setattr("tsstack.parts.firewall.kernel_log.read_drops", read)
    with running(tmp_path) as feed:
        wait_for(lambda: feed.latest, "a frame")
        assert asked == []
        feed.wants_drops.set()
        wait_for(lambda: asked, "a look into the log")
        before = feed.latest
        wait_for(lambda: feed.latest is not before, "a frame meanwhile")
        assert feed.latest.logged is None
        go_on.set()
        wait_for(lambda: feed.latest.logged, "what is logged")
        assert "may not be read" in feed.latest.logged.reading.trouble


def test_generations_are_read_when_somebody_looks(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "generations" / "3"
    folder.mkdir(parents=True)
    manifest = {"number": 3, "created_unix_s": 5.0, "version": "0.1.0", "source": "a.yaml", "summary": ["x"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with running(tmp_path) as feed:
        wait_for(lambda: feed.latest, "a frame")
        assert feed.latest.generations is None
        feed.wants_generations.set()
        wait_for(lambda: feed.latest.generations, "generations")
        assert feed.latest.generations[0] == (3, 5.0, "a.yaml", ("x",), "")


def test_a_damaged_manifest_hides_no_other_generation(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "generations"
    for number in (1, 2, 3):
        (folder / str(number)).mkdir(parents=True)
        manifest = {"number": number, "created_unix_s": 5.0, "version": "", "source": "a.yaml", "summary": []}
        (folder / str(number) / "manifest.json").write_text(json.dumps(manifest))
    (folder / "1" / "manifest.json").write_text("{")
    feed = Feed(places(tmp_path))
    feed.wants_generations.set()
    frame = feed.take()
    table = generations(frame, Signs(unicode=True))
    assert list(table.keys) == ["3", "2", "1"]
    widths = lay_out(table.columns, 120)
    assert "is damaged" in text_of(table.cells(2, widths)[4])
    assert "is damaged" in text_of(generation_details(frame, Signs(unicode=True), "1")[1])
    manifest = {"number": 1, "created_unix_s": 5.0, "version": "", "source": "b.yaml", "summary": ["mended"]}
    (folder / "1" / "manifest.json").write_text(json.dumps(manifest))
    assert feed.take().generations[2] == (1, 5.0, "b.yaml", ("mended",), ""), "what is mended is read again"


def test_generations_that_cannot_be_listed_are_not_told_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state" / "generations").mkdir(parents=True)

    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    feed = Feed(places(tmp_path))
    feed.wants_generations.set()
    table = generations(feed.take(), Signs(unicode=True))
    assert table.empty.endswith("generations cannot be read: permission denied")


def test_a_program_that_shows_the_dashboard_imports_textual_and_no_other_does() -> None:
    import subprocess
    import sys

    words = "import sys; import tsstack.cli.main; import tsstack.status.gather; import tsstack.tui.feed; "
    words += "import tsstack.cli.top; print([name for name in sys.modules if name == 'textual'])"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--theme", "pink"], []])
def test_the_verb_refuses_what_it_cannot_show(words: list[str]) -> None:
    from click.testing import CliRunner

    from tsstack.cli.top import top
    from tsstack.errors import UsageError

    done = CliRunner().invoke(top, words)
    assert isinstance(done.exception, UsageError)
    assert "needs a terminal" in done.exception.message
