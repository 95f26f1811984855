"""The two cells of each row of a metadata table, whatever its format."""

import codecs
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import CaptionKeyNotFound, InvalidMetadata

__all__ = ["NAME_COLUMN", "Block", "Cells", "Lines", "Wanted"]

NAME_COLUMN = "file_name"
_LONGEST_LINE = 1 << 20  # characters
_BLOCK = 1 << 16  # bytes that are read at once
_SHOWN = 200  # characters of somebody else's text that a message repeats


class Cells(NamedTuple):
    """The two cells of a row as they are written, empty where there is no value.

    ``at`` is the line on which the row ends, or its number where a table has no lines.
    """

    at: int
    file_name: str
    caption: str


class Block(NamedTuple):
    """The cells of some rows that follow each other, by column; ``at`` as in `Cells`."""

    at: range
    file_names: Sequence[str]
    captions: Sequence[str]

    @staticmethod
    def of(cells: Cells) -> "Block":
        """Return the block of one row."""
        return Block(range(cells.at, cells.at + 1), [cells.file_name], [cells.caption])

    def rows(self) -> Iterator[Cells]:
        """Yield the cells of each row."""
        return map(Cells, self.at, self.file_names, self.captions)


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a table: the column of captions; ``table`` names it in messages."""

    table: str
    caption_key: str

    def find(self, columns: list[str]) -> tuple[int, int]:
        """Return the positions of both columns; raises when one isn't there, or is there twice."""
        key = self.caption_key.strip()
        if NAME_COLUMN not in columns:
            raise InvalidMetadata(
                f"{self.table} has no column {NAME_COLUMN}: its columns are {_shown(columns)}"
            )
        if key not in columns:
            raise self.no_captions(columns)
        for name in (NAME_COLUMN, key):
            if columns.count(name) > 1:
                raise InvalidMetadata(
                    f"{self.table} has the column {name} {columns.count(name)} times:"
                    " which one is meant?"
                )
        return columns.index(NAME_COLUMN), columns.index(key)

    def no_captions(self, columns: Iterable[str]) -> CaptionKeyNotFound:
        """Return the error for a table without the column of captions."""
        known = _shown(name for name in columns if name != NAME_COLUMN)
        return CaptionKeyNotFound(
            f"caption_key {self.caption_key!r} is no column of {self.table}: choose one of {known}"
        )


class Lines:
    """Iterates over the lines of a text in UTF-8, which may begin with a byte order mark.

    They may also be taken a block at a time. ``number`` and ``position`` count the lines and the
    characters so far. Raises `InvalidMetadata` for what is no text, or has a line that is too long
    to be a table's, after the lines before it.
    """

    def __init__(self, stream: BinaryIO, table: str) -> None:
        """Read nothing yet."""
        self.number = self.position = 0
        self._stream, self._table = stream, table
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._block, self._at = "", 0  # whole lines, and how many of their characters are taken
        self._lines = iter(io.StringIO())
        self._rest = ""  # behind them
        self._is_at_end = False
        self._error: UnicodeDecodeError | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._fill()
        line = next(self._lines)
        self._move(1, len(line))
        if len(line) >= _LONGEST_LINE:
            raise self._too_long()
        if "\0" in line:
            raise InvalidMetadata(
                f"{self._table}, line {self.number} has a NUL, which no text has: store it as UTF-8"
            )
        return line

    def block(self) -> str:
        """Return the lines that come next and are in memory; empty at the end."""
        self._fill()
        return self._block[self._at :]

    def take(self, lines: int) -> None:
        """Leave out the lines that `block` has returned, that many."""
        self._move(lines, len(self._block) - self._at)
        self._lines = iter(io.StringIO())

    def _move(self, lines: int, characters: int) -> None:
        self.number += lines
        self.position += characters
        self._at += characters

    def _fill(self) -> None:
        """Read the next block if all lines of the last one are taken."""
        if self._at < len(self._block):
            return
        text = self._rest
        # A CR at the end may be half of a CR LF
        while not (end := 1 + max(text.rfind("\n"), text.rfind("\r", 0, -1))):
            if self._is_at_end:
                end = len(text)
                break
            if self._error is not None:
                line = self.number + 1 + text.count("\r")
                raise self._no_text(line, f"it is no text in UTF-8 ({self._error.reason})")
            if len(text) >= _LONGEST_LINE:
                raise self._too_long()
            text += self._read()
        self._block, self._at, self._rest = text[:end], 0, text[end:]
        self._lines = iter(io.StringIO(self._block, newline=""))

    def _read(self) -> str:
        """Return further text; where it ends in what can't be decoded, what stands before that."""
        content = self._stream.read(_BLOCK)
        self._is_at_end = not content
        try:
            return self._decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            if not self.position and (kind := _kind_of(content)):
                raise self._no_text(1, f"it is {kind}, not text in UTF-8") from error
            self._error, self._is_at_end = error, False
            return error.object[: error.start].decode()

    def _no_text(self, line: int, why: str) -> InvalidMetadata:
        return InvalidMetadata(f"{self._table}, line {line}: {why}: store it as UTF-8")

    def _too_long(self) -> InvalidMetadata:
        return InvalidMetadata(
            f"{self._table} has a line of more than {_LONGEST_LINE:,} characters:"
            " is it a table of captions?"
        )


def _shown(names: Iterable[str]) -> str:
    """Return column names for a message: as they are, or quoted where one can't see what it is."""
    quoted = (
        name if name.isprintable() and name == " ".join(name.split()) else repr(name)
        for name in names
    )
    return listed(quoted, 30)[:_SHOWN] or "none"


def _kind_of(content: bytes) -> str | None:
    """Return what bytes that are no UTF-8 may be, by how they begin."""
    for start, kind in (
        (b"\x1f\x8b", "gzip"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
        (b"PK", "zip"),
    ):
        if content.startswith(start):
            return kind
    return None
