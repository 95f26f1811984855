"""The cache directory: publish by rename, read and write its own files, sweep.

Files get their final name by a rename within their own directory, after their bytes were verified:
a rename across directories may cross a project quota (EXDEV on Lustre). Modes follow the umask, so
that other users' jobs can read the cache.
"""

import contextlib
import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.descriptors import Descriptor
from step37_flickr8k.cache.exclusive import create_exclusively
from step37_flickr8k.cache.making import make_directories, make_root, parents_of
from step37_flickr8k.cache.remedies import HOME, remedies
from step37_flickr8k.cache.scan import Entry, entries_below, files_below, names_in
from step37_flickr8k.cache.tree import NotAFile, Tree
from step37_flickr8k.cache.unfinished import TEMPORARY, unfinished
from step37_flickr8k.dataset.names import ABOVE, METADATA, is_above, is_table, why_not_plain
from step37_flickr8k.errors import FolderNotUsable, InvalidMetadata

__all__ = ["CacheDirectory"]

log = logging.getLogger("step37_flickr8k")

_ATTEMPTS = 10  # a file whose temporary name is swept away as often is nobody's sweep


class CacheDirectory:
    """``root/<split>`` holds the files, ``root/.step37-flickr8k`` the cache's own files.

    Paths are names here. What they name is reached through ``tree``, by descriptors.
    """

    def __init__(self, root: Path, split: str, given: Mapping[str, int] | None = None) -> None:
        """Name the directory; a worker is ``given`` the `descriptors` of who started it."""
        self.root = root = root.absolute()
        self.tree = Tree(root, given)
        self.split = split
        self.files = root / split
        self.home = root / HOME
        self._nonce = secrets.token_hex(4)
        self._numbers = iter(range(1 << 62))

    def errors(self) -> AbstractContextManager[None]:
        """Turn an OSError into an error that names the remedy; FileExistsError passes unchanged."""
        return remedies(self.root)

    def make(self) -> None:
        """Create the directories, which then have to stay the same.

        Only the downloader calls this: many ranks creating them at once can fail on Lustre.
        """
        with self.errors():
            self.tree.directories.forget()
            make_root(self.root)
            make_directories(self.tree, (self.files, self.home))
        self.hold()

    def hold(self) -> None:
        """Have the directories stay the same from now on, for whoever writes into them.

        Raises `FolderNotUsable` if one is a link; if one is replaced later, others do.
        """
        with self.errors():
            self.tree.directories.hold(*map(str, (self.root, self.files, self.home)))

    def descriptors(self) -> dict[str, Descriptor]:
        """Return the open directories that a worker needs, by path."""
        found: dict[str, Descriptor] = {}
        with contextlib.suppress(OSError, FolderNotUsable):
            for path in map(str, (self.root, self.files)):
                found[path] = self.tree.directories.at(path)
        return found

    # --- the split's files ---

    def names(self) -> set[str]:
        """Return the names of the split's files, also those in subdirectories, without hidden ones.

        One scandir for each directory and no stat: its cost doesn't grow with the number of ranks.
        """
        with self.errors():
            found = files_below(self.tree, self.files)
            return {name for name, entry in found if entry.name[0] != "."}

    def scan(self, table: str = METADATA) -> dict[str, Entry]:
        """Return the split's files, as `names` does, and the table if it is above them."""
        with self.errors():
            found = {
                name: entry
                for name, entry in entries_below(self.tree, self.files)
                if not name.rpartition("/")[2].startswith(".")
            }
        if is_above(table) and (entry := self.entry(table)):
            found[table] = entry
        return found

    def entry(self, name: str) -> Entry | None:
        """Return one of the split's files, as a scan would show it; None if it isn't there."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = self.tree.status(self.path(name))
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
            make_directories(self.tree, map(self.files.joinpath, parents))

    def publish(self, temporary: Path, name: str) -> Entry:
        """Rename a verified file to its final name, and return what a scan will show.

        Raises `InvalidMetadata` for a name that isn't plain.
        """
        if not is_table(name) and (why := why_not_plain(name)):
            raise InvalidMetadata(
                f"{name[:200]!r} is not the name of a file of {self.split}: {why}"
            )
        with self.errors():
            # Once for each file, so pathlib's overhead would count
            target = self.path(name) if is_above(name) else f"{self.files}/{name}"
            status = self.tree.rename(temporary, target)
        return Entry(status.st_size, status.st_mtime_ns)

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
        with self.errors(), os.fdopen(self.tree.create(temporary), "wb") as file:
            yield file

    def put(
        self, temporary: Path, content: bytes | bytearray | memoryview, *, durably: bool = False
    ) -> None:
        """Write a whole temporary file; errors of close are raised, too."""
        with self.errors():
            self.tree.write_new(temporary, content, durably=durably)

    @contextlib.contextmanager
    def open(self, path: Path, most: int | None = None) -> Iterator[BinaryIO]:
        """Open a file for reading, of at most ``most`` bytes; never a link, a device or a FIFO."""
        with self.errors(), self.tree.open(path, most) as file:
            yield file

    def discard(self, path: Path) -> None:
        """Delete a file if it is there."""
        with self.errors(), contextlib.suppress(FileNotFoundError):
            self.tree.unlink(path)

    def sweep(self) -> int:
        """Delete what dead downloaders of this split left unfinished; returns how many files.

        Only the holder of the lease may call this.
        """
        with self.errors():
            found = [*self._unfinished(), *unfinished(self.tree, self.home, self.split)]
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
        found = unfinished(self.tree, self.files, self.split, below=True)
        # A table may be above the split's directory
        return [*found, *unfinished(self.tree, self.root, self.split)]

    # --- the cache's own files ---

    def refresh(self) -> set[str]:
        """Return the names of the cache's own files.

        An NFS client that missed a name keeps missing it until the directory that holds it is
        listed. That holds for ``.step37-flickr8k`` itself, too, so the cache directory is listed
        first; and its parents if it is missing.
        """
        with self.errors():
            self.tree.directories.forget()
            self.tree.directories.confirm()
            if HOME not in names_in(self.tree, self.root):
                return set()
            with contextlib.suppress(FileNotFoundError):
                return set(self.tree.names(self.home))
        return set()

    def read(self, name: str, most: int) -> bytes | None:
        """Return the bytes of one of the cache's own files; None if it isn't there.

        What is no file, or larger than ``most`` bytes, counts as missing, with a warning. It is
        opened each time: a descriptor that is kept open shows old bytes on NFS.
        """
        path = self.home / name
        with self.errors(), contextlib.suppress(FileNotFoundError):
            try:
                return self.tree.read(path, most)
            except NotAFile as error:
                log.warning("%s can't be read (%s): treated as missing", path, error.strerror)
        return None

    def written_at(self, name: str) -> float:
        """Return when one of the cache's own files was written, in seconds since the epoch.

        It is the time that this node sees, or now if the file has just been replaced.
        """
        with self.errors(), contextlib.suppress(FileNotFoundError):
            return self.tree.status(self.home / name).st_mtime
        return time.time()

    def age(self, name: str) -> float:
        """Return the seconds since one of the cache's own files was written.

        Both times are the file system's own, so no clock of a node counts.
        """
        probe = self.temporary(self.home)
        try:
            with self.writing(probe) as file:
                now = os.fstat(file.fileno()).st_mtime
                return now - self.tree.status(self.home / name).st_mtime
        finally:
            self.tree.forget(probe)

    def write(self, name: str, content: bytes) -> None:
        """Write one of the cache's own files: whole and flushed before it gets its name.

        Nothing is written once a directory of the cache was moved or replaced.
        """
        with self.errors():
            self.tree.directories.confirm(everything=True)
        temporary = self.temporary(self.home)
        try:
            self.put(temporary, content, durably=True)
            with self.errors():
                self.tree.rename(temporary, self.home / name)
                self.tree.sync(self.home)
        finally:
            self.tree.forget(temporary)

    def create(self, name: str, content: bytes) -> bool:
        """Create one of the cache's own files; returns False if the name is taken."""
        swept = 0
        with self.errors():
            while True:
                temporary = self.temporary(self.home)
                try:
                    return create_exclusively(self.tree, self.home / name, content, temporary)
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
            self.tree.overwrite(self.home / name, content)

    def delete(self, name: str) -> None:
        """Delete one of the cache's own files, durably before anything that follows."""
        self.discard(self.home / name)
        with self.errors():
            self.tree.sync(self.home)
