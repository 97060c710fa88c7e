"""`tsstack prove` as people and programs see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tsstack.cli.main import run
from tsstack.parts.firewall.host import Firewall

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "kernelcore.yaml"
TSSTACK = Path(sys.executable).with_name("tsstack")


def test_the_example_is_proven_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-c", str(EXAMPLE), "prove", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mismatches"] == 0
    assert answer["checks"] == len(answer["matrix"]) > 1000
    assert all(list(row) == ["from", "to", "packet", "expected", "seen", "path"] for row in answer["matrix"])
    lets_in = [row for row in answer["matrix"] if row["path"] == "firewall.zones.internal.services[0]"]
    assert {(row["from"], row["to"], row["expected"], row["seen"]) for row in lets_in} == {
        ("internal", "(this host)", "accept", "accept")
    }


def test_a_seed_repeats_its_packets_and_another_sends_others(capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for seed in ("1", "1", "2"):
        assert run(["-c", str(EXAMPLE), "prove", "--json", "--seed", seed]) == 0
        answers.append(json.loads(capsys.readouterr().out)["matrix"])
    assert answers[0] == answers[1] != answers[2]


def test_a_person_sees_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-c", str(EXAMPLE), "prove"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = [line for line in lines if "tcp/443" in line]
    assert head.split() == ["ping", "tcp/80", "tcp/443", "udp/443", "ssh", "postgresql", "others"]
    cells = {line[:11].strip(): line[11:].split() for line in lines[2:8]}
    assert cells["dmz"] == list("✓✓✓✓···")
    assert cells["internal"] == list("✓✓✓✓✓✓·")
    assert cells["admin"] == list("✓✓✓✓✓✓✓")
    assert cells["isolated"] == list("·······")
    assert cells["(spoofed)"] == list("·······")
    assert "0 mismatches" in lines[-1]


def test_a_mismatch_is_shown_with_its_line_and_ends_with_4(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Firewall.desired

    def closed(self: Firewall, stack: object, facts: object) -> dict[str, str]:
        tree = dict(honest(self, stack, facts))  # type: ignore[arg-type]
        return {
            name: text.replace('443 comment "firewall.zones.dmz.tcp', '444 comment "firewall.zones.dmz.tcp')
            for name, text in tree.items()
        }

    monkeypatch.setattr(Firewall, "desired", closed)
    assert run(["-c", str(EXAMPLE), "prove"]) == 4
    out = capsys.readouterr().out
    line = next(at for at, text in enumerate(EXAMPLE.read_text().splitlines(), 1) if "dmz: {" in text)
    assert "✗ tcp/443 from " in out
    assert f"kernelcore.yaml:{line}:" in out
    assert "firewall.zones.dmz.tcp[1] says accept, the kernel does drop" in out
    assert run(["-c", str(EXAMPLE), "prove", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["mismatches"] > 0


def test_what_the_files_kernel_section_takes_from_the_rules_is_told_beside_the_proof(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "tsstack.yaml"
    zones = "zones: {dmz: {interfaces: [eth0], tcp: [80]}}, forward: [{from: dmz, to: dmz, tcp: [80]}]"
    off = "net.ipv4.icmp_echo_ignore_all: 1, net.ipv6.conf.all.forwarding: 0"
    file.write_text(f"host: {{name: a}}\nfirewall: {{{zones}}}\nkernel: {{sysctl: {{{off}}}}}\n")
    assert run(["-c", str(file), "prove"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told if ":3:" in line] == ["warning TS509", "warning TS510"]
    file.write_text(file.read_text().replace("net.ipv4.icmp_echo_ignore_all: 1", "net.ipv4.ip_forward: 0"))
    assert run(["-c", str(file), "prove"]) == 3
    assert f"{file}:3:" in (err := capsys.readouterr().err)
    assert "error TS501" in err


def test_no_firewall_is_nothing_to_prove(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "tsstack.yaml"
    file.write_text("host: {name: a}\n")
    assert run(["-c", str(file), "prove"]) == 0
    assert "nothing to prove" in capsys.readouterr().out


def test_it_needs_no_root_and_no_utf8() -> None:
    """In a user namespace as another user, without any capability: what is left is what users have."""
    done = subprocess.run(
        ["unshare", "--user", "--map-user=1000", "--map-group=1000", TSSTACK, "-c", EXAMPLE, "prove"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert b"0 mismatches" in done.stdout
    assert b"+" in done.stdout
    assert done.stdout.isascii()
