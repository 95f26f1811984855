"""The metadata table: which rows count, and which names a row may give to an image."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import CaptionKeyNotFound, EmptySelection, InvalidMetadata

__all__ = ["METADATA", "read_rows", "why_not_plain"]

METADATA = "metadata.csv"
_NAME_COLUMN = "file_name"
_LONGEST_NAME = 255  # bytes: what every supported file system can hold
# Control characters, and surrogates, which are no characters at all
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHOWN = 200  # characters of somebody else's text that a message repeats


def read_rows(
    lines: Iterable[str],
    selection: Selection,
    left_out: Callable[[int, str], None] = lambda *_: None,
) -> Iterator[Row]:
    """Yield the first ``sample_count`` rows that count, in file order.

    Reads no line more than needed. ``left_out(line number, reason)`` is called for each row before
    the last one that doesn't count. Raises `CaptionKeyNotFound`, `InvalidMetadata`, and
    `EmptySelection` when no row counts.
    """
    reader = csv.reader(lines)
    table = f"{selection.split}/{METADATA} of {selection.repo_id}"
    count = 0
    try:
        name_at, caption_at = _columns(next(reader, []), selection.caption_key, table)
        columns = {_NAME_COLUMN: name_at, selection.caption_key: caption_at}
        last = max(name_at, caption_at)
        for cells in reader:
            if (
                len(cells) <= last
                or not (name := cells[name_at].strip())
                or not (caption := cells[caption_at].strip())
            ):
                left_out(reader.line_num, _what_is_missing(cells, columns))
                continue
            _check_name(name, f"{table}, line {reader.line_num}")
            yield Row(name, caption)
            count += 1
            if count == selection.sample_count:
                return
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(error, table, reader.line_num) from error
    if count == 0:
        raise EmptySelection(
            f"{table} has no row with both a file_name and a {selection.caption_key}:"
            " choose another caption_key"
        )


def why_not_plain(name: str) -> str | None:
    """Return why a name can't be that of an image right in the split's directory; None if it can.

    Names become paths of the cache. None may lead out of it, collide with one of its own files, or
    be refused by a file system.
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


def _what_is_missing(cells: Sequence[str], columns: Mapping[str, int]) -> str:
    missing = [name for name, at in columns.items() if len(cells) <= at or not cells[at].strip()]
    return f"the row has no {' and no '.join(missing)}"


def _columns(header: Sequence[str], caption_key: str, table: str) -> tuple[int, int]:
    """Return the positions of both columns; raises when one isn't there, or is there twice."""
    shown = ", ".join(header)[:_SHOWN] or "none"
    if _NAME_COLUMN not in header:
        is_web_page = shown.lstrip().lower().startswith(("<!doctype", "<html"))
        raise InvalidMetadata(
            f"{table} has no column {_NAME_COLUMN} in its first line"
            f"{', it is a web page' if is_web_page else ''}: its columns are {shown}"
        )
    if caption_key not in header:
        known = ", ".join(name for name in header if name != _NAME_COLUMN)[:_SHOWN]
        raise CaptionKeyNotFound(
            f"caption_key {caption_key!r} is no column of {table}: choose one of {known}"
        )
    for name in (_NAME_COLUMN, caption_key):
        if header.count(name) > 1:
            raise InvalidMetadata(
                f"{table} has the column {name} {header.count(name)} times: which one is meant?"
            )
    return header.index(_NAME_COLUMN), header.index(caption_key)


def _check_name(name: str, line: str) -> None:
    if why := why_not_plain(name):
        shown = repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
        raise InvalidMetadata(
            f"{line}: file_name {shown} is not the name of an image in the split's directory: {why}"
        )


def _unreadable(error: UnicodeDecodeError | csv.Error, table: str, line: int) -> InvalidMetadata:
    if isinstance(error, UnicodeDecodeError):
        return InvalidMetadata(
            f"{table}, after line {line}: {_encoding_of(error)}: store it as UTF-8"
        )
    return InvalidMetadata(
        f"{table}, line {line}: {error}: is it a table of comma-separated values?"
    )


def _encoding_of(error: UnicodeDecodeError) -> str:
    """Return what bytes that are no UTF-8 may be, by how they begin."""
    for start, kind in (
        (b"\x1f\x8b", "gzip"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
        (b"PK", "zip"),
    ):
        if error.object.startswith(start):
            return f"it is {kind}, not text in UTF-8"
    return f"it is no text in UTF-8 ({error.reason})"
