"""A sheet of small copies, as one image."""

import textwrap
from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

from step37_flickr8k.images.thumbnails import SIDE

__all__ = ["contact_sheet"]

# The contact sheet, in pixels.
_GAP = 8
_TEXT = 30  # below each image: two short lines
_FONT = 11
_LINE = 23  # characters of a line
_LINES_BELOW, _LINES_INSTEAD = 2, 9
_GROUND, _INK, _RED = "white", (60, 60, 60), (180, 30, 30)


def contact_sheet(tiles: Sequence[tuple[bytes | None, str]], columns: int) -> bytes:
    """Return thumbnails in a grid as PNG, each with its text below.

    A tile without a thumbnail shows its text in its stead, in red.
    """
    width, height = SIDE + _GAP, SIDE + _TEXT + _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (copy, text) in enumerate(tiles):
        left = _GAP + number % columns * width
        top = _GAP + number // columns * height
        if copy is None:
            draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=_RED)
            _write(draw, text, (left + 4, top + 4), _LINES_INSTEAD, _RED)
        else:
            with Image.open(BytesIO(copy)) as small:
                # Some copies are smaller, to stay below their limit of bytes.
                shown = ImageOps.contain(small, (SIDE, SIDE))
            at = (left + (SIDE - shown.width) // 2, top + (SIDE - shown.height) // 2)
            sheet.paste(shown, at)
            _write(draw, text, (left, top + SIDE + 2), _LINES_BELOW, _INK)
    # 256 colors take a third of the bytes.
    sheet.quantize(256).save(out := BytesIO(), "PNG", optimize=True)
    return out.getvalue()


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    at: tuple[int, int],
    lines: int,
    color: tuple[int, int, int],
) -> None:
    wrapped = textwrap.wrap(text, _LINE, max_lines=lines, placeholder="\u2026")
    draw.multiline_text(at, "\n".join(wrapped), color, ImageFont.load_default(_FONT))
