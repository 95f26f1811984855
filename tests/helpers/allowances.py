"""A worker's work done in this process, without limits that would stay with it."""

import contextlib
from collections.abc import Iterator

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.file_writer import FileWriter
from step37_flickr8k.download.job_runner import JobRunner
from step37_flickr8k.limited.budget import Budget
from step37_flickr8k.limited.limits import Allowance

__all__ = ["here"]


class _Unlimited(Allowance):
    @contextlib.contextmanager
    def small(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def large(self) -> Iterator[bool]:
        yield True


def here(directory: CacheDirectory, *, small: int = 1 << 30, large: int = 1 << 30) -> JobRunner:
    """Return what does jobs for a directory, with images weighed against a budget."""
    allowance = _Unlimited(Budget(small, large), seconds=60, shared=-1)
    return JobRunner(directory, FileWriter(directory), allowance)
