"""A drawing as PNG, with Pillow (python-pillow.org), which is asked for only here: it is an extra."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from tsstack.cli.glyphs import clean
from tsstack.cli.link_plot import COLOURS, Drawing, Shape
from tsstack.errors import CheckFailed

_SCALE = 2
"""Pixels of the picture for each of the drawing: sharp on dense screens."""
_SMOOTH = 2
"""Lines of Pillow have hard edges: drawn so much larger and made smaller, they are smooth."""
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def need_pillow() -> Any:
    """Pillow's `Image`, `ImageDraw` and `ImageFont`; CheckFailed with the command that installs it."""
    try:
        return tuple(import_module(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    except ImportError as error:
        raise CheckFailed(
            f"PNG needs Pillow, which is not installed here ({error})",
            hint="pipx install '.[plot]' in a checkout, or draw FILE.svg, which needs nothing",
        ) from error


def write_png(picture: Drawing, file: Path) -> None:
    """Draw it on light ground. Raises CheckFailed without Pillow, OSError when the file cannot be written."""
    images, draws, fonts = need_pillow()
    scale = _SCALE * _SMOOTH
    size = (round(picture.width * scale), round(picture.height * scale))
    image = images.new("RGB", size, COLOURS["page"][0])
    draw = draws.Draw(image)
    for shape in picture.shapes:
        _put(draw, fonts, shape, scale)
    smooth = image.resize((size[0] // _SMOOTH, size[1] // _SMOOTH), images.Resampling.LANCZOS)
    smooth.save(file, format="PNG", optimize=True)


def _put(draw: Any, fonts: Any, shape: Shape, scale: int) -> None:
    colour = COLOURS[shape.role][0]
    points = [(x * scale, y * scale) for x, y in shape.points]
    if shape.kind == "area":
        draw.polygon(points, fill=colour)
    elif shape.kind == "line":
        draw.line(points, fill=colour, width=round(1.5 * scale), joint="curve")
    else:
        # Its own font, so that a server without any draws words too.
        font = fonts.load_default(size=shape.size * scale)
        stroke = {"stroke_width": scale // 4, "stroke_fill": colour} if shape.bold else {}
        draw.text(
            points[0], clean(shape.text), fill=colour, font=font, anchor=_ANCHORS[shape.anchor], **stroke
        )
