"""The cache directory: atomic publish, scan, hash, sweep; the only module that renames, chmods or deletes.

Files get their final name by a rename within their own directory, after their bytes were verified:
a rename across directories may cross a project quota (EXDEV on Lustre). Modes follow the umask, so
that other users' jobs can read the cache.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.linux import allocate, sync_file_system
from step37_flickr8k.dataset.metadata import METADATA, why_not_plain
from step37_flickr8k.errors import FolderFull, FolderNotUsable, InvalidMetadata, TransientError

__all__ = ["CacheDirectory", "Entry", "Probe", "lines_of", "lock", "nearest"]

log = logging.getLogger("step37_flickr8k")

HOME = ".step37-flickr8k"
_TEMPORARY = ".step37-"
_CHUNK = 1 << 20
# Bytes that a file's end wastes at most; NFS tells its transfer size in place of a block's
_BLOCK = 4096
_PROBE = b"step37-flickr8k looks whether files can be written, renamed and seen here\n"
_NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # of a directory
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EEXIST,
}


@dataclass(frozen=True)
class Entry:
    """A file as a scan of its directory shows it: size in bytes, mtime in ns."""

    size: int
    mtime_ns: int


def lines_of(path: Path) -> Iterator[str]:
    """Read a text line by line, with a byte order mark or without; raises `InvalidMetadata` for a line that doesn't end."""
    with path.open(encoding="utf-8-sig", newline="") as text:
        while line := text.readline(_CHUNK):
            if len(line) == _CHUNK:
                raise InvalidMetadata(
                    f"{path.name} has a line of more than {_CHUNK:,} characters: is it a table of captions?"
                )
            yield line


class CacheDirectory:
    """``root/<split>`` with the files, ``root/.step37-flickr8k`` with what is ours."""

    def __init__(self, root: Path, split: str) -> None:
        """Name the directory; nothing is touched."""
        self.root = root
        self.split = split
        self.files = root / split
        self.home = root / HOME
        self._nonce = secrets.token_hex(4)
        self._numbers = iter(range(1 << 62))

    def make(self) -> None:
        """Make the directories; for the downloader only: many ranks making them at once can fail on Lustre."""
        self.refuse_links()
        try:
            with self.errors():
                self.files.mkdir(parents=True, exist_ok=True)
                self.home.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise FolderNotUsable(
                f"{error.filename} is a file: choose another cache_dir, or move it away"
            ) from error

    def refuse_links(self) -> None:
        """Raise `FolderNotUsable` for a symbolic link in a directory's place: what is written would lie outside of the cache."""
        for place in (self.files, self.home):
            if place.is_symlink():
                raise FolderNotUsable(
                    f"{place} is a symbolic link: make the cache_dir itself one, or move it away"
                )

    def names(self) -> set[str]:
        """List the names of the split's files, by one scandir and no stat: what costs the same however many ranks ask."""
        with self.errors():
            return {entry.name for entry in _files(self.files) if not entry.name.startswith(".")}

    def scan(self) -> dict[str, Entry]:
        """Give the split's files, hidden ones left out; empty if there is no such directory."""
        with self.errors():
            return {
                name: Entry(s.st_size, s.st_mtime_ns)
                for name, s in _stats(self.files)
                if not name.startswith(".")
            }

    def entry(self, name: str) -> Entry | None:
        """Give one of the split's files, as a scan would show it; None if it isn't there."""
        with contextlib.suppress(FileNotFoundError):
            status = (self.files / name).lstat()
            return Entry(status.st_size, status.st_mtime_ns)
        return None

    def age(self, name: str) -> float:
        """Give the seconds since one of our own files was written, by the file system's own clock."""
        probe = self._temporary(self.home)
        try:
            with self.writing(probe) as file:
                return os.fstat(file.fileno()).st_mtime - (self.home / name).stat().st_mtime
        finally:
            _forget(probe)

    def written(self, name: str) -> float:
        """Give the time at which one of our own files was written, as this node shows it; now, if it has just been replaced."""
        with self.errors(), contextlib.suppress(FileNotFoundError):
            return (self.home / name).stat().st_mtime
        return time.time()

    def refresh(self) -> set[str]:
        """List our own directory: what an NFS client has once missed it goes on missing until the directory that holds it is listed.

        That holds for our directory itself, too: the cache directory is listed first, and what
        holds that one where it is missing.
        """
        with self.errors():
            return _names(self.home) if HOME in _names(self.root) else set()

    def refresh_files(self) -> None:
        """List the split's directory, where this node misses one of its files: see `refresh`. Costly, and seldom needed."""
        with contextlib.suppress(OSError):  # what there is to say of it, the next look says
            os.listdir(self.files)

    def read(self, name: str) -> bytes | None:
        """Read one of our own files, opened anew: a held descriptor shows old bytes on NFS; None if it isn't there."""
        path = self.home / name
        with self.errors(), contextlib.suppress(FileNotFoundError):
            try:
                return path.read_bytes()
            except OSError as error:
                if error.errno != errno.ESTALE:  # replaced, or deleted, while it was read
                    raise
            return path.read_bytes()
        return None

    def try_out(self) -> None:
        """Write, rename, list and read a small file in both directories, as the work will; raises what doesn't hold.

        Where one of them isn't yet, the nearest one above it that is there stands for it.
        """
        for place in dict.fromkeys((nearest(self.files), nearest(self.home))):
            first, second = self._temporary(place), self._temporary(place)
            try:
                self.put(first, _PROBE)
                with self.errors():
                    first.replace(second)
                    shown = second.name in os.listdir(place) and second.read_bytes() == _PROBE
                    mode = stat.S_IMODE(second.stat().st_mode)
            finally:
                _forget(first)
                _forget(second)
            if not shown:
                raise FolderNotUsable(
                    f"{place} doesn't show what was just written and renamed there: choose another cache_dir"
                )
        if not mode & (stat.S_IRGRP | stat.S_IROTH):
            log.warning(
                "files in %s get mode %04o: nobody else can read them; if others train on them: umask 022",
                place,
                mode,
            )

    def check_space(self, size: int, files: int) -> None:
        """Raise `FolderFull` when ``size`` bytes in so many new files can't be written here."""
        place = nearest(self.files)
        with self.errors():
            free = os.statvfs(place)
        room, need = free.f_bavail * free.f_frsize, size + files * min(_BLOCK, free.f_frsize)
        if room < need:
            told = f"{place} has {_amount(room)} free, the plan needs {_amount(need)}"
            raise FolderFull(f"{told}: free space or lower sample_count")
        # 0 inodes in all: the file system doesn't count them
        if free.f_files and free.f_favail < files:
            raise FolderFull(
                f"{place} has {free.f_favail:,} inodes free, the plan needs {files:,}: delete files"
            )
        if size > 0:
            self._check_quota(place, size)

    def _check_quota(self, place: Path, size: int) -> None:
        """Ask for all the bytes at once, and give them back: the only question about a quota that file systems share.

        Only EDQUOT is an answer: free space was told by statvfs, and many file systems can't
        allocate.
        """
        probe = self._temporary(place)
        try:
            with self.writing(probe) as file:
                room = size
                while room and allocate(file.fileno(), room) == errno.EDQUOT:
                    room //= 2
        finally:
            _forget(probe)
        if room < size:
            told = f"{place}: the quota has room for some {_amount(room)}, the plan needs {_amount(size)}"
            raise FolderFull(f"{told}: raise the quota, delete files or lower sample_count")

    def temporary(self) -> Path:
        """Give a new name for an unfinished file of the split."""
        return self._temporary(self.files)

    def _temporary(self, place: Path) -> Path:
        return place / f"{_TEMPORARY}{self.split}-{self._nonce}-{next(self._numbers)}.tmp"

    @contextlib.contextmanager
    def writing(self, temporary: Path) -> Iterator[BinaryIO]:
        """Open a temporary file for writing; errors of close count, since NFS tells of a full disk only there."""
        with self.errors():
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            with os.fdopen(descriptor, "wb") as file:
                yield file

    def put(
        self, temporary: Path, content: bytes | bytearray | memoryview, *, durably: bool = False
    ) -> None:
        """Write a temporary file at once; errors of close count here, too."""
        with self.errors():
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            try:
                left = memoryview(content)
                while left:
                    left = left[os.write(descriptor, left) :]
                if durably:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def publish(self, temporary: Path, name: str) -> Entry:
        """Give a verified file its final name; gives what a scan will show. Raises `InvalidMetadata` for one that isn't plain."""
        if name != METADATA and (why := why_not_plain(name)):
            raise InvalidMetadata(
                f"{name[:200]!r} is not the name of a file of {self.split}: {why}"
            )
        with self.errors():
            status = os.stat(temporary)  # noqa: PTH116 - once for each file: pathlib's own work counts
            os.replace(temporary, f"{self.files}/{name}")  # noqa: PTH105
            return Entry(status.st_size, status.st_mtime_ns)

    def discard(self, path: Path) -> None:
        """Delete a file if it is there."""
        with self.errors():
            path.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Write one of our own files: whole and flushed before it gets its name."""
        temporary = self._temporary(self.home)
        try:
            self.put(temporary, content, durably=True)
            with self.errors():
                temporary.replace(self.home / name)
            self._settle(self.home)
        finally:
            _forget(temporary)

    def delete(self, name: str) -> None:
        """Delete one of our own files, for good before anything that follows."""
        self.discard(self.home / name)
        self._settle(self.home)

    def _settle(self, place: Path) -> None:
        """Make the names of a directory durable; some file systems know no fsync of a directory."""
        with self.errors():
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in _NO_FSYNC:
                    raise
            finally:
                os.close(descriptor)

    def create(self, name: str, content: bytes) -> bool:
        """Make one of our own files, whole from its first instant; False if the name is taken.

        By ``link``, which is atomic on every NFS version and never shows an empty file.
        """
        while True:
            temporary = self._temporary(self.home)
            try:
                self.put(temporary, content, durably=True)
                with self.errors():
                    os.link(temporary, self.home / name)
            except FileExistsError:
                return False
            # Whoever holds the lease may have swept the temporary file away meanwhile
            except TransientError as error:
                if getattr(error.__cause__, "errno", None) not in {errno.ENOENT, errno.ESTALE}:
                    raise
            else:
                return True
            finally:
                _forget(temporary)

    def rewrite(self, name: str, content: bytes) -> None:
        """Write one of our own files in place and flush it: whoever reads meanwhile may see both states mixed."""
        with self.errors():
            descriptor = os.open(self.home / name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                written = 0
                # A disk that gets full takes a part, and says so at the next try
                while written < len(content):
                    written += os.pwrite(descriptor, content[written:], written)
                os.ftruncate(descriptor, len(content))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def flushing(self) -> Iterator[Callable[[], None]]:
        """Give a function that makes durable all that was written since: one syncfs instead of an fsync per file.

        syncfs tells of what failed since its directory was opened, so that is done first; and once
        of what failed before, and nobody has asked for, as after a run on a full NFS export: that
        is let go by. NFS and Lustre tell at close, too.
        """
        with self.errors():
            descriptor = os.open(self.files, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            sync_file_system(descriptor)

        def flush() -> None:
            with self.errors():
                sync_file_system(descriptor)

        try:
            yield flush
        finally:
            os.close(descriptor)

    def sweep(self) -> int:
        """Delete what dead downloaders of this split left unfinished; only the holder of the lease may."""
        orphans = [
            path
            for place in (self.files, self.home)
            for path in self._unfinished(place)
            if self._nonce not in path.name
        ]
        for path in orphans:
            self.discard(path)
        return len(orphans)

    def clear_up(self) -> None:
        """Delete what this downloader itself has left unfinished."""
        for path in self._unfinished(self.files):
            if self._nonce in path.name:
                self.discard(path)

    def _unfinished(self, place: Path) -> list[Path]:
        # the nonce's digits tell the split "a" from "a-b", whose downloader may be alive
        pattern = re.compile(rf"{re.escape(_TEMPORARY + self.split)}-[0-9a-f]{{8}}-\d+\.tmp")
        with self.errors():
            return [place / entry.name for entry in _files(place) if pattern.fullmatch(entry.name)]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the file system says into what the user can do; a taken name stays FileExistsError."""
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            where = Path(error.filename or self.root)
            # Whose name tells nobody anything
            where = where.parent if where.name.startswith(_TEMPORARY) else where
            if error.errno in _FULL:
                raise FolderFull(
                    f"{where}: {error.strerror}: free space, raise the quota or lower sample_count"
                ) from error
            if error.errno in _REFUSED:
                remedy = (
                    "choose another cache_dir, or have its owner let this user read and write there"
                )
                raise FolderNotUsable(f"{where}: {error.strerror}: {remedy}") from error
            raise TransientError(f"{where}: {error.strerror or error}") from error


class Probe:
    """A small file in a directory, with a lock on it, for ranks on other nodes to look for; made by `make`, deleted by `close`."""

    def __init__(self, place: Path) -> None:
        """Name it; nothing is touched."""
        self.path = place / f"{_TEMPORARY}doctor-{secrets.token_hex(4)}-0.tmp"
        self._open: BinaryIO | None = None

    def make(self) -> bool | None:
        """Make it and lock it; gives what `lock` gives."""
        self._open = self.path.open("xb")
        self._open.write(_PROBE)
        self._open.flush()
        os.fsync(self._open.fileno())
        return lock(self._open)

    def close(self) -> None:
        """Unlock and delete it."""
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open.close()
            _forget(self.path)


def lock(file: BinaryIO) -> bool | None:
    """Try to lock an open file; False if somebody else holds the lock, None where the file system refuses locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def nearest(place: Path) -> Path:
    """Give a directory, or where it isn't yet the nearest one above it that is there."""
    return next(each for each in (place, *place.parents) if each.is_dir())


def _forget(temporary: Path) -> None:
    # It has its name by now, or never came to be: on a read-only mount that is EROFS
    with contextlib.suppress(OSError):
        temporary.unlink()


def _amount(size: int) -> str:
    """Write bytes in GB, small ones in MB."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"


def _names(directory: Path) -> set[str]:
    """List a directory; where it is missing, after what should hold it, upwards to the first that is there. Empty if it isn't."""
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(directory))
    # What holds it may be closed to this user
    with contextlib.suppress(FileNotFoundError, PermissionError):
        real = Path(os.path.realpath(directory))  # a link may lead to where nothing is yet
        if real.name in _names(real.parent):
            return set(os.listdir(real))
    return set()


def _files(directory: Path) -> Iterator["os.DirEntry[str]"]:
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    yield entry


def _stats(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    for entry in _files(directory):
        with contextlib.suppress(FileNotFoundError):
            yield entry.name, entry.stat(follow_symlinks=False)
