"""Whether images can be decoded: a commit may hold a broken picture, and its hash is right then, too."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Decoders", "why_undecodable"]

_START = "import runpy, sys; del sys.path[0]; runpy.run_path(sys.argv[1], run_name='__main__')"
_FEW = 4  # images that are quicker decoded here than by a process that must start first


def why_undecodable(path: Path) -> str | None:
    """Give the reason why Pillow can't decode the image, None if it can; raises OSError where the file can't be read.

    JPEGs are decoded at an eighth of their size: all of the file is read, a truncated one is found, at half of the cost.
    """
    from PIL import Image  # noqa: PLC0415 - the package imports without Pillow

    try:
        with Image.open(path) as image:
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PNG errors are SyntaxErrors
        if getattr(error, "errno", None) is not None:  # the file system's error, not the picture's: that has no number
            raise
        return str(error).replace(str(path), path.name)
    return None


class Decoders:
    """Processes that decode images: Pillow holds the interpreter while it does, and a picture that crashes it must not end us.

    They start when they are needed, read paths from a pipe, and end with it; for use by many threads.
    """

    def __init__(self) -> None:
        """Allow one for each processor of ours, four at most; none starts yet."""
        self._idle: queue.SimpleQueue[subprocess.Popen[str] | None] = queue.SimpleQueue()
        self._count = min(4, len(os.sched_getaffinity(0)))
        for _ in range(self._count):
            self._idle.put(None)

    def start(self) -> None:
        """Start them now, while something else is waited for."""
        for _ in range(self._count):
            process = self._idle.get()
            with contextlib.suppress(OSError):  # then there are fewer
                process = process or _start()
            self._idle.put(process)

    def close(self) -> None:
        """End them."""
        for _ in range(self._count):
            with contextlib.suppress(queue.Empty):
                process = self._idle.get(timeout=5)
                if process is not None:
                    process.communicate()

    def check(self, paths: Sequence[Path]) -> list[str | None]:
        """Give for each image why it can't be decoded, or None."""
        if len(paths) <= _FEW or not sys.executable:
            return [why_undecodable(path) for path in paths]
        flaws: list[str | None] = []
        together, deaths = len(paths), 0
        process = self._idle.get()
        try:
            while len(flaws) < len(paths):
                asked = paths[len(flaws) : len(flaws) + together]
                try:
                    process = process or _start()
                except OSError:  # no room for another process
                    return flaws + [why_undecodable(path) for path in paths[len(flaws) :]]
                if (answers := _ask(process, asked)) is not None:
                    flaws += answers
                    deaths = 0
                    continue
                process.kill()
                process.communicate()
                process = None
                deaths += len(asked) == 1
                together = 1  # to see which of them it is
                if deaths == 2:  # not just once, as when the kernel needs memory
                    flaws.append("its decoder died, twice")
                    deaths = 0
        finally:
            self._idle.put(process)
        return flaws


def _start() -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _START, __file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload, no-any-return]  # noqa: S603 - this very file


def _ask(process: "subprocess.Popen[str]", paths: Sequence[Path]) -> list[str | None] | None:
    """Let a process decode images, and answer for all at once; None if it died."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    try:
        process.stdin.write(json.dumps([str(path) for path in paths]) + "\n")
        process.stdin.flush()
    except OSError:
        return None
    answer = process.stdout.readline()
    return json.loads(answer) if answer.endswith("\n") else None


def _decode_for_others() -> None:
    """Answer each line of paths on stdin with a line on stdout, until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole job; the end of the pipe is what ends this
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin:
        sys.stdout.write(json.dumps([why_undecodable(Path(path)) for path in json.loads(line)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _decode_for_others()
