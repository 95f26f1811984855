"""A private directory below a cache directory, for a library that writes one file by paths.

Another user who may write to the cache directory can swap what is in it for links, but nothing in a
directory that is this user's alone, nor that directory under its descriptor.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.making import make_directories, make_root, parents_of
from step37_flickr8k.cache.remedies import remedies
from step37_flickr8k.cache.tree import NotAFile, Tree
from step37_flickr8k.cache.unfinished import TEMPORARY
from step37_flickr8k.errors import FolderNotUsable

__all__ = ["Staging", "staging"]

_PREFIX = f"{TEMPORARY}single-"
_FORGOTTEN = 86_400.0  # s without a change after which a killed process has left it
_LARGEST_NOTE = 1 << 12  # bytes
_MISSING = (FileNotFoundError, NotADirectoryError, NotAFile)


class Staging:
    """What is staged for one file of a cache directory; `staging` makes it.

    ``directory`` is a path to the private directory that no rename changes, for this process and
    for those that get its ``descriptors``.
    """

    def __init__(self, tree: Tree, private: Path, opened: int, names: tuple[str, str]) -> None:
        """Stage a file and its note, by their names, in a private directory of a tree's root."""
        self._tree, self._root, self._private = tree, private.parent, private
        self._filename, self._note = names
        self.directory = Path(f"/proc/self/fd/{opened}")
        self.descriptors = [opened]
        self._there: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """Where the file is staged."""
        return self.directory / self._filename

    @property
    def note(self) -> Path:
        """Where its note is staged."""
        return self.directory / self._note

    def stage_known(self) -> None:
        """Stage the file and the note that are there: the file by its open descriptor, unread."""
        for each in (self.path, self.note):
            each.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(*_MISSING, FolderNotUsable):
            self.note.write_bytes(self._tree.read(self._root / self._note, _LARGEST_NOTE))
        with contextlib.suppress(*_MISSING):
            self._there = self._tree.open(self._root / self._filename)
            number = self._there.fileno()
            self.descriptors.append(number)
            try:
                self.path.symlink_to(f"/proc/self/fd/{number}")
            except OSError:  # this file system has no links
                status = os.fstat(number)
                with self.path.open("xb") as copy:
                    shutil.copyfileobj(self._there, copy)
                os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def publish(self) -> None:
        """Rename file and note to their final names, in directories reached through no link."""
        with remedies(self._root):
            # Their names may lead elsewhere by now, which is an error
            self._tree.directories.forget()
            if not self.path.is_symlink():
                self._move(self._filename)
            # Without it the file is as good, and is only asked for once more
            with contextlib.suppress(OSError, FolderNotUsable):
                if not self.note.is_symlink():
                    self._move(self._note)

    def close(self) -> None:
        """Close the file that was there."""
        if self._there is not None:
            self._there.close()

    def _move(self, name: str) -> None:
        make_directories(self._tree, map(self._root.joinpath, parents_of([name])))
        target = self._root / name
        temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}.tmp")
        try:
            self._tree.rename(self._private / name, target)
        except OSError as error:
            # A project quota may end between the two directories
            if error.errno != errno.EXDEV:
                raise
            copy = os.fdopen(self._tree.create(temporary), "wb")
            with (self.directory / name).open("rb") as file, copy:
                shutil.copyfileobj(file, copy)
            self._tree.rename(temporary, target)
        finally:
            self._tree.forget(temporary)


@contextlib.contextmanager
def staging(root: Path, filename: str, note: str) -> Iterator[Staging]:
    """Yield where a file and its note are staged; nothing is left of it when the context ends."""
    tree, private = Tree(root), root / f"{_PREFIX}{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        with remedies(root):
            make_root(root)
            _sweep(tree, root)
            tree.make(private, 0o700)
            # Whatever happens to their names
            tree.directories.hold(str(root), str(private))
            stack.callback(_remove, tree, private)
            opened = stack.enter_context(tree.reading(private))
            _check_own(opened, private)
        staged = Staging(tree, private, opened, (filename, note))
        stack.callback(staged.close)
        with remedies(root):
            staged.stage_known()
        yield staged


def _check_own(opened: int, private: Path) -> None:
    """Raise `FolderNotUsable` unless an open directory is the empty one that was just made."""
    status = os.fstat(opened)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if (status.st_uid, mode) != (os.geteuid(), 0o700) or os.listdir(opened):
        raise FolderNotUsable(
            f"{private} can't be this user's alone: another user has replaced it, or this file"
            " system has no modes; choose another cache_dir"
        )


def _sweep(tree: Tree, root: Path) -> None:
    """Delete what processes of this user that were killed have left; errors are ignored."""
    for name in tree.names(root):
        if not name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError, FolderNotUsable):
            if tree.status(root / name).st_uid != os.geteuid():
                continue
            with tree.reading(root / name) as number:
                changed = max(_times(number))
            if time.time() - changed > _FORGOTTEN:
                _remove(tree, root / name)


def _times(number: int) -> Iterator[float]:
    """Yield when an open directory and all that is below it were changed."""
    yield os.fstat(number).st_mtime
    for directory, directories, names in os.walk(f"/proc/self/fd/{number}/"):
        for name in (*directories, *names):
            yield Path(directory, name).lstat().st_mtime


def _remove(tree: Tree, private: Path) -> None:
    """Delete a private directory with all that is in it, as far as that goes."""
    with contextlib.suppress(OSError, FolderNotUsable), tree.reading(private) as number:
        for name in os.listdir(number):
            each = Path(f"/proc/self/fd/{number}", name)
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink()
    with contextlib.suppress(OSError, FolderNotUsable):
        tree.remove_directory(private)
