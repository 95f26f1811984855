"""What the file system reports, turned into an error that says what the user can do."""

import errno
from pathlib import Path

from step37_flickr8k.errors import FolderFull, FolderNotUsable, Step37Error, TransientError

__all__ = ["with_remedy"]

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


def with_remedy(error: OSError, path: Path) -> Step37Error:
    """Return the error to raise for an OSError at ``path``.

    A full file system is `FolderFull`, a refusal `FolderNotUsable`. Anything else is
    `TransientError`: one EIO or ESTALE may well be the last.
    """
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return FolderFull(f"{path}: {reason}: free space, raise the quota or lower sample_count")
    if error.errno in _REFUSED:
        return FolderNotUsable(
            f"{path}: {reason}: choose another cache_dir,"
            " or have its owner let this user read and write there"
        )
    return TransientError(f"{path}: {reason}")
