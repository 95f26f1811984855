"""The metadata table: which of its rows count, and for which image."""

import importlib.util
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from step37_flickr8k.dataset.csv_table import read_csv
from step37_flickr8k.dataset.jsonl_table import read_jsonl
from step37_flickr8k.dataset.names import (
    METADATA,
    are_usual,
    in_repository,
    is_above,
    why_not_plain,
)
from step37_flickr8k.dataset.parquet_rows import read_apart
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.dataset.tables import NAME_COLUMN, Block, Cells, Wanted
from step37_flickr8k.errors import EmptySelection, InvalidMetadata

__all__ = ["read_rows"]

_SHOWN = 200  # characters of somebody else's text that a message repeats


def read_rows(
    stream: BinaryIO,
    selection: Selection,
    table: str = METADATA,
    *,
    unstripped: Container[str] = (),
    left_out: Callable[[int, str], None] = lambda *_: None,
) -> Iterator[Row]:
    """Yield the first ``sample_count`` rows that count, in file order.

    Reads no row more than needed. Of a table above the split's directory (``../metadata.csv``) only
    the rows whose images are below it are the split's. A name is stripped, unless it is one of
    ``unstripped``: images whose names begin or end with a blank. ``left_out(line number, reason)``
    is called for each row of the split before the last one that doesn't count. Raises
    `CaptionKeyNotFound`, `InvalidMetadata`, and `EmptySelection` when no row counts.
    """
    prefix = f"{selection.split}/" if is_above(table) else ""
    shown = f"{in_repository(selection.split, table)} of {selection.repo_id}"
    reading = _Reading(selection.caption_key, table, shown, prefix, unstripped, left_out)
    count = 0
    block: Block | None = None
    for block in _blocks(stream, Wanted(shown, selection.caption_key), table):
        for row in reading.usual_rows(block) or reading.rows(block):
            yield row
            count += 1
            if count == selection.sample_count:
                return
    if block is None:
        raise EmptySelection(f"{shown} has no rows: choose another split or revision")
    if count == 0:
        below = f" below {prefix}" if prefix else ""
        raise EmptySelection(
            f"{shown} has no row with both a {NAME_COLUMN}{below} and a {selection.caption_key}:"
            f" choose another caption_key{' or split' if prefix else ''}"
        )


@dataclass(frozen=True)
class _Reading:
    """Makes rows that count of cells; ``shown`` names the table, ``prefix`` is that of names."""

    caption_key: str
    table: str
    shown: str
    prefix: str
    unstripped: Container[str]
    left_out: Callable[[int, str], None]

    def usual_rows(self, block: Block) -> Sequence[Row]:
        """Return what `rows` does, if nothing is to be said of any row; else nothing."""
        if len(block.at) == 1 or self.unstripped:
            return ()
        names = [*map(str.strip, block.file_names)]
        if self.prefix:
            if not all(name.startswith(self.prefix) for name in names):
                return ()
            names = [name.removeprefix(self.prefix) for name in names]
        captions = [*map(str.strip, block.captions)]
        return [*map(Row, names, captions)] if all(captions) and are_usual(names) else ()

    def rows(self, block: Block) -> Iterator[Row]:
        """Yield the rows that count, after checks of each."""
        for cells in block.rows():
            name = self._name(cells.file_name)
            caption = cells.caption.strip()
            if name and not name.startswith(self.prefix):
                _check_other_split(name, self._where(cells))
                continue
            name = name.removeprefix(self.prefix)
            if name and caption:
                _check_name(name, self._where(cells))
                yield Row(name, caption)
            else:
                self.left_out(cells.at, _what_is_missing(name, caption, self.caption_key))

    def _name(self, written: str) -> str:
        if written.startswith(self.prefix) and written[len(self.prefix) :] in self.unstripped:
            return written
        return written.strip()

    def _where(self, cells: Cells) -> str:
        """Return where a row is: Parquet has no lines."""
        return f"{self.shown}, {'row' if self.table.endswith('.parquet') else 'line'} {cells.at}"


def _blocks(stream: BinaryIO, wanted: Wanted, table: str) -> Iterator[Block]:
    if not table.endswith((".jsonl", ".parquet")):
        return read_csv(stream, wanted)
    if table.endswith(".jsonl"):
        return map(Block.of, read_jsonl(stream, wanted))
    if importlib.util.find_spec("pyarrow") is None:
        raise InvalidMetadata(f"{wanted.table} needs pyarrow to be read: pip install pyarrow")
    return map(Block.of, read_apart(stream, wanted))


def _what_is_missing(name: str, caption: str, caption_key: str) -> str:
    columns = {NAME_COLUMN: name, caption_key: caption}
    return f"the row has no {' and no '.join(key for key, cell in columns.items() if not cell)}"


def _check_other_split(name: str, where: str) -> None:
    """Refuse a name that belongs to no split, since it leads elsewhere or is written as a path."""
    first = name.partition("/")[0]
    if why := why_not_plain(first) or ("\\" in name and "it has a backslash"):
        raise InvalidMetadata(
            f"{where}: file_name {_shown(name)} is not the name of an image of the repository:"
            f" {why}"
        )


def _check_name(name: str, where: str) -> None:
    if why := why_not_plain(name):
        raise InvalidMetadata(
            f"{where}: file_name {_shown(name)} is not the name of an image in the split's"
            f" directory: {why}"
        )


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
