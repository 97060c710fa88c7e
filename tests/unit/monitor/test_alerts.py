"""Alerts reach real receivers; one that fails, hangs, is absent or talks too much holds up nobody."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_clock import FakeClock

from tsstack.monitor import alert_channel
from tsstack.monitor.alert_channel import Address, Alert, Program, channels_of
from tsstack.monitor.alert_sender import reason_of
from tsstack.monitor.alerts import WAITING_MOST, Alerts
from tsstack.monitor.redaction import redacted
from tsstack.monitor.snapshot import Event
from tsstack.system import command

TOKEN = "tk_s3cr3tt0ken"  # noqa: S105


class Receiver:
    """An HTTP server on loopback that remembers what it was sent, and answers with `status`."""

    def __init__(self) -> None:
        receiver = self
        self.status, self.got = 200, []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver.got.append((self.path, json.loads(body), dict(self.headers)))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def nobody() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def begins(about: str = "exit:a", text: str = "no answer for 6.2 s", at: float = 1_800_000_000.0) -> Event:
    return Event(at, "path-dead", "critical", about, text, {"loss": 1.0})


def ends(about: str = "exit:a") -> Event:
    return Event(1_800_000_060.0, "path-good", "info", about, "is good again", {}, over=True)


def wait_until(done, what: str, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_a_notification_arrives_with_its_numbers_and_its_recovery(receiver: Receiver) -> None:
    alerts = Alerts([f"json://127.0.0.1:{receiver.port}/hook"], "gw1")
    alerts.on_event(begins())
    alerts.on_event(ends())
    alerts.on_event(ends("exit:b"))
    wait_until(lambda: not alerts.waiting(), "sent")
    alerts.close()
    (_, first, _), (_, second, _) = receiver.got
    assert (first["title"], first["type"]) == ("gw1: exit:a critical", "failure")
    assert first["message"].startswith("no answer for 6.2 s\n2027-01-15 ")
    assert first["message"].endswith("[path-dead]")
    assert (second["title"], second["type"]) == ("gw1: exit:a recovered", "success")
    (count,) = alerts.counts().values()
    assert (count.sent, count.failed, count.lost) == (2, 0, 0)
    assert alerts.troubles() == ()


def test_ntfy_gets_its_own_format(receiver: Receiver) -> None:
    (channel,) = channels_of([f"ntfy://127.0.0.1:{receiver.port}/topic"])
    assert channel.send(Alert("gw1", begins())).ok
    ((_, told, _),) = receiver.got
    assert (told["topic"], told["title"]) == ("topic", "gw1: exit:a critical")


def test_a_program_gets_json_on_its_input_and_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", TOKEN)
    program = script(
        tmp_path, "page", f'cat > {tmp_path}/got; env > {tmp_path}/env; echo "$@" > {tmp_path}/argv'
    )
    alerts = Alerts(
        [
            (
                program,
                "one",
                "two words; $(x)",
            )
        ],
        "gw1",
    )
    alerts.on_event(begins("target:https:https://example.org/health?key=" + TOKEN))
    wait_until(lambda: not alerts.waiting(), "sent")
    alerts.close()
    told = json.loads((tmp_path / "got").read_text())
    assert (told["format"], told["host"]) == (1, "gw1")
    assert told["title"] == "gw1: target:https:https://example.org/health?*** critical"
    assert told["event"]["data"] == {"loss": 1.0}
    assert told["event"]["about"] == "target:https:https://example.org/health?***"
    assert TOKEN not in (tmp_path / "env").read_text()
    assert (tmp_path / "argv").read_text() == "one two words; $(x)\n"


def test_a_failing_receiver_is_said_once_retried_and_over_when_it_works(receiver: Receiver) -> None:
    receiver.status = 503
    alerts = Alerts([f"json://127.0.0.1:{receiver.port}/{TOKEN}"], "gw1", retry_s=(0.1, 0.1, 0.1, 60))
    alerts.on_event(begins())
    wait_until(lambda: len(receiver.got) >= 2, "tried again")
    (trouble,) = alerts.troubles()
    assert trouble.about == "monitor.alerts[0]"
    assert trouble.message == "alerts by monitor.alerts[0] (json) are not sent: the service answered 503"
    assert "test-alert" in trouble.hint
    assert TOKEN not in trouble.message + trouble.hint
    receiver.status = 200
    wait_until(lambda: not alerts.waiting(), "sent at last")
    assert alerts.troubles() == ()
    (count,) = alerts.counts().values()
    assert count.sent == 1
    assert count.failed >= 1
    alerts.close()


def test_what_was_given_up_is_said_with_the_next_and_has_no_recovery(receiver: Receiver) -> None:
    receiver.status = 500
    alerts = Alerts([f"json://127.0.0.1:{receiver.port}"], "gw1", retry_s=())
    alerts.on_event(begins())
    wait_until(lambda: not alerts.waiting(), "given up")
    receiver.status, receiver.got = 200, []
    alerts.on_event(ends())
    alerts.on_event(begins("exit:b"))
    wait_until(lambda: not alerts.waiting(), "sent")
    alerts.close()
    ((_, told, _),) = receiver.got
    assert told["title"] == "gw1: exit:b critical"
    assert told["message"].endswith("(1 earlier could not be sent)")


def test_a_channel_that_hangs_holds_up_no_other(
    receiver: Receiver, silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_channel, "SEND_S", 2.0)
    hangs = script(tmp_path, "hangs", "sleep 600 & wait")
    alerts = Alerts(
        [f"json://127.0.0.1:{silent}", (hangs,), f"json://127.0.0.1:{receiver.port}"], "gw1", retry_s=()
    )
    began = time.monotonic()
    for _ in range(100):
        alerts.on_event(begins())
    assert time.monotonic() - began < 0.5, "nothing is waited for"
    wait_until(lambda: len(receiver.got) == 3, "the others are told")
    wait_until(alerts.troubles, "the first is given up")
    assert "no answer" in alerts.troubles()[0].message
    alerts.close(wait_s=0)


def test_a_program_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_channel, "COMMAND_S", 0.5)
    program = script(tmp_path, "hangs", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    outcome = Program((program,), "monitor.alerts[0]").send(Alert("gw1", begins()))
    assert "did not finish within 0.5 s" in outcome.error
    child = int((tmp_path / "child").read_text())

    def gone() -> bool:
        try:
            return "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2][:3]
        except FileNotFoundError:
            return True

    wait_until(gone, "the child is killed too", 5)


def test_a_program_that_talks_without_end_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_channel, "COMMAND_S", 1.0)
    program = script(tmp_path, "talks", "exec yes 0123456789")
    outcome = Program((program,), "monitor.alerts[0]").send(Alert("gw1", begins()))
    assert "did not finish" in outcome.error
    argv = [script(tmp_path, "ends", "head -c 3000000 /dev/zero; echo last; head -c 3000000 /dev/zero >&2")]
    result = command.run_limited(argv, stdin="", timeout_s=20, most_bytes=5000)
    assert (len(result.stdout), len(result.stderr)) == (5000, 5000)
    assert result.stdout.endswith("last\n")


def test_a_program_that_leaves_something_running_is_not_waited_for(tmp_path: Path) -> None:
    program = script(tmp_path, "forks", "cat > /dev/null; sleep 20 & exit 0")
    began = time.monotonic()
    assert Program((program,), "monitor.alerts[0]").send(Alert("gw1", begins())).ok
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("echo 'no pager: https://u:pw@example.org/x?k=v' >&2; exit 3", "it ended with 3: no pager: https://***@example.org/x?***"),
        ("kill -9 $$", "it ended with signal 9"),
        ("exec < /dev/null; exit 0", ""),
    ],
)  # fmt: skip
def test_how_a_program_ended_is_told(tmp_path: Path, text: str, error: str) -> None:
    outcome = Program((script(tmp_path, "page", text),), "monitor.alerts[0]").send(Alert("gw1", begins()))
    assert outcome.error == error


def test_what_cannot_work_is_said_before_the_first_alert(tmp_path: Path) -> None:
    alerts = Alerts([f"nosuchservice://{TOKEN}", ("/nowhere/page",)], "gw1")
    wait_until(lambda: len(alerts.troubles()) == 2, "checked at the start")
    told = {each.about: each for each in alerts.troubles()}
    assert "of no service" in told["monitor.alerts[0]"].message
    assert "(nosuchservice)" in told["monitor.alerts[0]"].message
    assert "there is no such program" in told["monitor.alerts[1]"].message
    assert TOKEN not in str(told)
    alerts.close()


def test_the_test_verb_says_what_became_of_each(
    receiver: Receiver, nobody: int, silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_channel, "SEND_S", 3.0)
    entries = [
        f"json://127.0.0.1:{receiver.port}",
        f"json://127.0.0.1:{nobody}",
        f"json://127.0.0.1:{silent}",
        "json://does-not-exist.invalid",
        (script(tmp_path, "page", "exit 1"),),
    ]
    alerts = Alerts(entries, "gw1")
    told = alerts.test()
    alerts.close()
    assert [each["ok"] for each in told] == [True, False, False, False, False]
    assert told[0]["to"] == "monitor.alerts[0] (json)"
    assert told[1]["error"] == "the connection was refused"
    assert told[2]["error"].startswith("no answer")
    assert told[3]["error"] == "the server's name does not resolve"
    assert told[4]["error"] == "it ended with 1"
    assert [each[1]["type"] for each in receiver.got] == ["info"]


def test_a_token_is_in_no_process_list_and_no_environment(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a notification is under way, whoever may read /proc sees no part of its address."""
    monkeypatch.setattr(alert_channel, "SEND_S", 6.0)
    channel = Address(f"json://{TOKEN}:pass{TOKEN}@127.0.0.1:{silent}/{TOKEN}", "monitor.alerts[0]")
    said = []
    sending = threading.Thread(target=lambda: said.append(channel.send(Alert("gw1", begins()))))
    sending.start()
    seen = 0
    while sending.is_alive():
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == os.getpid() and b"alert_sender" in line:
                seen += 1
                assert TOKEN.encode() not in line
        time.sleep(0.05)
    assert seen > 3, "the process was looked at"
    assert not said[0].ok
    assert TOKEN not in str(said) + channel.to


def test_the_failure_of_a_channel_is_told_by_the_others_alone(receiver: Receiver) -> None:
    other = Receiver()
    alerts = Alerts([f"json://127.0.0.1:{receiver.port}", f"json://127.0.0.1:{other.port}"], "gw1")
    alerts.on_event(Event(1_800_000_000.0, "trouble", "warning", "monitor.alerts[0]", "not sent", {}))
    wait_until(lambda: not alerts.waiting(), "sent")
    alerts.close()
    other.close()
    assert receiver.got == []
    assert len(other.got) == 1


def test_recoveries_outlive_a_restart_and_a_reload(receiver: Receiver) -> None:
    url = f"json://127.0.0.1:{receiver.port}/{TOKEN}"
    alerts = Alerts([url], "gw1")
    alerts.on_event(begins())
    wait_until(lambda: not alerts.waiting(), "sent")
    alerts.follow([url, "json://127.0.0.1:1"], "gw2")
    saved = json.loads(json.dumps(alerts.export()))
    alerts.close()
    assert TOKEN not in json.dumps(saved)
    later = Alerts([url], "gw2", saved=saved)
    later.on_event(ends())
    later.on_event(ends("exit:b"))
    wait_until(lambda: not later.waiting(), "sent")
    later.close()
    assert [each[1]["title"] for each in receiver.got] == ["gw1: exit:a critical", "gw2: exit:a recovered"]
    Alerts([], "gw1", saved={"told": {"x": 3}}).close()


@pytest.mark.parametrize("after", [[["/bin/true"]], []])
def test_a_channel_that_was_taken_out_or_mended_tells_of_no_trouble_any_more(after: list[list[str]]) -> None:
    """What waited for it was tried once more, and its failure stood for ever."""
    alerts = Alerts([["/bin/false"]], "gw1", retry_s=(600.0,))
    for number in range(3):
        alerts.on_event(begins(f"exit:{number}"))
    wait_until(alerts.troubles, "told")
    (post,) = alerts._posts.values()
    alerts.follow(after, "gw1")
    post.join(10)
    assert alerts.troubles() == ()
    alerts.close()


def test_what_waits_for_a_channel_is_bounded(nobody: int) -> None:
    clock = FakeClock()
    alerts = Alerts([f"json://127.0.0.1:{nobody}"], "gw1", clock=clock, retry_s=(600,))
    for number in range(200):
        alerts.on_event(begins(f"target:{number}"))
        clock.sleep(120)
    assert alerts.waiting() <= WAITING_MOST
    alerts.close(wait_s=0)


def test_what_was_held_back_arrives_as_one(receiver: Receiver) -> None:
    clock = FakeClock()
    alerts = Alerts([f"json://127.0.0.1:{receiver.port}"], "gw1", clock=clock)
    for _ in range(8):
        alerts.on_event(begins())
    assert alerts.held == 5
    clock.sleep(601)
    alerts.on_snapshot(None)  # type: ignore[arg-type]
    alerts.on_event(ends())
    wait_until(lambda: not alerts.waiting(), "sent")
    alerts.close()
    titles = [each[1]["title"] for each in receiver.got]
    assert titles == ["gw1: exit:a critical"] * 3 + ["gw1: alerts critical", "gw1: exit:a recovered"]
    assert "5 more alerts were held back: exit:a 5 times" in receiver.got[3][1]["message"]


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("Failed to send ntfy notification: Unauthorized, error=401.", "the service refused with 401"),
        ("error=404.", "the service answered 404"),
        ("error=429", "the service answered 429: too many messages"),
        ("SSLError certificate verify failed: self-signed", "the server's certificate is not trusted"),
        (f"something about {TOKEN}", "the service did not take it"),
    ],
)
def test_reasons_are_our_own_words(log: str, error: str) -> None:
    assert reason_of(log)[0] == error
    assert TOKEN not in "".join(reason_of(log))


def test_addresses_in_words_lose_their_secrets() -> None:
    text = f"see https://bob:{TOKEN}@x.example/path?a={TOKEN}&b=1 and http://plain.example/x"
    assert redacted(text) == "see https://***@x.example/path?*** and http://plain.example/x"
