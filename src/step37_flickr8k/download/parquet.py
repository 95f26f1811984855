"""The images of a Parquet file: where their bytes are in it, and how to get them out.

Only a worker process imports this, with pyarrow, an optional extra: it can abort on hostile files.
"""

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from step37_flickr8k.download.chunks import ImageChunk, NotReadable, ParquetTail

__all__ = ["Images"]

_ROWS = 16  # of a batch: many rows may share one value of a dictionary, and then each has its own
# A few bytes may stand for billions of empty rows, and a footer for a million row groups
_MOST_ROWS, _MOST_GROUPS = 4_000_000, 65_536
_COUNT, _BYTES = 100, 16 << 20  # images and their bytes that are passed on together


class Images:
    """The images of one Parquet file, of which the last bytes are known."""

    def __init__(self, tail: ParquetTail) -> None:
        """Read the footer.

        Raises `NotReadable` if this is no Parquet file, or has no column ``*.bytes`` of byte
        arrays.
        """
        self.tail = tail
        self._size = tail.size
        start = tail.size - len(tail.content)
        try:
            self._metadata = pq.read_metadata(_PartialFile(tail.size, start, tail.content))
            self._check_counts()
            leaf, self._column = self._find_leaf()
            self.chunks = [
                self._chunk(number, leaf) for number in range(self._metadata.num_row_groups)
            ]
        except NotReadable:
            raise
        except Exception as error:  # any: this is around a decoder
            raise NotReadable(_plain(error)) from error

    def read(self, chunk: ImageChunk, content: bytes | bytearray) -> Iterator[list[memoryview]]:
        """Yield the images of a row group as they are stored; ``content`` are the chunk's bytes.

        Raises `NotReadable` for bytes that pyarrow can't decode, or not in the memory there is.
        """
        images: list[memoryview] = []
        try:
            file = pq.ParquetFile(
                _PartialFile(self._size, chunk.start, content),
                metadata=self._metadata,
                pre_buffer=False,
            )
            batches = file.iter_batches(
                _ROWS, row_groups=[chunk.row_group], columns=[self._column], use_threads=False
            )
            for batch in batches:
                images += map(_bytes_of, filter(_is_valid, batch.column(0).field("bytes")))
                if len(images) >= _COUNT or sum(map(len, images)) >= _BYTES:
                    yield images
                    images = []
        except Exception as error:  # any: this is around a decoder
            raise NotReadable(_plain(error)) from error
        if images:
            yield images

    def _check_counts(self) -> None:
        groups = self._metadata.num_row_groups
        if groups > _MOST_GROUPS:
            raise NotReadable(f"it has {groups:,} row groups, at most {_MOST_GROUPS:,} are read")
        rows = sum(self._metadata.row_group(number).num_rows for number in range(groups))
        if rows > _MOST_ROWS:
            raise NotReadable(f"it has {rows:,} rows, at most {_MOST_ROWS:,} are read")

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


def _is_valid(value: pa.Scalar) -> bool:
    return bool(value.is_valid)


def _bytes_of(value: pa.Scalar) -> memoryview:
    """Return a value's bytes where they are, also those of a dictionary's value."""
    plain = value.value if isinstance(value, pa.DictionaryScalar) else value
    return memoryview(plain.as_buffer())


def _plain(error: Exception) -> str:
    """Return an error's first line, of bounded length."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


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

    # Arrow takes any buffer: it need not be copied.
    def read(self, size: int = -1) -> memoryview:
        """Return up to ``size`` bytes; raises OSError outside of the stretch."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        first, last = self._at - self._start, end - self._start
        if not 0 <= first <= last <= len(self._content):
            raise OSError(f"bytes {self._at} to {end} are not here")
        self._at = end
        return self._content[first:last]
