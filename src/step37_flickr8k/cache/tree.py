"""The files below a cache directory, each reached from the descriptor of its own directory.

Paths are names here: `Tree` follows none of them. Errors stay OSErrors and name the whole path.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from step37_flickr8k.cache.descriptors import Directories, is_link
from step37_flickr8k.cache.writing import fill, overwrite, sync

__all__ = ["NotAFile", "Tree"]

_T = TypeVar("_T")
_Path = str | Path

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


class NotAFile(OSError):
    """Raised for what has the name of a file and is a link, a device or the like, or too large."""

    def __init__(self, what: str, path: str) -> None:
        """Say what it is."""
        super().__init__(errno.EINVAL, f"it is {what}", path)


class Tree:
    """The files and directories below a root, for use by many threads."""

    def __init__(self, root: Path, given: Mapping[str, int] | None = None) -> None:
        """Open nothing yet but the ``given`` directories, descriptors of another process."""
        self.directories = Directories(str(root), given or {})

    # --- files ---

    def open(self, path: _Path, most: int | None = None) -> BufferedReader:
        """Open a file of at most ``most`` bytes for reading; raises `NotAFile` for anything else.

        A FIFO or a device doesn't block: it is opened without waiting, and closed again.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

        def opened(name: str, directory: int) -> int:
            try:
                return os.open(name, flags, dir_fd=directory)
            except OSError as error:
                if is_link(error, name, directory):
                    raise NotAFile("a symbolic link", os.fspath(path)) from None
                if error.errno in {errno.ENXIO, errno.EOPNOTSUPP}:  # a socket, or no driver
                    raise NotAFile("no regular file", os.fspath(path)) from None
                raise

        descriptor = self._call(path, opened)
        try:
            _check_file(os.fstat(descriptor), os.fspath(path), most)
        except OSError:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb")

    def read(self, path: _Path, most: int | None = None) -> bytes:
        """Return the bytes of a file, as `open` finds it; what is appended meanwhile is cut."""
        limit = -1 if most is None else most
        with _named(path):
            try:
                with self.open(path, most) as file:
                    return file.read(limit)
            except OSError as error:
                # On NFS it was replaced or deleted while it was read. Opening was tried twice, and
                # names the file.
                if error.errno != errno.ESTALE or error.filename is not None:
                    raise
            with self.open(path, most) as file:
                return file.read(limit)

    def status(self, path: _Path) -> os.stat_result:
        """Return what is known of a file or directory; of a link itself, if it is one."""
        return self._call(
            path,
            lambda name, directory: os.stat(name, dir_fd=directory, follow_symlinks=False),
        )

    def exists(self, path: _Path) -> bool:
        """Return whether there is anything of this name."""
        try:
            self.status(path)
        except FileNotFoundError:
            return False
        return True

    def create(self, path: _Path) -> int:
        """Create a file and return a descriptor to write to it; its mode follows the umask."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return self._call(
            path, lambda name, directory: os.open(name, flags, 0o666, dir_fd=directory)
        )

    def write_new(
        self, path: _Path, content: bytes | bytearray | memoryview, *, durably: bool
    ) -> None:
        """Create a file with this content.

        Errors of close are raised, too: NFS reports a full disk only there.
        """
        with _named(path):
            fill(self.create(path), content, durably=durably)

    def overwrite(self, path: _Path, content: bytes) -> None:
        """Overwrite a file in place and flush it; a reader may see old and new bytes mixed.

        Raises `NotAFile` for a link, and for a file that has another name: it isn't the cache's
        alone.
        """
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = self._call(
            path, lambda name, directory: os.open(name, flags, dir_fd=directory)
        )
        with _named(path):
            overwrite(descriptor, content)

    def rename(self, source: _Path, target: _Path) -> os.stat_result:
        """Rename a file, over another one if there is one; return what a scan will show of it."""

        def renamed(name: str, directory: int) -> os.stat_result:
            parent, _, new = os.fspath(target).rpartition("/")
            there = self.directories.at(parent)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            os.replace(name, new, src_dir_fd=directory, dst_dir_fd=there.number)
            return status

        try:
            return self._call(source, renamed)
        except OSError as error:
            error.filename2 = os.fspath(target)
            raise

    def link(self, source: _Path, target: _Path) -> None:
        """Add a second name for a file in the same directory; raises FileExistsError."""
        new = os.fspath(target).rpartition("/")[2]
        self._call(
            source,
            lambda name, directory: os.link(
                name, new, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False
            ),
        )

    def unlink(self, path: _Path) -> None:
        """Delete a file."""
        self._call(path, lambda name, directory: os.unlink(name, dir_fd=directory))

    def forget(self, temporary: _Path) -> None:
        """Delete a temporary file, and ignore every error.

        It may have its final name by now, or was never created: EROFS on a read-only mount, or a
        name that this process can't pass to the system.
        """
        with contextlib.suppress(OSError, UnicodeEncodeError):
            self.unlink(temporary)

    # --- directories ---

    def make(self, directory: Path, mode: int = 0o777) -> None:
        """Create a directory below one that is there, unless it is there itself."""
        with contextlib.suppress(FileNotFoundError):
            self.directories.at(str(directory))
            return

        def made(name: str, parent: int) -> None:
            try:
                os.mkdir(name, mode, dir_fd=parent)
            except FileNotFoundError as error:
                # In /proc, or below an automounter's directory, nobody can create one
                raise PermissionError(errno.EPERM, "no directory can be made there") from error

        with contextlib.suppress(FileExistsError):
            self._call(directory, made)
        # An NFS client that has just missed it may miss it again
        self.names(directory.parent)
        self.directories.at(str(directory))

    def remove_directory(self, directory: _Path) -> None:
        """Delete an empty directory."""
        self._call(directory, lambda name, parent: os.rmdir(name, dir_fd=parent))

    def names(self, directory: _Path) -> list[str]:
        """Return all names in a directory, asked of the server on NFS, too."""
        with _named(directory), self.reading(directory) as descriptor:
            return os.listdir(descriptor)

    @contextlib.contextmanager
    def scan(self, directory: _Path) -> Iterator[Iterator["os.DirEntry[str]"]]:
        """Yield the entries of a directory; they may be asked for more until the context ends."""
        with (
            _named(directory),
            self.reading(directory) as descriptor,
            os.scandir(descriptor) as entries,
        ):
            yield entries

    def sync(self, directory: _Path) -> None:
        """Make the names in a directory durable, where the file system supports that."""
        with _named(directory), self.reading(directory) as descriptor:
            sync(descriptor)

    @contextlib.contextmanager
    def reading(self, directory: _Path) -> Iterator[int]:
        """Yield a descriptor of a directory's own, which has a position and can be synchronized.

        On NFS the opening also asks the server what has changed.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        opened = self._call(
            f"{os.fspath(directory)}/.",
            lambda name, parent: os.open(name, flags, dir_fd=parent),
        )
        try:
            yield opened
        finally:
            os.close(opened)

    def _call(self, path: _Path, call: Callable[[str, int], _T]) -> _T:
        """Return what ``call`` does with a name in the directory that holds it."""
        parent, _, name = os.fspath(path).rpartition("/")
        with _named(path):
            try:
                directory = self.directories.at(parent)
                return call(name, directory.number)
            except OSError as error:
                # On NFS the file, or its directory, was replaced or deleted
                if error.errno != errno.ESTALE:
                    raise
            directory = self.directories.reopen(parent)
            return call(name, directory.number)


@contextlib.contextmanager
def _named(path: _Path) -> Iterator[None]:
    """Let an OSError name the whole path."""
    try:
        yield
    except OSError as error:
        if not str(error.filename or "").startswith("/"):
            error.filename = os.fspath(path).removesuffix("/.")
        raise


def _check_file(status: os.stat_result, path: str, most: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile(_KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"), path)
    if most is not None and status.st_size > most:
        raise NotAFile(f"too large: {status.st_size:,} bytes, at most {most:,} are read", path)
