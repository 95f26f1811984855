"""Find out whether an image can be decoded: by its structure, or by doing it."""

from PIL import Image, ImageFile

from step37_flickr8k.images.examined import FINE, Examined
from step37_flickr8k.images.jpeg import LONGEST_SIDE, shown_frame
from step37_flickr8k.images.kinds import kind_found, kind_promised
from step37_flickr8k.images.opening import Content, Source, Undecodable, read, with_image
from step37_flickr8k.images.weight import check_weight, weight_of_jpeg

__all__ = ["examine", "warm_up"]


def examine(source: Source, name: str, max_pixels: int, memory: int | None = None) -> Examined:
    """Return whether an image can be decoded, and whether it is what its final ``name`` says.

    A JPEG whose structure shows that it can be isn't decoded. Finds truncated and malformed images,
    and those of more than ``max_pixels`` pixels by their header alone. Other JPEGs are decoded at
    an eighth of their size: the whole file is read, at half of the cost. Raises OSError if the file
    can't be read, MemoryError, `DecoderMissing`, and `TooHeavy`, before anything is decoded, if
    that takes more than ``memory`` bytes.
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

    content = read(source, memory)
    if kind_promised(name) in {"JPEG", None} and _is_shown(content, max_pixels, memory):
        return FINE
    try:
        return with_image(content, name, decoded, memory)
    except Undecodable as error:
        # Some decoders have a limit of their own, Pillow's, for parts of an image, too.
        if isinstance(error.__cause__, Image.DecompressionBombError):
            return Examined(f"{str(error).rstrip('.')}: see max_pixels", too_large=max_pixels + 1)
        return Examined(str(error))


def _is_shown(content: Content, max_pixels: int, memory: int | None) -> bool:
    """Return whether the structure of a JPEG shows that it can be decoded within the limits."""
    frame = shown_frame(content)
    return (
        frame is not None
        and frame.width * frame.height <= max_pixels
        and (memory is None or weight_of_jpeg(frame, len(content)) <= memory)
    )


def warm_up(max_pixels: int) -> None:
    """Load Pillow's decoders before the first image arrives, in a process that does nothing else.

    Some of them hold parts of an image against Pillow's own limit, which is set to ``max_pixels``.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    Image.preinit()
