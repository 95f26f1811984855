"""List directories: the split's files as a scan shows them, and names that NFS must not hide."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "entries_below", "files_below", "files_in", "names_in", "nearest"]


@dataclass(frozen=True)
class Entry:
    """A file as a scan of its directory shows it: size in bytes, mtime in ns."""

    size: int
    mtime_ns: int


def files_in(directory: Path) -> Iterator["os.DirEntry[str]"]:
    """Yield the regular files of a directory by one scandir and no stat; none if it is missing."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    yield entry


def files_below(directory: Path) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield the regular files below a directory with their names from there, separated by ``/``.

    One scandir for each directory. Hidden directories and links are left out, and directories that
    another user has closed: nothing of the cache is in them.
    """
    remaining = [""]
    while remaining:
        prefix = remaining.pop()
        closed = PermissionError if prefix else FileNotFoundError
        with (
            contextlib.suppress(FileNotFoundError, closed),
            os.scandir(directory / prefix) as entries,
        ):
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        yield prefix + entry.name, entry
                    elif entry.name[0] != "." and entry.is_dir(follow_symlinks=False):
                        remaining.append(f"{prefix}{entry.name}/")


def entries_below(directory: Path) -> Iterator[tuple[str, Entry]]:
    """Yield name, size and mtime of the regular files below a directory, as `files_below` does."""
    for name, entry in files_below(directory):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            yield name, Entry(status.st_size, status.st_mtime_ns)


def names_in(directory: Path) -> set[str]:
    """Return all names in a directory; empty if it is missing.

    An NFS client that missed a name keeps missing it until the parent directory is listed. So if
    the directory is missing, its parents are listed, up to the first one that exists, and then it
    is listed again.
    """
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(directory))
    # The parent may be closed to this user
    with contextlib.suppress(FileNotFoundError, PermissionError):
        # A link may lead to a directory that doesn't exist yet
        real = Path(os.path.realpath(directory))
        if real.name in names_in(real.parent):
            return set(os.listdir(real))
    return set()


def nearest(directory: Path) -> Path:
    """Return the directory itself, or its nearest parent that exists."""
    return next(each for each in (directory, *directory.parents) if _is_directory(each))


def _is_directory(path: Path) -> bool:
    # A name that is too long, or below a directory that is closed to this user, is none to use
    with contextlib.suppress(OSError):
        return path.is_dir()
    return False
