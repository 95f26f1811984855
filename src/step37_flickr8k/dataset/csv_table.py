"""A metadata table of comma-separated values, read strictly: what can't be meant is refused."""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from step37_flickr8k.dataset.tables import NAME_COLUMN, Block, Cells, Lines, Wanted
from step37_flickr8k.errors import InvalidMetadata

__all__ = ["read_csv"]

_LONGEST_ROW = 16 << 20  # characters, on however many lines
_SHOWN = 200  # characters of somebody else's text that a message repeats
_ENDS = {"\r", "\n"}
# Where a cell may begin with a blank and a quote
_BLANK_AND_QUOTE = re.compile('(?:^|,)[ \t]+"')
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# What is met under the name of a table; the signs are in lower case.
_OTHERS = {
    "<!doctype": ", it is a web page",
    "<html": ", it is a web page",
    "version https://git-lfs": ", it is a pointer of Git LFS, not the table",
}


def read_csv(stream: BinaryIO, wanted: Wanted) -> Iterator[Block]:
    """Yield the cells of all rows; lines without any are no rows.

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
        end, lines.row = lines.row[-1], ""  # CR LF counts as LF
        while block := lines.block():
            begun = lines.number + 1
            if end == "\n" and (rows := _usual_rows(block, len(header))):
                lines.take(len(rows))
                at = range(begun, lines.number + 1)
                yield Block(at, [row[name_at] for row in rows], [row[caption_at] for row in rows])
                continue
            last = lines.position + len(block)
            while lines.position < last and (cells := next(reader, None)) is not None:
                _check(lines, cells, header, end)
                if lines.row.strip():
                    row = Cells(lines.number, _cell(cells, name_at), _cell(cells, caption_at))
                    yield Block.of(row)
                lines.row, begun = "", lines.number + 1
    except csv.Error as error:
        if begun == 1:
            raise _no_header(lines.row, lines.row.split(","), wanted.table) from error
        read = range(begun, max(begun, lines.number) + 1)
        raise _malformed(error, wanted.table, read, lines.row) from error


class _Lines(Lines):
    """Iterates over a table's lines; ``row`` gathers their text, until it is emptied."""

    def __init__(self, stream: BinaryIO, table: str) -> None:
        super().__init__(stream, table)
        self.table = table
        self.row = ""

    def __next__(self) -> str:
        line = super().__next__()
        self.row += line
        if len(self.row) > _LONGEST_ROW:
            raise InvalidMetadata(
                f"{self.table} has a row of more than {_LONGEST_ROW:,} characters:"
                " is a quote missing?"
            )
        return line


def _usual_rows(block: str, columns: int) -> list[list[str]] | None:
    """Return the cells of each line; None unless each is a row that nothing is to be said of.

    They are those that `csv` returns, in less time: most lines have no quote.
    """
    text = block.replace("\r\n", "\n")
    if "\r" in text or "\0" in text or columns == 1 or len(text) > csv.field_size_limit():
        return None
    lines = text.removesuffix("\n").split("\n")
    quoted = [line for line in lines if '"' in line]
    if any(_BLANK_AND_QUOTE.search(line) for line in quoted if ' "' in line or '\t"' in line):
        return None
    try:
        parsed = [*csv.reader(quoted, strict=True)]
    except csv.Error:
        return None
    # A row of several lines has left fewer rows than lines
    if len(parsed) < len(quoted):
        return None
    rest = iter(parsed)
    rows = [next(rest) if '"' in line else line.split(",") for line in lines]
    return rows if {*map(len, rows)} == {columns} else None


def _check(lines: _Lines, cells: Sequence[str], header: Sequence[str], end: str) -> None:
    """Refuse a row that may not be meant as it is written."""
    row, where = lines.row, f"{lines.table}, line {lines.number}"
    if ' "' in row or '\t"' in row:
        _check_quotes(row, cells, where)
    if len(cells) > len(header):
        raise _too_many(row, cells, header, where)
    if row[-1] != end and row[-1] in _ENDS:
        raise InvalidMetadata(
            f"{where} ends with {row[-1]!r}, and the header with {end!r}: put a text that holds a"
            " line end into double quotes"
        )


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
    elif "field limit" in str(error):
        remedy = "is a quote missing? Longer texts are read from metadata.jsonl"
    elif '"' in row:
        remedy = "write a quote within a quoted text twice"
    last = lines.stop - 1
    where = f"lines {lines.start} to {last}" if last > lines.start else f"line {last}"
    return InvalidMetadata(f"{table}, {where}: {error}: {remedy}")
