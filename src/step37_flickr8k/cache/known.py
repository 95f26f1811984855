"""The files of a commit, as far as the cache knows them: then nobody asks the Hub for a list."""

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.dataset.listing import Listing, RemoteFile

__all__ = ["known_files"]


def known_files(directory: CacheDirectory, record: Record) -> Listing | None:
    """Return the files of the record's commit that the manifest names, with the Hub's digests.

    They are all that the record covers, and may be few of the commit's. None if the manifest isn't
    the record's, or names no file as the Hub would.
    """
    manifest = read_manifest(directory)
    table = manifest.get(record.table)
    # A record is removed before the manifest of another commit is written: who finds it there
    # before and afterwards has read the manifest of its commit
    now = read_record(directory)
    if table is None or table.digest != record.metadata:
        return None
    if now is None or (now.repo_id, now.commit) != (record.repo_id, record.commit):
        return None
    try:
        return Listing(
            (RemoteFile(name, entry.size, entry.digest) for name, entry in manifest.items()),
            is_whole=False,
        )
    except ValueError:
        return None
