"""A metadata table in Parquet, read in a process with limits: pyarrow may abort on hostile ones."""

import json
import signal
from collections.abc import Iterator
from dataclasses import astuple
from typing import BinaryIO

from step37_flickr8k.dataset.tables import Cells, Wanted
from step37_flickr8k.errors import ErrorReport, InvalidMetadata, TransientError
from step37_flickr8k.limited.budget import TABLE_MEMORY, Budget
from step37_flickr8k.limited.process import start

__all__ = ["read_apart"]

_MODULE = "step37_flickr8k.dataset.parquet_process"
_SECONDS = 600  # of processor time: a million rows take ten
# Signals by which the machine, not the table, ends a process
_OF_THE_MACHINE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT}


def read_apart(stream: BinaryIO, wanted: Wanted) -> Iterator[Cells]:
    """Yield the cells of each row of a table in an open file; null is no value."""
    memory = Budget.of(TABLE_MEMORY, 1).large
    arguments = [json.dumps(astuple(wanted)), str(memory), str(_SECONDS)]
    try:
        process = start(_MODULE, arguments, stdin=stream)
    except OSError as error:
        raise TransientError(
            f"the process that reads {wanted.table} can't start ({error}): raise ulimit -n and -u,"
            " or the container's limit of pids"
        ) from error
    assert process.stdout is not None  # noqa: S101 - a pipe
    with process:
        try:
            for line in process.stdout:
                answer = json.loads(line)
                if isinstance(answer, list):
                    yield from (Cells(*row) for row in answer)
                    continue
                if not answer:
                    return
                _raise(answer)
        finally:
            # Whoever asks may not want all rows
            process.kill()
    raise _died(wanted.table, process.wait())


def _raise(answer: dict[str, dict[str, str]]) -> None:
    """Raise the error that an answer names."""
    if "error" in answer:
        raise ErrorReport.from_json(answer["error"]).exception()
    raise OSError(answer["errno"], answer["strerror"])


def _died(table: str, code: int) -> Exception:
    """Return what it means that the process ended without a last word."""
    how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
    if code > 0 or -code in _OF_THE_MACHINE:
        return TransientError(
            f"the process that reads {table} has ended ({how}): give the job more memory, or check"
            " whether pyarrow works on this machine"
        )
    return InvalidMetadata(
        f"{table} can't be read as Parquet: it ends the process that reads it ({how})"
    )
