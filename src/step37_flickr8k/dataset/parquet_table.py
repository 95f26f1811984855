"""A metadata table in Parquet, read by pyarrow, an optional extra, in a process with limits."""

import os
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from step37_flickr8k.dataset.tables import NAME_COLUMN, Cells, Wanted
from step37_flickr8k.errors import CaptionKeyNotFound, InvalidMetadata

__all__ = ["read_parquet"]

_LARGEST_FOOTER = 64 << 20  # bytes
_LARGEST_GROUP = 256 << 20  # bytes of both columns in a row group: a million rows take less
_LONGEST_TEXT = 1 << 20  # characters
_MOST_TEXT = 256 << 20  # characters of both columns: a few bytes of Parquet may be any number
_ROW = 16  # characters that an empty row counts as: a few bytes may be billions of them
_ROWS = 1024  # rows of a batch


def read_parquet(stream: BinaryIO, wanted: Wanted) -> Iterator[Cells]:
    """Yield the cells of each row; null is no value.

    Only the two columns are read, and a row group at a time. Texts stay dictionary-encoded, so that
    one that many rows share takes memory once.
    """
    try:
        _check_footer(stream, wanted.table)
        schema = pq.read_schema(stream)
        names = [name.strip() for name in schema.names]
        at = wanted.find(names)
        for column in at:
            _check_type(names[column], schema.field(column).type, wanted.table)
        columns = [schema.names[column] for column in at]
        file = pq.ParquetFile(stream, read_dictionary=columns, pre_buffer=False)
        _check_groups(file.metadata, columns, wanted.table)
        row = size = 0
        for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
            texts = [batch.column(batch.schema.get_field_index(column)) for column in columns]
            for number in range(batch.num_rows):
                row += 1
                name, caption = (_text(column[number], wanted.table, row) for column in texts)
                size += _ROW + len(name) + len(caption)
                _check_size(size, wanted.table)
                yield Cells(row, name, caption)
    except (InvalidMetadata, CaptionKeyNotFound, MemoryError):
        raise
    except Exception as error:  # any: this is around a decoder
        # The file system's own error
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InvalidMetadata(f"{wanted.table} can't be read as Parquet: {reason}") from error


def _check_footer(stream: BinaryIO, table: str) -> None:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 8))
    last = stream.read(8)
    stream.seek(0)
    if last[4:] != b"PAR1":
        raise InvalidMetadata(f"{table} doesn't end as a Parquet file does")
    if (footer := int.from_bytes(last[:4], "little")) > _LARGEST_FOOTER:
        raise InvalidMetadata(
            f"{table} has a footer of {footer:,} bytes, at most {_LARGEST_FOOTER:,} are read:"
            " is it a table of captions?"
        )


def _check_type(column: str, kind: pa.DataType, table: str) -> None:
    """Refuse a column of anything but texts."""
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_view = getattr(pa.types, "is_string_view", lambda _: False)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null, is_view)
    if not any(matches(text) for matches in kinds):
        raise InvalidMetadata(f"{table}: the column {column} is {kind}: write one text in each row")


def _check_groups(metadata: pq.FileMetaData, columns: list[str], table: str) -> None:
    """Refuse a row group that takes too much memory."""
    schema = metadata.schema
    leaves = [at for at in range(len(schema)) if schema.column(at).path in columns]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = sum(group.column(leaf).total_uncompressed_size for leaf in leaves)
        if size > _LARGEST_GROUP:
            raise InvalidMetadata(
                f"{table}: row group {number} has {size:,} bytes of {NAME_COLUMN} and captions,"
                f" at most {_LARGEST_GROUP:,} are read: write smaller row groups"
            )


def _check_size(size: int, table: str) -> None:
    if size > _MOST_TEXT:
        raise InvalidMetadata(
            f"{table} has more than {_MOST_TEXT:,} characters of names and captions, or rows"
            f" without end: is it a table of captions?"
        )


def _text(value: pa.Scalar, table: str, row: int) -> str:
    text = value.as_py()
    if text is not None and len(text) > _LONGEST_TEXT:
        raise InvalidMetadata(
            f"{table}, row {row} has a text of more than {_LONGEST_TEXT:,} characters:"
            " is it a table of captions?"
        )
    return text or ""
