"""Limits of this process that are met, as errors that name the remedy."""

import contextlib
import errno
import os
from collections.abc import Iterator

from step37_flickr8k.errors import TransientError

__all__ = ["limits_named", "no_more_files"]

_TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}


def no_more_files(number: int | None) -> str:
    """Return the reason and the remedy of an error by its number, where no file can be opened.

    For any other number nothing. A connection is a file, too.
    """
    if number not in _TOO_MANY_OPEN:
        return ""
    return f"{os.strerror(number)}: raise ulimit -n, or lower concurrency"


@contextlib.contextmanager
def limits_named() -> Iterator[None]:
    """Raise `TransientError` with the remedy where a limit of this process's resources is met."""
    try:
        yield
    except MemoryError as error:
        raise TransientError(
            "there is not enough memory: raise ulimit -v or the container's memory limit"
        ) from error
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise TransientError(
            "no further thread can be started: raise ulimit -u and -v, or the container's limits of"
            " pids and memory"
        ) from error
    except OSError as error:
        if why := no_more_files(error.errno):
            raise TransientError(f"no further file or connection can be opened: {why}") from error
        raise
