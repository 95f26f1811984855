"""What a worker is asked about a Parquet file, as it crosses a pipe.

A request is a line of JSON, followed by the file's last bytes and those of the row group, if one is
to be read. Without one the answer is a line with the chunks. Else it is a dialog: the worker sends
the digests of some images, and gets the jobs of those that are wanted, which it writes and decodes
and answers as it does any jobs, until it has no further images.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import BinaryIO, NamedTuple

from step37_flickr8k.download.chunks import ImageChunk, NotReadable, ParquetTail

__all__ = ["Found", "ParquetRequest", "chunks_of", "read_request"]


class Found(NamedTuple):
    """An image in a row group: its digests, one of each kind that was asked for, and its size."""

    digests: Sequence[str]
    size: int


@dataclass(frozen=True)
class ParquetRequest:
    """Read a footer, or the images of a row group with their digests of these kinds."""

    tail: ParquetTail
    chunk: ImageChunk | None = None
    content: bytes | bytearray = b""
    kinds: Sequence[str] = ()

    def line(self) -> bytes:
        """Return the line that announces it; the bytes of the tail and of the chunk follow."""
        chunk = self.chunk and astuple(self.chunk)
        lengths = (len(self.tail.content), len(self.content))
        row = {"parquet": [self.tail.size, *lengths, chunk, [*self.kinds]]}
        return json.dumps(row).encode() + b"\n"


def read_request(line: bytes, stream: BinaryIO) -> ParquetRequest | None:
    """Return the request that a line announces, with its bytes; None for a line of other jobs."""
    announced = json.loads(line)
    if not isinstance(announced, dict):
        return None
    size, tail, content, chunk, kinds = announced["parquet"]
    return ParquetRequest(
        ParquetTail(size, stream.read(tail)),
        chunk and ImageChunk(*chunk),
        stream.read(content),
        kinds,
    )


def chunks_of(line: bytes) -> list[ImageChunk]:
    """Return the chunks that a worker has found by a footer; raises what it says instead."""
    answer = json.loads(line)
    if error := answer.get("error"):
        raise NotReadable(error)
    return [ImageChunk(*chunk) for chunk in answer["chunks"]]
