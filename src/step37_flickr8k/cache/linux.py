"""System calls that Python doesn't have: syncfs and fallocate."""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

__all__ = ["allocate", "sync_file_system"]


def sync_file_system(descriptor: int) -> None:
    """Make durable all of the file system that an open file is on; raises OSError for what failed since it was opened.

    It tells of failures since Linux 5.8; where there is no such call, all file systems are
    synchronised.
    """
    if _SYNCFS is None:
        os.sync()
    elif _SYNCFS(descriptor) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def allocate(descriptor: int, size: int) -> int:
    """Have an open file's first ``size`` bytes allocated, without writing them; gives the error's number, 0 for none.

    Not ``os.posix_fallocate``: where the file system can't, that one writes a byte into every
    block.
    """
    if _FALLOCATE is None:
        return errno.EOPNOTSUPP
    return 0 if _FALLOCATE(descriptor, 0, 0, size) == 0 else ctypes.get_errno()


def _of_libc(name: str, *types: Any) -> Callable[..., int] | None:
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = types
    return function  # type: ignore[no-any-return]


_SYNCFS = _of_libc("syncfs", ctypes.c_int)
_FALLOCATE = _of_libc("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
