"""Images: whether they can be decoded; small copies of them are in `thumbnails`.

A commit may hold images that are broken although their hash is right. The only user of Pillow.
"""

from pathlib import Path
from typing import BinaryIO

from PIL import Image

__all__ = ["KINDS", "warm_up", "why_undecodable"]

# A quarter of a gigabyte of RGB, Pillow's own limit; a PNG of 100 KB can hold more.
_MOST_PIXELS = 89_478_485
# What names promise. Other kinds aren't tried: Pillow passes EPS to Ghostscript, which runs it.
_KINDS = {f".{kind.lower()}": kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
_KINDS |= {".jpg": "JPEG", ".tif": "TIFF"}
KINDS = (*dict.fromkeys(_KINDS.values()),)


def why_undecodable(source: Path | BinaryIO, name: str) -> str | None:
    """Return why an image can't be decoded, None if it can; ``name`` is its final name.

    Finds truncated images, those of another kind than the name says, and those that would fill the
    memory. JPEGs are decoded at an eighth of their size: the whole file is read, at half of the
    cost. Raises OSError if the file can't be read.
    """
    promised = _KINDS.get(Path(name).suffix.lower())
    try:
        with Image.open(source, formats=KINDS) as image:
            # MPO is a JPEG with more than one image.
            kind = "JPEG" if image.format == "MPO" else image.format
            if promised not in {kind, None}:
                return f"it is {kind}, not {promised} as its name says"
            if image.width * image.height > _MOST_PIXELS:
                return (
                    f"it has {image.width} x {image.height} pixels,"
                    f" at most {_MOST_PIXELS:,} are decoded"
                )
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    # The warning is raised where warnings are errors.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return str(error)
    # Pillow raises SyntaxError for PNG.
    except (OSError, ValueError, SyntaxError) as error:
        # An error of the file system has a number, one of the image has none.
        if getattr(error, "errno", None) is not None:
            raise
        return str(error).replace(str(source), name)
    return None


def warm_up() -> None:
    """Load Pillow's decoders before the first image arrives."""
    Image.preinit()
