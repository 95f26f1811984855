"""Whether images can be decoded, since a commit may hold broken ones, and their hash is right then, too; small copies of them."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

__all__ = ["contact_sheet", "thumbnail", "warm_up", "why_undecodable"]

# A quarter of a gigabyte of RGB, Pillow's own limit; a PNG of 100 KB can hold more
_MOST_PIXELS = 89_478_485
# What names promise. Other kinds aren't tried: Pillow hands EPS to Ghostscript, which runs it.
_KINDS = {f".{kind.lower()}": kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
_KINDS |= {".jpg": "JPEG", ".tif": "TIFF"}
_ALL_KINDS = (*dict.fromkeys(_KINDS.values()),)
_SIDES = (144, 112, 80, 36)  # pixels of a small copy's longer side, the first if the bytes allow it
_SIDE = _SIDES[0]
_QUALITIES = (45, 30, 15)
_TEXT = 30  # pixels below each picture of a contact sheet: two short lines
_LINE = 23  # characters of such a line
_GROUND, _INK, _RED = "white", (60, 60, 60), (180, 30, 30)


def why_undecodable(source: Path | BinaryIO, name: str) -> str | None:
    """Give the reason why the image that is to be called ``name`` is no good, None if Pillow can decode it from ``source``.

    Truncated ones are found, those of another kind than their name says, and those that would fill
    the memory. JPEGs are decoded at an eighth of their size: all of the file is read, a truncated
    one is found, at half of the cost. Raises OSError where the file can't be read.
    """
    from PIL import Image  # noqa: PLC0415 - the package imports without Pillow

    promised = _KINDS.get(Path(name).suffix.lower())
    try:
        with Image.open(source, formats=_ALL_KINDS) as image:
            # A JPEG with more than one picture
            kind = "JPEG" if image.format == "MPO" else image.format
            if promised not in {kind, None}:
                return f"it is {kind}, not {promised} as its name says"
            if image.width * image.height > _MOST_PIXELS:
                return f"it has {image.width} x {image.height} pixels, at most {_MOST_PIXELS:,} are decoded"
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    # A warning where warnings are errors
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return str(error)
    except (OSError, ValueError, SyntaxError) as error:  # PNG errors are SyntaxErrors
        # The file system's error, not the picture's: that has no number
        if getattr(error, "errno", None) is not None:
            raise
        return str(error).replace(str(source), name)
    return None


def warm_up() -> None:
    """Load Pillow, while something else is waited for."""
    from PIL import Image  # noqa: PLC0415

    Image.preinit()


def thumbnail(path: Path, most: int) -> tuple[bytes, tuple[int, int]]:
    """Give a small copy as WebP, of at most so many bytes, and the picture's own width and height in pixels.

    Raises OSError or ValueError where it can't be decoded; `why_undecodable` says why.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415

    with Image.open(path, formats=_ALL_KINDS) as image:
        size = image.size
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        small = ImageOps.exif_transpose(image).convert("RGB")
    for side in _SIDES:
        small.thumbnail((side, side))
        for quality in _QUALITIES:
            small.save(out := BytesIO(), "WEBP", quality=quality, method=2)
            if len(out.getvalue()) <= most:
                return out.getvalue(), size
    raise ValueError(f"no copy of {small.width} x {small.height} pixels takes only {most} bytes")


def contact_sheet(tiles: Sequence[tuple[bytes | None, str]], columns: int) -> bytes:
    """Give small copies in a grid as PNG, each with its words below; without a copy the words stand in its place, in red."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps  # noqa: PLC0415

    step, gap = (_SIDE, _SIDE + _TEXT), 8
    rows = -(-len(tiles) // columns)
    sheet = Image.new(
        "RGB", (columns * (step[0] + gap) + gap, rows * (step[1] + gap) + gap), _GROUND
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (copy, words) in enumerate(tiles):
        x, y = (
            gap + at * (side + gap)
            for at, side in zip((number % columns, number // columns), step, strict=True)
        )
        if copy is None:
            draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), outline=_RED)
            place, most, ink = (x + 4, y + 4), 9, _RED
        else:
            with Image.open(BytesIO(copy)) as small:
                # Some copies are smaller, to be of few bytes
                shown = ImageOps.contain(small, (_SIDE, _SIDE))
            sheet.paste(shown, (x + (_SIDE - shown.width) // 2, y + (_SIDE - shown.height) // 2))
            place, most, ink = (x, y + _SIDE + 2), 2, _INK
        lines = textwrap.wrap(words, _LINE, max_lines=most, placeholder="\u2026")
        draw.multiline_text(place, "\n".join(lines), ink, font)
    sheet.quantize(256).save(out := BytesIO(), "PNG", optimize=True)  # a third of the bytes
    return out.getvalue()
