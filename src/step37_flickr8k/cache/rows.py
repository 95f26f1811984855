"""The selected rows of the directory's own metadata table."""

from collections.abc import Callable, Iterator

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import Record
from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.selection import Row, Selection

__all__ = ["LARGEST_TABLE", "rows_of", "skipped_rows"]

LARGEST_TABLE = 1 << 30  # bytes: a million rows with five captions have a third of that


def rows_of(
    directory: CacheDirectory,
    record: Record,
    selection: Selection,
    left_out: Callable[[int, str], None] = lambda *_: None,
) -> Iterator[Row]:
    """Yield the selection's rows of the table that the ready record speaks of, as `read_rows`."""
    unstripped = frozenset(record.unstripped)
    with directory.open(directory.path(record.table), LARGEST_TABLE) as stream:
        yield from read_rows(
            stream, selection, record.table, unstripped=unstripped, left_out=left_out
        )


def skipped_rows(directory: CacheDirectory, record: Record, selection: Selection) -> dict[str, str]:
    """Return the images of the selection that can't be decoded, each with the reason."""
    if not record.skipped:
        return {}
    return {
        row.file_name: record.skipped[row.file_name]
        for row in rows_of(directory, record, selection)
        if row.file_name in record.skipped
    }
