"""Unfinished files: how they are called, and which are left of the dead."""

import contextlib
import re
import time
from pathlib import Path

from step37_flickr8k.cache.scan import files_below, files_in
from step37_flickr8k.cache.writing import forget

__all__ = ["TEMPORARY", "sweep_probes", "unfinished"]

TEMPORARY = ".step37-"  # how their names begin
_FORGOTTEN = 3600.0  # s after which a probe's writer is dead: a doctor takes minutes at most


def unfinished(directory: Path, split: str, *, below: bool = False) -> list[Path]:
    """Return the unfinished files of a split that are in a directory, or anywhere below it."""
    # The nonce's digits keep split "a" apart from "a-b", whose downloader may be alive. A doctor's
    # probes end in what it tries: colons, dots, any letters.
    pattern = re.compile(rf"{re.escape(TEMPORARY + split)}-[0-9a-f]{{8}}-\d+\.tmp.*", re.DOTALL)
    if not below:
        names = [entry.name for entry in files_in(directory) if pattern.fullmatch(entry.name)]
    else:
        found = files_below(directory)
        names = [name for name, entry in found if pattern.fullmatch(entry.name)]
    return [directory / name for name in names]


def sweep_probes(directory: Path, split: str) -> int:
    """Delete what a killed doctor has left where nothing is downloaded; returns how many files.

    One that lives writes there, too, so only what is old is deleted. Errors are ignored: another
    user's probes are that user's.
    """
    count = 0
    with contextlib.suppress(OSError):
        for path in unfinished(directory, split):
            if time.time() - path.lstat().st_mtime > _FORGOTTEN:
                forget(path)
                count += 1
    return count
