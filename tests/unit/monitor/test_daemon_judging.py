"""What the daemon makes of samples: levels told once, egress held against the right node, events in words."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from pathlib import Path as Folder

import pytest

from tsstack.monitor import freeing
from tsstack.monitor.book import Book
from tsstack.monitor.choice import DIRECT
from tsstack.monitor.egress import Egress
from tsstack.monitor.flows import Surroundings, left_by
from tsstack.monitor.paces import quick_paths
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.reasons import Compared, Reason
from tsstack.monitor.sample import Path, Sample
from tsstack.monitor.tailscaled import Seen
from tsstack.monitor.telling import event_of_change, event_of_reason
from tsstack.monitor.verdict import Judge, Limits
from tsstack.system.conntrack import Connection, Dropped, Tuple

LIMITS = Limits(interval_s=5.0)
EXIT = Probe(Path("exit:a", "tailscale.exit_node.use[0]"), "tsmp", host="a")
TARGET = Probe(Path("target:icmp:192.0.2.1", "monitor.targets[0]", "tailscale0"), "icmp", host="192.0.2.1")


def feed(sink: Book | Egress, path: str, start_s: float, outcomes: str, pace_s: float = 0.5) -> float:
    """`.` is an answer, `x` a loss; returns when the next probe would go."""
    for each in outcomes:
        sink.observe(
            Sample(path, "icmp", start_s, 0.01 if each == "." else None, "" if each == "." else "timeout")
        )
        start_s += pace_s
    return start_s


def book(*probes: Probe) -> Book:
    made = Book(LIMITS)
    made.update(probes, LIMITS, 0.0)
    for probe in probes:
        made.set_pace(probe.path.key, 0.5)
    return made


def test_a_path_that_dies_and_returns_is_told_and_its_end_is_told_once() -> None:
    watched = book(EXIT)
    at_s = feed(watched, "exit:a", 0.0, "." * 20)
    assert watched.changes(at_s) == []  # that all is well is no news
    at_s = feed(watched, "exit:a", at_s, "x" * 20)
    (died,) = watched.changes(at_s)
    assert (died.before, died.verdict.level, died.over) == ("good", "dead", False)
    assert watched.changes(at_s) == []
    levels = []
    for _ in range(120):
        at_s = feed(watched, "exit:a", at_s, ".")
        levels += [(change.verdict.level, change.over) for change in watched.changes(at_s)]
    assert levels == [("poor", False), ("good", True)]


def test_a_path_that_is_asked_no_more_becomes_unknown_without_a_word() -> None:
    watched = book(EXIT)
    at_s = feed(watched, "exit:a", 0.0, "." * 20)
    watched.changes(at_s)
    assert watched.changes(at_s + 600) == []
    assert watched.entries["exit:a"].level == "unknown"


def test_a_target_that_leads_another_way_now_is_judged_afresh_and_its_return_is_told() -> None:
    watched = book(TARGET)
    key = TARGET.path.key
    at_s = feed(watched, key, 0.0, "." * 20 + "xxxx")
    assert [change.verdict.level for change in watched.changes(at_s)] == ["suspect"]
    watched.renew([key])
    # Losses of the way before that are known late are counted and judge nothing.
    for _ in range(9):
        watched.observe(Sample(key, "icmp", at_s, None, "timeout"), judge=False)
    at_s = feed(watched, key, at_s, "....")
    assert [(change.verdict.level, change.over) for change in watched.changes(at_s)] == [("good", True)]
    assert watched.statuses(at_s, 1e9)[0].windows[1].lost == 13


def test_reading_the_file_anew_keeps_the_windows_of_paths_that_stay() -> None:
    watched = book(EXIT, TARGET)
    at_s = feed(watched, "exit:a", 0.0, "." * 20)
    watched.update([EXIT], Limits(interval_s=5.0, max_loss=0.5), at_s)
    assert [each.key for each in watched.statuses(at_s, 1e9)] == ["exit:a"]
    (status,) = watched.statuses(at_s, 1e9)
    assert status.windows[1].sent == 20
    assert watched.entries["exit:a"].judge._limits.max_loss == 0.5


def test_of_many_paths_the_long_windows_are_summed_up_in_turns() -> None:
    probes = [Probe(Path(f"target:icmp:127.0.0.{n}", ""), "icmp", host=f"127.0.0.{n}") for n in range(1, 201)]
    watched = book(*probes)
    for probe in probes:
        feed(watched, probe.path.key, 0.0, "....x")
    for number in range(60):
        watched.refresh(2.5 + number / 2)
    assert {status.windows[2].lost for status in watched.statuses(40.0, 1e9)} == {1}
    assert all(entry.longest is not None for entry in watched.entries.values())
    for probe in probes:
        feed(watched, probe.path.key, 40.0, "x")
    short, long = ({status.windows[i].lost for status in watched.statuses(41.0, 1e9)} for i in (1, 2))
    assert (short, long) == ({2}, {1})


def test_a_sample_of_a_path_that_is_gone_is_dropped() -> None:
    watched = book(EXIT)
    feed(watched, "exit:gone", 0.0, "....")
    assert (watched.sent, list(watched.entries)) == (0, ["exit:a"])


def egress(*witnesses: str) -> Egress:
    made = Egress(LIMITS)
    made.update(witnesses or ("target:t",), ["target:t", "target:u", "direct:t"], LIMITS, 0.0)
    return made


def level(ways: Egress, node: str, now_s: float) -> str:
    verdict = ways.verdict(node, now_s)
    return verdict.level if verdict else "nothing"


def test_an_answer_counts_for_the_node_that_was_in_use_when_it_was_asked_for() -> None:
    ways = egress("target:t", "target:u")
    ways.use("a", 0.0)
    at_s = feed(ways, "target:t", 0.0, "." * 20)
    feed(ways, "target:t", at_s, "x" * 20)
    moved_s = at_s + 10
    assert ways.use("b", moved_s)
    late = Sample("target:t", "icmp", moved_s - 0.1, None, "timeout")
    assert ways.is_late(late) and not ways.is_late(Sample("exit:a", "tsmp", moved_s - 0.1, None, "timeout"))
    assert not ways.is_late(Sample("target:t", "icmp", moved_s + 0.1, None, "timeout"))
    # A late loss of the way before is not held against the new one.
    ways.observe(Sample("target:t", "icmp", moved_s - 0.1, None, "timeout"))
    end_s = feed(ways, "target:t", moved_s, "." * 5)
    assert level(ways, "a", end_s) == "dead"
    assert level(ways, "b", end_s) == "good"
    arrived = ways.verdict("b", end_s)
    assert arrived is not None and arrived.loss == 0
    assert level(ways, "c", end_s) == "nothing"


def test_a_neighbour_that_answers_says_nothing_of_the_way_out() -> None:
    ways = egress()
    ways.use("a", 0.0)
    at_s = feed(ways, "target:t", 0.0, "." * 20 + "x" * 20)
    assert ways.call("a", at_s - 8)
    feed(ways, "target:icmp:192.168.1.1", at_s - 5, "." * 10)
    assert level(ways, "a", at_s) == "dead"
    feed(ways, "target:u", at_s - 5, "." * 10)
    assert level(ways, "a", at_s) == "good"


def test_what_was_seen_in_an_earlier_stay_is_no_evidence() -> None:
    ways = egress("target:t", "target:u")
    ways.use("a", 0.0)
    at_s = feed(ways, "target:t", 0.0, "." * 20 + "x" * 20)
    assert level(ways, "a", at_s) == "dead"
    ways.use("b", at_s)
    ways.use("a", at_s + 5)
    assert level(ways, "a", at_s + 5) == "unknown"
    assert level(ways, "a", feed(ways, "target:t", at_s + 5, "....")) == "good"


def test_what_was_learnt_of_a_ways_bursts_outlives_an_earlier_stay() -> None:
    ways = egress()
    ways.use("a", 0.0)
    at_s = feed(ways, "target:t", 0.0, ("." * 5 + "xx") * 30)
    before = ways.judges["a", "t"]
    ways.use("b", at_s)
    ways.use("a", at_s + 5)
    fresh = ways.judges["a", "t"]
    assert fresh is not before and fresh.export() == before.export() != Judge("", LIMITS).export()


def test_nothing_is_learnt_of_a_silence_that_was_tailscaleds_own() -> None:
    ways, watched = egress(), book(EXIT)
    ways.use("a", 0.0)
    for sink, key in ((ways, "target:t"), (watched, "exit:a")):
        at_s = feed(sink, key, 0.0, ("." * 60 + "xx") * 3)
        feed(sink, key, at_s, "." * 5)
    plain = [ways.judges["a", "t"].export(), watched.export()["exit:a"]]
    for sink, key in ((ways, "target:t"), (watched, "exit:a")):
        feed(sink, key, at_s + 2.5, "xxx")
    ways.renew()
    watched.renew(["exit:a"])
    after = [ways.judges["a", "t"].export(), watched.export()["exit:a"]]
    for one, other in zip(after, plain, strict=True):
        assert one["bursts"]["follows"] == pytest.approx(other["bursts"]["follows"], abs=0.5)


def test_what_says_nothing_of_a_path_is_told_as_such_beside_the_figures_of_before() -> None:
    """One screen had `loss 0 %` beside crosses, and `not measured yet` beside round trips."""
    watched = book(EXIT)
    watched.update([EXIT], watched.limits, 0.0)
    (fresh,) = watched.statuses(0.0, 0.0)
    assert [str(each) for each in fresh.causes] == ["not measured yet"]
    at_s = feed(watched, "exit:a", 0.0, "..")
    assert [str(each) for each in watched.statuses(at_s, 0.0)[0].causes] == ["2 of 3 answers yet"]
    at_s = feed(watched, "exit:a", at_s, "." * 18)
    watched.renew(["exit:a"])
    watched.note(Sample("exit:a", "disco", at_s, None, "tailscaled does not answer"))
    (blind,) = watched.statuses(at_s, 0.0)
    assert (blind.error, blind.counted, blind.windows[0].lost) == ("tailscaled does not answer", False, 0)
    assert (blind.level, blind.windows[0].sent) == ("unknown", 20)
    assert [str(each) for each in blind.causes] == ["judged anew, 0 of 3 answers: older figures do not count"]
    feed(watched, "exit:a", at_s, "x")
    (lost,) = watched.statuses(at_s + 1, 0.0)
    assert (lost.counted, lost.windows[0].lost) == (True, 1)
    end_s = feed(watched, "exit:a", at_s + 1, "." * 20)
    assert watched.statuses(end_s, 0.0)[0].level == "good"
    (stale,) = watched.statuses(end_s + 100, 0.0)
    assert [str(each).rstrip("0123456789. s") for each in stale.causes] == ["not measured for"]


def test_a_tailscaled_that_was_silent_for_a_moment_is_no_new_stay() -> None:
    ways = egress()
    ways.use("a", 0.0)
    at_s = feed(ways, "target:t", 0.0, "." * 20)
    assert not ways.use(None, at_s)
    ways.observe(Sample("target:t", "icmp", at_s + 0.1, None, "timeout"))  # nobody knows by which way
    assert not ways.use("a", at_s + 1)
    assert level(ways, "a", at_s + 1) == "good"


def test_one_dead_target_says_nothing_of_the_way_and_all_of_them_do() -> None:
    ways = egress("target:t", "target:u")
    ways.use("a", 0.0)
    feed(ways, "target:t", 0.0, "." * 20 + "x" * 20)
    end_s = feed(ways, "target:u", 0.0, "." * 40)
    assert level(ways, "a", end_s) == "good"
    feed(ways, "target:t", end_s, "x" * 20)
    end_s = feed(ways, "target:u", end_s, "x" * 20)
    assert level(ways, "a", end_s) == "dead"


def test_a_target_that_is_asked_seldom_counts_once_it_has_answered_since_it_was_called() -> None:
    ways = egress("target:t")
    ways.use("a", 0.0)
    feed(ways, "target:u", 0.0, "." * 8)
    end_s = feed(ways, "target:t", 0.0, "....." + "x" * 10)
    assert level(ways, "a", end_s) == "suspect"  # its answers are from before the fault, and it was not asked
    assert ways.call("a", end_s)
    assert level(ways, "a", end_s + 3) == "dead"
    assert level(ways, "a", feed(ways, "target:u", end_s, "....")) == "good"


def asked(ways: Egress, start_s: float, *rounds: str, node: str = "a") -> Iterator[tuple[str, str]]:
    """Rounds of half a second: the outcomes of `t`, and of `u` where that is asked quickly (else none).

    Gives the level of the way after each, and what is asked: all, or the targets by their letters.
    """
    for number, (t, u) in enumerate(rounds):
        now_s = start_s + number * 0.5
        all_of_them = ways.call(node, now_s)
        quick = "all" if all_of_them else "".join(each[-1] for each in ways.asked)
        feed(ways, "target:t", now_s, t)
        if quick in {"all", "tu"}:
            feed(ways, "target:u", now_s, u)
        yield level(ways, node, now_s + 0.5), quick


def test_a_light_target_that_falls_silent_beside_a_page_that_answers_says_nothing_of_the_way() -> None:
    """It was dead at each second turn: with `otherwise: block` a storm of alerts, else a leak."""
    ways = egress("target:t")
    ways.use("a", 0.0)
    feed(ways, "target:u", 0.0, "....", pace_s=5.0)
    at_s = feed(ways, "target:t", 0.0, "." * 40)
    seen = list(asked(ways, at_s, *["x."] * 240))
    assert {each for each, _ in seen[:3]} == {"good", "suspect"}
    assert {each for each, _ in seen[4:]} == {"good"}
    # Not all of the file for good: a few that answer.
    assert [quick for _, quick in seen][:3] == ["t", "t", "t"]
    assert [quick for _, quick in seen][3:13] == ["all"] * 10 and seen[-1][1] == "tu"
    # Elsewhere it is silent too, and the page speaks from the first moment.
    ways.use("b", at_s + 120)
    there = [each for each, _ in asked(ways, at_s + 120, *["x."] * 40, node="b")]
    assert {*there} == {"unknown", "good"} and {*there[2:]} == {"good"}
    # The way fails: the page's answers of before count no more, and all are asked.
    end_s = at_s + 140
    failed = list(asked(ways, end_s, *["xx"] * 12, node="b"))
    assert failed[-1] == ("dead", "all")
    # All is well again: the page is asked seldom.
    well = list(asked(ways, end_s + 6, *[".."] * 120, node="b"))
    assert well[-1] == ("good", "t")


def test_a_page_hides_no_loss_that_the_light_targets_tell_of() -> None:
    ways = egress("target:t")
    ways.use("a", 0.0)
    at_s = feed(ways, "target:t", 0.0, "." * 40)
    seen = [each for each, _ in asked(ways, at_s, *(f"{each}." for each in ".x..x" * 40))]
    assert seen[-1] == "poor"


def test_a_page_that_answered_before_a_dead_way_was_called_does_not_keep_the_host_there() -> None:
    ways = egress("target:t")
    ways.use("a", 0.0)
    feed(ways, "target:u", 0.0, "." * 40)
    at_s = feed(ways, "target:t", 0.0, "." * 40)
    seen = [each for each, _ in asked(ways, at_s, *["xx"] * 12)]
    assert "good" not in seen[3:] and seen[-1] == "dead"


def test_the_bare_uplink_is_measured_beside_the_node_in_use() -> None:
    ways = egress()
    ways.use("a", 0.0)
    end_s = feed(ways, "direct:t", 0.0, "." * 10)
    assert (level(ways, DIRECT, end_s), level(ways, "a", end_s)) == ("good", "unknown")


def test_what_was_learnt_of_a_way_outlives_a_restart_and_garbage_is_refused() -> None:
    ways = egress()
    ways.use("a", 0.0)
    feed(ways, "target:t", 0.0, ("." * 5 + "xx") * 30)
    again = egress()
    again.restore(ways.export(), ["target:t"])
    assert again.judges["a", "t"].export() == ways.judges["a", "t"].export()
    with pytest.raises(ValueError, match="cannot be read"):
        again.restore({"a t": {"unit_s": 0.5}}, ["target:t"])


def test_events_carry_the_sentence_the_numbers_and_what_ends_what() -> None:
    moved = event_of_reason(Reason("moved", "b", (Compared("a", "dead"),)), 5.0)
    assert moved is not None
    assert (moved.code, moved.severity, moved.about, moved.over) == ("moved", "warning", "exit-node", False)
    assert moved.text == "moves to b: a dead"
    assert moved.data["compared"][0]["level"] == "dead"
    home = event_of_reason(Reason("home", "a"), 5.0)
    assert home is not None and home.over
    assert event_of_reason(Reason("stays", "a"), 5.0) is None
    watched = book(EXIT)
    at_s = feed(watched, "exit:a", 0.0, "." * 20 + "x" * 20)
    (change,) = watched.changes(at_s)
    event = event_of_change(change, 7.0)
    assert (event.code, event.severity, event.about) == ("path-dead", "critical", "exit:a")
    assert "probes lost in a row" in event.text and event.data["causes"][0]["rule"] == "failures"


AROUND = Surroundings(
    tunnel=frozenset({"100.64.0.1", "fd7a:115c:a1e0::1"}),
    uplink=frozenset({"198.51.100.2"}),
    local=frozenset({"100.64.0.1", "fd7a:115c:a1e0::1", "198.51.100.2", "192.168.15.1", "127.0.0.1"}),
    attached=(ip_network("198.51.100.0/24"), ip_network("192.168.15.0/24")),
    peers=(ip_network("10.9.0.0/16"),),
    routed=(ip_network("192.168.15.0/24"),),
)


def flow(
    source: str, far: str, *, carried: str = "", asked: str = "", mark: int = 0, sport: int = 5
) -> Connection:
    """From `source` to `far`; `carried` after source NAT, `asked` before destination NAT."""
    return Connection(
        Tuple(source, asked or far, 17, sport, 443), Tuple(far, carried or source, 17, 443, sport), mark
    )


BY_NODE = {
    "this host to the internet": flow("100.64.0.1", "203.0.113.1"),
    "this host, IPv6": flow("fd7a:115c:a1e0::1", "2001:db8::1"),
    "the LAN, masqueraded into the tunnel": flow("192.168.15.9", "203.0.113.1", carried="100.64.0.1"),
    "the LAN, as it is": flow("192.168.15.9", "203.0.113.1"),
}
BY_UPLINK = {
    "this host": flow("198.51.100.2", "203.0.113.1"),
    "the LAN, masqueraded": flow("192.168.15.9", "203.0.113.1", carried="198.51.100.2"),
}
OTHERS = {
    "the tailnet": flow("100.64.0.1", "100.64.0.7"),
    "the tailnet, IPv6": flow("fd7a:115c:a1e0::1", "fd7a:115c:a1e0::7"),
    "a subnet of a peer": flow("100.64.0.1", "10.9.3.4"),
    "from the tailnet to this host": flow("100.64.0.7", "100.64.0.1"),
    "from the internet to this host": flow("203.0.113.1", "198.51.100.2"),
    "from the internet to a machine behind a DNAT": flow("203.0.113.1", "192.168.15.9", asked="198.51.100.2"),
    "the LAN to the LAN": flow("192.168.15.9", "198.51.100.9"),
    "loopback": flow("127.0.0.1", "127.0.0.1"),
    "tailscaled's own, by its mark": flow("198.51.100.2", "203.0.113.9", mark=0x80000),
    "tailscaled's own, by its port": flow("198.51.100.2", "203.0.113.9", sport=41641),
    "multicast": flow("198.51.100.2", "224.0.0.251"),
}


@pytest.mark.parametrize("left", ["a", DIRECT])
def test_pitfall_10_only_connections_of_the_way_that_was_left_are_freed(left: str) -> None:
    every = {**BY_NODE, **BY_UPLINK, **OTHERS}
    gone = left_by(left, every.values(), AROUND)
    assert {name for name, each in every.items() if each in gone} == set(BY_NODE if left else BY_UPLINK)


class Untouched(Exception):
    """The kernel's table was asked for."""


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "no request"),
        (b"nonsense\n", "no request"),
        (b"[]\n", "no request"),
        (
            b'{"left": "a", "uplink": "lo", "addresses": "x", "peer_routes": [], "advertised": []}\n',
            "no request",
        ),
        (
            b'{"left": "a", "uplink": "lo", "addresses": [], "peer_routes": ["x"], "advertised": []}\n',
            "no request",
        ),
    ],
)
def test_the_helper_that_frees_flows_does_nothing_for_garbage(
    sent: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touch() -> list[Connection]:
        raise Untouched

    monkeypatch.setattr(freeing, "list_connections", touch)
    answer = io.BytesIO()
    freeing.serve_one(io.BytesIO(sent), answer)
    assert said in json.loads(answer.getvalue())["error"]


def test_without_the_right_to_free_flows_the_helper_is_asked(
    tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [BY_NODE["this host to the internet"], OTHERS["the tailnet"]]
    dropped: list[Connection] = []
    rights = iter([False, True])

    def listed() -> list[Connection]:
        if not next(rights):
            raise PermissionError(1, "Operation not permitted")
        return given

    def drop(gone: Iterable[Connection]) -> Dropped:
        dropped.extend(gone)
        return Dropped(len(dropped))

    monkeypatch.setattr(freeing, "list_connections", listed)
    monkeypatch.setattr(freeing, "drop_connections", drop)
    monkeypatch.setattr(freeing, "_PATIENCE_S", 0.2)
    path = tmp_path / "flows.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as client, client.makefile("rwb") as both:
                time.sleep(0.4)  # a slow machine: longer than a screen waits for it
                freeing.serve_one(both, both)

        thread = threading.Thread(target=serve)
        thread.start()
        freed = freeing.free_flows("a", Seen(addresses=("100.64.0.1",)), "eth0", path)
        assert asyncio.run(freed) == 1
        thread.join()
    assert dropped == given[:1]
    path.unlink()
    rights = iter([False])
    with pytest.raises(PermissionError):
        asyncio.run(freeing.free_flows("a", Seen(), "eth0", path))


PATHS = ("exit:a", "exit:b", "exit:c", "target:t", "target:u", "target:v", "direct:t", "service:wiki#0")


@pytest.mark.parametrize(
    ("nodes", "calm", "settled", "quick"),
    [
        ({"A", "b"}, True, True, {"exit:a", "exit:b", "target:t"}),
        ({"a", "b"}, False, True, {"exit:a", "exit:b", "target:t", "target:u", "target:v", "direct:t"}),
        ({"a", "b"}, True, False, {"exit:a", "exit:b", "target:t", "direct:t"}),
        ({"a", "b", "c"}, True, True, {"exit:a", "exit:b", "exit:c", "target:t", "direct:t"}),
    ],
)
def test_what_matters_now_is_probed_quickly(
    nodes: set[str], calm: bool, settled: bool, quick: set[str]
) -> None:
    assert quick_paths(nodes, ("target:t",), PATHS, calm=calm, settled=settled) == quick
