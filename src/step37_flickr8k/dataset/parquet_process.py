"""The process that reads a metadata table in Parquet: from its stdin, into lines of JSON.

Started as ``python -m step37_flickr8k.dataset.parquet_process WANTED MEMORY SECONDS``. A line is a
list of rows, or an error, and the last one says that all is well.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

from step37_flickr8k.dataset.parquet_table import read_parquet
from step37_flickr8k.dataset.tables import Cells, Wanted
from step37_flickr8k.errors import ErrorReport, InvalidMetadata, Step37Error, TransientError
from step37_flickr8k.limited.budget import TABLE_MEMORY
from step37_flickr8k.limited.limits import allow, confine

__all__ = ["main"]

_TOGETHER = 1 << 20  # characters of a line


def main(arguments: Sequence[str]) -> None:
    """Write the rows of a table."""
    wanted, (memory, seconds) = Wanted(*json.loads(arguments[0])), map(int, arguments[1:])
    confine()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print is no answer
        whole = allow(memory, seconds)
        try:
            _write_rows(out, wanted)
        except MemoryError:
            _write_error(out, _too_large(wanted, memory, whole=whole))
        except Step37Error as error:
            _write_error(out, error)
        except OSError as error:
            _write(out, {"errno": error.errno, "strerror": error.strerror})
    os._exit(0)


def _write_rows(out: BinaryIO, wanted: Wanted) -> None:
    rows: list[Cells] = []
    size = 0
    for cells in read_parquet(sys.stdin.buffer, wanted):
        rows.append(cells)
        size += len(cells.file_name) + len(cells.caption)
        if size > _TOGETHER or len(rows) > _TOGETHER // 64:
            _write(out, rows)
            rows, size = [], 0
    _write(out, rows)
    _write(out, {})


def _too_large(wanted: Wanted, memory: int, *, whole: bool) -> Step37Error:
    """Return what it means that a table takes more memory than there is for it."""
    what = f"{wanted.table} takes more than {memory / 1e6:,.0f} MB of memory to be read"
    if whole and memory >= TABLE_MEMORY:
        return InvalidMetadata(f"{what}: write smaller row groups")
    return TransientError(f"{what}: give the job more memory")


def _write_error(out: BinaryIO, error: Step37Error) -> None:
    _write(out, {"error": ErrorReport.of(error).as_json()})


def _write(out: BinaryIO, answer: object) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
