"""Open an image and use it; what its decoder raises becomes one error with one line of text."""

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import PIL
from PIL import Image, ImageFile, UnidentifiedImageError

from step37_flickr8k.errors import DecoderMissing
from step37_flickr8k.images.kinds import KINDS, found_instead, kind_without_decoder

__all__ = ["Source", "Undecodable", "with_image"]

_T = TypeVar("_T")

_SIGNATURE = 16  # bytes by which decoders recognize their kind
_SHOWN = 200  # characters of a decoder's text


class Undecodable(Exception):
    """Raised for an image that can't be decoded; its text is one printable line."""


# A file, or its bytes
Source = Path | bytes | bytearray | memoryview


def with_image(source: Source, name: str, use: Callable[[ImageFile.ImageFile], _T]) -> _T:
    """Return what ``use`` makes of an image; ``name`` is the one that messages call it by.

    Whatever a decoder raises is that image's error, `Undecodable`: decoders raise TypeError,
    KeyError, struct.error, ZeroDivisionError and others for malformed images. Not so MemoryError,
    which says something about the machine, and what the file system says when the file is read.
    Raises `DecoderMissing` where this Pillow has no decoder for it.
    """
    try:
        with _reading(source) as file:
            return _use(file, name, use)
    # Warnings are errors in this process, which says nothing about the image.
    except Warning:
        with warnings.catch_warnings(), _reading(source) as file:
            warnings.simplefilter("ignore")
            return _use(file, name, use)


def _use(file: BinaryIO, name: str, use: Callable[[ImageFile.ImageFile], _T]) -> _T:
    start = file.read(_SIGNATURE)
    try:
        with _opened(file, start, name) as image:
            return use(image)
    except (MemoryError, Warning):
        raise
    except Exception as error:  # any: this is around a decoder
        if isinstance(file, _File) and file.problem is not None:
            raise file.problem from None
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


def _reading(source: Source) -> BinaryIO:
    return _File(source) if isinstance(source, Path) else io.BytesIO(source)


class _File(io.BufferedReader):
    """A file as decoders may read it; ``problem`` is what the file system said meanwhile."""

    problem: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = self.seek(0, os.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as much as there is: memory for all that a malformed image claims may be missing."""
        with self._remembered():
            return super().read(-1 if size is None or size > self._size else size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line."""
        with self._remembered():
            return super().readline(size)

    def fileno(self) -> int:
        """Refuse, because libtiff would read by the descriptor and hide what went wrong."""
        raise io.UnsupportedOperation("fileno")

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = error
            raise


def _plain(error: Exception) -> str:
    """Return a decoder's error as one printable line of bounded length."""
    text = "".join(char if char.isprintable() else " " for char in str(error)[: 2 * _SHOWN])
    if not isinstance(error, OSError | ValueError | SyntaxError) or not text.strip():
        text = f"{type(error).__name__}: {text}"
    text = " ".join(text.split()).removesuffix(":")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}\u2026"
