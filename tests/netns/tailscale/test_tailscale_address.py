"""Pitfall 21: an address that is announced may not be bindable yet."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tsstack.errors import ApplyFailed
from tsstack.parts.tailscale.address import await_bindable

pytestmark = pytest.mark.netns

V4, V6 = "100.64.7.7", "fd7a:115c:a1e0::7"


def ip(namespace: str, *words: str) -> None:
    subprocess.run(["ip", "-n", namespace, *words], check=True, capture_output=True)


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"tsaddr{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    ip(name, "link", "set", "lo", "up")
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def inside(namespace: str, work: Callable[[], None]) -> BaseException | None:
    """Run `work` in the namespace (setns(2) is per thread); return what it raised."""
    raised: list[BaseException] = []

    def enter() -> None:
        with Path(f"/run/netns/{namespace}").open() as handle:
            assert ctypes.CDLL(None).setns(handle.fileno(), 0x40000000) == 0
        try:
            work()
        except ApplyFailed as error:
            raised.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_pitfall_21_it_waits_until_the_address_can_be_bound(namespace: str) -> None:
    def arrive() -> None:
        time.sleep(0.4)
        ip(namespace, "addr", "add", f"{V6}/128", "dev", "lo")
        ip(namespace, "addr", "add", f"{V4}/32", "dev", "lo")

    late = threading.Thread(target=arrive)
    late.start()
    start = time.monotonic()
    assert inside(namespace, lambda: await_bindable([V4, V6], timeout_s=5)) is None
    assert 0.4 <= time.monotonic() - start < 3
    late.join()


def test_pitfall_21_it_gives_up_with_the_address_named(namespace: str) -> None:
    error = inside(namespace, lambda: await_bindable([V4, V6], timeout_s=0.3))
    assert isinstance(error, ApplyFailed)
    assert V4 in error.message


def test_a_host_without_ipv6_is_not_held_up(namespace: str) -> None:
    ip(namespace, "addr", "add", f"{V4}/32", "dev", "lo")
    start = time.monotonic()
    assert inside(namespace, lambda: await_bindable([V4, V6], timeout_s=30)) is None
    assert time.monotonic() - start < 3
