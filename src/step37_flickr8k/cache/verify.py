"""Verify files: hash them, or compare size and mtime with the manifest."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import ManifestEntry, entry_of, read_lines, unchanged
from step37_flickr8k.cache.record import Record
from step37_flickr8k.cache.scan import Entry
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.dataset.digests import digest_of
from step37_flickr8k.dataset.names import is_table
from step37_flickr8k.images.examined import FINE, Examined
from step37_flickr8k.threads import DaemonPool

__all__ = ["Check", "digest_of_file", "is_complete", "verify_files"]

log = logging.getLogger("step37_flickr8k")

_HASHERS = 8  # threads
_BATCH = 16  # files that a thread hashes, and a decoder decodes, at once

# How thoroughly a directory is compared with its record
Check = Literal["all", "names"]

# Maps (path, name) of images to what decoding each has shown, in order
Examine = Callable[[Sequence[tuple[Path, str]]], Sequence[Examined]]


def is_complete(directory: CacheDirectory, record: Record, *, check: Check) -> bool:
    """Return whether all files of the manifest are there: scratch purges delete single files.

    ``"all"`` compares size and mtime of every file. ``"names"`` compares the names, by one scandir,
    and size and mtime of the few files that every rank opens.
    """
    lines = read_lines(directory)
    if not lines:
        return False
    if check == "all":
        manifest = {name: entry_of(line) for name, line in lines.items()}
        return len(unchanged(manifest, directory.scan(record.table))) == len(manifest)
    names = directory.names() | {record.table}
    return lines.keys() <= names and all(
        name in lines and directory.entry(name) == entry_of(lines[name]).as_scanned
        for name in (record.table, *record.probes)
    )


def verify_files(
    directory: CacheDirectory,
    scan: Mapping[str, Entry],
    digests: Mapping[str, str],
    examine: Examine | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, ManifestEntry]:
    """Hash files in parallel and return entries for those that have the expected digest.

    ``digests`` maps the names, all of them in the scan, to their expected digests. With
    ``examine`` the images among the verified files are decoded, too.
    """

    def verify(batch: Sequence[str]) -> dict[str, ManifestEntry]:
        verified = [name for name in batch if _has_digest(directory, name, digests[name])]
        images = [name for name in verified if not is_table(name)]
        found = examine([(directory.files / name, name) for name in images]) if examine else ()
        examined = dict(zip(images, found, strict=False))
        return {
            name: ManifestEntry(
                size=scan[name].size,
                digest=digests[name],
                mtime_ns=scan[name].mtime_ns,
                examined=examined.get(name, FINE),
            )
            for name in verified
        }

    names, entries, done = [*digests], dict[str, ManifestEntry](), 0
    batches = [names[at : at + _BATCH] for at in range(0, len(names), _BATCH)]
    with DaemonPool(_HASHERS, "step37-verify") as pool:
        for batch, verified in zip(batches, pool.map(verify, batches), strict=True):
            entries |= verified
            done += len(batch)
            progress(Progress(State.VERIFYING, files=done, of_files=len(names)))
    return entries


def digest_of_file(directory: CacheDirectory, path: Path, like: str) -> str:
    """Return the digest of a file of the cache, of the same kind as the digest ``like``."""
    with directory.tree.open(path) as file:
        return digest_of(file, like)


def _has_digest(directory: CacheDirectory, name: str, digest: str) -> bool:
    path = directory.path(name)
    try:
        return digest_of_file(directory, path, digest) == digest
    except OSError as error:
        # It has vanished or can't be read, so it isn't verified
        log.warning("%s can't be read: %s", path, error.strerror)
        return False
