"""What a change does to the parameters and limits that a way in may hang on."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts, Paths
from tsstack.parts.kernel import desired, record
from tsstack.prove.expected import Packet
from tsstack.switch.ground import Planned, planned
from tsstack.switch.guard import check_kernel, ways_of_sessions
from tsstack.switch.ways import Route, Session, Way


def spec(rate_bps: int) -> dict[str, float]:
    return {"rate_bps": rate_bps, "burst_bytes": 3000, "latency_s": 0.05}


@pytest.mark.parametrize(
    ("wanted", "before", "judged"),
    [
        ({"egress": 300, "ingress": 9_000}, {}, 300),
        ({"egress": 9_000, "ingress": 300}, {}, 300),
        ({"egress": 300}, {}, 300),
        ({"ingress": 300, "egress": 1_000_000}, {}, 300),
        ({"egress": 300, "ingress": 9_000}, {"egress": 300}, 9_000),
        ({"egress": 1_000_000}, {}, None),
    ],
)
def test_of_both_directions_the_lower_limit_counts(
    tmp_path: Path, wanted: dict[str, int], before: dict[str, int], judged: int | None
) -> None:
    kept = {"eth0": {direction: spec(bps) for direction, bps in before.items()}}
    record.write(tmp_path, record.Record({}, {}, kept, {}))
    links = {"eth0": {direction: spec(bps) for direction, bps in wanted.items()}}
    tree = {f"{desired.FOLDER}/links.json": json.dumps(links)}
    limits = planned(tree, Facts(paths=Paths(state=tmp_path))).limits
    assert limits == ({} if judged is None else {"eth0": judged})


def test_a_doubtful_way_is_refused_for_no_parameter_and_hides_no_certain_one() -> None:
    """An admin of an interface that is not there, or where a session's packets may come by besides."""
    session = Session(ipaddress.ip_address("192.0.2.7"), 50000, ipaddress.ip_address("192.0.2.1"), 22)
    (way,) = ways_of_sessions((session,), lambda *_: Route("eth77"))
    doubtful = replace(way, whose="an admin behind eth77", session=None, doubtful=True)
    name = "net.ipv4.conf.eth77.arp_ignore"
    change = Planned({name: "8"}, {}, {}, {name: "0"})
    (doubt,) = check_kernel(change, [doubtful], Facts())
    assert doubt.startswith(f"{name}")
    assert doubt.endswith("(this may lock out an admin)")
    for ways in ([way, doubtful], [doubtful, way]):
        with pytest.raises(CheckFailed, match="lock you out"):
            check_kernel(change, ways, Facts())


def test_a_network_that_a_router_leads_to_is_refused_for_no_parameter() -> None:
    """A Thread border router tells of its own network; without IPv6's default route nobody else is cut."""
    source, network = ipaddress.ip_address("fd77::1"), ipaddress.ip_network("fd77::/48")
    packet = Packet(source, "eth77", "tcp", 22)
    route = Route("eth77", gateway=True, learnt=True)
    example = Way(packet, "an admin behind eth77", route=route, network=network)
    start = "net.ipv6.conf.eth77.accept_ra"
    change = Planned({f"{start}_defrtr": "0"}, {}, {}, {start: "2", f"{start}_defrtr": "1"})
    (doubt,) = check_kernel(change, [example], Facts())
    assert doubt.startswith(f"{start}_defrtr")
    assert doubt.endswith("(this may lock out an admin)")
    admin = replace(example, whose="the admin source fd77::/48", network=None)
    for ways in ([admin, example], [example, admin]):
        with pytest.raises(CheckFailed, match=r"lock out an admin: .* the admin source"):
            check_kernel(change, ways, Facts())
