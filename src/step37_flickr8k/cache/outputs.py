"""Files that the user names: written under another name and renamed, through no one's link."""

import errno
import os
import secrets
import stat
from pathlib import Path

from step37_flickr8k.cache.tree import Tree
from step37_flickr8k.cache.writing import fill

__all__ = ["check_output", "write_output"]

_LINKS = 40  # that lead from one to the next, at most
_LONGEST_NAME = 200  # characters of a name that its temporary one repeats
# What a directory, or a file that is a mount, says where no other file can take the file's name
_NOT_RENAMED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY}


def write_output(file: Path, content: bytes) -> None:
    """Write a file that the user names, whole or not at all; its mode follows the umask.

    A link counts if it is this user's or root's; one of another user is replaced. Something else
    than a file (a FIFO, a terminal, ``/dev/stdout``) is written in place, and so is a file that can
    only be written in place, like a pod's termination message.
    """
    file = _followed(file)
    if _is_special(file):
        return _overwrite(file, content)
    tree, temporary = Tree(file.parent), _temporary(file)
    try:
        tree.write_new(temporary, content, durably=False)
        tree.rename(temporary, file)
    except OSError as error:
        if error.errno not in _NOT_RENAMED or not tree.exists(file):
            raise
        _overwrite(file, content)
    finally:
        tree.forget(temporary)
    return None


def check_output(file: Path) -> None:
    """Raise OSError if a file can't be written; nothing that is there is changed."""
    file = _followed(file)
    if _is_special(file):
        if not os.access(file, os.W_OK) or file.is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return
    tree, temporary = Tree(file.parent), _temporary(file)
    try:
        os.close(tree.create(temporary))
    except OSError as error:
        if error.errno not in _NOT_RENAMED or not tree.exists(file):
            raise
        os.close(os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    finally:
        tree.forget(temporary)


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name[:_LONGEST_NAME]}-{secrets.token_hex(4)}.tmp")


def _followed(file: Path) -> Path:
    """Return what a path leads to by links that are this user's own, or root's."""
    file = file.absolute()
    for _ in range(_LINKS):
        try:
            status = file.lstat()
        except FileNotFoundError:
            return file
        own = status.st_uid in {0, os.geteuid()}
        if not stat.S_ISLNK(status.st_mode) or not own or _is_open_file(file):
            return file
        file = file.parent / file.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(file))


def _is_open_file(file: Path) -> bool:
    """Return whether a path is that of an open file, such as ``/dev/stdout`` leads to."""
    return file.parts[:2] == ("/", "proc")


def _is_special(file: Path) -> bool:
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return False
    return _is_open_file(file) or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))


def _overwrite(file: Path, content: bytes) -> None:
    follow = 0 if _is_open_file(file) else os.O_NOFOLLOW
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC | follow)
    status = os.fstat(descriptor)
    try:
        # Another name of it may be that of a file that the user didn't mean
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and follow:
            raise PermissionError(errno.EPERM, "the file has several names", str(file))
        if stat.S_ISREG(status.st_mode):
            os.ftruncate(descriptor, 0)
    except OSError:
        os.close(descriptor)
        raise
    fill(descriptor, content, durably=False)
