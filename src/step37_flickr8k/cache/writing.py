"""Write files with plain system calls: new files, in place, durably. Errors stay OSErrors."""

import contextlib
import errno
import os
from pathlib import Path

__all__ = [
    "fill",
    "forget",
    "make_directory",
    "open_new",
    "overwrite",
    "sync_directory",
    "write_new",
]

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


def open_new(path: Path) -> int:
    """Create a file and return a descriptor to write to it; its mode follows the umask."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def write_new(path: Path, content: bytes | bytearray | memoryview, *, durably: bool) -> None:
    """Create a file with this content.

    Errors of close are raised, too: NFS reports a full disk only there.
    """
    fill(open_new(path), content, durably=durably)


def fill(descriptor: int, content: bytes | bytearray | memoryview, *, durably: bool) -> None:
    """Write the content of a new file and close it."""
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        if durably:
            _sync(descriptor)
    finally:
        os.close(descriptor)


def overwrite(path: Path, content: bytes) -> None:
    """Overwrite a file in place and flush it; a reader may see old and new bytes mixed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        written = 0
        # A disk that gets full writes a part, and reports it at the next call
        while written < len(content):
            written += os.pwrite(descriptor, content[written:], written)
        os.ftruncate(descriptor, len(content))
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the file system supports that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def forget(temporary: Path) -> None:
    """Delete a temporary file, and ignore every error.

    It may have its final name by now, or was never created: EROFS on a read-only mount, or a name
    that this process can't pass to the system.
    """
    with contextlib.suppress(OSError, UnicodeEncodeError):
        temporary.unlink()
