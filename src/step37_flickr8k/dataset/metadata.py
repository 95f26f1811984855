"""The metadata table: which of its rows count, and for which image."""

from collections.abc import Callable, Container, Iterator
from typing import BinaryIO

from step37_flickr8k.dataset.csv_table import read_csv
from step37_flickr8k.dataset.names import TABLES, why_not_plain
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.dataset.tables import NAME_COLUMN, Cells, Wanted
from step37_flickr8k.errors import EmptySelection, InvalidMetadata

__all__ = ["METADATA", "read_rows"]

METADATA = TABLES[0]
_SHOWN = 200  # characters of somebody else's text that a message repeats


def read_rows(
    stream: BinaryIO,
    selection: Selection,
    *,
    unstripped: Container[str] = (),
    left_out: Callable[[int, str], None] = lambda *_: None,
) -> Iterator[Row]:
    """Yield the first ``sample_count`` rows that count, in file order.

    Reads no row more than needed. A name is stripped, unless it is one of ``unstripped``: images
    whose names begin or end with a blank. ``left_out(line number, reason)`` is called for each row
    before the last one that doesn't count. Raises `CaptionKeyNotFound`, `InvalidMetadata`, and
    `EmptySelection` when no row counts.
    """
    table = f"{selection.split}/{METADATA} of {selection.repo_id}"
    count = 0
    for cells in read_csv(stream, Wanted(table, selection.caption_key)):
        name = cells.file_name if cells.file_name in unstripped else cells.file_name.strip()
        caption = cells.caption.strip()
        if not name or not caption:
            left_out(cells.at, _what_is_missing(cells, selection.caption_key))
            continue
        _check_name(name, f"{table}, line {cells.at}")
        yield Row(name, caption)
        count += 1
        if count == selection.sample_count:
            return
    if count == 0:
        raise EmptySelection(
            f"{table} has no row with both a {NAME_COLUMN} and a {selection.caption_key}:"
            " choose another caption_key"
        )


def _what_is_missing(cells: Cells, caption_key: str) -> str:
    columns = {NAME_COLUMN: cells.file_name, caption_key: cells.caption}
    missing = [name for name, cell in columns.items() if not cell.strip()]
    return f"the row has no {' and no '.join(missing)}"


def _check_name(name: str, line: str) -> None:
    if why := why_not_plain(name):
        shown = repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
        raise InvalidMetadata(
            f"{line}: file_name {shown} is not the name of an image in the split's directory: {why}"
        )
