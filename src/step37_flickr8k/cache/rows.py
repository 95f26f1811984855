"""The selected rows of the directory's own metadata table."""

from collections.abc import Callable, Iterator
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import Record
from step37_flickr8k.dataset.metadata import METADATA, read_rows
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import InvalidMetadata

__all__ = ["lines_of", "rows_of", "skipped_rows"]

_LONGEST_LINE = 1 << 20  # characters


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a text, which may begin with a byte order mark.

    Raises `InvalidMetadata` for a line that is too long to be a table's.
    """
    with path.open(encoding="utf-8-sig", newline="") as text:
        while line := text.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise InvalidMetadata(
                    f"{path.name} has a line of more than {_LONGEST_LINE:,} characters:"
                    " is it a table of captions?"
                )
            yield line


def rows_of(
    directory: CacheDirectory,
    selection: Selection,
    left_out: Callable[[int, str], None] = lambda *_: None,
) -> Iterator[Row]:
    """Yield the selection's rows of the directory's metadata.csv, as `read_rows` does."""
    with directory.errors():
        yield from read_rows(lines_of(directory.files / METADATA), selection, left_out)


def skipped_rows(directory: CacheDirectory, record: Record, selection: Selection) -> dict[str, str]:
    """Return the images of the selection that can't be decoded, each with the reason."""
    if not record.skipped:
        return {}
    return {
        row.file_name: record.skipped[row.file_name]
        for row in rows_of(directory, selection)
        if row.file_name in record.skipped
    }
