"""A metadata table of comma-separated values, read strictly: what can't be meant is refused."""

import csv
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from step37_flickr8k.dataset.tables import NAME_COLUMN, Cells, Wanted, lines_of
from step37_flickr8k.errors import InvalidMetadata

__all__ = ["read_csv"]

_LONGEST_ROW = 16 << 20  # characters, on however many lines
_SHOWN = 200  # characters of somebody else's text that a message repeats
_ENDS = {"\r", "\n"}
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# What is met under the name of a table; the signs are in lower case.
_OTHERS = {
    "<!doctype": ", it is a web page",
    "<html": ", it is a web page",
    "version https://git-lfs": ", it is a pointer of Git LFS, not the table",
}


def read_csv(stream: BinaryIO, wanted: Wanted) -> Iterator[Cells]:
    """Yield the cells of each row; lines without any are no rows.

    Quotes are read as RFC 4180 says. Python's lenient reading would swallow the lines after a stray
    quote, and a caption behind a comma that isn't quoted.
    """
    lines = _Lines(stream, wanted.table)
    reader = csv.reader(lines, strict=True)
    begun = 1
    try:
        header = [name.strip().strip("\ufeff") for name in next(reader, [])]
        if NAME_COLUMN not in header:
            raise _no_header(lines.row, header, wanted.table)
        name_at, caption_at = wanted.find(header)
        end = lines.row[-1]  # CR LF counts as LF
        lines.row, begun = "", reader.line_num + 1
        for cells in reader:
            row, at = lines.row, reader.line_num
            if ' "' in row or '\t"' in row:
                _check_quotes(row, cells, f"{wanted.table}, line {at}")
            if len(cells) > len(header):
                raise _too_many(row, cells, header, f"{wanted.table}, line {at}")
            if row[-1] != end and row[-1] in _ENDS:
                raise InvalidMetadata(
                    f"{wanted.table}, line {at} ends with {row[-1]!r}, and the header with"
                    f" {end!r}: put a text that holds a line end into double quotes"
                )
            if row.strip():
                yield Cells(at, _cell(cells, name_at), _cell(cells, caption_at))
            lines.row, begun = "", at + 1
    except csv.Error as error:
        if begun == 1:
            raise _no_header(lines.row, lines.row.split(","), wanted.table) from error
        read = range(begun, max(begun, reader.line_num) + 1)
        raise _malformed(error, wanted.table, read, lines.row) from error


class _Lines:
    """Iterates over a table's lines; ``row`` gathers their text, until it is emptied."""

    def __init__(self, stream: BinaryIO, table: str) -> None:
        self._lines = lines_of(stream, table)
        self._table = table
        self.row = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.row += line
            if len(self.row) > _LONGEST_ROW:
                raise InvalidMetadata(
                    f"{self._table} has a row of more than {_LONGEST_ROW:,} characters:"
                    " is a quote missing?"
                )
            yield line


def _cell(cells: Sequence[str], at: int) -> str:
    return cells[at] if at < len(cells) else ""


def _no_header(line: str, columns: Sequence[str], table: str) -> InvalidMetadata:
    """Return what the first line is, where it is no header of comma-separated values."""
    for delimiter, called in _DELIMITERS.items():
        if NAME_COLUMN in (part.strip().strip('"') for part in line.split(delimiter)):
            return InvalidMetadata(
                f"the columns of {table} are separated by {called}:"
                " save it with commas, which are the only separator that is read"
            )
    shown = ", ".join(columns)[:_SHOWN] or "none"
    start = shown.lstrip().lower()
    what = next((what for sign, what in _OTHERS.items() if start.startswith(sign)), "")
    if not line.strip():
        what = ", which is blank" if line else ", because it is empty"
    return InvalidMetadata(
        f"{table} has no column {NAME_COLUMN} in its first line{what}: its columns are {shown}"
    )


def _check_quotes(row: str, cells: Sequence[str], where: str) -> None:
    """Refuse a quote behind a blank, which is part of the text by RFC 4180 and seldom so meant."""
    for cell in cells:
        if cell[:1] in {" ", "\t"} and cell.lstrip(" \t").startswith('"'):
            quoted = cell.replace('"', '""')
            if f'"{quoted}"' not in row:
                raise InvalidMetadata(
                    f"{where}: a blank stands between a comma and a quote, so the quote would be"
                    " part of the text: remove the blank"
                )


def _too_many(row: str, cells: Sequence[str], header: Sequence[str], where: str) -> InvalidMetadata:
    escaped = ", a backslash before it doesn't count" if "\\" in row else ""
    return InvalidMetadata(
        f"{where} has {len(cells)} cells, and the header {len(header)}:"
        f" put a text that holds a comma into double quotes{escaped}"
    )


def _malformed(error: csv.Error, table: str, lines: range, row: str) -> InvalidMetadata:
    remedy = "is it a table of comma-separated values?"
    if "end of data" in str(error):
        remedy = f"the quote on line {lines.start} is never closed"
    elif '"' in row:
        remedy = "write a quote within a quoted text twice"
    last = lines.stop - 1
    where = f"lines {lines.start} to {last}" if last > lines.start else f"line {last}"
    return InvalidMetadata(f"{table}, {where}: {error}: {remedy}")
