"""A download of files, started without loading its HTTP client before it is needed."""

from collections.abc import Callable, Collection

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.download.batches import Publish
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.hub.source import Source
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["fetch_files"]


def fetch_files(
    files: Collection[RemoteFile],
    source: Source,
    workers: Workers,
    publish: Publish,
    *,
    options: FetchOptions,
    progress: Callable[[Progress], None],
) -> None:
    """Download files and pass on what is verified, as `files.fetch` does."""
    # The HTTP client takes 0.2 s to import, which a warm start saves.
    from step37_flickr8k.download.files import fetch  # noqa: PLC0415

    fetch(files, source, workers, publish, options=options, progress=progress)
