"""The files of a commit: as the cache's own manifest names them, else as the Hub lists them."""

import logging
from collections.abc import Callable
from typing import TypeVar

from step37_flickr8k.cache.known import known_files
from step37_flickr8k.cache.record import Record
from step37_flickr8k.dataset.listing import Listing
from step37_flickr8k.errors import FetchFailed, FolderFull, ImageNotFound, InvalidMetadata
from step37_flickr8k.job.run import Run

__all__ = ["with_listing"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")


def with_listing(run: Run, commit: str, record: Record | None, work: Callable[[Listing], _T]) -> _T:
    """Return what ``work`` returns for the files of a commit.

    ``record`` is that of the cache if it covers all that is wanted. Then the manifest names the
    files, with the Hub's own digests, and the Hub isn't asked, unless the work fails of what it
    would say otherwise: somebody may have changed the manifest.
    """
    split = run.selection.split
    if record is None or (known := known_files(run.directory, record)) is None:
        return work(run.hub().list_files(commit, split))
    try:
        return work(known)
    except ImageNotFound:
        listing = run.hub().list_files(commit, split)
    except (FetchFailed, FolderFull, InvalidMetadata):
        listing = run.hub().list_files(commit, split)
        if all(listing.get(name) == file for name, file in known.items()):
            raise
    log.warning(
        "the manifest in %s isn't of commit %s: the Hub's listing is used",
        run.directory.home,
        commit,
    )
    return work(listing)
