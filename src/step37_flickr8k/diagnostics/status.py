"""What a cache directory holds, without a request: ready records, and who downloads into it."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Holder, holder
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import Coverage, Record, read_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.dataset.names import is_table
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.errors import (
    ConfigurationError,
    ErrorReport,
    RankZeroLost,
    Step37Error,
    exit_code_of,
)

__all__ = ["Readiness", "SplitStatus", "as_json", "readiness", "status"]

# The names that show which splits there are
_NAMES = re.compile(r"(?P<split>.+)\.(json|lease\.\d+)")


class Readiness(Enum):
    """Whether a training job can read a selection now, may expect it, or neither."""

    READY = "ready"
    UNDER_WAY = "under way"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class SplitStatus:
    """One split: its ready record, how much of that is there, and its downloader.

    ``repo_id``, ``commit`` and ``age`` (seconds since the record was written) are None without a
    record. ``left_out`` counts, by caption key, rows whose images can't be decoded. ``files`` and
    ``bytes`` are those of the images. ``verified`` counts the files of the manifest, metadata.csv
    among them; 0 if it can't be read. ``missing`` counts those of them that no longer exist.
    ``downloader`` is None, too, if the last download succeeded.
    """

    split: str
    repo_id: str | None = None
    commit: str | None = None
    captions: Mapping[str, Coverage] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    verified: int = 0
    missing: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    age: float | None = None
    downloader: Holder | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a training job can read what the record covers."""
        return bool(self.commit and self.verified and not self.missing)

    @property
    def is_filled(self) -> bool:
        """Whether somebody downloads into it now."""
        last = self.downloader
        return last is not None and last.state == "held" and last.silent <= last.timeout


def status(root: Path) -> list[SplitStatus]:
    """Return the status of every split of a cache directory; empty if it is no cache directory."""
    found = map(_NAMES.fullmatch, CacheDirectory(root, "").refresh())
    return [
        _split(CacheDirectory(root, split))
        for split in sorted({match["split"] for match in found if match})
    ]


def readiness(root: Path, selection: Selection) -> Readiness:
    """Return whether the rows of a selection are ready.

    They are under way as long as a downloader works, and where the last one ended without success
    in a way that another run may repair.
    """
    directory = CacheDirectory(root, selection.split)
    split, record = _split(directory), read_record(directory)
    if record is not None and record.covers(selection) and split.is_ready:
        return Readiness.READY
    last = split.downloader
    if last is None:
        return Readiness.ABSENT
    ended = last.failure and exit_code_of(last.failure.exception())
    return Readiness.ABSENT if ended == ConfigurationError.exit_code else Readiness.UNDER_WAY


def _split(directory: CacheDirectory) -> SplitStatus:
    last = holder(directory)
    downloader = last if last and last.state != "released" else None
    record = read_record(directory)
    if record is None:
        return SplitStatus(split=directory.split, downloader=downloader)
    manifest = read_manifest(directory)
    there = directory.names()
    return SplitStatus(
        split=directory.split,
        repo_id=record.repo_id,
        commit=record.commit,
        captions=record.captions,
        left_out={key: _left_out(directory, record, key) for key in record.captions},
        files=sum(not is_table(name) for name in manifest),
        bytes=sum(entry.size for name, entry in manifest.items() if not is_table(name)),
        verified=len(manifest),
        missing=sum(name not in there and directory.entry(name) is None for name in manifest),
        skipped=record.skipped,
        runs=record.runs,
        age=time.time() - directory.written_at(f"{directory.split}.json"),
        downloader=downloader,
    )


def _left_out(directory: CacheDirectory, record: Record, key: str) -> int:
    """Return how many covered rows name an image that can't be decoded."""
    if not record.skipped:
        return 0
    selection = Selection(
        repo_id=record.repo_id,
        split=directory.split,
        caption_key=key,
        sample_count=record.captions[key].rows,
    )
    try:
        rows = rows_of(directory, record, selection)
        return sum(row.file_name in record.skipped for row in rows)
    # metadata.csv is gone, which is counted as a missing file
    except Step37Error:
        return 0


def as_json(root: Path, splits: Sequence[SplitStatus]) -> dict[str, object]:
    """Return what ``status --json`` prints."""
    return {"cache_dir": str(root), "splits": [_split_as_json(split) for split in splits]}


def _split_as_json(split: SplitStatus) -> dict[str, object]:
    return {
        "split": split.split,
        "repo_id": split.repo_id,
        "commit": split.commit,
        "captions": {
            key: {"rows": coverage.rows, "everything": coverage.everything}
            for key, coverage in split.captions.items()
        },
        "left_out": dict(split.left_out),
        "files": split.files,
        "bytes": split.bytes,
        "proven": split.verified,
        "missing": split.missing,
        "skipped": dict(split.skipped),
        "runs": list(split.runs),
        "age": split.age,
        "downloader": _holder_as_json(split.downloader) if split.downloader else None,
    }


def _holder_as_json(holder: Holder) -> dict[str, object]:
    return {
        "run": holder.run,
        "rank": holder.rank,
        "host": holder.host,
        "pid": holder.pid,
        "state": holder.state,
        "silent": holder.silent,
        "timeout": holder.timeout,
        "progress": holder.progress.as_json() if holder.progress else {},
        "failure": _failure_as_json(holder.failure) if holder.failure else None,
    }


def _failure_as_json(failure: ErrorReport) -> str:
    # A signal that ended the holder is described by the message alone
    is_signal = failure.error == RankZeroLost.__name__
    return failure.message if is_signal else f"{failure.error}: {failure.message}"
