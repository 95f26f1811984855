"""What to fetch, decided from rows, listing and disk: pure, no I/O."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from step37_flickr8k.errors import CaptionKeyNotFound, EmptySelection, ImageNotFound, InvalidMetadata

__all__ = ["METADATA", "Plan", "RemoteFile", "Row", "Selection", "decide", "read_rows"]

METADATA = "metadata.csv"
_NAME_COLUMN = "file_name"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a call asks for; ``sample_count`` None is every row that counts, ``revision`` None no request for one."""

    repo_id: str
    split: str
    caption_key: str
    sample_count: int | None
    revision: str | None = None


@dataclass(frozen=True)
class Row:
    """A row that counts: both cells non-empty after stripping."""

    file_name: str
    caption: str


@dataclass(frozen=True)
class RemoteFile:
    """A file of the commit: name in the split, size in bytes, ``sha256:<hex>`` (LFS) or ``git-sha1:<hex>`` (a plain blob)."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The files to fetch, and how many of the selection's rows and files there are."""

    rows: int
    files: int
    fetch: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.fetch)


def read_rows(lines: Iterable[str], selection: Selection) -> Iterator[Row]:
    """Give the first ``sample_count`` rows that count, in file order, reading no further than needed.

    Raises `CaptionKeyNotFound`, `InvalidMetadata`, and `EmptySelection` when no row counts.
    """
    reader = csv.DictReader(lines)
    where = f"{selection.split}/{METADATA} of {selection.repo_id}"
    try:
        _check_columns(reader.fieldnames or (), selection.caption_key, where)
        count = 0
        for cells in reader:
            row = Row((cells[_NAME_COLUMN] or "").strip(), (cells[selection.caption_key] or "").strip())
            if not row.file_name or not row.caption:
                continue
            _check_name(row.file_name, f"{where}, line {reader.line_num}")
            yield row
            count += 1
            if count == selection.sample_count:
                return
    except csv.Error as error:
        raise InvalidMetadata(f"{where}, line {reader.line_num}: {error}: is it a table of comma-separated values?") from error
    if count == 0:
        raise EmptySelection(
            f"{where} has no row with both a file_name and a {selection.caption_key}: choose another caption_key"
        )


def decide(rows: Iterable[Row], listing: Mapping[str, RemoteFile], verified: Mapping[str, str]) -> Plan:
    """Plan = wanted - already verified; ``verified`` maps names to digests of what the folder holds, proven right.

    Raises `ImageNotFound` for a row whose image the commit doesn't hold.
    """
    count = 0
    wanted: dict[str, RemoteFile] = {}
    for row in rows:
        count += 1
        if row.file_name not in listing:
            raise ImageNotFound(f"row {count} names {row.file_name}, which the commit doesn't hold: tell the dataset's owner")
        wanted[row.file_name] = listing[row.file_name]
    fetch = tuple(file for file in wanted.values() if verified.get(file.name) != file.digest)
    return Plan(rows=count, files=len(wanted), fetch=fetch)


def _check_columns(columns: Iterable[str], caption_key: str, where: str) -> None:
    names = list(columns)
    if _NAME_COLUMN not in names:
        raise InvalidMetadata(f"{where} has no column {_NAME_COLUMN}, but {', '.join(names) or 'no columns'}")
    if caption_key not in names:
        known = ", ".join(name for name in names if name != _NAME_COLUMN)
        raise CaptionKeyNotFound(f"caption_key {caption_key!r} is no column of {where}: choose one of {known}")


def _check_name(name: str, where: str) -> None:
    """Refuse a name that leads out of the split's folder: it becomes a path of the cache."""
    if PurePosixPath(name).name != name or name in {".", "..", METADATA} or "\0" in name or "\\" in name:
        raise InvalidMetadata(f"{where}: file_name {name!r} is not the name of an image in the split's folder")
