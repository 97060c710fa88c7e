"""Everyone who knows something is asked, and whoever does not answer is told as such."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from status_bed import PREFS, TAILSCALED, a_path, a_state, answering, as_http

from tsstack.errors import TsstackError
from tsstack.monitor.client import Client, NotRunning
from tsstack.status.expiry import validity
from tsstack.status.firewall import read_firewall
from tsstack.status.fixes import start_monitor
from tsstack.status.gather import HUNG, Heard, Sources, gather
from tsstack.status.loaded import loaded_at
from tsstack.status.proxy import read_proxy
from tsstack.status.tailnet import read_exit, read_peers, read_tailnet, read_time, silent_tailnet
from tsstack.system.bypass import Bypass

UP = read_tailnet(TAILSCALED, PREFS, ())


PAST = [{"version": 4, "interface": "eth0", "rule": 5200}]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, PAST),
        ({"age_s": 2}, []),  # a tailscaled that has just begun
        ({"exit": {"moving": True}}, []),
        ({"later": ""}, []),  # what was heard is older than the kernel's answer
        ({"later": "n3"}, []),
    ],
)
def test_what_goes_past_the_exit_node_is_asked_where_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any], expected: object
) -> None:
    asked = []

    def past(addresses: list[str]) -> list[Bypass]:
        asked.append(addresses)
        return [Bypass(4, "eth0", 5200)]

    monkeypatch.setattr("tsstack.status.gather.read_bypass", past)
    monitor = {"running": True, "wanted": True, "error": "", "state": a_state(exit=case.get("exit"))}
    heard = Heard(TAILSCALED, PREFS)
    prefs = {**PREFS, "ExitNodeID": case.get("later", "n2")}
    with answering(tmp_path / "ts.sock", lambda _: as_http(prefs)) as path:
        os.utime(path, (time.time() - case.get("age_s", 60),) * 2)
        places = Sources(state=str(tmp_path), run=str(tmp_path), tailscaled=str(path), timeout_s=1.0)
        told = gather(places, heard, monitor, table=lambda _: ({}, False))
        assert told["exit"]["bypassed"] == expected
        assert gather(places, Heard(TAILSCALED, {}), monitor)["exit"]["bypassed"] == []
    assert {*map(tuple, asked)} <= {("100.64.0.2", "fd7a:115c:a1e0::2")}
    assert gather(places, heard, monitor)["exit"]["bypassed"] == []  # tailscaled is silent by now


_BEGIN = datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC)


def certificate(end: datetime.datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wiki.test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def sources(tmp_path: Path, **more: str) -> Sources:
    places = {name: str(tmp_path / name) for name in ("state", "run", "tailscaled", "monitor")}
    return Sources(**{**places, **more}, timeout_s=2.0)


STRANGE = [
    b"", b"{}\n", b"[1]\n", b"null\n", b'{"ok": true}\n', b'{"ok": true, "result": null}\n', b"\xff\xfe\n",
    b'{"ok": false, "error": "x"}\n', b"[" * 100_000 + b"\n",
]  # fmt: skip
"""What is no monitor may answer; the first, nothing at all, is told otherwise by the commands."""


@contextmanager
def flooding(path: Path) -> Iterator[Path]:
    """A socket that answers without an end and without a line."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = server.accept()
                    with link, contextlib.suppress(OSError):
                        while True:
                            link.sendall(b"x" * 65536)

        threading.Thread(target=serve, daemon=True).start()
        yield path


class TestValidity:
    @pytest.mark.parametrize("year", [2026, 2049, 2050, 9999])
    def test_it_is_that_of_a_real_library(self, year: int) -> None:
        end = datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=datetime.UTC)
        read = validity(b"# a key may come first\n" + certificate(end))
        assert read == (_BEGIN.timestamp(), end.timestamp())

    @given(st.binary(max_size=200))
    def test_garbage_is_a_value_error(self, garbage: bytes) -> None:
        for text in (garbage, b"-----BEGIN CERTIFICATE-----\n" + garbage + b"-----END CERTIFICATE-----"):
            with pytest.raises(ValueError, match=r"."):
                validity(text)

    @given(at=st.integers(0, 600), value=st.integers(0, 255))
    def test_a_damaged_certificate_never_ends_otherwise(self, at: int, value: int) -> None:
        pem = bytearray(_SOUND)
        pem[at % len(pem)] = value
        try:
            begin, end = validity(bytes(pem))
            assert isinstance(end, float) and (begin is None or isinstance(begin, float))
        except ValueError as error:
            assert str(error)


_SOUND = certificate(datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))


class TestTailnet:
    def test_what_is_offered_stands_beside_what_is_approved(self) -> None:
        tailnet = read_tailnet(TAILSCALED, PREFS, ["172.16.0.0/12"])
        assert tailnet["offers"] == [
            {"route": "192.168.15.0/24", "approved": True, "withdrawn": False},
            {"route": "10.9.0.0/24", "approved": False, "withdrawn": False},
            {"route": "172.16.0.0/12", "approved": True, "withdrawn": True},
        ]
        assert (tailnet["offers_exit"], tailnet["exit_approved"]) == (True, False)
        assert tailnet["name"] == "kernelcore.tail.test"
        assert tailnet["version"] == "1.98.9"

    def test_peers_stand_in_the_order_of_their_numbers(self) -> None:
        peers = {
            str(number): {"ID": str(number), "DNSName": f"peer-{number}.tail.test.", "Online": True}
            for number in (10, 2, 1, 100)
        }
        names = [each["name"] for each in read_peers({"BackendState": "Running", "Peer": peers}, ())]
        assert names == ["peer-1", "peer-2", "peer-10", "peer-100"]

    def test_what_the_monitor_says_of_the_first_choice_is_not_said_twice(self) -> None:
        causes = "3 probes lost in a row (limit 3)"
        path = a_path("exit:exit-a", "dead", causes=[{"text": causes}])
        candidate = {"name": "exit-a", "offered": True, "level": "dead", "barred_s": 0.0}
        stays = f"stays with exit-b: exit-a is dead, {causes}, and must be well for 120 s"
        other = f"stays with exit-b: fr-exit-a is dead, {causes}"
        for why, count in (
            ([stays], 1), ([f"blocked: exit-a {causes}"], 1), (["stays with exit-b"], 2), ([other], 2),
        ):  # fmt: skip
            told = {"why": why, "candidates": [candidate]}
            way = read_exit({**TAILSCALED, "Peer": {}}, PREFS, {"use": ["exit-a"]}, told, paths=[path])
            assert len(way["why"]) == count

    def test_peers_have_the_way_that_packets_take(self) -> None:
        peers = read_peers(TAILSCALED, [a_path("exit:exit-a")])
        assert [(peer["name"], peer["online"], peer["way"], peer["rtt_s"]) for peer in peers] == [
            ("exit-a", True, "direct", 0.012),
            ("phone", True, "relay", None),
            ("attic", False, "idle", None),
        ]
        assert peers[0]["routes"] == ["10.1.0.0/16"]

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2026-11-20T10:00:00Z", 1795168800.0),
            ("2026-11-20T10:00:00.123456789Z", 1795168800.123456),
            ("2026-11-20T11:00:00+01:00", 1795168800.0),
            ("0001-01-01T00:00:00Z", None),
            ("soon", None),
            (None, None),
        ],
    )
    def test_times_as_go_writes_them(self, text: Any, seconds: float | None) -> None:
        assert read_time(text) == seconds


def _answer_once(server: Any, digest: bytes) -> None:
    link, _ = server.accept()
    with link:
        link.recv(4096)
        link.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + digest)


class TestGather:
    def test_without_anybody_to_ask_it_says_so(self, tmp_path: Path) -> None:
        status = gather(sources(tmp_path))
        assert status["level"] == "critical"
        assert [warning["code"] for warning in status["warnings"]] == ["TS701"]
        assert status["generation"]["current"] == 0

    def test_a_route_that_a_monitor_withdrew_before_it_ended_is_no_drift(self, tmp_path: Path) -> None:
        wanted = ["192.168.15.0/24", "10.9.0.0/24", "10.8.0.0/16"]
        files = {
            "generations/7/tailscale/prefs.json": {"prefs": {"AdvertiseRoutes": wanted}},
            "monitor/state.json": {"standby": {"off": [["route", "10.8.0.0/16"], ["route", "10.7.0.0/16"]]}},
        }
        for name, content in files.items():
            (tmp_path / "state" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "state" / name).write_text(json.dumps(content))
        (tmp_path / "state" / "current").symlink_to("generations/7")
        prefs = {**PREFS, "AdvertiseRoutes": wanted[:2]}
        with answering(
            tmp_path / "tailscaled", lambda asked: as_http(prefs if b"/prefs " in asked else TAILSCALED)
        ):
            status = gather(sources(tmp_path))
        assert status["generation"]["drift"] == []
        assert [each["route"] for each in status["tailnet"]["offers"] if each["withdrawn"]] == ["10.8.0.0/16"]
        assert "TS713" in {each["code"] for each in status["warnings"]}

    def test_all_sources_come_together(self, tmp_path: Path) -> None:
        generation = tmp_path / "state" / "generations" / "7"
        for name, content in (
            ("manifest.json", {"created_unix_s": 5.0, "source": "/etc/tsstack/tsstack.yaml"}),
            ("monitor/settings.json", {}),
            ("tailscale/prefs.json", {"exit_node": {"use": ["exit-b", "exit-a"]}}),
            (
                "nginx/plan.json",
                {
                    "urls": {"wiki": "https://wiki.test/"},
                    "certificates": [
                        {"names": ["*.test"], "kind": "files", "certificate": str(tmp_path / "c.pem")}
                    ],
                },
            ),
        ):
            path = generation / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        end = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
        (tmp_path / "c.pem").write_bytes(certificate(end))
        for link in ("current", "boot"):
            (tmp_path / "state" / link).symlink_to("generations/7")
        state = a_state(a_path("service:wiki#0", "poor"), a_path("exit:exit-a"))

        def tailscaled(asked: bytes) -> bytes:
            return as_http(PREFS if b"/prefs " in asked else TAILSCALED)

        def monitor(asked: bytes) -> bytes:
            assert json.loads(asked) == {"v": 1, "do": "state"}
            return json.dumps({"v": 1, "id": None, "ok": True, "result": state}).encode() + b"\n"

        with answering(tmp_path / "tailscaled", tailscaled), answering(tmp_path / "monitor", monitor):
            status = gather(sources(tmp_path))
        assert status["monitor"]["state"] == state
        assert status["services"] == [
            {
                "name": "wiki", "url": "https://wiki.test/", "level": "poor", "rtt_s": 0.012, "error": "",
                "certificate_expires": end.timestamp(), "dead_upstreams": 0, "unreached": "",
                "certificate_life_s": (end - _BEGIN).total_seconds(),
            }
        ]  # fmt: skip
        assert status["exit"]["using"] == "exit-a"
        assert {"TS704", "TS705", "TS710", "TS743"} == {warning["code"] for warning in status["warnings"]}
        assert (status["generation"]["current"], status["generation"]["made"]) == (7, 5.0)

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (b"", "does not speak HTTP"),
            (b"SSH-2.0\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.0 500 no\r\n\r\n", "status 500"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}", "cut off"),
            (b"HTTP/1.0 200 OK\r\n\r\n{", "cannot be asked"),
            (b"HTTP/1.0 200 OK\r\n\r\n[]", "something else"),
        ],
    )
    def test_a_broken_tailscaled_is_a_remark(self, tmp_path: Path, answer: bytes, words: str) -> None:
        with answering(tmp_path / "tailscaled", lambda _: answer):
            status = gather(sources(tmp_path))
        assert words in status["tailnet"]["error"]

    def test_a_record_that_nobody_can_read_is_not_one_that_only_root_can(self, tmp_path: Path) -> None:
        state = Path(sources(tmp_path).state)
        state.mkdir(exist_ok=True)
        (state / "pending.json").write_text("{torn")
        status = gather(sources(tmp_path))
        assert status["generation"]["pending"]["phase"] == "damaged"
        (remark,) = [each for each in status["warnings"] if each["code"] == "TS752"]
        assert "root" not in remark["message"]
        assert remark["hint"] == "tsstack recover"

    def test_without_a_monitor_every_command_has_the_same_fix(self, tmp_path: Path) -> None:
        with pytest.raises(NotRunning) as failure:
            Client(tmp_path / "none").ask("state")
        assert failure.value.hint == start_monitor()

    def test_a_monitor_that_refuses_runs(self, tmp_path: Path) -> None:
        answer = b'{"ok": false, "error": {"kind": "busy", "message": "too many clients"}}\n'
        with answering(tmp_path / "monitor", lambda _: answer):
            monitor = gather(sources(tmp_path))["monitor"]
        assert (monitor["running"], monitor["state"]) == (True, None)
        assert "too many clients" in monitor["error"]

    @pytest.mark.parametrize("answer", STRANGE)
    def test_a_broken_monitor_is_no_monitor(self, tmp_path: Path, answer: bytes) -> None:
        with answering(tmp_path / "monitor", lambda _: answer):
            monitor = gather(sources(tmp_path))["monitor"]
        assert not monitor["running"]
        assert monitor["error"] == f"what listens on {tmp_path}/monitor is no monitor"

    @pytest.mark.parametrize("answer", STRANGE[1:])
    def test_the_commands_say_the_same_of_it(self, tmp_path: Path, answer: bytes) -> None:
        with (
            answering(tmp_path / "monitor", lambda _: answer),
            pytest.raises(TsstackError, match=f"^what listens on {tmp_path}/monitor is no monitor$"),
        ):
            Client(tmp_path / "monitor").ask("state")

    def test_an_answer_without_an_end_costs_its_time_and_no_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tsstack.system.unix_http._MOST_BYTES", 1 << 20)
        monkeypatch.setattr("tsstack.monitor.client._LINE_BYTES", 1 << 20)
        began = time.monotonic()
        with flooding(tmp_path / "monitor") as path:
            assert gather(sources(tmp_path))["monitor"]["error"] == HUNG
            with pytest.raises(TsstackError, match="no monitor"):
                Client(path).ask("state")
            with pytest.raises(TsstackError, match="no monitor"):
                next(Client(path).follow())
        monkeypatch.undo()
        with (
            flooding(tmp_path / "again") as path,
            pytest.raises(TsstackError, match=r"within 0\.2 s|no monitor"),
        ):
            Client(path, timeout_s=0.2).ask("state")
        assert time.monotonic() - began < 5

    def test_one_that_never_answers_costs_its_time_and_no_more(self, tmp_path: Path) -> None:
        import socket

        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "tailscaled"))
            silent.listen()
            quick = sources(tmp_path)
            quick.timeout_s = 0.2
            assert "did not answer within 0.2 s" in gather(quick)["tailnet"]["error"]

    def test_a_damaged_generation_is_a_remark(self, tmp_path: Path) -> None:
        (tmp_path / "nginx").mkdir()
        (tmp_path / "nginx" / "plan.json").write_text("{")
        for text in ("{", "[]", "{}", '{"certificates": 5}'):
            (tmp_path / "nginx" / "plan.json").write_text(text)
            nginx, services, certificates = read_proxy(str(tmp_path), (), UP)
            assert (services, certificates) == ([], [])
            assert "cannot be read" in nginx["error"]

    @pytest.mark.parametrize(
        "text",
        ["{", "[]", "{}", "5", '{"zones": [{}], "counters": [], "default_policy": ""}', '{"zones": 5}'],
    )
    def test_damaged_zones_are_said_and_end_nothing(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "nftables").mkdir()
        (tmp_path / "nftables" / "zones.json").write_text(text)
        firewall = read_firewall(str(tmp_path), str(tmp_path))
        assert (firewall["enabled"], firewall["zones"]) == (True, [])
        assert firewall["error"] == "the generation's zones cannot be read: they are damaged"

    def test_a_dead_nginx_serves_nothing_however_well_its_upstreams_are(self, tmp_path: Path) -> None:
        import socket

        (tmp_path / "nginx").mkdir()
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
            plan = {"urls": {"wiki": "http://wiki/"}, "certificates": [], "status": f"127.0.0.1:{port}"}
            (tmp_path / "nginx" / "plan.json").write_text(json.dumps({**plan, "digest": "abc"}))
            nginx, _, _ = read_proxy(str(tmp_path), [a_path("service:wiki#0")], UP)
            assert (nginx["running"], nginx["current"]) == (False, None)
            assert "refused" in nginx["error"]
            server.listen()
            for digest, current in ((b"abc", True), (b"abd", False)):
                thread = threading.Thread(target=_answer_once, args=(server, digest))
                thread.start()
                nginx, _, _ = read_proxy(str(tmp_path), [], UP)
                thread.join()
                assert (nginx["running"], nginx["current"]) == (True, current)

    def test_an_identity_daemon_whom_many_wait_for_answers(self, tmp_path: Path) -> None:
        """A connection that finds its queue full is refused at once, with EAGAIN."""
        (tmp_path / "nginx").mkdir()
        plan = {"urls": {"wiki": "http://wiki/"}, "certificates": [], "identity": True}
        (tmp_path / "nginx" / "plan.json").write_text(json.dumps(plan))

        def answers() -> bool | None:
            return read_proxy(str(tmp_path), [], UP, run=str(tmp_path))[0]["identity"]

        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(tmp_path / "identity.sock"))
            assert answers() is False
            server.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    waiting.connect(str(tmp_path / "identity.sock"))
            assert answers() is True
        assert answers() is False

    @pytest.mark.parametrize(
        ("tailnet", "hung", "level", "why"),
        [
            (UP, False, "good", ""),
            (UP, True, "unknown", "tailscaled does not answer"),
            (silent_tailnet("gone"), False, "dead", "tailscaled does not run"),
            ({**UP, "state": "NeedsLogin"}, False, "dead", "tailscaled is NeedsLogin"),
            (
                {**UP, "addresses": ["100.64.0.9"]},
                False,
                "dead",
                "100.64.0.2 is no address of this host any more",
            ),
        ],
    )
    def test_a_service_is_not_up_where_no_way_leads_in(
        self, tmp_path: Path, tailnet: Any, hung: bool, level: str, why: str
    ) -> None:
        (tmp_path / "nginx").mkdir()
        ways = [
            {"address": "100.64.0.2", "port": 443, "protocol": "tcp", "claimed": False},
            {"address": "100.64.0.2", "port": 5432, "protocol": "tcp", "claimed": False},
            {"address": "192.168.1.1", "port": 5432, "protocol": "tcp", "claimed": False},
        ]
        urls = {"wiki": "https://wiki.test/", "db": "tcp://wiki.test:5432"}
        plan = {"urls": urls, "certificates": [], "listeners": ways}
        (tmp_path / "nginx" / "plan.json").write_text(json.dumps(plan))
        paths = [a_path("service:wiki#0"), a_path("service:db#0")]
        _, services, _ = read_proxy(str(tmp_path), paths, tailnet, hung=hung)
        wiki, db = services
        assert (wiki["level"], wiki["unreached"]) == (level, why)
        assert (db["level"], db["unreached"]) == ("good", ""), "it is reached from the LAN as well"

    @pytest.mark.parametrize(("text", "why"), [("", "damaged"), ("[]", "damaged"), (None, "not there")])
    def test_a_damaged_live_generation_is_critical(self, tmp_path: Path, text: str | None, why: str) -> None:
        (tmp_path / "state" / "generations" / "7").mkdir(parents=True)
        if text is not None:
            (tmp_path / "state" / "generations" / "7" / "manifest.json").write_text(text)
        for link in ("current", "boot"):
            (tmp_path / "state" / link).symlink_to("generations/7" if text is not None else "generations/99")
        status = gather(sources(tmp_path))
        assert "TS754" in {warning["code"] for warning in status["warnings"]}
        assert why in status["generation"]["error"]
        assert status["firewall"]["error"] == ("" if text is not None else "the live generation is not there")


def test_what_is_asked_for_in_a_hurry_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from tsstack.cli import ts_status\n"
        "assert ts_status.run([]) in {0, 1, 2}\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    heavy = {"click", "pydantic", "textual", "asyncio", "jinja2", "requests", "psutil", "nftables", "ruamel",
             "cryptography", "http", "ssl", "pathlib", "typing", "dataclasses", "subprocess", "argparse",
             "logging", "contextlib", "urllib", "email"}  # fmt: skip
    assert loaded & heavy == set()
    assert "generation" in done.stdout


class TestLoaded:
    """A process of ours with a child stands for nginx's master and its worker."""

    def test_it_is_when_the_youngest_worker_began(self, tmp_path: Path) -> None:
        (tmp_path / "nginx.pid").write_text(f"{os.getpid()}\n")
        (tmp_path / "nginx.conf").write_text(f"user x;\n  pid   {tmp_path}/nginx.pid;  # here\n")
        before = time.time()
        with subprocess.Popen(["sleep", "60"]) as worker:
            found = [loaded_at(str(tmp_path / "nginx.conf"), ""), loaded_at("", str(tmp_path))]
            worker.kill()
        assert [each is not None and abs(each - before) < 1.0 for each in found] == [True, True]

    @pytest.mark.parametrize("text", ["", "x", "999999999"])
    def test_without_an_nginx_nothing_is_known(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "nginx.pid").write_text(text)
        assert loaded_at("", str(tmp_path)) is None
        assert loaded_at(str(tmp_path / "none.conf"), "") is None
