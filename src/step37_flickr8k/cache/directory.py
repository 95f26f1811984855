"""The cache directory: publish by rename, read and write its own files, sweep.

Files get their final name by a rename within their own directory, after their bytes were verified:
a rename across directories may cross a project quota (EXDEV on Lustre). Modes follow the umask, so
that other users' jobs can read the cache.
"""

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.exclusive import create_exclusively
from step37_flickr8k.cache.linux import sync_file_system
from step37_flickr8k.cache.making import make_directories, parents_of, refuse_link
from step37_flickr8k.cache.remedies import not_encodable, with_remedy
from step37_flickr8k.cache.scan import Entry, entries_below, files_below, names_in
from step37_flickr8k.cache.unfinished import TEMPORARY, unfinished
from step37_flickr8k.cache.writing import forget, open_new, overwrite, sync_directory, write_new
from step37_flickr8k.dataset.names import ABOVE, METADATA, is_above, is_table, why_not_plain
from step37_flickr8k.errors import InvalidMetadata

__all__ = ["CacheDirectory"]

HOME = ".step37-flickr8k"
_ATTEMPTS = 10  # a file whose temporary name is swept away as often is nobody's sweep


class CacheDirectory:
    """``root/<split>`` holds the files, ``root/.step37-flickr8k`` the cache's own files."""

    def __init__(self, root: Path, split: str) -> None:
        """Name the directory; nothing on disk is touched."""
        self.root = root
        self.split = split
        self.files = root / split
        self.home = root / HOME
        self._nonce = secrets.token_hex(4)
        self._numbers = iter(range(1 << 62))

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn an OSError into an error that names the remedy; FileExistsError passes unchanged."""
        try:
            yield
        except FileExistsError:
            raise
        except UnicodeEncodeError as error:
            raise not_encodable(error) from error
        except OSError as error:
            path = Path(error.filename or self.root)
            if error.errno == errno.EISDIR and error.filename2:
                path = Path(error.filename2)  # the rename's target is what is a directory
            # The name of a temporary file says nothing to the user
            elif path.name.startswith(TEMPORARY) and path.name != HOME:
                path = path.parent
            raise with_remedy(error, path) from error

    def make(self) -> None:
        """Create the directories.

        Only the downloader calls this: many ranks creating them at once can fail on Lustre.
        """
        with self.errors():
            make_directories(self.files, self.home)

    def refuse_links(self) -> None:
        """Raise `FolderNotUsable` if either directory is a symbolic link."""
        refuse_link(self.files)
        refuse_link(self.home)

    # --- the split's files ---

    def names(self) -> set[str]:
        """Return the names of the split's files, also those in subdirectories, without hidden ones.

        One scandir for each directory and no stat: its cost doesn't grow with the number of ranks.
        """
        with self.errors():
            return {name for name, entry in files_below(self.files) if entry.name[0] != "."}

    def scan(self, table: str = METADATA) -> dict[str, Entry]:
        """Return the split's files, as `names` does, and the table if it is above them."""
        with self.errors():
            found = {
                name: entry
                for name, entry in entries_below(self.files)
                if not name.rpartition("/")[2].startswith(".")
            }
        if is_above(table) and (entry := self.entry(table)):
            found[table] = entry
        return found

    def entry(self, name: str) -> Entry | None:
        """Return one of the split's files, as a scan would show it; None if it isn't there."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = self.path(name).lstat()
            if stat.S_ISREG(status.st_mode):
                return Entry(status.st_size, status.st_mtime_ns)
        return None

    def path(self, name: str) -> Path:
        """Return where one of the split's files is; a table may be above them (``../``)."""
        return self.root / name.removeprefix(ABOVE) if is_above(name) else self.files / name

    def make_parents(self, names: Iterable[str]) -> None:
        """Create the subdirectories in which these files lie; only the downloader calls this."""
        with self.errors():
            parents = parents_of(name for name in names if not is_above(name))
            make_directories(*map(self.files.joinpath, parents))

    def publish(self, temporary: Path, name: str) -> Entry:
        """Rename a verified file to its final name, and return what a scan will show.

        Raises `InvalidMetadata` for a name that isn't plain.
        """
        if not is_table(name) and (why := why_not_plain(name)):
            raise InvalidMetadata(
                f"{name[:200]!r} is not the name of a file of {self.split}: {why}"
            )
        with self.errors():
            # This runs once for each file, so pathlib's overhead would count
            status = os.stat(temporary)  # noqa: PTH116
            os.replace(temporary, f"{self.files}/{name}")  # noqa: PTH105
            return Entry(status.st_size, status.st_mtime_ns)

    @contextlib.contextmanager
    def flushing(self) -> Iterator[Callable[[], None]]:
        """Yield a function that makes all files written since then durable.

        It is one syncfs instead of an fsync for each file. syncfs reports what failed since its
        directory was opened, so the directory is opened first. It also reports once what failed
        earlier and was never reported, after a run on a full NFS export for example; that is
        ignored. NFS and Lustre report their errors at close, too.
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

    # --- temporary files ---

    def temporary(self, parent: Path | None = None) -> Path:
        """Return a new name for an unfinished file, by default in the split's directory."""
        return (parent or self.files) / (
            f"{TEMPORARY}{self.split}-{self._nonce}-{next(self._numbers)}.tmp"
        )

    def temporary_for(self, name: str) -> Path:
        """Return a new name for what will become one of the split's files, in its directory."""
        return self.temporary(self.path(name).parent if "/" in name else None)

    @contextlib.contextmanager
    def writing(self, temporary: Path) -> Iterator[BinaryIO]:
        """Open a temporary file for writing.

        Errors of close are raised, too: NFS reports a full disk only there.
        """
        with self.errors(), os.fdopen(open_new(temporary), "wb") as file:
            yield file

    def put(
        self, temporary: Path, content: bytes | bytearray | memoryview, *, durably: bool = False
    ) -> None:
        """Write a whole temporary file; errors of close are raised, too."""
        with self.errors():
            write_new(temporary, content, durably=durably)

    def discard(self, path: Path) -> None:
        """Delete a file if it is there."""
        with self.errors():
            path.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Delete what dead downloaders of this split left unfinished; returns how many files.

        Only the holder of the lease may call this.
        """
        with self.errors():
            found = [*self._unfinished(), *unfinished(self.home, self.split)]
        orphans = [path for path in found if self._nonce not in path.name]
        for path in orphans:
            self.discard(path)
        return len(orphans)

    def clear_up(self) -> None:
        """Delete what this downloader itself has left unfinished."""
        with self.errors():
            found = self._unfinished()
        for path in found:
            if self._nonce in path.name:
                self.discard(path)

    def _unfinished(self) -> list[Path]:
        # A table may be above the split's directory
        return unfinished(self.files, self.split, below=True) + unfinished(self.root, self.split)

    # --- the cache's own files ---

    def refresh(self) -> set[str]:
        """Return the names of the cache's own files.

        An NFS client that missed a name keeps missing it until the directory that holds it is
        listed. That holds for ``.step37-flickr8k`` itself, too, so the cache directory is listed
        first; and its parents if it is missing.
        """
        with self.errors():
            return names_in(self.home) if HOME in names_in(self.root) else set()

    def read(self, name: str) -> bytes | None:
        """Return the bytes of one of the cache's own files; None if it isn't there.

        Opens it each time: a descriptor that is kept open shows old bytes on NFS.
        """
        path = self.home / name
        with self.errors(), contextlib.suppress(FileNotFoundError):
            try:
                return path.read_bytes()
            except OSError as error:
                # It was replaced, or deleted, while it was read
                if error.errno != errno.ESTALE:
                    raise
            return path.read_bytes()
        return None

    def written_at(self, name: str) -> float:
        """Return when one of the cache's own files was written, in seconds since the epoch.

        It is the time that this node sees, or now if the file has just been replaced.
        """
        with self.errors(), contextlib.suppress(FileNotFoundError):
            return (self.home / name).stat().st_mtime
        return time.time()

    def age(self, name: str) -> float:
        """Return the seconds since one of the cache's own files was written.

        Both times are the file system's own, so no clock of a node counts.
        """
        probe = self.temporary(self.home)
        try:
            with self.writing(probe) as file:
                return os.fstat(file.fileno()).st_mtime - (self.home / name).stat().st_mtime
        finally:
            forget(probe)

    def write(self, name: str, content: bytes) -> None:
        """Write one of the cache's own files: whole and flushed before it gets its name."""
        temporary = self.temporary(self.home)
        try:
            self.put(temporary, content, durably=True)
            with self.errors():
                temporary.replace(self.home / name)
                sync_directory(self.home)
        finally:
            forget(temporary)

    def create(self, name: str, content: bytes) -> bool:
        """Create one of the cache's own files; returns False if the name is taken."""
        swept = 0
        with self.errors():
            while True:
                try:
                    return create_exclusively(self.home / name, content, self.temporary(self.home))
                except OSError as error:
                    # The holder of the lease may have swept the temporary file away meanwhile
                    swept += 1
                    if error.errno not in {errno.ENOENT, errno.ESTALE} or swept == _ATTEMPTS:
                        raise

    def rewrite(self, name: str, content: bytes) -> None:
        """Overwrite one of the cache's own files in place and flush it.

        A reader may see old and new bytes mixed meanwhile.
        """
        with self.errors():
            overwrite(self.home / name, content)

    def delete(self, name: str) -> None:
        """Delete one of the cache's own files, durably before anything that follows."""
        self.discard(self.home / name)
        with self.errors():
            sync_directory(self.home)
