"""The status of a cache directory for people."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from step37_flickr8k.cache.lease import Holder
from step37_flickr8k.dataset.words import amount
from step37_flickr8k.diagnostics.status import SplitStatus
from step37_flickr8k.report.progress import counted, how_far

__all__ = ["status_as_text"]


def status_as_text(root: Path, splits: Sequence[SplitStatus]) -> list[str]:
    """Return a few lines for each split."""
    if splits:
        return [line for split in splits for line in _lines(root, split)]
    what = "holds no ready record" if root.is_dir() else "doesn't exist"
    return [f"{root} {what}, and no warmup is running"]


def _lines(root: Path, split: SplitStatus) -> Iterator[str]:
    yield f"{root / split.split}"
    if split.commit is None:
        yield "  not ready  no ready record"
    else:
        yield from _record(split, split.commit)
    if split.missing:
        missing = f"{split.missing:,} of {counted(split.verified, 'file')} no longer there"
        yield f"  missing    {missing}; run warmup, which downloads only these"
    if split.skipped:
        left_out = f"{counted(len(split.skipped), 'image')} that can't be decoded"
        yield f"  left out   {left_out}; preview shows which, and why"
    if split.downloader:
        yield _downloader(split.downloader)


def _record(split: SplitStatus, commit: str) -> Iterator[str]:
    state = "ready" if split.is_ready else "not ready"
    yield f"  {state:9}  {split.repo_id} at commit {commit}, written {_duration(split.age)} ago"
    for key, coverage in split.captions.items():
        bad = split.left_out[key]
        rows = f"{coverage.rows - bad:,}{' (all)' if coverage.everything else ''} with {key}"
        yield f"  rows       {rows}{f', {bad:,} left out' if bad else ''}"
    if split.verified:
        yield f"  files      {counted(split.files, 'image')}, {amount(split.bytes)}"
    else:
        unknown = "unknown, because the manifest can't be read"
        yield f"  files      {unknown}; run warmup, which hashes them again"


def _downloader(holder: Holder) -> str:
    run = f", run {holder.run}" if holder.run else ""
    name = f"{holder.host}, rank {holder.rank}{run}"
    since = _duration(holder.silent)
    if holder.state == "failed":
        why = f": {holder.failure.message}" if holder.failure else ""
        return f"  failed     {name}, {since} ago{why}"
    progress = how_far(holder.progress) if holder.progress else "starting"
    if holder.silent > holder.timeout:
        lost = f"silent for {since} ({progress}): killed or cut off"
        return f"  lost       {name}, {lost}; the next warmup takes over"
    return f"  running    {name}: {progress}, {since} ago"


def _duration(seconds: float | None) -> str:
    seconds = max(0.0, seconds or 0.0)
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
