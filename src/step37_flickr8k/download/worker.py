"""A worker process: it verifies, writes and decodes files that arrive through its stdin.

Started as ``python -m step37_flickr8k.download.worker ROOT SPLIT DESCRIPTORS MAX_PIXELS SMALL LARGE
SHARED PID``, with the process id of the downloader, and the open directories of its cache, by path,
as JSON. It ends when its stdin ends. `jobs` describes what crosses the pipes, `limits` the memory
and the time that it has for one image.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.file_writer import FileWriter
from step37_flickr8k.download.job_runner import JobRunner
from step37_flickr8k.download.jobs import READY, read_jobs, write_done
from step37_flickr8k.download.parquet_jobs import read_request
from step37_flickr8k.download.parquet_runner import ParquetRunner
from step37_flickr8k.images.decoding import warm_up
from step37_flickr8k.limited.budget import Budget, image_seconds
from step37_flickr8k.limited.limits import Allowance, confine

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Serve the downloader until the pipe ends."""
    root, split, given, *numbers = arguments
    max_pixels, small, large, shared, served = map(int, numbers)
    confine()
    # Signals are sent to the whole job; the end of the pipe is what ends a worker.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print is no answer
        warm_up(max_pixels)
        directory = CacheDirectory(Path(root), split, json.loads(given))
        allowance = Allowance(Budget(small, large), image_seconds(max_pixels), shared)
        do = partial(JobRunner(directory, FileWriter(directory, served), allowance).do, max_pixels)
        parquet = ParquetRunner(sys.stdin.buffer, out, allowance, do)
        out.write(b"\n" + READY)
        out.flush()
        for line in sys.stdin.buffer:
            allowance.free()
            if (request := read_request(line, sys.stdin.buffer)) is not None:
                parquet.answer(request)
            else:
                out.write(write_done([*do(read_jobs(line, sys.stdin.buffer))]))
                out.flush()
    # The interpreter's own end takes as long as a dozen images, and the downloader waits for it.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
