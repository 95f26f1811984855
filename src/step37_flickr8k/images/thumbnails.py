"""Small copies of images, for people."""

from io import BytesIO

from PIL import Image, ImageFile, ImageOps

from step37_flickr8k.images.opening import Source, with_image
from step37_flickr8k.images.weight import check_weight

__all__ = ["SIDE", "thumbnail"]

# Pixels of a thumbnail's longer side: the first whose bytes fit.
_SIDES = (144, 112, 80, 36)
SIDE = _SIDES[0]
_MANY = 4_000_000  # pixels from which on an image is made smaller before all else
_QUALITIES = (45, 30, 15)


def thumbnail(
    source: Source, name: str, most: int, memory: int | None = None
) -> tuple[bytes, tuple[int, int]]:
    """Return a small copy as WebP of at most ``most`` bytes, and the image's (width, height).

    Raises what `with_image` does, `TooHeavy` before anything is decoded if that takes more than
    ``memory`` bytes, and ValueError if no copy is so small.
    """

    def shrunk(image: ImageFile.ImageFile, weight: int) -> tuple[Image.Image, tuple[int, int]]:
        check_weight(image, weight, memory)
        return _shrunk(image)

    small, size = with_image(source, name, shrunk, memory)
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
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    image.load()
    # A copy of all of it in other colors would take as much memory again
    if image.width * image.height > _MANY:
        image.thumbnail((4 * SIDE, 4 * SIDE), Image.Resampling.NEAREST)
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
