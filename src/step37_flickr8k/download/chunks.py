"""Where the images of a Parquet file are in it, and which are read at all; without pyarrow."""

from dataclasses import dataclass

__all__ = ["LARGEST", "ImageChunk", "NotReadable", "ParquetTail", "ReaderDied", "footer_size"]

LARGEST = 64 << 20  # bytes of a footer, and of a row group's images: what is larger isn't read


class NotReadable(Exception):
    """Raised for bytes that are no Parquet file with images, or take too much to be read."""


class ReaderDied(NotReadable):
    """Raised for bytes that ended the process that read them."""


@dataclass(frozen=True)
class ImageChunk:
    """The bytes ``[start, end)`` of a Parquet file that hold the images of one row group.

    They are ``size`` bytes when decompressed.
    """

    row_group: int
    start: int
    end: int
    size: int

    @property
    def is_readable(self) -> bool:
        """Whether it is small enough."""
        return max(self.end - self.start, self.size) <= LARGEST


@dataclass(frozen=True)
class ParquetTail:
    """The last bytes of a Parquet file of ``size`` bytes: its footer, and 64 KB at least."""

    size: int
    content: bytes | bytearray


def footer_size(last8: bytes | bytearray) -> int:
    """Return how many of a file's last bytes are its footer, as its last 8 bytes say."""
    if last8[4:] != b"PAR1":
        raise NotReadable("it doesn't end as a Parquet file does")
    footer = int.from_bytes(last8[:4], "little") + 8
    if footer > LARGEST:
        raise NotReadable(f"its footer has {footer:,} bytes, at most {LARGEST:,} are read")
    return footer
