"""Wait until this node shows a ready record and the files that it covers."""

import contextlib
import os
import time
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.cache.verify import Check, digest_of_file
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import CommitChanged, FolderNotUsable, NotVisible, TransientError

__all__ = ["rows_when_visible"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0  # s between two attempts
_SHARED = "is cache_dir on a file system that all nodes share, at the same path?"


def rows_when_visible(
    directory: CacheDirectory,
    selection: Selection,
    commit: str,
    seconds: float,
    *,
    check: Check = "all",
) -> list[Row]:
    """Return the selection's rows once this node shows the ready record of this commit.

    The rows are in file order, without those whose image can't be decoded. ``check="all"`` also
    waits for the metadata table and the record's probes; with ``"names"`` only the record is read.

    After ``seconds`` the last problem is raised: `NotVisible`, `CommitChanged` if another commit is
    there (not earlier, because a node that lags shows the previous record for a while), or
    `TransientError` for an error of the file system, because one EIO or ESTALE may be the last.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            record = _visible_record(directory, selection, commit, check)
            return [
                row
                for row in rows_of(directory, record, selection)
                if row.file_name not in record.skipped
            ]
        except TransientError as error:
            if time.monotonic() + pause > deadline:
                raise type(error)(f"after {seconds:g} s, {error}") from error
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _visible_record(
    directory: CacheDirectory, selection: Selection, commit: str, check: Check
) -> Record:
    """Return the ready record, or raise what is wrong with it or its files at this moment."""
    record = read_record(directory)
    if record is None:
        raise NotVisible(f"this node doesn't see a ready record in {directory.home}: {_SHARED}")
    if record.commit != commit:
        raise CommitChanged(
            f"{directory.home} holds commit {record.commit}, not {commit}:"
            " pin a revision, or use a directory per commit"
        )
    if not record.covers(selection):
        raise NotVisible(
            f"this node sees an older ready record in {directory.home},"
            f" without this selection: {_SHARED}"
        )
    if check == "all" and (problem := _missing_or_wrong(directory, record)):
        raise NotVisible(f"this node sees the ready record, but not its files: {problem}")
    return record


def _missing_or_wrong(directory: CacheDirectory, record: Record) -> str:
    """Return what is wrong with the files that every rank opens; empty if nothing is."""
    try:
        table = directory.path(record.table)
        if digest_of_file(directory, table, record.metadata) != record.metadata:
            return f"{table} has other bytes"
        for name, size in record.probes.items():
            # On NFS only an open returns a fresh size
            with directory.tree.open(directory.files / name) as file:
                if file.seek(0, os.SEEK_END) != size:
                    return f"{directory.files / name} doesn't have {size} bytes"
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            _refresh(directory, Path(error.filename or directory.files))
        return f"{error.filename or directory.files}: {error.strerror}"
    return ""


def _refresh(directory: CacheDirectory, missing: Path) -> None:
    """List the directories above a file, so that an NFS client finds what only it misses.

    This is costly, and seldom needed. If it fails, the next attempt reports what is wrong.
    """
    between = [each for each in missing.parents if directory.files in each.parents]
    top = directory.files if missing.parent != directory.root else directory.root
    for each in (top, *reversed(between)):
        with contextlib.suppress(OSError, FolderNotUsable):
            directory.tree.names(each)
