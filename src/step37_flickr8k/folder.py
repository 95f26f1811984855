"""The cache folder: atomic publish, scan, hash, sweep; the only module that renames, chmods or deletes.

Files get their final name by a rename within their own folder, after their bytes were verified: a rename across folders may
cross a project quota (EXDEV on Lustre). Modes follow the umask, so that other users' jobs can read the cache.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from step37_flickr8k.errors import FolderFull, FolderNotUsable, TransientError

__all__ = ["CacheFolder", "Entry", "digest_of", "hasher"]

HOME = ".step37-flickr8k"
_TEMPORARY = ".step37-"
_CHUNK = 1 << 20
_HOUR = 3600.0  # s
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST}


@dataclass(frozen=True)
class Entry:
    """A file as a scan of its folder shows it: size in bytes, mtime in ns."""

    size: int
    mtime_ns: int


def hasher(digest: str, size: int) -> Any:
    """Give the hash object for ``sha256:...`` or ``git-sha1:...``; a git blob's hash begins with its size."""
    if digest.startswith("sha256:"):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def digest_of(path: Path, like: str) -> str:
    """Hash a file in the manner of the digest ``like``."""
    kind = like.partition(":")[0]
    with path.open("rb") as file:
        hashing = hasher(like, os.fstat(file.fileno()).st_size)
        while chunk := file.read(_CHUNK):
            hashing.update(chunk)
    return f"{kind}:{hashing.hexdigest()}"


class CacheFolder:
    """``root/<split>`` with the files, ``root/.step37-flickr8k`` with what is ours."""

    def __init__(self, root: Path, split: str) -> None:
        """Name the folder; nothing is touched."""
        self.root = root
        self.split = split
        self.files = root / split
        self.home = root / HOME
        self._nonce = secrets.token_hex(4)
        self._numbers = iter(range(1 << 62))

    def make(self) -> None:
        """Make the folders; for the downloader only: many ranks making them at once can fail on Lustre."""
        try:
            with self.errors():
                self.files.mkdir(parents=True, exist_ok=True)
                self.home.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise FolderNotUsable(f"{error.filename} is a file: choose another cache_dir, or move it away") from error

    def scan(self) -> dict[str, Entry]:
        """Give the split's files, hidden ones left out; empty if there is no such folder."""
        with self.errors():
            return {name: Entry(s.st_size, s.st_mtime_ns) for name, s in _stats(self.files) if not name.startswith(".")}

    def age(self, name: str) -> float:
        """Give the seconds since one of our own files was written, by the file system's own clock."""
        probe = self._own_temporary()
        try:
            with self.writing(probe):
                pass
            with self.errors():
                return probe.stat().st_mtime - (self.home / name).stat().st_mtime
        finally:
            _forget(probe)

    def refresh(self) -> set[str]:
        """List our own folder: what an NFS client has once missed it goes on missing until the folder that holds it is listed.

        That holds for our folder itself, too: the cache folder is listed first, and what holds that one where it is missing.
        """
        with self.errors():
            return _names(self.home) if HOME in _names(self.root) else set()

    def refresh_files(self) -> None:
        """List the split's folder, where this node misses one of its files: see `refresh`. Costly, and seldom needed."""
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

    def check_space(self, size: int, files: int) -> None:
        """Raise `FolderFull` when ``size`` bytes in so many files can't be written here."""
        with self.errors():
            free = os.statvfs(self.files)
        room = free.f_bavail * free.f_frsize
        if room < size:
            told = f"{self.files} has {room / 1e9:.1f} GB free, the plan needs {size / 1e9:.1f} GB"
            raise FolderFull(f"{told}: free space or lower sample_count")
        if free.f_files and free.f_favail < files:  # 0 inodes in all: the file system doesn't count them
            raise FolderFull(f"{self.files} has {free.f_favail} inodes free, the plan needs {files}: delete files")

    def _own_temporary(self) -> Path:
        return self.home / f"{_TEMPORARY}{self._nonce}-{next(self._numbers)}.tmp"

    def temporary(self) -> Path:
        """Give a new name for an unfinished file of the split."""
        return self.files / f"{_TEMPORARY}{self._nonce}-{next(self._numbers)}.tmp"

    @contextlib.contextmanager
    def writing(self, temporary: Path) -> Iterator[BinaryIO]:
        """Open a temporary file for writing; errors of close count, since NFS tells of a full disk only there."""
        with self.errors():
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                yield file

    def put(self, temporary: Path, content: bytes | bytearray | memoryview) -> None:
        """Write a temporary file at once; errors of close count here, too."""
        with self.errors():
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                left = memoryview(content)
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)

    def publish(self, temporary: Path, name: str) -> Entry:
        """Give a verified file its final name; gives what a scan will show."""
        with self.errors():
            status = temporary.stat()
            temporary.replace(self.files / name)
            return Entry(status.st_size, status.st_mtime_ns)

    def discard(self, path: Path) -> None:
        """Delete a file if it is there."""
        with self.errors():
            path.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Write one of our own files: whole and flushed before it gets its name."""
        temporary = self._own_temporary()
        try:
            with self.writing(temporary) as file:
                file.write(content)
                os.fsync(file.fileno())
            with self.errors():
                temporary.replace(self.home / name)
        finally:
            _forget(temporary)

    def create(self, name: str, content: bytes) -> bool:
        """Make one of our own files, whole from its first instant; False if the name is taken.

        By ``link``, which is atomic on every NFS version and never shows an empty file.
        """
        temporary = self._own_temporary()
        try:
            with self.writing(temporary) as file:
                file.write(content)
                os.fsync(file.fileno())
            with self.errors():
                os.link(temporary, self.home / name)
        except FileExistsError:
            return False
        finally:
            _forget(temporary)
        return True

    def rewrite(self, name: str, content: bytes) -> None:
        """Write one of our own files in place and flush it: whoever reads meanwhile may see both states mixed."""
        with self.errors():
            descriptor = os.open(self.home / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = 0
                while written < len(content):  # a disk that gets full takes a part, and says so at the next try
                    written += os.pwrite(descriptor, content[written:], written)
                os.ftruncate(descriptor, len(content))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def flush(self) -> None:
        """Make all that was written durable: one syncfs instead of an fsync per file."""
        with self.errors():
            descriptor = os.open(self.files, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if _SYNCFS is None:
                    os.sync()
                elif _SYNCFS(descriptor) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self.files))
            finally:
                os.close(descriptor)

    def forget_errors(self) -> None:
        """Have what was written before flushed, and let go by what fails: syncfs tells of it until somebody has asked.

        On NFS the next run, with space again, would otherwise end with the full disk of the run before.
        """
        with contextlib.suppress(TransientError):
            self.flush()

    def sweep(self) -> int:
        """Delete what dead downloaders left unfinished; only the holder of the lease may."""
        # in our own folder others who live may be about to ask for the lease: an hour by the file system's own clock is enough
        dead = self.home.stat().st_mtime - _HOUR if self.home.is_dir() else 0.0
        orphans = [path for path, _ in self._unfinished(self.files) if self._nonce not in path.name]
        orphans += [path for path, written in self._unfinished(self.home) if written < dead]
        for path in orphans:
            self.discard(path)
        return len(orphans)

    def clear_up(self) -> None:
        """Delete what this downloader itself has left unfinished."""
        for path, _ in self._unfinished(self.files):
            if self._nonce in path.name:
                self.discard(path)

    def _unfinished(self, place: Path) -> list[tuple[Path, float]]:
        with self.errors():
            names = [(name, status.st_mtime) for name, status in _stats(place)]
        return [(place / name, time) for name, time in names if name.startswith(_TEMPORARY) and name.endswith(".tmp")]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the file system says into what the user can do; a taken name stays FileExistsError."""
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            where = error.filename or self.root
            if error.errno in _FULL:
                raise FolderFull(f"{where}: {error.strerror}: free space, raise the quota or lower sample_count") from error
            if error.errno in _REFUSED:
                remedy = "choose another cache_dir, or have its owner let this user write there"
                raise FolderNotUsable(f"{where}: {error.strerror}: {remedy}") from error
            raise TransientError(f"{where}: {error.strerror or error}") from error


def _forget(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # it has its name by now, or never came to be: on a read-only mount that is EROFS
        temporary.unlink()


def _names(folder: Path) -> set[str]:
    """List a folder; where it is missing, after what should hold it, upwards to the first that is there. Empty if it isn't."""
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(folder))
    with contextlib.suppress(FileNotFoundError, PermissionError):  # what holds it may be closed to this user
        real = Path(os.path.realpath(folder))  # a link may lead to where nothing is yet
        if real.name in _names(real.parent):
            return set(os.listdir(real))
    return set()


def _stats(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False)


def _find_syncfs() -> Callable[[int], int] | None:
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)  # Linux only
    if function is not None:
        function.argtypes = [ctypes.c_int]
    return function  # type: ignore[no-any-return]


_SYNCFS = _find_syncfs()
