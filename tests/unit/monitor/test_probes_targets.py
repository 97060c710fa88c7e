"""Which paths a file asks for, and what judges each."""

from __future__ import annotations

from typing import Any

import pytest

from tsstack.model.stack import Stack
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.probes.targets import _host_of_url, plan_probes, shown_page, timeout_for
from tsstack.monitor.redaction import redacted
from tsstack.monitor.sample import Path


def stack_of(**sections: Any) -> Stack:
    return Stack.model_validate({"host": {"name": "kernelcore", "tailnet": "tail.test"}, **sections})


def keyed(stack: Stack, way: str = "") -> dict[str, list[Probe]]:
    found: dict[str, list[Probe]] = {}
    for probe in plan_probes(stack, way=way):
        found.setdefault(probe.path.key, []).append(probe)
    return found


def test_an_empty_file_asks_for_nothing() -> None:
    assert plan_probes(stack_of()) == ()


def test_an_exit_node_is_judged_through_wireguard_and_disco_tells_the_way() -> None:
    planned = keyed(stack_of(tailscale={"exit_node": {"use": ["exit-a", "Exit-B"]}}))
    assert list(planned) == ["exit:exit-a", "exit:exit-b"]
    assert [(probe.kind, probe.judges, probe.host) for probe in planned["exit:exit-b"]] == [
        ("tsmp", True, "Exit-B"),
        ("disco", False, "Exit-B"),
    ]
    assert planned["exit:exit-b"][0].path.source == "tailscale.exit_node.use[1]"


def test_targets_of_every_kind() -> None:
    targets = [
        {"icmp": "1.1.1.1"},
        {"icmp": "2606:4700:4700::1111"},
        {"tcp": "[2001:db8::1]:443"},
        {"tcp": "example.org:22"},
        {"https": "https://example.org/health"},
        {"dns": "example.org"},
    ]
    planned = keyed(stack_of(monitor={"targets": targets}))
    assert list(planned) == [
        "target:icmp:1.1.1.1",
        "target:icmp:2606:4700:4700::1111",
        "target:tcp:[2001:db8::1]:443",
        "target:tcp:example.org:22",
        "target:https:https://example.org/health",
        "target:dns:example.org",
    ]
    six = planned["target:tcp:[2001:db8::1]:443"][0]
    assert (six.host, six.port, six.path.source) == ("2001:db8::1", 443, "monitor.targets[2]")
    assert planned["target:dns:example.org"][0].name == "example.org"
    assert planned["target:https:https://example.org/health"][0].timeout_s == 5


def test_keys_do_not_depend_on_the_place_in_the_file() -> None:
    one = keyed(stack_of(monitor={"targets": [{"icmp": "1.1.1.1"}, {"dns": "a.example"}]}))
    two = keyed(stack_of(monitor={"targets": [{"dns": "a.example"}, {"icmp": "1.1.1.1"}]}))
    assert one.keys() == two.keys()


def test_the_same_target_twice_is_one_path() -> None:
    planned = plan_probes(stack_of(monitor={"targets": [{"icmp": "1.1.1.1"}] * 3}))
    assert [probe.path.source for probe in planned] == ["monitor.targets[0]"]


def test_pitfall_28_targets_are_bound_to_the_way_out_and_neighbours_are_not() -> None:
    targets = [
        {"icmp": "1.1.1.1"},
        {"icmp": "192.168.1.1"},
        {"icmp": "fd00::7"},
        {"tcp": "100.64.0.9:22"},
        {"https": "https://[2606:4700::1]/"},
        {"https": "https://10.0.0.1:8443/x"},
        {"https": "https://example.org"},
        {"dns": "example.org"},
        {"https": "https://nas.lan/"},
        {"icmp": "wiki.home.arpa"},
        {"tcp": "nas.Tail.test:22"},
        {"tcp": "printer:631"},
    ]
    planned = plan_probes(stack_of(monitor={"targets": targets}), way="tailscale0")
    assert [probe.path.interface for probe in planned] == [
        *("tailscale0", "", "", "", "tailscale0", "", "tailscale0", "", "", "", "", ""),
    ]


def test_services_are_probed_where_they_listen() -> None:
    services = {
        "wiki": {"upstream": [8000, "192.168.15.9:8000 backup"]},
        "db": {"upstream": 5432, "protocol": "tcp"},
        "app": {"upstream": "unix:/run/app.sock"},
        "six": {"upstream": "https://[fd00::1]:8443"},
        "gone": {"upstream": 1, "enabled": False},
    }
    planned = keyed(stack_of(proxy={"services": services}))
    assert list(planned) == [
        "service:wiki#0",
        "service:wiki#1",
        "service:db#0",
        "service:app#0",
        "service:six#0",
    ]
    assert planned["service:app#0"][0].socket == "/run/app.sock"
    six = planned["service:six#0"][0]
    assert (six.kind, six.host, six.port) == ("tcp", "fd00::1", 8443)
    assert planned["service:wiki#1"][0].path.source == "proxy.services.wiki.upstream[1]"


def test_a_route_is_judged_by_what_the_file_names_inside_it() -> None:
    stack = stack_of(
        tailscale={"advertise": {"routes": ["192.168.15.0/24", "172.17.0.0/16", "fd00:15::/64"]}},
        proxy={"services": {"wiki": {"upstream": ["192.168.15.9:8000", "127.0.0.1:1"]}}},
        monitor={"targets": [{"icmp": "192.168.15.1"}, {"tcp": "[fd00:15::9]:22"}, {"icmp": "192.168.16.1"}]},
    )
    planned = keyed(stack)
    (route,) = planned["route:192.168.15.0/24"]
    assert [(each.kind, each.host, each.port, each.reaches) for each in (route, *route.others)] == [
        ("icmp", "192.168.15.1", 0, False),
        ("icmp", "192.168.15.9", 0, False),
        ("tcp", "192.168.15.9", 8000, True),
    ]
    assert not any(probe.reaches for probe in planned["service:wiki#0"])  # there a refusal is a failure
    (six,) = planned["route:fd00:15::/64"]
    assert (six.kind, six.host, six.path.source) == ("icmp", "fd00:15::9", "tailscale.advertise.routes[2]")
    assert "route:172.17.0.0/16" not in planned


@pytest.mark.parametrize(
    ("latency_s", "timeout_s"), [(0.05, 1.0), (0.2, 1.0), (0.8, 1.6), (5.0, 6.0), (60, 61)]
)
def test_slow_is_waited_for_well_beyond_the_limit(latency_s: float, timeout_s: float) -> None:
    assert timeout_for(latency_s) == pytest.approx(timeout_s)
    stack = stack_of(monitor={"max_latency": f"{latency_s}s", "targets": [{"https": "https://x.example/"}]})
    assert plan_probes(stack)[0].timeout_s <= 120


def test_a_probe_refuses_nonsense() -> None:
    path = Path("target:icmp:1.1.1.1", "")
    for timeout_s in (0, -1, 121):
        with pytest.raises(ValueError, match="at most 120 s"):
            Probe(path, "icmp", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="own path"):
        Probe(path, "icmp", others=(Probe(Path("x", ""), "icmp"),))


def test_no_token_of_a_page_is_shown_and_pages_stay_apart() -> None:
    pages = [
        "https://example.org/health?token=s3cret1",
        "https://example.org/health?token=s3cret2",
        "https://joe:s3cret3@example.org/health",
        "https://example.org/health#s3cret4",
        "https://example.org/health",
    ]
    shown = [shown_page(each) for each in pages]
    assert len(set(shown)) == len(pages) and shown[4] == pages[4]
    assert "s3cret" not in "".join(shown) and "joe" not in "".join(shown)
    assert all(each.startswith("https://example.org/health") for each in shown)
    assert [redacted(each) for each in shown] == shown  # metrics and alerts leave them as they are
    targets = [{"https": each} for each in pages[:2]]
    planned = plan_probes(stack_of(monitor={"targets": targets}))
    assert [probe.path.key for probe in planned] == [f"target:https:{each}" for each in shown[:2]]
    assert [probe.url for probe in planned] == pages[:2]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://192.168.15.9?x", "192.168.15.9"),
        ("https://u:p@192.168.15.9#x", "192.168.15.9"),
        ("https://[fd00::1]:8/", "fd00::1"),
        ("https://example.org:8/a@b", "example.org"),
    ],
)
def test_the_host_of_a_page(url: str, host: str) -> None:
    assert _host_of_url(url) == host
