"""The images of a Parquet file: where their bytes are in it, and how to get them out.

The only user of pyarrow, an optional extra: check `conversion.is_available` before this is
imported.
"""

import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["ImageChunk", "Images", "NotReadable"]


class NotReadable(Exception):
    """Raised for bytes that are no Parquet file with images."""


@dataclass(frozen=True)
class ImageChunk:
    """The bytes ``[start, end)`` of a Parquet file that hold the images of one row group.

    They are ``size`` bytes when decompressed.
    """

    row_group: int
    start: int
    end: int
    size: int


class Images:
    """The images of one Parquet file, of which the last bytes are known."""

    def __init__(self, size: int, tail: bytes | bytearray) -> None:
        """Read the footer; ``tail`` are the file's last bytes.

        At least `footer_size` of them, and 64 KB where there are so many: pyarrow reads those
        first.

        Raises `NotReadable` if this is no Parquet file, or has no column ``*.bytes`` of byte
        arrays.
        """
        self._size = size
        try:
            self._metadata = pq.read_metadata(_PartialFile(size, size - len(tail), tail))
            leaf, self._column = self._find_leaf()
            self.chunks = [
                self._chunk(number, leaf) for number in range(self._metadata.num_row_groups)
            ]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise NotReadable(str(error)) from error

    @staticmethod
    def footer_size(last8: bytes | bytearray) -> int:
        """Return how many of a file's last bytes are its footer, as its last 8 bytes say."""
        if last8[4:] != b"PAR1":
            raise NotReadable("it doesn't end as a Parquet file does")
        return int.from_bytes(last8[:4], "little") + 8

    def read(self, chunk: ImageChunk, content: bytes | bytearray) -> list[memoryview]:
        """Return the images of a row group as they are stored; ``content`` are the chunk's bytes.

        Raises `NotReadable` for bytes that pyarrow can't decode.
        """
        try:
            file = pq.ParquetFile(
                _PartialFile(self._size, chunk.start, content),
                metadata=self._metadata,
                pre_buffer=False,
            )
            table = file.read_row_group(chunk.row_group, columns=[self._column], use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise NotReadable(str(error)) from error
        return [
            memoryview(image.as_buffer())
            for structs in table.column(0).chunks
            for image in structs.field("bytes")
            if image.is_valid
        ]

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
            raise NotReadable(f"row group {row_group} is outside of the file")
        return ImageChunk(row_group, first, end, column.total_uncompressed_size)


class _PartialFile(io.RawIOBase):
    """A file of which only one stretch of bytes is known."""

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

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes; raises OSError outside of the stretch."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        first, last = self._at - self._start, end - self._start
        if not 0 <= first <= last <= len(self._content):
            raise OSError(f"bytes {self._at} to {end} are not here")
        self._at = end
        return self._content[first:last].tobytes()
