"""Publishes verified files under their final names, and the ready record last."""

from collections.abc import Sequence
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Lease
from step37_flickr8k.cache.manifest import ManifestEntry, write_manifest
from step37_flickr8k.cache.record import Record, write_record
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.download.batches import VerifiedFile
from step37_flickr8k.images.examined import FINE, Examined

__all__ = ["Publisher"]


class Publisher:
    """Publishes while the lease is held, from any thread.

    ``verified`` are the manifest entries of all verified files, those published included.
    """

    def __init__(
        self, directory: CacheDirectory, lease: Lease, verified: dict[str, ManifestEntry]
    ) -> None:
        """Add to ``verified`` what is published."""
        self.verified = verified
        self._directory = directory
        self._lease = lease

    def publish(self, batch: Sequence[VerifiedFile]) -> None:
        """Publish verified files; raises `LeaseLost` when another downloader took over."""
        for each in batch:
            self._publish(each.file, each.temporary, each.examined)

    def publish_metadata(self, file: RemoteFile, path: Path) -> None:
        """Publish the metadata table, unless it has its final name already."""
        if path != self._directory.path(file.name):
            self._publish(file, path)

    def commit(self, record: Record) -> None:
        """Write the manifest, then the ready record."""
        self._lease.check()
        write_manifest(self._directory, self.verified)
        write_record(self._directory, record)

    def _publish(self, file: RemoteFile, temporary: Path, examined: Examined = FINE) -> None:
        self._lease.check()
        entry = self._directory.publish(temporary, file.name)
        self.verified[file.name] = ManifestEntry(entry.size, file.digest, entry.mtime_ns, examined)
