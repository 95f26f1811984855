"""Limits of this process that are met, as errors that name the remedy."""

import contextlib
from collections.abc import Iterator

from step37_flickr8k.errors import TransientError

__all__ = ["limits_named"]


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
            "no further thread can be started: raise ulimit -u or the container's pids limit"
        ) from error
