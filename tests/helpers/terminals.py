"""A terminal, and what a person sees on it."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time
from contextlib import suppress

import pyte

from tests.helpers.ranks import PATIENCE

__all__ = ["Terminal"]


class Terminal:
    """A terminal that processes write to, high enough that nothing scrolls off."""

    def __init__(self, columns: int) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 400, columns, 0, 0))
        self._screen = pyte.Screen(columns, 400)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: nobody has it open any more
            while content := os.read(self._ours, 4096):
                with self._lock:
                    self._stream.feed(content)

    def seen(self) -> list[str]:
        """Return the lines that aren't empty."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display if line.strip()]

    def until_seen(self, pattern: str) -> list[str]:
        """Wait for a line that the pattern is found in; return all lines."""
        deadline = time.monotonic() + PATIENCE
        while True:
            seen = self.seen()
            if any(re.search(pattern, line) for line in seen):
                return seen
            assert time.monotonic() < deadline, "\n".join(seen)
            time.sleep(0.02)

    def cell(self, row: int, column: int) -> pyte.screens.Char:
        """Return a character with its colors."""
        with self._lock:
            return self._screen.buffer[row][column]

    def end(self) -> list[str]:
        """Close the terminal and return what it shows last."""
        os.close(self.theirs)
        self._reader.join(120)
        os.close(self._ours)
        return self.seen()
