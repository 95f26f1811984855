"""Whether images can be decoded: a commit may hold a broken picture, and its hash is right then, too."""

from pathlib import Path
from typing import BinaryIO

__all__ = ["warm_up", "why_undecodable"]

_MOST_PIXELS = 89_478_485  # a quarter of a gigabyte of RGB, Pillow's own limit; a PNG of 100 KB can hold more
# What names promise. Other kinds aren't tried: Pillow hands EPS to Ghostscript, which runs it.
_KINDS = {f".{kind.lower()}": kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
_KINDS |= {".jpg": "JPEG", ".tif": "TIFF"}
_ALL_KINDS = (*dict.fromkeys(_KINDS.values()),)


def why_undecodable(source: Path | BinaryIO, name: str) -> str | None:
    """Give the reason why the image that is to be called ``name`` is no good, None if Pillow can decode it from ``source``.

    Truncated ones are found, those of another kind than their name says, and those that would fill the memory.
    JPEGs are decoded at an eighth of their size: all of the file is read, a truncated one is found, at half of the cost.
    Raises OSError where the file can't be read.
    """
    from PIL import Image  # noqa: PLC0415 - the package imports without Pillow

    promised = _KINDS.get(Path(name).suffix.lower())
    try:
        with Image.open(source, formats=_ALL_KINDS) as image:
            kind = "JPEG" if image.format == "MPO" else image.format  # a JPEG with more than one picture
            if promised not in {kind, None}:
                return f"it is {kind}, not {promised} as its name says"
            if image.width * image.height > _MOST_PIXELS:
                return f"it has {image.width} x {image.height} pixels, at most {_MOST_PIXELS:,} are decoded"
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning where warnings are errors
        return str(error)
    except (OSError, ValueError, SyntaxError) as error:  # PNG errors are SyntaxErrors
        if getattr(error, "errno", None) is not None:  # the file system's error, not the picture's: that has no number
            raise
        return str(error).replace(str(source), name)
    return None


def warm_up() -> None:
    """Load Pillow, while something else is waited for."""
    from PIL import Image  # noqa: PLC0415

    Image.preinit()
