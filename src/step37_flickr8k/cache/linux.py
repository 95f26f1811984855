"""System calls that Python doesn't have: syncfs and fallocate."""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import cast

__all__ = ["allocate", "sync_file_system"]


def sync_file_system(descriptor: int) -> None:
    """Make durable all of the file system that an open file is on.

    Raises OSError for a write that failed since the file was opened (Linux 5.8 and later). Where
    there is no such call, all file systems are synchronized.
    """
    if _SYNCFS is None:
        os.sync()
    elif _SYNCFS(descriptor) != 0:
        number = ctypes.get_errno()
        # A sandbox's kernel, or a filter of system calls, may not know it
        if number != errno.ENOSYS:
            raise OSError(number, os.strerror(number))
        os.sync()


def allocate(descriptor: int, size: int) -> int:
    """Allocate an open file's first ``size`` bytes without writing them; returns the errno, or 0.

    ``os.posix_fallocate`` won't do: where the file system can't allocate, it writes a byte into
    every block.
    """
    if _FALLOCATE is None:
        return errno.EOPNOTSUPP
    return 0 if _FALLOCATE(descriptor, 0, 0, size) == 0 else ctypes.get_errno()


def _of_libc(name: str, *types: type) -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = types
    return cast("Callable[..., int] | None", function)


_SYNCFS = _of_libc("syncfs", ctypes.c_int)
_FALLOCATE = _of_libc("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
