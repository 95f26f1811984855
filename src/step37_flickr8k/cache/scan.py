"""List directories: the split's files as a scan shows them, and names that NFS must not hide."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from step37_flickr8k.cache.tree import Tree

__all__ = ["Entry", "entries_below", "files_below", "files_in", "names_in", "nearest"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a scan of its directory shows it: size in bytes, mtime in ns."""

    size: int
    mtime_ns: int


def files_in(tree: Tree, directory: Path) -> Iterator["os.DirEntry[str]"]:
    """Yield the regular files of a directory by one scandir and no stat; none if it is missing."""
    with contextlib.suppress(FileNotFoundError), tree.scan(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    yield entry


def files_below(tree: Tree, directory: Path) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
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
            tree.scan(directory / prefix) as entries,
        ):
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False):
                        yield prefix + entry.name, entry
                    elif entry.name[0] != "." and entry.is_dir(follow_symlinks=False):
                        remaining.append(f"{prefix}{entry.name}/")
                except FileNotFoundError:
                    continue


def entries_below(tree: Tree, directory: Path) -> Iterator[tuple[str, Entry]]:
    """Yield name, size and mtime of the regular files below a directory, as `files_below` does."""
    for name, entry in files_below(tree, directory):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield name, Entry(status.st_size, status.st_mtime_ns)


def names_in(tree: Tree, root: Path) -> set[str]:
    """Return all names in a cache directory; empty if it is missing.

    An NFS client that missed a name keeps missing it until the parent directory is listed. So if
    the directory is missing, its parents are listed, up to the first one that exists, and then it
    is listed again.
    """
    with contextlib.suppress(FileNotFoundError):
        return set(tree.names(root))
    # The parent may be closed to this user
    with contextlib.suppress(FileNotFoundError, PermissionError):
        # A link may lead to a directory that doesn't exist yet
        real = Path(os.path.realpath(root))
        if real.name in _listed(real.parent):
            return set(tree.names(root))
    return set()


def _listed(directory: Path) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(directory))
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if directory.name in _listed(directory.parent):
            return set(os.listdir(directory))
    return set()


def nearest(directory: Path) -> Path:
    """Return the directory itself, or its nearest parent that exists."""
    return next(each for each in (directory, *directory.parents) if _is_directory(each))


def _is_directory(path: Path) -> bool:
    # A name that is too long, or below a directory that is closed to this user, is none to use
    with contextlib.suppress(OSError):
        return path.is_dir()
    return False
