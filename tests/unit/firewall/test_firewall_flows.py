"""Established connections: which are looked at, and when programs are started for them."""

from __future__ import annotations

import pytest

from tsstack.errors import CommandFailed
from tsstack.parts.firewall import flows
from tsstack.system.conntrack import Connection, Tuple


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: list[str], **_: object) -> None:
        raise CommandFailed(f"{argv[0]} was started", returncode=127, stderr="")

    monkeypatch.setattr(flows, "run", refuse)


def connection(source: str, *, protocol: int = 6) -> Connection:
    return Connection(
        Tuple(source, "192.0.2.1", protocol, 40000, 443), Tuple("192.0.2.1", source, protocol, 443, 40000)
    )


@pytest.mark.parametrize(
    "known",
    [
        [],
        [connection("127.0.0.1"), connection("::1")],
        [connection("192.0.2.9", protocol=47)],
    ],
    ids=["none", "loopback", "of no protocol that rules tell apart"],
)
def test_where_nothing_could_be_cut_no_program_is_started(
    known: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "list_connections", lambda: known)
    assert flows.cut_refused("", "") == flows.Cut()


@pytest.mark.parametrize("source", ["192.0.2.9", "12.7.0.1", "::12", "2001:db8::1"])
def test_what_cannot_be_looked_at_is_said(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "list_connections", lambda: [connection(source)])
    with pytest.raises(flows.Unseen, match="connections were not looked at: ip was started"):
        flows.cut_refused("", "")


def test_a_kernel_without_conntrack_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Connection]:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(flows, "list_connections", fail)
    with pytest.raises(flows.Unseen, match="connections were not looked at: conntrack: Invalid argument"):
        flows.cut_refused("", "")
