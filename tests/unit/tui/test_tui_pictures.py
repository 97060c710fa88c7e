"""Pictures of the dashboard, held against those that somebody has looked at.

`TSSTACK_WRITE_GOLDEN=1` writes what is drawn now; look at the pictures before you commit them.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tui_bed import GENERATIONS, NOBODY, NOW, ROOT, a_host, dashboard, frames, moved_on

from tsstack.tui.app import Dashboard
from tsstack.tui.frame import Frame, next_frame

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "tui"
SMALL, LARGE = (80, 24), (120, 40)


def well() -> Frame:
    return frames(a_host(), 90)


def monitor_away() -> Frame:
    frame = well()
    status = moved_on(a_host(), 102)
    status["monitor"] = {"running": False, "wanted": True, "error": "no monitor runs", "state": None}
    return next_frame(next_frame(frame, {**status, "at": NOW + 91}, ROOT), status, ROOT)


def tailscaled_away() -> Frame:
    why = "tailscaled does not answer on /var/run/tailscale/tailscaled.sock"
    unused = {"using": "", "online": None, "why": ["tailscaled does not run"]}
    status = a_host(tailnet={"error": why, "state": "", "name": ""}, exit=unused)
    status["peers"], status["at"] = [], NOW + 95
    return next_frame(well(), status, ROOT)


def waiting() -> Frame:
    pending = {"change": "c7", "generation": 7, "phase": "unconfirmed", "left_s": 42.0}
    return next_frame(None, a_host(generation={"pending": pending}), ROOT, GENERATIONS)


def reader() -> Frame:
    return frames(a_host(), 90, NOBODY)


CASES: dict[str, tuple[Callable[[], Frame], tuple[int, int], list[str], dict[str, Any]]] = {
    "overview": (well, LARGE, [], {}),
    "overview-80x24": (well, SMALL, [], {}),
    "overview-60x20": (well, (60, 20), [], {}),
    "overview-no-colour": (well, SMALL, [], {"plain": True}),
    "overview-ascii": (well, SMALL, [], {"plain": True, "unicode": False}),
    "overview-light": (well, SMALL, [], {"theme": "tsstack-light"}),
    "overview-tailscaled-away": (tailscaled_away, SMALL, [], {}),
    "links": (well, LARGE, ["2", "down"], {}),
    "links-80x24": (well, SMALL, ["2"], {}),
    "links-monitor-away": (monitor_away, SMALL, ["2"], {}),
    "exit-nodes": (well, SMALL, ["3"], {}),
    "exit-node-question": (well, SMALL, ["3", "down", "enter"], {}),
    "services": (well, SMALL, ["4"], {}),
    "firewall": (well, LARGE, ["5"], {}),
    "firewall-80x24": (reader, SMALL, ["5"], {}),
    "events": (well, SMALL, ["6", "down", "down"], {}),
    "generations-waiting": (waiting, SMALL, ["7"], {}),
    "help": (well, SMALL, ["question_mark"], {}),
}


def picture(name: str) -> str:
    make, size, keys, options = CASES[name]
    if options.get("plain"):
        os.environ["NO_COLOR"] = "1"  # the app takes it away again

    async def draw(app: Dashboard) -> str:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
            await pilot.pause()
            return app.export_screenshot(title="tsstack top")

    return normal(asyncio.run(draw(dashboard(make(), **options))))


def normal(svg: str) -> str:
    """Without what differs from run to run and from release to release: the id, and the fonts' addresses."""
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_picture(name: str) -> None:
    found = picture(name)
    golden = GOLDEN / f"{name}.svg"
    if os.environ.get("TSSTACK_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()


@pytest.mark.parametrize(
    "path", sorted((GOLDEN.parents[2] / "docs" / "pictures").glob("top-*.svg")), ids=lambda path: path.stem
)
def test_the_documents_show_what_is_drawn(path: Path) -> None:
    """`cp tests/golden/tui/NAME.svg docs/pictures/top-NAME.svg` after a change of the looks."""
    assert path.read_text() == (GOLDEN / path.name.removeprefix("top-")).read_text()


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def test_without_colour_there_is_none() -> None:
    svg = (GOLDEN / "overview-no-colour.svg").read_text()
    # The terminal's own two colours and the first of them dim; the three lamps of the title bar.
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) == {
        "#292929", "#c5c8c6", "#868887", "#ff5f57", "#febc2e", "#28c840",
    }  # fmt: skip
