"""What the file system reports, turned into an error that says what the user can do."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

from step37_flickr8k.cache.tree import NotAFile
from step37_flickr8k.cache.unfinished import TEMPORARY
from step37_flickr8k.errors import FolderFull, FolderNotUsable, Step37Error, TransientError
from step37_flickr8k.limited.named import no_more_files

__all__ = ["HOME", "not_a_directory", "remedies"]

HOME = ".step37-flickr8k"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_USUAL = "choose another cache_dir, or have its owner let this user read and write there"
_OTHER = "choose another cache_dir"
# What a retry can't change, and what can. /proc, /sys, FAT, SMB and FUSE say many of these.
_REFUSED = {
    errno.EACCES: _USUAL,
    errno.EPERM: _USUAL,
    errno.EROFS: _USUAL,
    errno.EEXIST: _USUAL,
    errno.ENOTDIR: "a part of this path is a file: choose another cache_dir",
    errno.EISDIR: "a directory has the name of a file: move it away",
    errno.ENAMETOOLONG: "choose a shorter cache_dir, or a file system with longer names",
    errno.ELOOP: "its symbolic links lead in a circle: choose another cache_dir",
    errno.EFBIG: "raise the largest size of a file (ulimit -f), or choose another file system",
    errno.EINVAL: "this file system takes no such name or operation: choose another cache_dir",
    errno.EILSEQ: "this file system takes no such name: choose another cache_dir",
    errno.ENOSYS: _OTHER,
    errno.EOPNOTSUPP: _OTHER,
    errno.ENOTSUP: _OTHER,
    errno.EXDEV: _OTHER,
    errno.EMLINK: _OTHER,
}


@contextlib.contextmanager
def remedies(root: Path) -> Iterator[None]:
    """Turn an OSError into an error that names the remedy; FileExistsError passes unchanged."""
    try:
        yield
    except FileExistsError:
        raise
    except UnicodeEncodeError as error:
        raise _not_encodable(error) from error
    except OSError as error:
        path = Path(error.filename or root)
        if error.errno == errno.EISDIR and error.filename2:
            path = Path(error.filename2)  # the rename's target is what is a directory
        # The name of a temporary file says nothing to the user
        elif path.name.startswith(TEMPORARY) and path.name != HOME:
            path = path.parent
        raise _with_remedy(error, path) from error


def _with_remedy(error: OSError, path: Path) -> Step37Error:
    """Return the error to raise for an OSError at ``path``.

    A full file system is `FolderFull`, a refusal `FolderNotUsable`. Anything else is
    `TransientError`: one EIO or ESTALE may well be the last.
    """
    reason = error.strerror or str(error)
    if isinstance(error, NotAFile):
        return FolderNotUsable(f"{path} can't be read, because {reason}: move it away")
    if error.errno in _FULL:
        return FolderFull(f"{path}: {reason}: free space, raise the quota or lower sample_count")
    if remedy := _REFUSED.get(error.errno or 0):
        return FolderNotUsable(f"{path}: {reason}: {remedy}")
    return TransientError(f"{path}: {no_more_files(error.errno) or reason}")


def not_a_directory(path: Path) -> FolderNotUsable:
    """Return the error to raise for what has the name of a directory to be made."""
    what = "a symbolic link to nothing" if path.is_symlink() else "a file"
    return FolderNotUsable(f"{path} is {what}: choose another cache_dir, or move it away")


def _not_encodable(error: UnicodeEncodeError) -> FolderNotUsable:
    """Return the error to raise for a name that this process can't pass to the system."""
    return FolderNotUsable(
        f"{error.object!a} can't be a file's name here, because this process writes names in"
        f" {sys.getfilesystemencoding()}: set PYTHONUTF8=1, or LC_ALL to a locale with UTF-8"
    )
