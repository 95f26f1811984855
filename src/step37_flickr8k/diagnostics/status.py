"""What is in a cache directory, at once and without the network: the ready records, and who is filling it right now."""

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Holder, holder
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import Coverage, Record, read_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.errors import Step37Error
from step37_flickr8k.report.progress import counted, how_far

__all__ = ["SplitStatus", "as_lines", "as_value", "status"]

_OURS = re.compile(r"(?P<split>.+)\.(json|lease\.\d+)")


@dataclass(frozen=True, kw_only=True)
class SplitStatus:
    """One split: what its ready record says, what of that is no longer there, and its downloader; None for what isn't there."""

    split: str
    repo_id: str | None = None
    commit: str | None = None
    captions: Mapping[str, Coverage] = field(default_factory=dict)
    # Rows by caption, since their images can't be decoded
    left_out: Mapping[str, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    # Files that the manifest speaks of, metadata.csv among them; none where it can't be read
    proven: int = 0
    missing: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    age: float | None = None  # s since the record was written
    downloader: Holder | None = None  # None, too, when the last one has ended well

    @property
    def state(self) -> str:
        """Whether it can be used as it lies there."""
        return "ready" if self.commit and self.proven and not self.missing else "not ready"


def status(root: Path) -> list[SplitStatus]:
    """Look at every split of a cache directory; empty if there is nothing of ours."""
    found = map(_OURS.fullmatch, CacheDirectory(root, "").refresh())
    return [
        _split(CacheDirectory(root, split))
        for split in sorted({match["split"] for match in found if match})
    ]


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
        files=sum(name != METADATA for name in manifest),
        bytes=sum(proven.size for name, proven in manifest.items() if name != METADATA),
        proven=len(manifest),
        missing=sum(name not in there for name in manifest),
        skipped=record.skipped,
        runs=record.runs,
        age=time.time() - directory.written_at(f"{directory.split}.json"),
        downloader=downloader,
    )


def _left_out(directory: CacheDirectory, record: Record, key: str) -> int:
    if not record.skipped:
        return 0
    selection = Selection(
        repo_id=record.repo_id,
        split=directory.split,
        caption_key=key,
        sample_count=record.captions[key].rows,
    )
    try:
        return sum(row.file_name in record.skipped for row in rows_of(directory, selection))
    except Step37Error:  # metadata.csv is gone: said as a missing file
        return 0


def as_value(root: Path, splits: list[SplitStatus]) -> dict[str, Any]:
    """Give what a program reads."""
    return {"cache_dir": str(root), "splits": [_split_as_value(split) for split in splits]}


def _split_as_value(split: SplitStatus) -> dict[str, Any]:
    value = asdict(split)
    if split.downloader:
        progress = split.downloader.progress
        value["downloader"]["progress"] = progress.as_json() if progress else {}
    return value


def as_lines(root: Path, splits: list[SplitStatus]) -> list[str]:
    """Give what people read."""
    if not splits:
        return [
            f"{root} {'holds no ready record' if root.is_dir() else 'is not there'}, and nobody is filling it"
        ]
    return [line for split in splits for line in _lines(root, split)]


def _lines(root: Path, split: SplitStatus) -> list[str]:
    lines = [f"{root / split.split}"]
    if split.commit is None:
        lines.append("  not ready  no ready record")
    else:
        lines.append(
            f"  {split.state:9}  {split.repo_id} at commit {split.commit}, written {_ago(split.age)} ago"
        )
        for key, coverage in split.captions.items():
            bad = split.left_out[key]
            left_out = f", {bad:,} left out" if bad else ""
            lines.append(
                f"  rows       {coverage.rows - bad:,}{' (all)' if coverage.everything else ''} with {key}{left_out}"
            )
        if split.proven:
            lines.append(
                f"  files      {counted(split.files, 'image')}, {split.bytes / 1e6:,.1f} MB"
            )
        else:
            lines.append(
                "  files      not known, since the manifest can't be read: run warmup, which hashes them again"
            )
    if split.missing:
        told = f"{split.missing:,} of {counted(split.proven, 'file')} no longer there: run warmup, which fetches just these"
        lines.append(f"  missing    {told}")
    if split.skipped:
        lines.append(
            f"  left out   {counted(len(split.skipped), 'image')} that can't be decoded: preview shows which, and why"
        )
    if split.downloader:
        lines.append(_downloader(split.downloader))
    return lines


def _downloader(who: Holder) -> str:
    name = f"{who.host}, rank {who.rank}" + (f", run {who.run}" if who.run else "")
    if who.state == "failed":
        return f"  failed     {name}, {_ago(who.silent)} ago: {who.failure}"
    told = how_far(who.progress) if who.progress else "starting"
    if who.silent > who.timeout:
        return f"  given up   {name}, silent for {_ago(who.silent)} ({told}): killed or cut off; the next warmup takes over"
    return f"  filling    {name}: {told}, {_ago(who.silent)} ago"


def _ago(seconds: float | None) -> str:
    seconds = max(0.0, seconds or 0.0)
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
