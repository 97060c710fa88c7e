"""The plot: in SVG by hand and in PNG with Pillow, from the same shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from watched_links import NOON, quality

from tsstack.cli.link_picture import write_png
from tsstack.cli.link_plot import COLOURS, drawing, svg
from tsstack.monitor.archive import BadTime, Point
from tsstack.monitor.links import Link, Report

_SVG = "{http://www.w3.org/2000/svg}"


def course(rtts: Sequence[float | None]) -> tuple[Point, ...]:
    return tuple(
        Point(NOON + number, quality(60, rtt_s), "dead" if rtt_s is None else "good")
        for number, rtt_s in enumerate(rtts)
    )


def report(*courses: Sequence[float | None], key: str = "exit:exit-a", span_s: float = 3600.0) -> Report:
    links = [
        Link(
            f"{key}{number or ''}",
            "exit",
            "good",
            quality(60, 0.02),
            worst="dead",
            bad=BadTime(0, 0, 60),
            series=course(each),
        )
        for number, each in enumerate(courses)
    ]
    return Report(NOON, True, "mint", NOON - span_s, NOON, None, tuple(links))


def test_every_class_has_a_light_and_a_dark_colour() -> None:
    text = svg(drawing(report([0.02, None, 0.03])))
    root = ElementTree.fromstring(text)  # noqa: S314  our own
    used = {each.get("class") for each in root.iter() if each.get("class")}
    assert used <= set(COLOURS)
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    for role in used:
        assert f".{role}{{fill:{COLOURS[role][0]}}}" in light
        assert f".{role}{{fill:{COLOURS[role][1]}}}" in dark


def test_text_is_readable_on_its_ground() -> None:
    for index in (0, 1):
        for role in ("ink", "faint"):
            assert contrast(COLOURS[role][index], COLOURS["page"][index]) >= 4.5, "WCAG 2.2, 1.4.3"


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_was_lost_or_not_measured_is_a_gap() -> None:
    shapes = drawing(report([0.02, 0.02, None, 0.03])).shapes
    lines = [shape for shape in shapes if shape.role == "p50" and shape.kind == "line"]
    assert [len(each.points) for each in lines] == [4, 2]
    assert sum(shape.role == "loss" and shape.kind == "area" for shape in shapes) == 2, "the legend's and one"


def test_one_slow_step_leaves_the_others_their_height_and_is_marked() -> None:
    usual = [0.020 + 0.005 * (number % 3) for number in range(239)]
    shapes = drawing(report([*usual, 1.0])).shapes
    labels = [each.text for each in shapes if each.anchor == "end" and each.text.endswith(" ms")]
    ticks = [float(text.removesuffix(" ms")) for text in labels if text[0].isdigit() and "%" not in text]
    assert 25 < max(ticks) <= 100
    (told,) = [each.text for each in shapes if "up to" in each.text]
    assert told.startswith("95 % up to 1")
    assert not [each for each in drawing(report(usual)).shapes if "up to" in each.text]


def test_names_of_others_are_escaped() -> None:
    name = "<script>&\"'\x00\ud800\ufffe]]>"
    root = ElementTree.fromstring(svg(drawing(replace(report([0.1], key=name), host=name))))  # noqa: S314
    assert not list(root.iter(f"{_SVG}script"))
    assert "<script>&\"'???]]>" in {each.text for each in root.iter(f"{_SVG}text")}


@pytest.mark.parametrize("span_s", [60, 3600, 86400, 7 * 86400, 90 * 86400, 1000 * 86400])
def test_the_axis_has_a_few_ticks_for_every_span(span_s: float) -> None:
    shapes = drawing(report([0.02] * 60, span_s=span_s)).shapes
    ticks = [shape for shape in shapes if shape.anchor == "middle"]
    assert 2 <= len(ticks) <= 9
    assert all(64 <= shape.points[0][0] <= 940 for shape in ticks)


@pytest.mark.parametrize("rtts", [[], [None, None], [0.00001], [99.0, 0.00001], [0.02] * 500])
def test_every_shape_lies_within_the_picture(rtts: list[float | None]) -> None:
    picture = drawing(report(rtts, rtts))
    for shape in picture.shapes:
        for x, y in shape.points:
            assert 0 <= x <= picture.width
            assert 0 <= y <= picture.height
    ElementTree.fromstring(svg(picture))  # noqa: S314


def test_nothing_to_draw_is_said() -> None:
    assert "nothing was measured in this time" in svg(drawing(report()))


def test_png_shows_the_same(tmp_path: Path) -> None:
    from importlib import import_module

    file = tmp_path / "plot.png"
    picture = drawing(report([0.02] * 30 + [None] * 10 + [0.09] * 20))
    write_png(picture, file)
    with import_module("PIL.Image").open(file) as image:
        assert image.format == "PNG"
        assert image.size == (round(picture.width * 2), round(picture.height * 2))
        colours = {"#{:02x}{:02x}{:02x}".format(*pixel) for _, pixel in image.getcolors(1 << 24)}
    for role in ("page", "loss", "dead", "p95"):
        assert COLOURS[role][0] in colours, f"{role} is seen"
