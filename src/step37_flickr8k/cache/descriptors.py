"""The directories of a cache, each opened once: what happens to their names later changes nothing.

Another user who may write to the cache directory, or to its parent, can swap a directory for a link
at any moment. So no path is joined and followed again: a directory is opened below the descriptor
of its parent, never through a link, and all that happens in it happens below its own descriptor.
"""

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping

from step37_flickr8k.errors import FolderNotUsable

__all__ = ["Descriptor", "Directories", "is_link"]

# Only a handle: it needs no permission to read, and a file system is asked nothing for it
_HANDLE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_MOST = 16  # subdirectories that are open at a time


class Descriptor:
    """An open directory; it is closed once nothing refers to this object.

    ``number`` serves as ``dir_fd``; ``identity`` is what only this directory has.
    """

    __slots__ = ("identity", "number")

    def __init__(self, number: int) -> None:
        """Take over an open descriptor."""
        self.number = number
        status = os.fstat(number)
        self.identity = status.st_dev, status.st_ino

    def __del__(self) -> None:
        """Close it."""
        os.close(self.number)


class Directories:
    """The open directories at and below a root, by path; for use by many threads.

    The root is opened as the user names it, so it may be a link. Any other path is opened as it
    is, too: it is the user's own.
    """

    def __init__(self, root: str, given: Mapping[str, int]) -> None:
        """Open nothing yet but what is ``given``: copies of another process's descriptors."""
        self._root = root
        self._open = OrderedDict(
            (path, Descriptor(os.dup(number))) for path, number in given.items()
        )
        # Directories that stay open and have to stay the same
        self._held = {*self._open}
        # From then on also those below them, each by its identity
        self._known = {path: each.identity for path, each in self._open.items()}
        self._lock = threading.RLock()

    def at(self, directory: str) -> Descriptor:
        """Return an open directory; raises `FolderNotUsable` for a link below the root."""
        with self._lock:
            found = self._open.get(directory)
            if found is None:
                found = self._open[directory] = self._opened(directory)
                self._close_some()
            else:
                self._open.move_to_end(directory)
            return found

    def hold(self, *directories: str) -> None:
        """Open directories that have to stay the same from now on."""
        with self._lock:
            for directory in directories:
                self._known[directory] = self.at(directory).identity
                self._held.add(directory)

    def forget(self) -> None:
        """Have each directory opened again; those that are held, or in use now, stay open."""
        with self._lock:
            for directory in self._open.keys() - self._held:
                del self._open[directory]

    def reopen(self, directory: str) -> Descriptor:
        """Open a directory again, and those above it: a server has forgotten their handles."""
        with self._lock:
            for each in [each for each in self._open if f"{directory}/".startswith(f"{each}/")]:
                del self._open[each]
            return self.at(directory)

    def confirm(self, *, everything: bool = False) -> None:
        """Raise `FolderNotUsable` unless the names of the held directories still lead to them.

        With ``everything`` the names of all directories below them that were ever opened.
        """
        with self._lock:
            for directory in [*self._known] if everything else [*self._held]:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if self._identity_of(directory) == self._known[directory]:
                        continue
                raise self._replaced(directory)

    def _opened(self, directory: str) -> Descriptor:
        parent, _, name = directory.rpartition("/")
        if name == "..":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), directory)
        try:
            if self._is_below(directory):
                above = self.at(parent)
                opened = Descriptor(os.open(name, _HANDLE | os.O_NOFOLLOW, dir_fd=above.number))
            else:
                opened = Descriptor(os.open(directory or "/", _HANDLE))
        except OSError as error:
            if self._is_below(directory) and is_link(error, name, self.at(parent).number):
                raise FolderNotUsable(
                    f"{directory} is a symbolic link: make the cache_dir itself one, or move it"
                    " away"
                ) from None
            error.filename = directory
            raise
        if self._held:
            known = self._known.setdefault(directory, opened.identity)
            if known != opened.identity:
                raise self._replaced(directory)
        return opened

    def _identity_of(self, directory: str) -> tuple[int, int]:
        if self._is_below(directory):
            parent, _, name = directory.rpartition("/")
            status = os.stat(name, dir_fd=self.at(parent).number, follow_symlinks=False)
        else:
            status = os.stat(directory)  # noqa: PTH116 - a string
        return status.st_dev, status.st_ino

    def _is_below(self, directory: str) -> bool:
        return directory.startswith(f"{self._root}/")

    def _replaced(self, directory: str) -> FolderNotUsable:
        return FolderNotUsable(
            f"{directory} was moved away or replaced while this run used it: find out who did that,"
            f" let only users whom you trust write to {directory.rpartition('/')[0] or '/'}, then"
            " run it again"
        )

    def _close_some(self) -> None:
        others = [each for each in self._open if each not in self._held]
        for each in others[: max(0, len(others) - _MOST)]:
            del self._open[each]


def is_link(error: OSError, name: str, directory: int) -> bool:
    """Return whether a name couldn't be opened because it is a symbolic link."""
    if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
        return False
    with contextlib.suppress(OSError):
        os.readlink(name, dir_fd=directory)
        return True
    return False
