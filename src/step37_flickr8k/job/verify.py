"""Hash the cache again, and fetch what is missing or wrong."""

import logging
from dataclasses import replace

from step37_flickr8k.cache.lease import Wait
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.cache.verify import verify_files
from step37_flickr8k.cluster.progress import ProgressTracker
from step37_flickr8k.dataset.listing import Listing
from step37_flickr8k.download.downloader import Downloader
from step37_flickr8k.errors import FolderNotUsable
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.job.listing import with_listing
from step37_flickr8k.job.results import VerifyResult
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.waiting import waiting_for

__all__ = ["repair", "verify"]

log = logging.getLogger("step37_flickr8k")


def verify(run: Run) -> VerifyResult:
    """Hash every file of the directory and compare it with the manifest; nothing is changed.

    Raises `FolderNotUsable` where there is no manifest or no ready record to compare with.
    """
    directory = run.directory
    manifest = read_manifest(directory)
    record = read_record(directory)
    if not manifest or record is None:
        what = "ready record" if manifest else "manifest"
        raise FolderNotUsable(
            f"{directory.home} has no {what} of {directory.split} that can be read: "
            "run warmup first"
        )
    scan = directory.scan(record.table)
    expected = {name: entry.digest for name, entry in manifest.items() if name in scan}
    verified = verify_files(directory, scan, expected)
    return VerifyResult(
        directory=str(directory.files),
        files=len(manifest),
        missing=tuple(sorted(manifest.keys() - scan.keys())),
        wrong=tuple(sorted(expected.keys() - verified.keys())),
        foreign=tuple(sorted(scan.keys() - manifest.keys())),
    )


def repair(run: Run, found: VerifyResult) -> VerifyResult:
    """Fetch again what `verify` found missing or wrong, and only that."""
    directory, repo_id = run.directory, run.selection.repo_id
    record = read_record(directory)
    if record is None or record.repo_id != repo_id:
        held = f"a record of {record.repo_id}" if record else "no ready record"
        raise FolderNotUsable(
            f"{directory.home} has {held}, so {repo_id} can't be repaired: run warmup"
        )
    hub = run.hub()
    with_listing(
        run, record.commit, record, lambda listing: _repair(run, hub, record, listing, found)
    )
    return replace(found, repaired=run.account.fetched.files)


def _repair(run: Run, hub: Hub, record: Record, listing: Listing, found: VerifyResult) -> None:
    run.directory.make()

    def keep_waiting(wait: Wait) -> bool:
        log.info("waiting for the lease, %s", waiting_for(wait))
        return True

    lease = run.take_lease(keep_waiting)
    assert lease is not None  # noqa: S101 - it waits as long as it takes
    with lease:
        downloader = Downloader(run.download_task, hub, lease, ProgressTracker())
        downloader.repair(record, listing, [*found.damaged])
