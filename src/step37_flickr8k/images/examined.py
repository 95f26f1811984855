"""What decoding an image has shown: a value that needs no Pillow."""

from dataclasses import dataclass

__all__ = ["FINE", "Examined"]


@dataclass(frozen=True, slots=True)
class Examined:
    """What decoding an image has shown.

    ``decode_error`` is why it can't be decoded; if that is its number of pixels, ``too_large`` is
    that number, or the least that it can be. ``misnamed`` is its kind, by Pillow's name, if its own
    name promises another.
    """

    decode_error: str = ""
    misnamed: str = ""
    too_large: int = 0


FINE = Examined()
