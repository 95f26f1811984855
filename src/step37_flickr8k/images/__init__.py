"""Images: whether they can be decoded, and of which kind they are.

A commit may hold images that are broken although their hash is right. The only user of Pillow.

- `kinds`: the kinds that count, and why others don't.
- `opening`: open an image; whatever its decoder raises becomes one error (`with_image`).
- `thumbnails`: small copies, which workers don't need.
"""

from dataclasses import dataclass

from PIL import Image, ImageFile

from step37_flickr8k.images.kinds import kind_found, kind_promised
from step37_flickr8k.images.opening import Source, Undecodable, with_image

__all__ = ["Examined", "examine", "warm_up"]


@dataclass(frozen=True, slots=True)
class Examined:
    """What decoding an image has shown.

    ``decode_error`` is why it can't be decoded, ``misnamed`` its kind if its name promises another.
    """

    decode_error: str | None = None
    misnamed: str | None = None


def examine(source: Source, name: str, max_pixels: int) -> Examined:
    """Return whether an image can be decoded, and whether it is what its final ``name`` says.

    Finds truncated and malformed images, and those of more than ``max_pixels`` pixels by their
    header alone. JPEGs are decoded at an eighth of their size: the whole file is read, at half of
    the cost. Raises OSError if the file can't be read, MemoryError, and `DecoderMissing`.
    """

    def decoded(image: ImageFile.ImageFile) -> Examined:
        width, height = image.size
        if width * height > max_pixels:
            return Examined(
                f"it has {width} x {height} pixels, more than max_pixels allows ({max_pixels:,})"
            )
        image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()
        kind = kind_found(image.format)
        return Examined(misnamed=kind if kind_promised(name) not in {kind, None} else None)

    try:
        return with_image(source, name, decoded)
    except Undecodable as error:
        # Pillow's own limit is twice as high and holds for parts of an image, too.
        is_too_large = isinstance(error.__cause__, Image.DecompressionBombError)
        return Examined(f"{error}: see max_pixels" if is_too_large else str(error))


def warm_up() -> None:
    """Load Pillow's decoders before the first image arrives."""
    Image.preinit()
