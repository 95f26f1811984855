"""The ready record with its manifest: what a cache directory holds, proven, and for whom.

``.step37-flickr8k/<split>.json`` is small and read by every rank;
``.step37-flickr8k/<split>.manifest`` holds a line per file and is read by the downloader and by
``verify`` alone. Both are replaced whole, the manifest first, the record last.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory, Entry, lines_of
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.dataset.digests import digest_of
from step37_flickr8k.dataset.metadata import METADATA, read_rows
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import CommitChanged, NotVisible, TransientError

__all__ = [
    "Coverage",
    "ManifestEntry",
    "Record",
    "digest_of_file",
    "lies_there",
    "prove",
    "read_manifest",
    "read_record",
    "remove_record",
    "rows_when_visible",
    "skipped_rows",
    "unchanged",
    "write_manifest",
    "write_record",
]

log = logging.getLogger("step37_flickr8k")

_FORMAT = 1
_RUNS = 16  # runs that a record remembers
_HASHERS = 8  # threads
_BATCH = 16  # files that a thread hashes, and a decoder decodes, at once
_PROBES = 16  # files that every rank opens to see whether its node shows the cache


@dataclass(frozen=True)
class Coverage:
    """How many counted rows from the top are complete under one caption key, and whether those are all there are."""

    rows: int
    everything: bool


@dataclass(frozen=True)
class ManifestEntry:
    """A file whose bytes were hashed: size in bytes, digest, mtime in ns by which a change shows, and why it can't be decoded."""

    size: int
    digest: str
    mtime_ns: int
    decode_error: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The ready record of one split at one commit."""

    repo_id: str
    commit: str
    metadata: str
    captions: Mapping[str, Coverage]
    skipped: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, int] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    def covers(self, selection: Selection) -> bool:
        """Tell whether the selection's rows are all here, at whatever commit."""
        coverage = self.captions.get(selection.caption_key)
        if coverage is None or self.repo_id != selection.repo_id:
            return False
        return coverage.everything or (
            selection.sample_count is not None and coverage.rows >= selection.sample_count
        )

    def fits(self, selection: Selection, run: str | None) -> bool:
        """Tell whether the selection can be read from here, without asking anybody which commit is meant."""
        pinned = selection.revision is None or selection.revision == self.commit
        return self.covers(selection) and (pinned or self.names(run))

    def names(self, run: str | None) -> bool:
        """Tell whether this very run has confirmed the record."""
        return run is not None and run in self.runs

    def grown(
        self, caption_key: str, coverage: Coverage, manifest: Mapping[str, ManifestEntry]
    ) -> "Record":
        """Add what a warmup has completed: under one commit a record only grows."""
        before = self.captions.get(caption_key, coverage)
        widest = max(before, coverage, key=lambda c: (c.everything, c.rows))
        names = [name for name in manifest if name != METADATA]
        spread = names[:: max(1, len(names) // _PROBES)][:_PROBES]
        return replace(
            self,
            captions={**self.captions, caption_key: widest},
            skipped={
                name: proven.decode_error
                for name, proven in manifest.items()
                if proven.decode_error
            },
            probes={name: manifest[name].size for name in spread},
        )

    def confirmed_by(self, run: str | None) -> "Record":
        """Add a run, the newest last."""
        others = tuple(r for r in self.runs if r != run)
        return (
            self if run is None or self.names(run) else replace(self, runs=(*others, run)[-_RUNS:])
        )


def read_record(directory: CacheDirectory) -> Record | None:
    """Read the ready record of the directory's split; None if there is none, or none that this version understands."""
    name = f"{directory.split}.json"
    content = directory.read(name) if name in directory.refresh() else None
    if content is None:
        return None
    try:
        value = json.loads(content)
        if value.pop("format") != _FORMAT:
            raise ValueError("another format")  # noqa: TRY301 - all that is unreadable is treated alike
        value["captions"] = {
            key: Coverage(**coverage) for key, coverage in value["captions"].items()
        }
        return _sound(Record(**value | {"runs": tuple(value["runs"])}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s can't be read (%s): as good as none", directory.home / name, error)
        return None


def _sound(record: Record) -> Record:
    """Raise TypeError for a record whose texts and numbers aren't: nothing else of it would be looked at so closely."""
    texts = (record.repo_id, record.commit, record.metadata, *record.runs, *record.skipped.values())
    numbers = (*record.probes.values(), *(coverage.rows for coverage in record.captions.values()))
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(number, int) for number in numbers
    ):
        raise TypeError("a text or a number is none")
    return record


def write_record(directory: CacheDirectory, record: Record) -> None:
    """Publish the ready record; the last act of a warmup."""
    directory.write(
        f"{directory.split}.json",
        json.dumps({"format": _FORMAT} | asdict(record), indent=1).encode(),
    )


def remove_record(directory: CacheDirectory) -> None:
    """Take the ready record away before the first file of another commit replaces one of this."""
    directory.delete(f"{directory.split}.json")


def read_manifest(directory: CacheDirectory) -> dict[str, ManifestEntry]:
    """Read what has been proven of the split's files; empty if there is no manifest."""
    path = directory.home / f"{directory.split}.manifest"
    try:
        with path.open(encoding="utf-8") as lines:
            return dict(map(_proven_of, lines))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s can't be read (%s): every file will be hashed", path, error)
        return {}


def _proven_of(line: str) -> tuple[str, ManifestEntry]:
    values = json.loads(line)
    if [*map(type, values)] != [str, int, str, int, str]:
        raise TypeError(f"{line[:80]!r} is no line of it")
    name, *proven = values
    return name, ManifestEntry(*proven)


def write_manifest(directory: CacheDirectory, manifest: Mapping[str, ManifestEntry]) -> None:
    """Write a line per proven file: name, size, digest, mtime_ns, decode_error."""
    lines = (
        json.dumps([name, p.size, p.digest, p.mtime_ns, p.decode_error]) + "\n"
        for name, p in sorted(manifest.items())
    )
    directory.write(f"{directory.split}.manifest", "".join(lines).encode())


def unchanged(
    manifest: Mapping[str, ManifestEntry], scan: Mapping[str, Entry]
) -> dict[str, ManifestEntry]:
    """Give the proven files that lie there with size and mtime as they were."""
    return {name: p for name, p in manifest.items() if scan.get(name) == Entry(p.size, p.mtime_ns)}


def lies_there(directory: CacheDirectory, record: Record, *, closely: bool) -> bool:
    """Compare the manifest with the split's directory: scratch purges take single files.

    Closely, size and mtime of every file; else the names, by one scandir, and size and mtime of
    those few that every rank opens.
    """
    manifest = read_manifest(directory)
    if not manifest:
        return False
    if closely:
        return unchanged(manifest, directory.scan()) == manifest
    few = {name: manifest.get(name) for name in (METADATA, *record.probes)}
    return manifest.keys() <= directory.names() and all(
        p and directory.entry(n) == Entry(p.size, p.mtime_ns) for n, p in few.items()
    )


def prove(
    directory: CacheDirectory,
    scan: Mapping[str, Entry],
    like: Mapping[str, str],
    find_decode_errors: Callable[[Sequence[tuple[Path, str]]], Sequence[str | None]] | None,
    progress: Callable[[Progress], None],
) -> dict[str, ManifestEntry]:
    """Hash files of a scan side by side and give those that have the digests of ``like``.

    ``find_decode_errors`` looks at the images among them: (path, name) -> why they can't be
    decoded; None: nobody looks.
    """

    def prove_some(names: Sequence[str]) -> dict[str, ManifestEntry]:
        right = [name for name in names if _has_digest(directory.files / name, like[name])]
        images = [name for name in right if name != METADATA]
        found = (
            find_decode_errors([(directory.files / name, name) for name in images])
            if find_decode_errors
            else ()
        )
        decode_errors = dict(zip(images, found, strict=False))
        return {
            name: ManifestEntry(
                scan[name].size, like[name], scan[name].mtime_ns, decode_errors.get(name) or ""
            )
            for name in right
        }

    names, proven, done = [*like], dict[str, ManifestEntry](), 0
    batches = [names[at : at + _BATCH] for at in range(0, len(names), _BATCH)]
    with ThreadPoolExecutor(_HASHERS) as pool:
        for batch, some in zip(batches, pool.map(prove_some, batches), strict=True):
            proven |= some
            done += len(batch)
            progress(Progress(State.VERIFYING, files=done, of_files=len(names)))
    return proven


def digest_of_file(path: Path, like: str) -> str:
    """Return a file's digest, of the same kind as the digest ``like``."""
    with path.open("rb") as file:
        return digest_of(file, like)


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return digest_of_file(path, digest) == digest
    except OSError as error:  # it has vanished, or can't be read: not proven
        log.warning("%s can't be read: %s", path, error.strerror)
        return False


def skipped_rows(directory: CacheDirectory, record: Record, selection: Selection) -> dict[str, str]:
    """Give the images of the selection that can't be decoded, each with the reason."""
    if not record.skipped:
        return {}
    return {
        row.file_name: record.skipped[row.file_name]
        for row in rows_of(directory, selection)
        if row.file_name in record.skipped
    }


def rows_of(
    directory: CacheDirectory,
    selection: Selection,
    left_out: Callable[[int, str], None] = lambda *_: None,
) -> Iterator[Row]:
    """Read the selection's rows from the directory's own metadata.csv, as `read_rows` does."""
    with directory.errors():
        yield from read_rows(lines_of(directory.files / METADATA), selection, left_out)


def rows_when_visible(
    directory: CacheDirectory,
    selection: Selection,
    commit: str,
    seconds: float,
    *,
    closely: bool = True,
) -> list[Row]:
    """Give the selection's rows as soon as this node shows the ready record, at this commit, with what it speaks of.

    Who has just left or found it so need not look closely: the record alone is looked for then.

    In file order, without those whose image can't be decoded. Raises after ``seconds`` what was
    wrong at last: `NotVisible`, `CommitChanged` when another commit is there (not at once: a node
    that lags shows the previous record for a while), or `TransientError` for what the file system
    said, since one EIO or ESTALE may well be the last.
    """
    deadline = time.monotonic() + seconds
    pause = 0.02
    while True:
        try:
            record = _look(directory, selection, commit, closely=closely)
            return [
                row for row in rows_of(directory, selection) if row.file_name not in record.skipped
            ]
        except TransientError as error:
            if time.monotonic() + pause > deadline:
                raise type(error)(f"after {seconds:g} s, {error}") from error
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _look(directory: CacheDirectory, selection: Selection, commit: str, *, closely: bool) -> Record:
    record = read_record(directory)
    shared = "is cache_dir on a file system that all nodes share, at the same path?"
    if record is None:
        raise NotVisible(f"this node doesn't see a ready record in {directory.home}: {shared}")
    if record.commit != commit:
        raise CommitChanged(
            f"{directory.home} holds commit {record.commit}, not {commit}: pin a revision, or use a directory per commit"
        )
    if not record.covers(selection):
        raise NotVisible(
            f"this node sees an older ready record in {directory.home}, without this selection: {shared}"
        )
    if closely and (wrong := _missing_or_wrong(directory, record)):
        raise NotVisible(f"this node sees the ready record, but not what it speaks of: {wrong}")
    return record


def _missing_or_wrong(directory: CacheDirectory, record: Record) -> str:
    try:
        if digest_of_file(directory.files / METADATA, record.metadata) != record.metadata:
            return f"{directory.files / METADATA} has other bytes"
        for name, size in record.probes.items():
            # Open, then ask: only that is fresh on NFS
            with (directory.files / name).open("rb") as file:
                if file.seek(0, 2) != size:
                    return f"{directory.files / name} doesn't have {size} bytes"
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            directory.refresh_files()  # so that the next look finds what only this node misses
        return f"{error.filename or directory.files}: {error.strerror}"
    return ""
