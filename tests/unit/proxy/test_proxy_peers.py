"""Who is behind a loopback connection, against real sockets; and what `tailscale serve` may not have."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import replace

import pytest

from tsstack.errors import CheckFailed
from tsstack.parts.proxy.identity import Allowances, Doorkeeper
from tsstack.parts.proxy.peers import listener_of, open_proxies, owner_of
from tsstack.parts.proxy.plan import PLAN, parse_plan
from tsstack.parts.proxy.serve import refuse_conflicts
from tsstack.system.localapi import LocalApi

HOST = "host: {name: box, tailnet: tail.test}\n"
SERVICES = HOST + (
    "tailscale: {tags: ['tag:a']}\nproxy: {names: service, tls: off, services: {a: {upstream: 1}}}"
)


@pytest.fixture
def loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_the_owner_of_a_connection_is_who_opened_it(loopback):
    port = loopback.getsockname()[1]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            with socket.socket() as client:
                client.connect(("127.0.0.1", port))
                os.read(reader, 1)
        finally:
            os._exit(0)
    loopback.settimeout(10)
    accepted, peer = loopback.accept()
    with accepted, socket.create_connection(("127.0.0.1", port)) as own:
        assert owner_of(*peer, "127.0.0.1", port) == 65534
        assert owner_of(*own.getsockname(), "127.0.0.1", port) == os.getuid()
        assert owner_of(*peer, "127.0.0.1", port + 1) is None
        os.write(writer, b"x")
        os.waitpid(child, 0)
        # Closed: the kernel would name root as the owner of what nobody holds any more.
        assert owner_of(*peer, "127.0.0.1", port) is None
    os.close(reader)
    os.close(writer)
    with pytest.raises(ValueError, match="not-an-address"):
        owner_of("not-an-address", 1, "127.0.0.1", 1)


def test_the_listener_of_a_unix_socket_is_named(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert listener_of(path) == (os.getpid(), os.getuid())
    with pytest.raises(OSError, match="refused"):
        listener_of(path)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), ()),
        (("--tun=userspace-networking", "--state=socks5-server"), ()),
        (("--socks5-server=localhost:1055",), ("--socks5-server",)),
        (("-socks5-server", ":1"), ("--socks5-server",)),
        (("--outbound-http-proxy-listen", "x:1"), ("--outbound-http-proxy-listen",)),
    ],
)
def test_proxies_of_tailscaled_itself_are_seen(words, found, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(
        b"\0".join([b"tailscaled", *(word.encode() for word in words)]) + b"\0"
    )
    assert open_proxies(7, proc=tmp_path) == found


def test_what_cannot_be_found_out_is_doubted(tmp_path, loopback):
    keeper = Doorkeeper(Allowances(tmp_path / "none"), LocalApi(tmp_path / "none.sock"))
    port = loopback.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as own:
        assert "cannot be found out" in asyncio.run(keeper.doubt(own.getsockname(), port))
    assert "gone" in asyncio.run(keeper.doubt(("127.0.0.1", 1), port))
    assert "cannot be found out" in asyncio.run(keeper.doubt(("fd7a::1", 1), port))


def conflicts(render, text, config, addresses=("100.64.0.1", "fd7a:115c:a1e0::1")):
    refuse_conflicts(parse_plan(render(text)[PLAN]), config, addresses)


@pytest.mark.parametrize(
    "config",
    [
        {"TCP": {"80": {"HTTP": True}}, "Web": {"box.tail.test:80": {}}},
        {"TCP": {"80": {"TCPForward": "127.0.0.1:3000"}}},
        {"Foreground": {"s": {"TCP": {"80": {"HTTP": True}}}}},
    ],
)
def test_pitfall_21_a_served_port_is_refused(config, render):
    with pytest.raises(CheckFailed, match=r"proxy\.http_port: `tailscale serve` has port 80 already"):
        conflicts(render, SERVICES, config)


def test_pitfall_21_a_served_port_that_a_tcp_service_wants_is_refused(render):
    text = HOST + "proxy: {tls: off, services: {db: {upstream: 5432, protocol: tcp}}}"
    with pytest.raises(CheckFailed, match=r"proxy\.services\.db\.port: .*5432 already \(tcp to x:1\)"):
        conflicts(render, text, {"TCP": {"5432": {"TCPForward": "x:1"}}})


def test_ports_that_are_not_the_tailnets_do_not_meet(render):
    elsewhere = HOST + "proxy: {tls: off, listen: [192.0.2.1], services: {a: {upstream: 1}}}"
    conflicts(render, elsewhere, {"TCP": {"80": {"HTTP": True}}})
    conflicts(render, SERVICES, {"Services": {"svc:a": {"TCP": {"80": {"HTTP": True}}}}})
    conflicts(render, SERVICES, {"TCP": None, "Web": None, "Services": None, "Foreground": None})
    plan = replace(parse_plan(render(SERVICES)[PLAN]), addresses_known=False)
    with pytest.raises(CheckFailed):
        refuse_conflicts(plan, {"TCP": {"80": {}}}, ())


@pytest.mark.parametrize("target", ["127.0.0.1:80", "localhost:80"])
def test_a_way_around_the_handover_is_refused(target, render):
    entry = {"TCP": {"9": {"TCPForward": target}}}
    for config in (entry, {"Services": {"svc:x": entry}}, {"Foreground": {"s": entry}}):
        with pytest.raises(CheckFailed, match="pass for anybody"):
            conflicts(render, SERVICES, config)
        marked = json.loads(json.dumps(config).replace(f'"{target}"', f'"{target}", "ProxyProtocol": 2'))
        conflicts(render, SERVICES, marked)
