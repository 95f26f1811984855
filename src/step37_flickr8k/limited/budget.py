"""How much memory and processor time one input may take."""

from dataclasses import dataclass

from step37_flickr8k.limited.memory import memory_limit

__all__ = ["TABLE_MEMORY", "Budget", "image_memory", "image_seconds", "pixels_for"]

TABLE_MEMORY = 512 << 20  # bytes for a table in Parquet, of which a row group may have half
_BYTES_PER_PIXEL = 4  # of max_pixels: what a decoded RGB image has
_REST = 64 << 20  # bytes of the file, of a decoder's tables, of Python
_SMALL = 64 << 20  # bytes: an RGB photograph of 12 megapixels, all of it decoded
_SECONDS = 60  # of processor time; the slowest decoder takes a tenth of it for the largest image
_USUAL_PIXELS = 90_000_000  # for which that time is meant


@dataclass(frozen=True)
class Budget:
    """The bytes that a worker may take for one input beyond what it has when it is idle.

    ``small`` at any time; ``large`` when no other worker takes more than that.
    """

    small: int
    large: int

    @staticmethod
    def of(wanted: int, workers: int) -> "Budget":
        """Return the budget of each of some workers for inputs that take ``wanted`` bytes at most.

        All the small ones together, and a large one, take no more than three quarters of what this
        job may use; the rest is for the process that started them.
        """
        limit, _ = memory_limit()
        return Budget(min(_SMALL, limit // (4 * workers)), min(wanted, limit // 2))


def image_memory(max_pixels: int) -> int:
    """Return the most bytes that an image may take to be decoded: the same on every machine."""
    return _BYTES_PER_PIXEL * max_pixels + _REST


def pixels_for(memory: int) -> int:
    """Return the least ``max_pixels`` that lets an image take so many bytes."""
    return -(-(memory - _REST) // _BYTES_PER_PIXEL)


def image_seconds(max_pixels: int) -> int:
    """Return the most seconds of processor time that an image may take to be decoded."""
    return _SECONDS * max(1, -(-max_pixels // _USUAL_PIXELS))
