"""Unfinished files: how they are called, and which are left of the dead."""

import contextlib
import re
import time
from pathlib import Path

from step37_flickr8k.cache.scan import files_below, files_in
from step37_flickr8k.cache.tree import Tree

__all__ = ["TEMPORARY", "sweep_probes", "unfinished"]

TEMPORARY = ".step37-"  # how their names begin
_FORGOTTEN = 3600.0  # s after which a probe's writer is dead: a doctor takes minutes at most


def unfinished(tree: Tree, directory: Path, split: str, *, below: bool = False) -> list[Path]:
    """Return the unfinished files of a split that are in a directory, or anywhere below it."""
    # The nonce's digits keep split "a" apart from "a-b", whose downloader may be alive. A doctor's
    # probes end in what it tries: colons, dots, any letters.
    pattern = re.compile(rf"{re.escape(TEMPORARY + split)}-[0-9a-f]{{8}}-\d+\.tmp.*", re.DOTALL)
    if not below:
        found = files_in(tree, directory)
        names = [entry.name for entry in found if pattern.fullmatch(entry.name)]
    else:
        named = files_below(tree, directory)
        names = [name for name, entry in named if pattern.fullmatch(entry.name)]
    return [directory / name for name in names]


def sweep_probes(tree: Tree, directory: Path, split: str) -> int:
    """Delete what a killed doctor has left where nothing is downloaded; returns how many files.

    One that lives writes there, too, so only what is old is deleted. Errors are ignored: another
    user's probes are that user's.
    """
    count = 0
    with contextlib.suppress(OSError):
        for path in unfinished(tree, directory, split):
            if time.time() - tree.status(path).st_mtime > _FORGOTTEN:
                tree.forget(path)
                count += 1
    return count
