"""What a change does to the parameters and limits that a way in may hang on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tsstack.model.facts import Facts, Paths
from tsstack.parts.kernel import desired, record
from tsstack.switch.ground import planned


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
