"""What a worker is asked to do with a file and what became of it, and both as they cross a pipe.

A request is a line of JSON for all its jobs, followed by their contents. The answer is a line of
JSON, in the order of the jobs. `parquet_jobs` has the requests that concern a Parquet file.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.errors import ErrorReport
from step37_flickr8k.images.examined import FINE, Examined

__all__ = [
    "READY",
    "Content",
    "Done",
    "Job",
    "read_done",
    "read_jobs",
    "request_line",
    "write_done",
]

Content = bytes | bytearray | memoryview

# A worker's first line. Something else may have written to its stdout before: a sitecustomize, say.
READY = b"step37: ready\n"


@dataclass(frozen=True, slots=True)
class Job:
    """A file at ``path`` whose final name will be ``name``, to be decoded.

    With ``content`` it is verified and written first; without a ``digest`` it isn't verified. With
    ``thumbnail`` a small copy of at most so many bytes is wanted.
    """

    path: Path
    name: str
    content: Content | None = None
    digest: str = ""
    thumbnail: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a job.

    ``examined`` is what decoding has shown, ``error`` why the file wasn't written or read;
    ``wrong`` marks content of another digest. ``copy`` is the thumbnail of an image of ``size``.
    """

    examined: Examined = FINE
    error: Exception | None = None
    wrong: bool = False
    copy: bytes = b""
    size: tuple[int, int] = (0, 0)


_DONE = Done()


def request_line(jobs: Sequence[Job]) -> bytes:
    """Return the line that announces jobs; their contents follow it."""
    rows = [
        (
            str(job.path),
            job.name,
            None if job.content is None else len(job.content),
            job.digest,
            job.thumbnail,
        )
        for job in jobs
    ]
    return json.dumps(rows).encode() + b"\n"


def read_jobs(line: bytes, stream: BinaryIO) -> list[Job]:
    """Return the jobs that a line announces, with their contents read from the stream."""
    return [
        Job(Path(path), name, None if size is None else stream.read(size), digest, thumbnail)
        for path, name, size, digest, thumbnail in json.loads(line)
    ]


def write_done(done: Sequence[Done]) -> bytes:
    """Return the line of the answer; null stands for a job without a problem."""
    rows = [
        None
        if each == _DONE
        else (
            astuple(each.examined),
            None if each.error is None else ErrorReport.of(each.error).as_json(),
            each.wrong,
            base64.b64encode(each.copy).decode(),
            each.size,
        )
        for each in done
    ]
    return json.dumps(rows).encode() + b"\n"


def read_done(line: bytes) -> list[Done]:
    """Return what an answer says, in the order of the jobs."""
    return [_DONE if row is None else _done(*row) for row in json.loads(line)]


def _done(
    examined: tuple[str, str, int],
    error: dict[str, str] | None,
    wrong: bool,
    copy: str,
    size: tuple[int, int],
) -> Done:
    exception = None if error is None else ErrorReport.from_json(error).exception()
    width, height = size
    return Done(Examined(*examined), exception, wrong, base64.b64decode(copy), (width, height))
