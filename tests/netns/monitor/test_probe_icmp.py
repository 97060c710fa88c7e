"""Pings on real wires: loss, errors, false answers, interfaces that come and go, rights that are missing."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from probe_bed import (
    ANYBODY,
    FAR,
    FAR6,
    FAR6_B,
    FAR_B,
    NEAR_B,
    NOBODY,
    Bed,
    Watch,
    enter,
    errors,
    ping,
    sh,
    within,
)

from tsstack.monitor.probes import echo, echo_socket
from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.icmp import Pings
from tsstack.monitor.probes.prober import Prober

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def wires() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture(params=["datagram", "raw"])
def bed(wires: Bed, request: pytest.FixtureRequest) -> Iterator[Bed]:
    wires.permit(ANYBODY if request.param == "datagram" else NOBODY)
    yield wires
    wires.heal()


@pytest.mark.parametrize("target", [FAR, FAR6])
def test_an_answer_is_a_time(bed: Bed, target: str) -> None:
    async def body(prober: Prober, watch: Watch) -> None:
        prober.add(ping(target))
        await watch.until(lambda: len(watch.samples) >= 5)

    watch = measured(bed, body)
    assert errors(watch.samples) == {""}
    assert all(0 < (sample.rtt_s or 0) < 0.5 for sample in watch.samples)
    assert all(abs(sample.sent_s - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60 for sample in watch.samples)


def measured(bed: Bed, body: Callable[[Prober, Watch], object], **options: object) -> Watch:
    kept: list[Watch] = []

    async def wrapped(prober: Prober, watch: Watch) -> None:
        kept.append(watch)
        await body(prober, watch)  # type: ignore[misc]

    bed.run(wrapped, **options)
    return kept[0]


def test_thirty_percent_loss_is_about_that(bed: Bed) -> None:
    bed.rules(
        bed.far,
        "chain in { type filter hook input priority 0; ip protocol icmp numgen random mod 100 < 30 drop; }",
    )

    async def body(prober: Prober, watch: Watch) -> None:
        prober.update([ping(FAR, key=f"p{number}", timeout_s=0.3) for number in range(60)])
        await watch.until(lambda: len(watch.samples) >= 600)

    watch = measured(bed, body)
    lost = sum(sample.rtt_s is None for sample in watch.samples) / len(watch.samples)
    assert errors(watch.samples) == {"", "timeout"}
    # 30 % of 600: six standard deviations are 11 points.
    assert 0.19 <= lost <= 0.41


@pytest.mark.parametrize(
    ("reject", "error"),
    [
        ("icmp type echo-request reject with icmp type host-unreachable", "host unreachable"),
        ("icmp type echo-request reject with icmp type admin-prohibited", "prohibited"),
        ("icmpv6 type echo-request reject with icmpv6 type no-route", "network unreachable"),
        ("icmpv6 type echo-request reject with icmpv6 type admin-prohibited", "prohibited"),
    ],
)
def test_an_icmp_error_names_the_cause(bed: Bed, reject: str, error: str) -> None:
    bed.rules(bed.far, f"chain in {{ type filter hook input priority 0; {reject}; }}")
    family = FAR6 if "icmpv6" in reject else FAR

    async def body(prober: Prober, watch: Watch) -> None:
        prober.update([ping(family, key="bad"), ping("127.0.0.1", key="good")])
        await watch.until(lambda: len(watch.of("bad")) >= 5 and len(watch.of("good")) >= 5)

    watch = measured(bed, body)
    assert errors(watch.of("bad")) == {error}
    # The error belongs to the one that it is about, not to whoever sends next on the same socket.
    assert errors(watch.of("good")) == {""}


def test_no_route_is_said_at_once(bed: Bed) -> None:
    async def body(prober: Prober, watch: Watch) -> None:
        prober.update([ping("192.0.2.1", key="four"), ping("2001:db8::1", key="six")])
        await watch.until(lambda: watch.of("four") and watch.of("six"))

    watch = measured(bed, body)
    assert errors(watch.samples) == {"network unreachable"}


class Ending:
    """Told of one attempt's end."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def __call__(self, attempt: Attempt) -> None:
        self.ends.append(attempt.error)


def test_of_pings_sent_together_each_has_its_own_end(bed: Bed) -> None:
    """What is refused, and the error of one that comes back while the next are sent, is nobody else's."""
    reject = f"ip daddr {FAR_B} reject with icmp type admin-prohibited"
    bed.rules(bed.far, f"chain in {{ type filter hook input priority 0; {reject}; }}")
    wanted = {FAR: "", "192.0.2.1": "network unreachable", FAR_B: "prohibited", "127.0.0.1": ""}

    def body() -> list[tuple[str, list[str]]]:
        pings = Pings()
        told = [(address, Ending()) for address in [*wanted] * 25]
        pings.send([Attempt(ping(address), address, ending) for address, ending in told])
        until_s = time.monotonic() + 5
        while len(pings) and time.monotonic() < until_s:
            time.sleep(0.02)
            pings.collect()
        pings.close()
        return [(address, ending.ends) for address, ending in told]

    found = within(bed.near, body)
    assert found == [(address, [wanted[address]]) for address, _ in found]


def test_of_what_is_refused_nothing_is_kept(bed: Bed) -> None:
    def body() -> int:
        pings = Pings()
        known = []
        for _ in range(50):
            ending = Ending()
            known.append(weakref.ref(ending))
            pings.send([Attempt(ping("192.0.2.1", timeout_s=100), "192.0.2.1", ending)])
            assert ending.ends == ["network unreachable"]
        pings.collect()
        del ending
        kept = sum(each() is not None for each in known)
        pings.close()
        return kept

    assert within(bed.near, body) == 0


def test_pitfall_28_a_probe_goes_by_its_interface_alone(bed: Bed) -> None:
    """The far host's second address is reachable by the first wire too, unless the probe is bound."""
    sh("ip", "-n", bed.near, "route", "replace", f"{FAR_B}/32", "via", FAR, "dev", "p0")
    sh("ip", "-n", bed.near, "-6", "route", "replace", f"{FAR6_B}/128", "via", FAR6, "dev", "p0")
    bed.rules(bed.far, 'chain in { type filter hook prerouting priority -300; iifname "p1" drop; }')

    async def body(prober: Prober, watch: Watch) -> None:
        prober.update(
            [
                ping(FAR_B, key="free"),
                ping(FAR_B, key="bound", interface="p1", timeout_s=0.2),
                ping(FAR6_B, key="free6"),
                ping(FAR6_B, key="bound6", interface="p1", timeout_s=0.2),
            ]
        )
        await watch.until(
            lambda: min(len(watch.of(key)) for key in ("free", "bound", "free6", "bound6")) >= 3
        )

    watch = measured(bed, body)
    sh("ip", "-n", bed.near, "route", "del", f"{FAR_B}/32")
    sh("ip", "-n", bed.near, "-6", "route", "del", f"{FAR6_B}/128")
    assert errors([*watch.of("free"), *watch.of("free6")]) == {""}
    assert errors([*watch.of("bound"), *watch.of("bound6")]) == {"timeout"}


def test_the_source_address_is_the_one_asked_for(bed: Bed) -> None:
    bed.rules(
        bed.far,
        f"chain in {{ type filter hook input priority 0; icmp type echo-request ip saddr {NEAR_B} drop; }}",
    )

    async def body(prober: Prober, watch: Watch) -> None:
        prober.update([ping(FAR, key="usual"), ping(FAR, key="other", from_address=NEAR_B, timeout_s=0.2)])
        await watch.until(lambda: len(watch.of("usual")) >= 3 and len(watch.of("other")) >= 3)

    watch = measured(bed, body)
    assert errors(watch.of("usual")) == {""}
    assert errors(watch.of("other")) == {"timeout"}


@pytest.mark.parametrize("target", [FAR_B, FAR6_B])
def test_an_interface_that_goes_and_comes_back_is_used_again(bed: Bed, target: str) -> None:
    async def body(prober: Prober, watch: Watch) -> None:
        prober.update([ping(target, key="bound", interface="p1"), ping(FAR, key="other")])
        await watch.until(lambda: any(sample.ok for sample in watch.of("bound")))
        sh("ip", "-n", bed.near, "link", "del", "p1")
        await watch.until(lambda: watch.of("bound")[-1].error == "no interface p1")
        bed.wire(1)
        await watch.until(lambda: watch.of("bound")[-1].ok)

    watch = measured(bed, body)
    assert [(notice.about, notice.message, notice.over) for notice in watch.notices] == [
        ("interface p1", "no interface p1", False),
        ("interface p1", "no interface p1", True),
    ]
    assert errors(watch.of("other")) == {""}


class Impostor:
    """Answers pings on the far host by hand: the kernel there keeps silent."""

    def __init__(self, bed: Bed, answer: Callable[[socket.socket, bytes, str], None]) -> None:
        bed.sysctl(bed.far, "net.ipv4.icmp_echo_ignore_all=1")
        self._bed, self._answer = bed, answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        enter(self._bed.far)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(0.05)
            while not self._stop.is_set():
                try:
                    packet, sender = raw.recvfrom(256)
                except TimeoutError:
                    continue
                request = echo.payload_of_ipv4(packet)
                if request and request[0] == 8:
                    self._answer(raw, request, sender[0])

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._bed.sysctl(self._bed.far, "net.ipv4.icmp_echo_ignore_all=0")


def reply_to(request: bytes) -> bytes:
    return echo.with_checksum(b"\0\0\0\0" + request[4:])


def test_false_answers_are_ignored(bed: Bed) -> None:
    """From another address, with another secret, with another number, cut short."""

    def answer(raw: socket.socket, request: bytes, sender: str) -> None:
        good = reply_to(request)
        for packet in (
            echo.with_checksum(b"\0\0\0\0" + request[4:8] + b"x" * 8 + request[16:]),
            echo.with_checksum(b"\0\0\0\0" + request[4:16] + struct.pack("!Q", 2**60)),
            echo.with_checksum(b"\0\0\0\0" + request[4:12]),
        ):
            raw.sendto(packet, (sender, 0))
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as other:
            other.bind((FAR_B, 0))
            other.sendto(good, (sender, 0))

    impostor = Impostor(bed, answer)
    try:

        async def body(prober: Prober, watch: Watch) -> None:
            prober.add(ping(FAR, timeout_s=0.2))
            await watch.until(lambda: len(watch.samples) >= 5)

        watch = measured(bed, body)
    finally:
        impostor.close()
    assert errors(watch.samples) == {"timeout"}


def test_doubles_count_once_and_late_ones_not_at_all(bed: Bed) -> None:
    def answer(raw: socket.socket, request: bytes, sender: str) -> None:
        (number,) = struct.unpack_from("!Q", request, 16)
        if number % 2:
            raw.sendto(reply_to(request), (sender, 0))
            raw.sendto(reply_to(request), (sender, 0))
        else:
            threading.Timer(0.25, raw_reply, [reply_to(request), sender]).start()

    def raw_reply(packet: bytes, sender: str) -> None:
        enter(bed.far)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(packet, (sender, 0))

    impostor = Impostor(bed, answer)
    try:

        async def body(prober: Prober, watch: Watch) -> None:
            prober.add(ping(FAR, timeout_s=0.15))
            await watch.until(lambda: len(watch.samples) >= 20)

        watch = measured(bed, body)
    finally:
        time.sleep(0.3)
        impostor.close()
    good = [sample for sample in watch.samples if sample.ok]
    assert len({sample.sent_s for sample in watch.samples}) == len(watch.samples)
    assert 8 <= len(good) <= 12
    assert all((sample.rtt_s or 0) < 0.15 for sample in good)


def test_other_programs_pings_do_not_fill_the_raw_socket(wires: Bed) -> None:
    """A flood of answers to somebody else stays outside: none of ours is lost for it.

    Not what comes while the socket is made either, however slowly that goes.
    """
    wires.permit(NOBODY)
    stop = threading.Event()

    def flood() -> None:
        enter(wires.near)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            packet = echo.with_checksum(echo.request(4, 4711, 1, b"strange!", 1))
            while not stop.is_set():
                for _ in range(200):
                    raw.sendto(packet, (FAR, 0))
                time.sleep(0.005)

    read: list[bytes] = []
    read_reply = echo.read_reply
    reply_filter = echo_socket._reply_filter

    def late(family: int, ident: int) -> list[tuple[int, int, int, int]]:
        time.sleep(0.1)
        return reply_filter(family, ident)

    def counted(family: int, packet: bytes, secret: bytes) -> tuple[int, int, int] | None:
        read.append(packet)
        return read_reply(family, packet, secret)

    thread = threading.Thread(target=flood)
    thread.start()
    try:

        async def body(prober: Prober, watch: Watch) -> None:
            prober.add(ping(FAR))
            await watch.until(lambda: len(watch.samples) >= 10)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(echo, "read_reply", counted)
            patch.setattr(echo_socket, "_reply_filter", late)
            watch = measured(wires, body)
    finally:
        stop.set()
        thread.join()
        wires.heal()
    assert errors(watch.samples) == {""}
    assert len(read) <= len(watch.samples) + 2


def test_without_any_right_it_is_said_once_with_the_fix_and_the_rest_goes_on(wires: Bed) -> None:
    """A child without CAP_NET_RAW, where datagram sockets are closed; then they are opened."""
    wires.permit(NOBODY)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            code = _as_nobody(wires, writing)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.readline() == "said\n"
        wires.permit(ANYBODY)
        rest = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, rest
    wires.heal()
    assert rest.splitlines() == [
        "no permission for ICMP|False|sysctl net.ipv4.ping_group_range='0 2147483647'",
        "no permission for ICMP|True|",
        "tcp refused",
    ]


def _as_nobody(bed: Bed, writing: int) -> int:
    enter(bed.near)
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)

    async def main() -> None:
        from tsstack.monitor.probes.probe import Probe
        from tsstack.monitor.sample import Path

        watch = Watch()
        async with Prober(watch.samples.append, tell=watch.notices.append, fast_s=0.1, slow_s=0.1) as prober:
            prober.update([ping(FAR, key="a"), ping(FAR, key="b"), ping(FAR6, key="c")])
            prober.add(Probe(Path("tcp", ""), "tcp", host=FAR, port=9))
            await watch.until(lambda: min(len(watch.of(key)) for key in "abc") >= 3)
            assert errors([*watch.of("a"), *watch.of("c")]) == {"no permission for ICMP"}
            os.write(writing, b"said\n")
            await watch.until(lambda: watch.of("a")[-1].ok and watch.of("c")[-1].ok, within_s=12)
            for notice in watch.notices:
                os.write(writing, f"{notice.message}|{notice.over}|{notice.hint}\n".encode())
            os.write(writing, f"tcp {watch.of('tcp')[-1].error}\n".encode())

    asyncio.run(main())
    return 0


def test_many_targets_lose_nothing_in_the_buffer(bed: Bed) -> None:
    async def body(prober: Prober, watch: Watch) -> None:
        prober.update([ping(f"127.0.{number // 200}.{number % 200 + 1}") for number in range(800)])
        await asyncio.sleep(0.3)
        for _ in range(10):
            time.sleep(0.05)
            await asyncio.sleep(0.2)

    watch = measured(bed, body, fast_s=0.5, slow_s=0.5)
    assert len(watch.samples) > 2000
    assert errors(watch.samples) == {""}


def test_the_namespace_is_the_one_we_think(wires: Bed) -> None:
    assert within(wires.near, lambda: {name for _, name in socket.if_nameindex()}) >= {"p0", "p1"}
