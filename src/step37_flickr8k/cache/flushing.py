"""Make the files of a cache durable all at once."""

import contextlib
from collections.abc import Callable, Iterator

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.linux import sync_file_system

__all__ = ["flushing"]


@contextlib.contextmanager
def flushing(directory: CacheDirectory) -> Iterator[Callable[[], None]]:
    """Yield a function that makes all files of the split written since then durable.

    It is one syncfs instead of an fsync for each file. syncfs reports what failed since its
    directory was opened, so the directory is opened first. It also reports once what failed
    earlier and was never reported, after a run on a full NFS export for example; that is
    ignored. NFS and Lustre report their errors at close, too.
    """
    with contextlib.ExitStack() as stack:
        with directory.errors():
            descriptor = stack.enter_context(directory.tree.reading(directory.files))
        with contextlib.suppress(OSError):
            sync_file_system(descriptor)

        def flush() -> None:
            with directory.errors():
                sync_file_system(descriptor)

        yield flush
