"""The Hub's Parquet conversion of a split: where the image bytes lie in it, and how to get them out; the only pyarrow user."""

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["ImageChunk", "Images", "NotReadable", "is_available", "preload"]


class NotReadable(Exception):
    """Raised when bytes are no Parquet with images in it."""


@dataclass(frozen=True)
class ImageChunk:
    """The bytes ``[start, end)`` of a Parquet file that hold the images of one row group, ``size`` bytes when decompressed."""

    row_group: int
    start: int
    end: int
    size: int


def is_available() -> bool:
    """Tell whether pyarrow is installed; it isn't loaded for that."""
    return importlib.util.find_spec("pyarrow") is not None


def preload() -> None:
    """Load pyarrow, while something else is waited for."""
    import pyarrow.parquet  # noqa: F401, PLC0415


class Images:
    """The images of one Parquet file, known by its last bytes."""

    def __init__(self, size: int, tail: bytes | bytearray) -> None:
        """Read the footer; ``tail`` are the file's last bytes, at least `footer_size` of them.

        Raises `NotReadable` when this is no Parquet file, or has no column ``*.bytes`` of byte
        arrays.
        """
        import pyarrow as pa  # noqa: PLC0415 - an optional extra, and 0.2 s
        import pyarrow.parquet as pq  # noqa: PLC0415

        self._size = size
        self._pyarrow, self._parquet = pa, pq
        try:
            self._metadata = pq.read_metadata(_Sparse(size, size - len(tail), tail))
            leaf, self._column = self._find_leaf()
            self.chunks = [
                self._chunk(number, leaf) for number in range(self._metadata.num_row_groups)
            ]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise NotReadable(str(error)) from error

    @staticmethod
    def footer_size(last8: bytes | bytearray) -> int:
        """Give how many of a file's last bytes are its footer, told by the last 8."""
        if last8[4:] != b"PAR1":
            raise NotReadable("it doesn't end as a Parquet file does")
        return int.from_bytes(last8[:4], "little") + 8

    def read(self, chunk: ImageChunk, content: bytes | bytearray) -> Iterator[memoryview]:
        """Give each image of a row group, as stored; ``content`` are the chunk's bytes. Raises `NotReadable`."""
        pa, pq = self._pyarrow, self._parquet
        try:
            file = pq.ParquetFile(
                _Sparse(self._size, chunk.start, content), metadata=self._metadata, pre_buffer=False
            )
            table = file.read_row_group(chunk.row_group, columns=[self._column], use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise NotReadable(str(error)) from error
        for structs in table.column(0).chunks:
            for image in structs.field("bytes"):
                if image.is_valid:
                    yield memoryview(image.as_buffer())

    def _find_leaf(self) -> tuple[int, str]:
        schema = self._metadata.schema
        for number in range(len(schema)):
            column = schema.column(number)
            if (
                column.path.endswith(".bytes")
                and column.physical_type == "BYTE_ARRAY"
                and column.path.count(".") == 1
            ):
                return number, column.path
        raise NotReadable("it has no column of images")

    def _chunk(self, row_group: int, leaf: int) -> ImageChunk:
        column = self._metadata.row_group(row_group).column(leaf)
        first = column.data_page_offset
        if column.has_dictionary_page:
            first = min(first, column.dictionary_page_offset)
        end = first + column.total_compressed_size
        if not 0 <= first < end <= self._size:
            raise NotReadable(f"row group {row_group} lies outside of the file")
        return ImageChunk(row_group, first, end, column.total_uncompressed_size)


class _Sparse(io.RawIOBase):
    """A file of which only one stretch is here."""

    def __init__(self, size: int, start: int, content: bytes | bytearray) -> None:
        super().__init__()
        self._size = size
        self._start = start
        self._content = memoryview(content)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> Any:
        """Give up to ``size`` bytes; raises OSError outside of the stretch."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        first, last = self._at - self._start, end - self._start
        if not 0 <= first <= last <= len(self._content):
            raise OSError(f"bytes {self._at} to {end} are not here")
        self._at = end
        return self._content[first:last].tobytes()
