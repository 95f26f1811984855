"""What to fetch, decided from rows, listing and disk: pure, no I/O."""

import csv
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from step37_flickr8k.errors import CaptionKeyNotFound, EmptySelection, ImageNotFound, InvalidMetadata

__all__ = [
    "METADATA",
    "Chosen",
    "Listing",
    "Plan",
    "RemoteFile",
    "Row",
    "Selection",
    "decide",
    "read_rows",
    "why_not_plain",
]

METADATA = "metadata.csv"
_NAME_COLUMN = "file_name"
_LONGEST_NAME = 255  # bytes: what every file system here can hold
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and what is no character at all
_SHOWN = 200  # characters of what others wrote that a message repeats


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a call asks for; ``sample_count`` None is every row that counts, ``revision`` None no request for one."""

    repo_id: str
    split: str
    caption_key: str
    sample_count: int | None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row that counts: both cells non-empty after stripping."""

    file_name: str
    caption: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the commit: name in the split, size in bytes, ``sha256:<hex>`` (LFS) or ``git-sha1:<hex>`` (a plain blob)."""

    name: str
    size: int
    digest: str


class Listing(Mapping[str, RemoteFile]):
    """The files of a commit by name, packed: some 200 bytes a file, also when there are a million."""

    _KINDS = (("sha256", 32), ("git-sha1", 20))

    def __init__(self, files: Iterable[RemoteFile] = ()) -> None:
        """Take the files."""
        self._index: dict[str, int] = {}
        self._names: list[str] = []
        self._sizes = array("Q")
        self._kinds = bytearray()
        self._digests = bytearray()  # 32 bytes each
        for file in files:
            self.add(file)

    def add(self, file: RemoteFile) -> None:
        """Add a file; raises ValueError for a size or a digest that can't be one, or when another file has its name."""
        kind, _, digest = file.digest.partition(":")
        raw = bytes.fromhex(digest)
        if (kind, len(raw)) not in self._KINDS or not 0 <= file.size < 1 << 63:
            raise ValueError(f"{file.name}: {file.size} bytes, {file.digest}")
        if (known := self._index.setdefault(file.name, len(self._names))) < len(self._names):
            if self.at(known) != file:
                raise ValueError(f"{file.name} is there twice, as {self.at(known).digest} and as {file.digest}")
        else:
            self._names.append(file.name)
            self._sizes.append(file.size)
            self._kinds.append(self._KINDS.index((kind, len(raw))))
            self._digests += raw.ljust(32, b"\0")

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> RemoteFile:
        return self.at(self._index[name])

    def position(self, name: str) -> int | None:
        """Give a file's number; None if there is no such file."""
        return self._index.get(name)

    def at(self, number: int) -> RemoteFile:
        """Give a file by its number."""
        kind, length = self._KINDS[self._kinds[number]]
        digest = self._digests[32 * number : 32 * number + length].hex()
        return RemoteFile(self._names[number], self._sizes[number], f"{kind}:{digest}")


class Chosen(Sequence[RemoteFile]):
    """Some files of a listing, in order; a number each."""

    def __init__(self, listing: Listing, numbers: Iterable[int]) -> None:
        """Choose files by their numbers in the listing."""
        self._listing = listing
        self._numbers = array("Q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[RemoteFile]:
        return map(self._listing.at, self._numbers)

    @overload
    def __getitem__(self, key: int) -> RemoteFile: ...
    @overload
    def __getitem__(self, key: slice) -> "Chosen": ...
    def __getitem__(self, key: int | slice) -> "RemoteFile | Chosen":
        if isinstance(key, slice):
            return Chosen(self._listing, self._numbers[key])
        return self._listing.at(self._numbers[key])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The files to fetch, how many of the selection's rows and files there are, and how many bytes are to come."""

    rows: int
    files: int
    fetch: Sequence[RemoteFile]
    bytes: int


def read_rows(
    lines: Iterable[str], selection: Selection, left_out: Callable[[int, str], None] = lambda *_: None
) -> Iterator[Row]:
    """Give the first ``sample_count`` rows that count, in file order, reading no further than needed.

    Those between them that don't count are told to ``left_out``: the line and what is missing.
    Raises `CaptionKeyNotFound`, `InvalidMetadata`, and `EmptySelection` when no row counts.
    """
    reader = csv.reader(lines)
    where = f"{selection.split}/{METADATA} of {selection.repo_id}"
    try:
        name_at, caption_at = _columns(next(reader, []), selection.caption_key, where)
        last = max(name_at, caption_at)
        count = 0
        for cells in reader:
            if len(cells) <= last or not (name := cells[name_at].strip()) or not (caption := cells[caption_at].strip()):
                left_out(reader.line_num, _what_is_missing(cells, {_NAME_COLUMN: name_at, selection.caption_key: caption_at}))
                continue
            _check_name(name, f"{where}, line {reader.line_num}")
            yield Row(name, caption)
            count += 1
            if count == selection.sample_count:
                return
    except UnicodeDecodeError as error:
        raise InvalidMetadata(f"{where}, after line {reader.line_num}: {_encoding_of(error)}: store it as UTF-8") from error
    except csv.Error as error:
        raise InvalidMetadata(f"{where}, line {reader.line_num}: {error}: is it a table of comma-separated values?") from error
    if count == 0:
        raise EmptySelection(
            f"{where} has no row with both a file_name and a {selection.caption_key}: choose another caption_key"
        )


def _what_is_missing(cells: Sequence[str], columns: Mapping[str, int]) -> str:
    missing = [name for name, at in columns.items() if len(cells) <= at or not cells[at].strip()]
    return f"the row has no {' and no '.join(missing)}"


def decide(rows: Iterable[Row], listing: Listing, verified: Mapping[str, str]) -> Plan:
    """Plan = wanted - already verified; ``verified`` maps names to digests of what the folder holds, proven right.

    Raises `ImageNotFound` for a row whose image the commit doesn't hold.
    """
    count = size = 0
    wanted = bytearray(len(listing))
    fetch = array("Q")
    for row in rows:
        count += 1
        number = listing.position(row.file_name)
        if number is None:
            raise ImageNotFound(f"row {count} names {row.file_name}, which the commit doesn't hold: tell the dataset's owner")
        if wanted[number]:
            continue
        wanted[number] = 1
        file = listing.at(number)
        if verified.get(file.name) != file.digest:
            fetch.append(number)
            size += file.size
    return Plan(rows=count, files=sum(wanted), fetch=Chosen(listing, fetch), bytes=size)


def why_not_plain(name: str) -> str | None:
    """Tell why a name can't be that of an image right in the split's folder; None if it can.

    Names become paths of the cache: none may lead out of it, collide with a file of ours, or be refused by a file system.
    """
    if not name or "/" in name or "\\" in name or re.match("[A-Za-z]:", name):
        return "it is a path"
    if name.startswith(".") or name == METADATA:
        return "it is hidden" if name.startswith(".") else f"it is {METADATA} itself"
    if _CONTROL.search(name):
        return "it has control characters"
    if len(name.encode()) > _LONGEST_NAME:
        return f"it is longer than {_LONGEST_NAME} bytes"
    return None


def _columns(header: Sequence[str], caption_key: str, where: str) -> tuple[int, int]:
    """Find both columns; raises when one isn't there, or twice."""
    shown = ", ".join(header)[:_SHOWN] or "none"
    if _NAME_COLUMN not in header:
        web = ", it is a web page" if shown.lstrip().lower().startswith(("<!doctype", "<html")) else ""
        raise InvalidMetadata(f"{where} has no column {_NAME_COLUMN} in its first line{web}: its columns are {shown}")
    if caption_key not in header:
        known = ", ".join(name for name in header if name != _NAME_COLUMN)[:_SHOWN]
        raise CaptionKeyNotFound(f"caption_key {caption_key!r} is no column of {where}: choose one of {known}")
    for name in (_NAME_COLUMN, caption_key):
        if header.count(name) > 1:
            raise InvalidMetadata(f"{where} has the column {name} {header.count(name)} times: which one is meant?")
    return header.index(_NAME_COLUMN), header.index(caption_key)


def _check_name(name: str, where: str) -> None:
    if why := why_not_plain(name):
        shown = repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
        raise InvalidMetadata(f"{where}: file_name {shown} is not the name of an image in the split's folder: {why}")


def _encoding_of(error: UnicodeDecodeError) -> str:
    """Say what bytes that are no UTF-8 may be, by how they begin."""
    for start, kind in ((b"\x1f\x8b", "gzip"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"PK", "zip")):
        if error.object.startswith(start):
            return f"it is {kind}, not text in UTF-8"
    return f"it is no text in UTF-8 ({error.reason})"
