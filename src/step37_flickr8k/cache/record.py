"""The ready record: which rows of a split are complete, at which commit, and for whom.

``.step37-flickr8k/<split>.json`` is small and read by every rank. It is replaced as a whole, after
the manifest: the last act of a warmup.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import ManifestEntry
from step37_flickr8k.dataset.names import METADATA, is_table, why_not_plain
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.errors import BadImages

__all__ = ["Coverage", "Misnamed", "Record", "read_record", "remove_record", "write_record"]

log = logging.getLogger("step37_flickr8k")

_RUNS = 16  # runs that a record remembers
_PROBES = 16  # files that every rank opens to check whether its node shows the cache
# Bytes that are read. A usual record has a few thousand, and 200 more for each image left out, so
# this is enough for 160,000 of these; as a value it takes some 25 times as much memory.
_LARGEST = 1 << 25

# What a file system can count to
_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Table = Annotated[str, Field(pattern=r"^(\.\./)?metadata\.(csv|jsonl|parquet)$")]


@dataclass(frozen=True)
class Coverage:
    """How many counted rows from the top are complete under one caption key.

    ``everything``: those are all the rows of the split that count.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    rows: _Count
    everything: bool


@dataclass(frozen=True)
class Misnamed:
    """How many images are of a kind that their names don't say, and the first of them by name."""

    images: _Count
    first: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """The ready record of one split at one commit; its fields are the JSON on disk, in this order.

    ``table`` is the metadata table, named from the split's directory, ``metadata`` its digest.
    ``captions`` maps each caption key to its coverage,
    ``skipped`` the images that can't be decoded to the reason, ``probes`` a few files to their
    sizes. ``too_large`` maps those of the skipped that have too many pixels to that number,
    ``misnamed`` the kinds of images that their names don't say to how many there are.
    ``unstripped`` are images whose names begin or end with a blank. ``runs`` are the ids of the
    runs that confirmed the record, the newest last.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    format: Literal[1] = 1
    repo_id: str
    commit: str
    table: _Table = METADATA
    metadata: str
    captions: Mapping[str, Coverage]
    skipped: Mapping[str, str] = field(default_factory=dict)
    too_large: Mapping[str, _Count] = field(default_factory=dict)
    misnamed: Mapping[str, Misnamed] = field(default_factory=dict)
    probes: Mapping[str, _Count] = field(default_factory=dict)
    unstripped: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    def covers(self, selection: Selection) -> bool:
        """Return whether all rows of the selection are complete, at whatever commit.

        They aren't if an image was left out that the selection's ``max_pixels`` lets in. One that
        is in stays in under a lower limit: the record only grows.
        """
        coverage = self.captions.get(selection.caption_key)
        if coverage is None or self.repo_id != selection.repo_id:
            return False
        if any(pixels <= selection.max_pixels for pixels in self.too_large.values()):
            return False
        return coverage.everything or (
            selection.sample_count is not None and coverage.rows >= selection.sample_count
        )

    def fits(self, selection: Selection, run: str | None) -> bool:
        """Return whether the selection can be read from here without asking the Hub for a commit.

        It can if no revision was asked for, if the record's commit is the pinned one, or if this
        run has confirmed the record.
        """
        pinned = selection.revision is None or selection.revision == self.commit
        return self.covers(selection) and (pinned or self.names(run))

    def names(self, run: str | None) -> bool:
        """Return whether this run has confirmed the record."""
        return run is not None and run in self.runs

    def grown(
        self, caption_key: str, coverage: Coverage, manifest: Mapping[str, ManifestEntry]
    ) -> "Record":
        """Return the record with what a warmup has completed: under one commit it only grows."""
        before = self.captions.get(caption_key, coverage)
        widest = max(before, coverage, key=lambda c: (c.everything, c.rows))
        names = [name for name in manifest if not is_table(name)]
        spread = names[:: max(1, len(names) // _PROBES)][:_PROBES]
        return replace(
            self,
            captions={**self.captions, caption_key: widest},
            skipped={
                name: entry.examined.decode_error
                for name, entry in manifest.items()
                if entry.examined.decode_error
            },
            too_large={
                name: entry.examined.too_large
                for name, entry in manifest.items()
                if entry.examined.too_large
            },
            misnamed=_misnamed(manifest),
            probes={name: manifest[name].size for name in spread},
            unstripped=tuple(name for name in names if name != name.strip()),
        )

    def confirmed_by(self, run: str | None) -> "Record":
        """Return the record with a run added, as the newest of at most 16."""
        if run is None or self.names(run):
            return self
        return replace(self, runs=(*self.runs, run)[-_RUNS:])


def _misnamed(manifest: Mapping[str, ManifestEntry]) -> dict[str, Misnamed]:
    """Return the images that are misnamed, by kind: a dataset may hold a million of them."""
    found: dict[str, list[str]] = {}
    for name, entry in manifest.items():
        if entry.examined.misnamed:
            found.setdefault(entry.examined.misnamed, []).append(name)
    return {kind: Misnamed(len(names), min(names)) for kind, names in sorted(found.items())}


_READER = TypeAdapter(Record)


def read_record(directory: CacheDirectory) -> Record | None:
    """Return the ready record of the directory's split.

    None if there is none, or none that this version can read.
    """
    name = f"{directory.split}.json"
    content = directory.read(name, _LARGEST) if name in directory.refresh() else None
    if content is None:
        return None
    try:
        record = _READER.validate_json(content)
        # They become paths
        reason = next(filter(None, map(why_not_plain, record.probes)), "")
    except ValidationError as error:
        record, reason = None, _reason(error)
    if reason:
        log.warning("%s can't be read (%s): treated as missing", directory.home / name, reason)
        return None
    return record


def write_record(directory: CacheDirectory, record: Record) -> None:
    """Publish the ready record; the last act of a warmup.

    Raises `BadImages` for one that nobody would read, because too many images are left out.
    """
    content = json.dumps(asdict(record), indent=1).encode()
    if len(content) > _LARGEST:
        raise BadImages(
            f"{len(record.skipped):,} images can't be decoded, and no record holds so many"
            f" ({len(content):,} bytes, at most {_LARGEST:,} are read): choose another split"
        )
    directory.write(f"{directory.split}.json", content)


def remove_record(directory: CacheDirectory) -> None:
    """Delete the ready record, before the first file of another commit replaces one of this."""
    directory.delete(f"{directory.split}.json")


def _reason(error: ValidationError) -> str:
    """Return the first problem in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join((*map(str, first["loc"]), first["msg"]))
