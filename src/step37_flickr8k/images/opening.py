"""Open an image and use it; what its decoder raises becomes one error with one line of text."""

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar

import PIL
from PIL import Image, ImageFile, UnidentifiedImageError

from step37_flickr8k.errors import DecoderMissing
from step37_flickr8k.images.kinds import KINDS, found_instead, kind_without_decoder
from step37_flickr8k.images.weight import START, TooHeavy, check_start

__all__ = ["Content", "Source", "Undecodable", "read", "with_image"]

_T = TypeVar("_T")

_SIGNATURE = 16  # bytes by which decoders recognize their kind
_SHOWN = 200  # characters of a decoder's text


class Undecodable(Exception):
    """Raised for an image that can't be decoded; its text is one printable line."""


Content = bytes | bytearray | memoryview
# A file, by its path or open, or its bytes
Source = Path | BufferedReader | Content


def with_image(
    source: Source,
    name: str,
    use: Callable[[ImageFile.ImageFile, int], _T],
    memory: int | None = None,
) -> _T:
    """Return what ``use`` makes of an image and its size in bytes.

    ``name`` is the one that messages call it by.

    Whatever a decoder raises is that image's error, `Undecodable`: decoders raise TypeError,
    KeyError, struct.error, ZeroDivisionError and others for malformed images. Not so MemoryError,
    which says something about the machine, nor `TooHeavy`, which is raised here for what takes more
    than ``memory`` bytes when it is read or opened. A file is read as a whole first, so that what
    the file system says isn't taken for what a decoder says. Raises `DecoderMissing` where this
    Pillow has no decoder for it.
    """
    content = read(source, memory)
    check_start(bytes(content[:START]), len(content), memory)
    try:
        return _use(content, name, use)
    # Warnings are errors in this process, which says nothing about the image.
    except Warning:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _use(content, name, use)


def read(source: Source, memory: int | None = None) -> Content:
    """Return the bytes of an image; raises OSError, and `TooHeavy` for more than ``memory``."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return read(file, memory)
    if not isinstance(source, BufferedReader):
        return source
    size = os.fstat(source.fileno()).st_size
    if memory is not None and size > memory:
        raise TooHeavy(size)
    return source.read(size)


def _use(content: Content, name: str, use: Callable[[ImageFile.ImageFile, int], _T]) -> _T:
    start = bytes(content[:_SIGNATURE])
    try:
        with _opened(io.BytesIO(content), start, name) as image:
            return use(image, len(content))
    except (MemoryError, TooHeavy, Warning):
        raise
    except Exception as error:  # any: this is around a decoder
        if kind := kind_without_decoder(start):
            raise DecoderMissing(
                f"{name} is {kind}, which Pillow {PIL.__version__} can't decode as it is installed"
                " here: install pillow 11.3 or newer from PyPI"
            ) from error
        raise Undecodable(_plain(error)) from error


def _opened(file: BinaryIO, start: bytes, name: str) -> ImageFile.ImageFile:
    """Return the image in a file, of the kind that its first bytes say.

    `PIL.Image.open` does this and then holds the image against a limit of its own, which is global
    to the process and may be anybody's.
    """
    Image.preinit()
    for kind in KINDS:
        if kind not in Image.OPEN:
            Image.init()
        # An older Pillow doesn't know all kinds.
        factory, accepts = Image.OPEN.get(kind, (None, None))
        if factory is None:
            continue
        # What doesn't open may still be of another kind.
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            accepted = accepts is None or accepts(start)
            # A text says why not.
            if accepted and not isinstance(accepted, str):
                file.seek(0)
                return factory(file, "")
    what = found_instead(start)
    raise UnidentifiedImageError(f"cannot identify image file {name}{what and ': '}{what}")


def _plain(error: Exception) -> str:
    """Return a decoder's error as one printable line of bounded length."""
    text = "".join(char if char.isprintable() else " " for char in str(error)[: 2 * _SHOWN])
    if not isinstance(error, OSError | ValueError | SyntaxError) or not text.strip():
        text = f"{type(error).__name__}: {text}"
    text = " ".join(text.split()).removesuffix(":")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}\u2026"
