"""How much memory an image takes to be decoded, by its header."""

from collections.abc import Sequence

from PIL import ImageFile

from step37_flickr8k.images.jpeg import Frame, Layer

__all__ = ["START", "TooHeavy", "check_start", "check_weight", "weight_of_jpeg"]

START = 30  # bytes of a file by which its kind is known, and the sides of a WebP
# Bytes per pixel that decoders take for more than the image itself, as measured
_FURTHER = {"AVIF": 16, "GIF": 2, "WEBP": 14}
_JPEG2000 = 8  # bytes per pixel and channel, the image included
_IMAGE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "LA": 4, "PA": 4}
_IMAGE_OTHERS = 4
_ROWS_PER_STRIP, _COMPRESSION, _NONE = 278, 259, 1  # a TIFF's tags, and the value of none
_COEFFICIENT = 2  # bytes: a progressive JPEG has them all in memory


class TooHeavy(Exception):
    """Raised for an image that takes more memory than is allowed: ``weight`` bytes."""

    def __init__(self, weight: int) -> None:
        """Name the weight."""
        super().__init__(f"{weight / 1e6:,.0f} MB")
        self.weight = weight


def check_weight(image: ImageFile.ImageFile, size: int, memory: int | None) -> None:
    """Raise `TooHeavy` if decoding an opened image of ``size`` bytes takes more than ``memory``."""
    if memory is not None and (weight := _weight(image, size)) > memory:
        raise TooHeavy(weight)


def check_start(start: bytes, size: int, memory: int | None) -> None:
    """Raise `TooHeavy` for what takes much memory as soon as Pillow opens it: WebP.

    ``start`` are the first 30 bytes of ``size``.
    """
    if memory is None or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return
    match start[12:16]:
        case b"VP8X":
            sides = [int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27)]
        case b"VP8L":
            bits = int.from_bytes(start[21:25], "little")
            sides = [(bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1]
        case _:
            sides = [int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28)]
    if (weight := size + sides[0] * sides[1] * (_FURTHER["WEBP"] + _IMAGE_OTHERS)) > memory:
        raise TooHeavy(weight)


def weight_of_jpeg(frame: Frame, size: int) -> int:
    """Return the bytes of memory that it takes to decode a JPEG of ``size`` bytes."""
    each = _of_jpeg(frame.layers, is_progressive=frame.is_progressive)
    return size + frame.width * frame.height * each


def _weight(image: ImageFile.ImageFile, size: int) -> int:
    kind = image.format or ""
    if kind in {"JPEG", "MPO"}:
        is_progressive = bool(image.info.get("progressive"))
        each = _of_jpeg(getattr(image, "layer", ()), is_progressive=is_progressive)
    elif kind == "JPEG2000":
        each = _JPEG2000 * len(image.getbands())
    else:
        each = _IMAGE.get(image.mode, _IMAGE_OTHERS)
        each += _of_strip(image) if kind == "TIFF" else _FURTHER.get(kind, 0)
    return size + image.width * image.height * each


def _of_strip(image: ImageFile.ImageFile) -> int:
    """Return the bytes per pixel of a TIFF's strip, which is in memory with the image."""
    tags = getattr(image, "tag_v2", {})
    rows = tags.get(_ROWS_PER_STRIP)
    if tags.get(_COMPRESSION) == _NONE or not isinstance(rows, int):
        return 1
    return _IMAGE_OTHERS if 2 * rows > image.height else 1


def _of_jpeg(layers: Sequence[Layer], *, is_progressive: bool) -> int:
    """Return the bytes per pixel of a JPEG: its components may be smaller than the image."""
    if not is_progressive:
        return 1
    widest = max((across for _, across, _, _ in layers), default=1)
    tallest = max((down for _, _, down, _ in layers), default=1)
    share = sum(across * down for _, across, down, _ in layers) / max(1, widest * tallest)
    return 1 + int(_COEFFICIENT * (share or 4) + 0.999)
