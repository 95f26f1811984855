"""Reads the images of Parquet files, in a worker process."""

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from step37_flickr8k.dataset.digests import digest_of_bytes
from step37_flickr8k.download.chunks import NotReadable, ParquetTail
from step37_flickr8k.download.jobs import Done, Job, write_done
from step37_flickr8k.download.parquet_jobs import ParquetRequest
from step37_flickr8k.limited.limits import Allowance

if TYPE_CHECKING:
    from step37_flickr8k.download.parquet import Images

__all__ = ["ParquetRunner"]

_REST = 16 << 20  # bytes that pyarrow takes besides a row group's


class ParquetRunner:
    """Answers requests that concern Parquet files, through pipes."""

    def __init__(
        self,
        source: BinaryIO,
        out: BinaryIO,
        allowance: Allowance,
        do: Callable[[Sequence[Job]], Iterator[Done]],
    ) -> None:
        """Read from ``source``, write to ``out``, and do what is wanted of images by ``do``."""
        self._source = source
        self._out = out
        self._allowance = allowance
        self._do = do
        self._images: Images | None = None

    def answer(self, request: ParquetRequest) -> None:
        """Answer a request."""
        try:
            if request.chunk is None:
                images = self._open(request.tail)
                self._say({"chunks": [astuple(chunk) for chunk in images.chunks]})
            else:
                self._read(request)
                self._say({})
        except MemoryError:
            self._say({"error": "it takes too much memory"})
        except NotReadable as error:
            self._say({"error": str(error)})

    def _open(self, tail: ParquetTail) -> "Images":
        if self._images is None or self._images.tail != tail:
            self._images = None
            # An optional extra, and 0.3 s to import
            module = importlib.import_module("step37_flickr8k.download.parquet")
            with self._allowance.for_bytes(8 * len(tail.content)):
                self._images = module.Images(tail)
        assert self._images is not None  # noqa: S101 - just made
        return self._images

    def _read(self, request: ParquetRequest) -> None:
        chunk = request.chunk
        assert chunk is not None  # noqa: S101 - that is what is asked for
        portions = self._open(request.tail).read(chunk, request.content)
        while True:
            with self._allowance.for_bytes(chunk.size + _REST):
                images = next(portions, None)
            if images is None:
                return
            kinds = request.kinds
            digests = [[digest_of_bytes(image, kind) for kind in kinds] for image in images]
            self._say({"found": [[*each] for each in zip(digests, map(len, images), strict=True)]})
            jobs = [
                Job(Path(path), name, images[index])
                for path, name, index in json.loads(self._source.readline())
            ]
            # Where writing is slow it takes threads, whose stacks count
            self._allowance.free()
            self._out.write(write_done([*self._do(jobs)]))
            self._out.flush()

    def _say(self, answer: dict[str, object]) -> None:
        self._out.write(json.dumps(answer).encode() + b"\n")
        self._out.flush()
