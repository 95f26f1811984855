"""A worker process: it verifies, writes and decodes files that arrive through its stdin.

Started as ``python -m step37_flickr8k.download.worker ROOT SPLIT MAX_PIXELS PID``, with the process
id of the downloader. It ends when its stdin ends. `jobs` describes what crosses the pipes.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.job_runner import JobRunner
from step37_flickr8k.download.jobs import READY, read_jobs, write_done
from step37_flickr8k.images.decoding import warm_up

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Serve the downloader until the pipe ends."""
    root, split, max_pixels, served = arguments
    # Signals are sent to the whole job; the end of the pipe is what ends a worker.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print is no answer
        warm_up(int(max_pixels))
        directory = CacheDirectory(Path(root), split)
        _answer_requests(out, JobRunner(directory, int(max_pixels), int(served)))
    # The interpreter's own end takes as long as a dozen images, and the downloader waits for it.
    os._exit(0)


def _answer_requests(out: BinaryIO, runner: JobRunner) -> None:
    out.write(b"\n" + READY)
    out.flush()
    for line in sys.stdin.buffer:
        out.write(write_done([*runner.do(read_jobs(line, sys.stdin.buffer))]))
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
