"""The two cells of each row of a metadata table, whatever its format."""

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import CaptionKeyNotFound, InvalidMetadata

__all__ = ["NAME_COLUMN", "Cells", "Wanted", "lines_of"]

NAME_COLUMN = "file_name"
_LONGEST_LINE = 1 << 20  # characters
_SHOWN = 200  # characters of somebody else's text that a message repeats


class Cells(NamedTuple):
    """The two cells of a row as they are written, empty where there is no value.

    ``at`` is the line on which the row ends, or its number where a table has no lines.
    """

    at: int
    file_name: str
    caption: str


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


def lines_of(stream: BinaryIO, table: str) -> Iterator[str]:
    """Yield the lines of a text in UTF-8, which may begin with a byte order mark.

    Raises `InvalidMetadata` for what is no text, or has a line that is too long to be a table's.
    """
    number = 0
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        while line := text.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise InvalidMetadata(
                    f"{table} has a line of more than {_LONGEST_LINE:,} characters:"
                    " is it a table of captions?"
                )
            if "\0" in line:
                raise InvalidMetadata(
                    f"{table}, line {number} has a NUL, which no text has: store it as UTF-8"
                )
            yield line
    except UnicodeDecodeError as error:
        raise InvalidMetadata(
            f"{table}, line {number + _lines_to(error)}: {_encoding_of(error)}: store it as UTF-8"
        ) from error
    finally:
        # The stream is the caller's to close, and may be closed by now
        with contextlib.suppress(ValueError):
            text.detach()


def _shown(names: Iterable[str]) -> str:
    """Return column names for a message: as they are, or quoted where one can't see what it is."""
    quoted = (
        name if name.isprintable() and name == " ".join(name.split()) else repr(name)
        for name in names
    )
    return listed(quoted, 30)[:_SHOWN] or "none"


def _lines_to(error: UnicodeDecodeError) -> int:
    """Return how many lines the block that was decoded has, up to what can't be."""
    return len((error.object[: error.start] + b"?").splitlines())


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
