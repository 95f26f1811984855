"""A directory in memory for the one file that a plan reads, where nothing can be written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.directory import CacheDirectory

__all__ = ["InMemory"]


class InMemory(CacheDirectory):
    """A cache directory of temporary files in memory; a context that frees them.

    A plan writes nowhere: not into the cache, nor into ``/tmp``, which a container with a read-only
    root hasn't got.
    """

    def __enter__(self) -> "InMemory":  # noqa: PYI034 - Self is not in Python 3.10
        """Begin without a file."""
        self._descriptors: list[int] = []
        return self

    def __exit__(self, *_: object) -> None:
        """Free the files."""
        for descriptor in self._descriptors:
            os.close(descriptor)

    def temporary(self, parent: Path | None = None) -> Path:
        """Return the path of a new file in memory."""
        del parent
        with self.errors():
            self._descriptors.append(os.memfd_create(self.split))
        return Path(f"/proc/self/fd/{self._descriptors[-1]}")

    @contextlib.contextmanager
    def writing(self, temporary: Path) -> Iterator[BinaryIO]:
        """Open a file for writing."""
        with self.errors(), temporary.open("wb") as file:
            yield file

    @contextlib.contextmanager
    def open(self, path: Path, most: int | None = None) -> Iterator[BinaryIO]:
        """Open a file for reading."""
        del most
        with self.errors(), path.open("rb") as file:
            yield file

    def put(
        self, temporary: Path, content: bytes | bytearray | memoryview, *, durably: bool = False
    ) -> None:
        """Write a whole file."""
        del durably
        with self.errors():
            temporary.write_bytes(content)

    def discard(self, path: Path) -> None:
        """Keep the file until the end: it has no name that could be deleted."""
