"""Write to open files with plain system calls: whole, in place, durably. Errors stay OSErrors."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["fill", "make_directory", "overwrite", "sync"]

# What fsync reports on file systems that don't support it; some know it of files alone, and CIFS
# says EBADF of a directory
_NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF}


def make_directory(path: Path) -> None:
    """Create a directory and its parents, unless it is there.

    Raises PermissionError where the system says ENOENT of a directory whose parents exist: in
    ``/proc``, or below an automounter's directory, nobody can create one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise PermissionError(
            errno.EPERM, "no directory can be made there", error.filename
        ) from error


def fill(descriptor: int, content: bytes | bytearray | memoryview, *, durably: bool) -> None:
    """Write the content of a new file and close it."""
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        if durably:
            sync(descriptor)
    finally:
        os.close(descriptor)


def overwrite(descriptor: int, content: bytes) -> None:
    """Overwrite a file in place, flush and close it.

    Raises PermissionError for anything but a regular file with one name: another name may be that
    of a file that isn't the cache's.
    """
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise PermissionError(errno.EPERM, "it is no file of its own")
        written = 0
        # A disk that gets full writes a part, and reports it at the next call
        while written < len(content):
            written += os.pwrite(descriptor, content[written:], written)
        os.ftruncate(descriptor, len(content))
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Make an open file, or the names in an open directory, durable where that is supported."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
