"""Decode an image once, to find out whether that can be done."""

from PIL import Image, ImageFile

from step37_flickr8k.images.examined import FINE, Examined
from step37_flickr8k.images.kinds import kind_found, kind_promised
from step37_flickr8k.images.opening import Source, Undecodable, with_image
from step37_flickr8k.images.weight import LONGEST_SIDE, check_weight

__all__ = ["examine", "warm_up"]


def examine(source: Source, name: str, max_pixels: int, memory: int | None = None) -> Examined:
    """Return whether an image can be decoded, and whether it is what its final ``name`` says.

    Finds truncated and malformed images, and those of more than ``max_pixels`` pixels by their
    header alone. JPEGs are decoded at an eighth of their size: the whole file is read, at half of
    the cost. Raises OSError if the file can't be read, MemoryError, `DecoderMissing`, and
    `TooHeavy`, before anything is decoded, if that takes more than ``memory`` bytes.
    """

    def decoded(image: ImageFile.ImageFile, size: int) -> Examined:
        width, height = image.size
        if width * height > max_pixels:
            return Examined(
                f"it has {width} x {height} pixels, more than max_pixels allows ({max_pixels:,})",
                too_large=width * height,
            )
        if max(width, height) > LONGEST_SIDE:
            return Examined(
                f"it has {width} x {height} pixels: a side has {LONGEST_SIDE:,} at most"
            )
        check_weight(image, size, memory)
        image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()
        kind = kind_found(image.format)
        return FINE if kind_promised(name) in {kind, None} else Examined(misnamed=kind)

    try:
        return with_image(source, name, decoded, memory)
    except Undecodable as error:
        # Some decoders have a limit of their own, Pillow's, for parts of an image, too.
        if isinstance(error.__cause__, Image.DecompressionBombError):
            return Examined(f"{str(error).rstrip('.')}: see max_pixels", too_large=max_pixels + 1)
        return Examined(str(error))


def warm_up(max_pixels: int) -> None:
    """Load Pillow's decoders before the first image arrives, in a process that does nothing else.

    Some of them hold parts of an image against Pillow's own limit, which is set to ``max_pixels``.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    Image.preinit()
