"""The checks before the first byte: is the directory writable, is there space, are there locks.

What is written for them is deleted at once.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.linux import allocate
from step37_flickr8k.cache.scan import nearest
from step37_flickr8k.dataset.words import amount
from step37_flickr8k.errors import FolderFull, FolderNotUsable

__all__ = ["Probe", "check_space", "lock", "try_out"]

log = logging.getLogger("step37_flickr8k")

# Bytes that a file's last block wastes at most. NFS reports its transfer size as the block size,
# which would count far too much.
_BLOCK = 4096
_PROBE = b"step37-flickr8k checks that files can be written, renamed and seen here\n"


def try_out(directory: CacheDirectory) -> None:
    """Write, rename, list and read a small file in both directories, as the download will.

    A directory that doesn't exist yet is represented by its nearest parent. Raises
    `FolderNotUsable` for what can't be done.
    """
    for parent in dict.fromkeys((nearest(directory.files), nearest(directory.home))):
        mode = _try_out(directory, parent)
    if not mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning(
            "files in %s get mode %04o, so no other user can read them:"
            " if other users train on them, set umask 022",
            parent,
            mode,
        )
    if mode & stat.S_IWOTH:
        log.warning(
            "files in %s get mode %04o, so every user who reaches them can change them: set umask"
            " 022, or 002 where a group fills the cache together",
            parent,
            mode,
        )


def _try_out(directory: CacheDirectory, parent: Path) -> int:
    """Try one directory; returns the mode that new files get there."""
    first, second, tree = directory.temporary(parent), directory.temporary(parent), directory.tree
    try:
        directory.put(first, _PROBE)
        with directory.errors():
            mode = stat.S_IMODE(tree.rename(first, second).st_mode)
            shown = second.name in tree.names(parent) and tree.read(second, len(_PROBE)) == _PROBE
    finally:
        tree.forget(first)
        tree.forget(second)
    if not shown:
        raise FolderNotUsable(
            f"{parent} doesn't show what was just written and renamed there:"
            " choose another cache_dir"
        )
    return mode


def check_space(directory: CacheDirectory, size: int, files: int) -> None:
    """Raise `FolderFull` if ``size`` bytes in ``files`` new files can't be written here."""
    parent = nearest(directory.files)
    try:
        status = os.statvfs(parent)
    except OSError as error:
        # Some FUSE file systems know no such call
        log.debug("the free space of %s isn't known: %s", parent, error.strerror)
        return
    block = status.f_frsize or status.f_bsize
    free = status.f_bavail * block
    needed = size + files * min(_BLOCK, block)
    # 0 blocks or inodes in all: the file system doesn't count them, so none free says nothing
    if status.f_blocks and block and free < needed:
        raise FolderFull(
            f"{parent} has {amount(free)} free, the plan needs {amount(needed)}:"
            " free space or lower sample_count"
        )
    if status.f_files and status.f_favail < files:
        raise FolderFull(
            f"{parent} has {status.f_favail:,} inodes free, the plan needs {files:,}: delete files"
        )
    if size > 0:
        _check_quota(directory, parent, size)


def _check_quota(directory: CacheDirectory, parent: Path, size: int) -> None:
    """Allocate all the bytes at once and free them: the only quota check that file systems share.

    Only EDQUOT counts. statvfs has already reported the free space, and many file systems can't
    allocate.
    """
    probe = directory.temporary(parent)
    available = size
    try:
        with directory.writing(probe) as file:
            while available and allocate(file.fileno(), available) == errno.EDQUOT:
                available //= 2
    finally:
        directory.tree.forget(probe)
    if available < size:
        raise FolderFull(
            f"{parent}: the quota allows about {amount(available)}, the plan needs"
            f" {amount(size)}: raise the quota, delete files or lower sample_count"
        )


class Probe:
    """A small locked file in a directory, for ranks on other nodes to find.

    `make` creates it, `close` deletes it.
    """

    def __init__(self, directory: CacheDirectory, parent: Path) -> None:
        """Name it; nothing on disk is touched."""
        self.path = directory.temporary(parent)
        self._tree = directory.tree
        self._open: BinaryIO | None = None

    def make(self) -> bool | None:
        """Create and lock the file; returns what `lock` returns."""
        self._open = os.fdopen(self._tree.create(self.path), "wb")
        self._open.write(_PROBE)
        self._open.flush()
        os.fsync(self._open.fileno())
        return lock(self._open)

    def close(self) -> None:
        """Unlock and delete it."""
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open.close()
            self._tree.forget(self.path)


def lock(file: BinaryIO) -> bool | None:
    """Lock an open file without waiting, and return whether that worked.

    False if another process holds the lock, None if the file system refuses locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
