"""`tsstack explain` about packets, as people and programs see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from explain_bed import EXAMPLE

from tsstack.cli.main import cli, run

pytestmark = pytest.mark.netns

TSSTACK = Path(sys.executable).with_name("tsstack")
QUESTIONS = [
    ("dmz", "tcp/5432"),
    ("admin", "tcp/11434"),
    ("isolated", "ping"),
    ("internal", "https", "--to", "dmz"),
    ("isolated", "ssh", "--to", "dmz"),
    ("192.168.15.9", "eth1", "ssh"),
    ("100.64.0.7", "eth0", "ssh"),
    ("internal", "udp/443", "-6"),
]


def line_of(text: str) -> int:
    return next(at for at, line in enumerate(EXAMPLE.read_text().splitlines(), 1) if text in line)


def test_the_last_line_is_the_verdict_with_its_place_and_what_to_write(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["-c", str(EXAMPLE), "explain", "dmz", "tcp/5432"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = f"kernelcore.yaml:{line_of('dmz: {')}:5 firewall.zones.dmz"
    assert lines[-1].startswith("dropped: no rule of zone `dmz` opens tcp/5432 (")
    assert place in lines[-1]
    assert lines[-1].endswith("to let it pass, write `tcp: [80, 443, 5432]` in firewall.zones.dmz")
    assert any("goto zone.dmz" in line for line in lines)
    assert any(EXAMPLE.read_text().splitlines()[line_of("dmz: {") - 1].strip() in line for line in lines)


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-c", str(EXAMPLE), "explain", "internal", "postgresql", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["expected"], answer["fix"]) == ("accepted", "accept", None)
    assert answer["path"] == "firewall.zones.internal.services[1]"
    assert answer["place"]["line"] == line_of("internal: {interfaces")
    assert answer["decisions"][-1]["verdict"] == "accept"
    assert answer["decisions"][-1]["rule"].startswith("tcp dport @open.internal.tcp")
    assert answer["packet"]["source_zone"] == "internal"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_what_the_kernel_does_not_do_though_the_rules_let_it_pass(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, family: str
) -> None:
    file = tmp_path / "tsstack.yaml"
    zones = "zones: {dmz: {interfaces: [eth0]}, lan: {interfaces: [eth1]}}"
    rules = "forward: [{from: lan, to: dmz, tcp: [443]}]"
    silent = {"-4": "net.ipv4.icmp_echo_ignore_all", "-6": "net.ipv6.icmp.echo_ignore_all"}[family]
    off = f"{silent}: 1, net.ipv6.conf.all.forwarding: 0"
    text = f"host: {{name: one, uplink: eth0}}\nfirewall: {{{zones}, {rules}}}\n"
    verdicts = []
    for tuned in (f"{text}kernel: {{sysctl: {{{off}}}}}\n", text):
        file.write_text(tuned)
        for question in (["dmz", "ping"], ["lan", "tcp/443", "--to", "dmz"]):
            assert run(["-c", str(file), "explain", *question, family]) == 0
            verdicts.append(capsys.readouterr().out.splitlines()[-1])
    assert all(each.startswith("accepted: ") for each in verdicts)
    unanswered, passing, *plain = verdicts
    assert "the kernel answers none" in unanswered
    assert silent in unanswered
    assert ("forwards it nowhere" in passing) is (family == "-6")
    assert not any("the kernel " in each for each in plain)


def test_what_tailscaled_takes_before_the_rules(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "tsstack.yaml"
    zones = "{dmz: {interfaces: [eth0], tcp: [80]}, internal: {interfaces: [tailscale0], services: [https]}}"
    text = f"host: {{name: one, uplink: eth0}}\ntailscale: {{ssh: true}}\nfirewall: {{zones: {zones}}}\n"
    file.write_text(text)
    assert run(["-c", str(file), "explain", "100.64.0.7", "ssh"]) == 0
    *_, verdict, last = capsys.readouterr().out.splitlines()
    assert verdict.startswith("dropped: ")
    assert "to let it pass" not in verdict
    assert last.startswith("tailscaled's own SSH server takes it before any rule")
    assert f"{file.name}:2:13 tailscale.ssh" in last
    assert run(["-c", str(file), "explain", "100.64.0.7", "ssh", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "dropped"
    assert answer["before_rules"]["path"] == "tailscale.ssh"
    assert answer["before_rules"]["place"]["line"] == 2
    others = [("100.64.0.7", "tcp/80"), ("203.0.113.9", "ssh"), ("100.64.0.7", "ssh", "--to", "198.51.100.9")]
    for words in others:
        assert run(["-c", str(file), "explain", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["before_rules"] is None, words
    for settings in ("{ssh: false}", "{ssh: true, shields_up: true}"):
        file.write_text(text.replace("{ssh: true}", settings))
        assert run(["-c", str(file), "explain", "100.64.0.7", "ssh", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["before_rules"] is None, settings


@pytest.mark.parametrize("columns", [80, 60])
def test_it_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(
        "tsstack.cli.explained.shutil.get_terminal_size", lambda _: os.terminal_size((columns, 24))
    )
    monkeypatch.setenv("NO_COLOR", "1")
    for words in QUESTIONS:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert run(["-c", str(EXAMPLE), "explain", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        # A place is one word: it is never broken.
        assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tcp/443", "dmz"], "tsstack explain dmz tcp/443"),
        (["dmz", "5432"], "tcp/5432"),
        (["dmzz", "tcp/1"], "did you mean 'dmz'"),
        (["dmz", "eth0", "eth1", "tcp/1"], "SOURCE [INTERFACE] PROTO/PORT"),
        (["dmz", "--live"], "SOURCE [INTERFACE] PROTO/PORT"),
        (["dmz", "a/b", "tcp/1"], "no interface"),
        (["dmz", "tcp/99999"], "1 to 65535"),
    ],
)
def test_a_question_that_is_not_understood(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(["-c", str(EXAMPLE), "explain", *words]) == 2
    assert said in capsys.readouterr().err


def test_an_invalid_file_and_one_without_a_firewall(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("host: {name: a}\nfirewall: {zone: {}}\n")
    assert run(["-c", str(file), "explain", "dmz", "ssh"]) == 3
    assert "TS101" in capsys.readouterr().err
    file.write_text("host: {name: a}\n")
    assert run(["-c", str(file), "explain", "192.0.2.99", "eth0", "ssh"]) == 2
    assert "no firewall" in capsys.readouterr().err


def test_it_needs_no_root_and_no_utf8() -> None:
    done = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            TSSTACK,
            "-c",
            EXAMPLE,
            "explain",
            "dmz",
            "ssh",
        ],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stdout.splitlines()[-1].startswith(b"dropped: ")


def completions(arguments: list[str], incomplete: str) -> list[str]:
    shell = ShellComplete(cli, {}, "tsstack", "_TSSTACK_COMPLETE")
    return [each.value for each in shell.get_completions(arguments, incomplete)]


def test_codes_zones_and_services_are_completed() -> None:
    before = ["-c", str(EXAMPLE), "explain"]
    assert completions(before, "TS20") == [f"TS20{at}" for at in range(1, 10)]
    assert completions(before, "in") == ["internal", "Interrupted"]
    assert completions(before, "dm") == ["dmz"]
    assert "postgresql" in completions([*before, "dmz"], "po")
    assert completions(["-c", "/nowhere.yaml", "explain"], "dm") == []
