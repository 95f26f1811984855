"""Small copies of images: one alone, or a sheet of them.

They are apart from the decode checks, because workers don't need them.
"""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps

from step37_flickr8k.images.opening import with_image

__all__ = ["contact_sheet", "thumbnail"]

# Pixels of a thumbnail's longer side: the first whose bytes fit.
_SIDES = (144, 112, 80, 36)
_SIDE = _SIDES[0]
_QUALITIES = (45, 30, 15)

# The contact sheet, in pixels.
_GAP = 8
_TEXT = 30  # below each image: two short lines
_FONT = 11
_LINE = 23  # characters of a line
_LINES_BELOW, _LINES_INSTEAD = 2, 9
_GROUND, _INK, _RED = "white", (60, 60, 60), (180, 30, 30)


def thumbnail(path: Path, most: int) -> tuple[bytes, tuple[int, int]]:
    """Return a small copy as WebP of at most ``most`` bytes, and the image's (width, height).

    Raises what `with_image` does, and ValueError if no copy is so small.
    """
    small, size = with_image(path, path.name, _shrunk)
    for side in _SIDES:
        small.thumbnail((side, side))
        for quality in _QUALITIES:
            small.save(out := BytesIO(), "WEBP", quality=quality, method=2)
            if len(out.getvalue()) <= most:
                return out.getvalue(), size
    raise ValueError(f"no copy of {small.width} x {small.height} pixels takes only {most} bytes")


def _shrunk(image: ImageFile.ImageFile) -> tuple[Image.Image, tuple[int, int]]:
    """Return an image for a thumbnail, the right way up, and the size that it had."""
    size = image.size
    image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
    return _upright(image).convert("RGB"), size


def _upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF data says, or as it is where they are malformed."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - around a decoder: any, here of metadata
        return image


def contact_sheet(tiles: Sequence[tuple[bytes | None, str]], columns: int) -> bytes:
    """Return thumbnails in a grid as PNG, each with its text below.

    A tile without a thumbnail shows its text in its stead, in red.
    """
    width, height = _SIDE + _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (copy, text) in enumerate(tiles):
        left = _GAP + number % columns * width
        top = _GAP + number // columns * height
        if copy is None:
            draw.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), outline=_RED)
            _write(draw, text, (left + 4, top + 4), _LINES_INSTEAD, _RED)
        else:
            with Image.open(BytesIO(copy)) as small:
                # Some copies are smaller, to stay below their limit of bytes.
                shown = ImageOps.contain(small, (_SIDE, _SIDE))
            at = (left + (_SIDE - shown.width) // 2, top + (_SIDE - shown.height) // 2)
            sheet.paste(shown, at)
            _write(draw, text, (left, top + _SIDE + 2), _LINES_BELOW, _INK)
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
