"""What probing costs and how exact it is, beside icmplib and fping on the same targets in the same run.

Needs root, fping, and icmplib (the `dev` extra). Two measurements, each in namespaces of its own:

cost      N loopback targets, once a second each: processor time, memory, wakeups, error of the times.
accuracy  targets behind a tun device that keeps packets for a known time, while the event loop is held up
          for 50 ms twice a second. What really went by on the wire is taken by a packet socket beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_S = 3
HOLD_UP_S = 0.05
HOLD_UP_EVERY_S = 0.5
_CLONE_NEWNET = 0x40000000
_SO_TIMESTAMPNS = 35
_NEAR, _FAR = "10.99.0.1", "10.99.0.2"


def main(words: list[str] | None = None) -> int:
    """Run with these words of the command line, else its own. Returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--delay-ms", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child:
        kind, *rest = options.child
        CHILDREN[kind](*rest)
        return 0
    result = measure(options.targets, options.seconds, options.delay_ms)
    print(json.dumps(result, indent=1) if options.json else as_text(result))
    return 0 if all(seen <= limit for _, seen, limit in targets_of(result)) else 1


def measure(counts: list[int], seconds: int, delay_ms: int) -> dict[str, Any]:
    """All figures. Raises RuntimeError when an engine is missing."""
    if os.geteuid() != 0:
        raise RuntimeError("root is needed for the namespaces")
    if shutil.which("fping") is None:
        raise RuntimeError("fping is not installed: apt-get install fping")
    result: dict[str, Any] = {"cost": [], "accuracy": [], "seconds": seconds, "delay_ms": delay_ms}
    for count in counts:
        for kind in ("tsstack", "icmplib", "fping"):
            row = run_child(kind, str(count), str(seconds))
            result["cost"].append({"pinger": kind, "targets": count, **row})
    for kind in ("tsstack", "icmplib"):
        row = run_child("accuracy", kind, str(seconds), str(delay_ms))
        result["accuracy"].append({"pinger": kind, **row})
    return result


def run_child(*words: str) -> dict[str, Any]:
    """A measurement in a process of its own: memory and processor time are then of it alone."""
    command = [sys.executable, str(Path(__file__)), "--child", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return dict(json.loads(done.stdout))


def as_text(result: dict[str, Any]) -> str:
    lines = [
        f"{'pinger':10}{'targets':>8}{'cpu %':>8}{'memory MB':>11}{'wakeups/s':>11}{'sent/s':>8}"
        f"{'lost':>6}{'p50 us':>9}{'p99 us':>9}"
    ]
    lines += [
        f"{row['pinger']:10}{row['targets']:>8}{row['cpu_percent']:>8.2f}{row['memory_mb']:>11.1f}"
        f"{row['wakeups_per_s']:>11.0f}{row['sent_per_s']:>8.0f}{row['lost']:>6}"
        f"{row['p50_us']:>9.0f}{row['p99_us']:>9.0f}"
        for row in result["cost"]
    ]
    lines += [
        "",
        f"loop held up {HOLD_UP_S * 1000:.0f} ms twice a second, path of {result['delay_ms']} ms:",
        f"{'pinger':10}{'samples':>8}{'error p50 ms':>14}{'error p99 ms':>14}{'worst ms':>10}",
    ]
    lines += [
        f"{row['pinger']:10}{row['samples']:>8}{row['error_p50_ms']:>14.3f}{row['error_p99_ms']:>14.3f}"
        f"{row['worst_ms']:>10.3f}"
        for row in result["accuracy"]
    ]
    lines += [
        f"{what:34}{seen:>8.2f}  target {limit:g}: {'met' if seen <= limit else 'MISSED'}"
        for what, seen, limit in targets_of(result)
    ]
    return "\n".join(lines)


def targets_of(result: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What was promised: the figure's name, what was seen, the limit."""
    ours = [row for row in result["cost"] if row["pinger"] == "tsstack"][-1]
    exact = result["accuracy"][0]
    return [
        (f"cpu % at {ours['targets']} targets", ours["cpu_percent"], 2.0),
        ("memory MB", ours["memory_mb"], 40.0),
        ("error p99 ms, loop held up", exact["error_p99_ms"], 1.0),
    ]


# Inside the children.


def isolate() -> None:
    """Move into a network of our own where datagram ICMP sockets are open, as they are on most hosts."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    run("ip", "link", "set", "lo", "up")


def run(*words: str, stdin: str | None = None) -> None:
    subprocess.run(words, input=stdin, text=True, check=True, stdout=subprocess.DEVNULL)


def addresses(count: int) -> list[str]:
    return [f"127.0.{number // 250}.{number % 250 + 1}" for number in range(count)]


def usage_row(
    before: resource.struct_rusage, after: resource.struct_rusage, elapsed_s: float
) -> dict[str, Any]:
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    switches = after.ru_nvcsw - before.ru_nvcsw
    return {
        "cpu_percent": 100 * spent_s / elapsed_s,
        "memory_mb": after.ru_maxrss / 1024,
        "wakeups_per_s": switches / elapsed_s,
    }


def rtt_row(rtts_s: list[float], lost: int, elapsed_s: float) -> dict[str, Any]:
    ordered = sorted(rtts_s) or [float("nan")]
    return {
        "sent_per_s": (len(rtts_s) + lost) / elapsed_s,
        "lost": lost,
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
    }


def cost_of_tsstack(count: str, seconds: str) -> None:
    from tsstack.monitor.probes.prober import Prober
    from tsstack.monitor.sample import Sample

    isolate()
    rtts_s: list[float] = []
    lost = 0

    def sink(sample: Sample) -> None:
        nonlocal lost
        if sample.rtt_s is None:
            lost += 1
        else:
            rtts_s.append(sample.rtt_s)

    async def body() -> None:
        nonlocal lost
        async with Prober(sink, fast_s=0.5, slow_s=1.0) as prober:
            prober.update(probes_of(addresses(int(count))))
            await asyncio.sleep(WARM_UP_S)
            rtts_s.clear()
            lost = 0
            before, begun_s = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
            await asyncio.sleep(int(seconds))
            elapsed_s = time.monotonic() - begun_s
            after = resource.getrusage(resource.RUSAGE_SELF)
            row = {**usage_row(before, after, elapsed_s), **rtt_row(rtts_s, lost, elapsed_s)}
        print(json.dumps(row))

    asyncio.run(body())


def probes_of(hosts: list[str]) -> list[Any]:
    from tsstack.monitor.probes.probe import Probe
    from tsstack.monitor.sample import Path as Watched

    return [Probe(Watched(f"target:icmp:{host}", "benchmark"), "icmp", host=host) for host in hosts]


def cost_of_icmplib(count: str, seconds: str) -> None:
    from icmplib import async_multiping

    isolate()
    hosts = addresses(int(count))

    async def body() -> None:
        before, begun_s = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        found = await async_multiping(
            hosts, count=int(seconds), interval=1, timeout=1, privileged=False, concurrent_tasks=len(hosts)
        )
        elapsed_s = time.monotonic() - begun_s
        after = resource.getrusage(resource.RUSAGE_SELF)
        rtts_s = [rtt_ms / 1000 for host in found for rtt_ms in host.rtts]
        lost = sum(host.packets_sent - host.packets_received for host in found)
        print(json.dumps({**usage_row(before, after, elapsed_s), **rtt_row(rtts_s, lost, elapsed_s)}))

    asyncio.run(body())


def cost_of_fping(count: str, seconds: str) -> None:
    isolate()
    begun_s = time.monotonic()
    words = ["fping", "-q", "-i", "1", "-p", "1000", "-C", seconds, *addresses(int(count))]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    time.sleep(min(int(seconds) / 2, 3))
    status = Path(f"/proc/{process.pid}/status").read_text()
    memory_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    said = process.communicate()[1]
    elapsed_s = time.monotonic() - begun_s
    none = resource.struct_rusage([0.0] * 16)
    fields = [word for line in said.splitlines() if " : " in line for word in line.split(" : ")[1].split()]
    rtts_s = [float(word) / 1000 for word in fields if word != "-"]
    # What getrusage(2) says of a child's memory begins before its exec: that is our own.
    usage = usage_row(none, resource.getrusage(resource.RUSAGE_CHILDREN), elapsed_s) | {
        "memory_mb": memory_mb
    }
    print(json.dumps({**usage, **rtt_row(rtts_s, len(fields) - len(rtts_s), elapsed_s)}))


# Accuracy.


def accuracy(kind: str, seconds: str, delay_ms: str) -> None:
    isolate()
    holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    relay = None
    try:
        relay = lay_path(holder.pid, int(delay_ms))
        wire = Wire()
        hosts = [f"10.98.0.{number + 1}" for number in range(50)]
        seen = {"tsstack": times_of_tsstack, "icmplib": times_of_icmplib}[kind](hosts, int(seconds))
        time.sleep(0.3)
        wire.close()
        print(json.dumps(error_row(seen, wire)))
    finally:
        for process in (holder, relay):
            if process is not None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def lay_path(far: int, delay_ms: int) -> subprocess.Popen[bytes]:
    """A wire to another namespace; what goes there takes its time on a tun device first."""
    enter = ("nsenter", f"--target={far}", "--net")
    deadline = time.monotonic() + 10
    own = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{far}/ns/net").readlink() == own:
        if time.monotonic() > deadline:
            raise RuntimeError("the far namespace does not come up")
        time.sleep(0.01)
    run("ip", "link", "add", "v0", "type", "veth", "peer", "v0", "netns", str(far))
    run("ip", "addr", "add", f"{_NEAR}/24", "dev", "v0")
    run("ip", "link", "set", "v0", "up")
    run(*enter, "ip", "addr", "add", f"{_FAR}/24", "dev", "v0")
    run(*enter, "ip", "link", "set", "v0", "up")
    run(*enter, "ip", "link", "set", "lo", "up")
    run(*enter, "ip", "route", "add", "local", "10.98.0.0/24", "dev", "lo")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    relay = subprocess.Popen(
        [sys.executable, "-P", "-m", "tsstack.lab.relay", "late0", str(delay_ms)], cwd=ROOT
    )
    while not is_up("late0"):
        if relay.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the relay does not come up")
        time.sleep(0.01)
    run("ip", "route", "add", "10.98.0.0/24", "via", _FAR, "dev", "v0", "src", _NEAR)
    run("ip", "route", "add", "10.98.0.0/24", "dev", "late0", "src", _NEAR, "table", "77")
    run("ip", "rule", "add", "to", "10.98.0.0/24", "iif", "late0", "lookup", "main", "pref", "70")
    run("ip", "rule", "add", "to", "10.98.0.0/24", "lookup", "77", "pref", "71")
    return relay


def is_up(device: str) -> bool:
    # Not /sys: that shows the namespace which mounted it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, 0x8913, struct.pack("16s16x8x", device.encode()))  # SIOCGIFFLAGS
        except OSError:
            return False
    return bool(struct.unpack_from("H", answer, 16)[0] & 1)


class Wire:
    """The truth: when each request left and each answer came, by the kernel's stamps on a packet socket."""

    def __init__(self) -> None:
        self.left: dict[tuple[str, int, int], float] = {}
        self.took_s: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
        self._socket.settimeout(0.1)
        self._stop = False
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._stop:
            try:
                packet, ancillary, _, where = self._socket.recvmsg(256, 64)
            except TimeoutError:
                continue
            if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != 1:
                continue
            seconds, nanoseconds = struct.unpack_from("@qq", ancillary[0][2])
            stamp_s = seconds + nanoseconds * 1e-9
            start = (packet[0] & 15) * 4
            ident, sequence = struct.unpack_from("!HH", packet, start + 4)
            outgoing = where[2] == 4  # PACKET_OUTGOING
            if packet[start] == 8 and outgoing and where[0] == "late0":
                self.left[socket.inet_ntoa(packet[16:20]), ident, sequence] = stamp_s
            elif packet[start] == 0 and not outgoing and where[0] == "v0":
                host = socket.inet_ntoa(packet[12:16])
                begun_s = self.left.pop((host, ident, sequence), None)
                if begun_s is not None:
                    self.took_s[host].append((begun_s, stamp_s - begun_s))


Seen = dict[str, list[tuple[float, float]]]


def hold_up(loop: asyncio.AbstractEventLoop) -> None:
    """Keep the loop from running for a while, again and again, each time at another phase of the pace."""
    time.sleep(HOLD_UP_S)
    loop.call_later(HOLD_UP_EVERY_S - HOLD_UP_S + 0.0037, hold_up, loop)


def times_of_tsstack(hosts: list[str], seconds: int) -> Seen:
    from tsstack.monitor.probes.prober import Prober

    seen: Seen = defaultdict(list)
    offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    async def body() -> None:
        def sink(sample: Any) -> None:
            if sample.rtt_s is not None:
                seen[sample.path.rpartition(":")[2]].append((sample.sent_s + offset_s, sample.rtt_s))

        async with Prober(sink, fast_s=0.5, slow_s=0.5) as prober:
            prober.update(probes_of(hosts))
            hold_up(asyncio.get_running_loop())
            await asyncio.sleep(seconds)

    asyncio.run(body())
    return seen


def times_of_icmplib(hosts: list[str], seconds: int) -> Seen:
    from icmplib import async_multiping

    async def body() -> list[Any]:
        hold_up(asyncio.get_running_loop())
        return list(
            await async_multiping(
                hosts,
                count=seconds * 2,
                interval=0.5,
                timeout=1,
                privileged=False,
                concurrent_tasks=len(hosts),
            )
        )

    # It does not say when each was sent, but they come in order.
    return {host.address: [(0.0, rtt_ms / 1000) for rtt_ms in host.rtts] for host in asyncio.run(body())}


def error_row(seen: Seen, wire: Wire) -> dict[str, Any]:
    """The difference between what the pinger said and what the wire saw of the same packet."""
    errors_ms = []
    for host, samples in seen.items():
        truth = sorted(wire.took_s[host])
        for number, (sent_s, rtt_s) in enumerate(samples):
            if sent_s == 0.0:
                if len(truth) != len(samples):
                    break  # one was lost: the order says nothing any more
                real_s = truth[number][1]
            else:
                begun_s, real_s = min(truth, key=lambda each: abs(each[0] - sent_s))
                if abs(begun_s - sent_s) > 0.1:
                    continue
            errors_ms.append(abs(rtt_s - real_s) * 1000)
    ordered = sorted(errors_ms)
    real_ms = [took_s * 1000 for each in wire.took_s.values() for _, took_s in each]
    return {
        "samples": len(ordered),
        "wire_p50_ms": statistics.median(real_ms),
        "error_p50_ms": ordered[len(ordered) // 2],
        "error_p99_ms": ordered[int(len(ordered) * 0.99)],
        "worst_ms": ordered[-1],
    }


CHILDREN: dict[str, Callable[..., None]] = {
    "tsstack": cost_of_tsstack,
    "icmplib": cost_of_icmplib,
    "fping": cost_of_fping,
    "accuracy": accuracy,
}

if __name__ == "__main__":
    sys.exit(main())
