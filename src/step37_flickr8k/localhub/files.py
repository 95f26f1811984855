"""The regular files below a directory, whatever else somebody has put there."""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("step37_flickr8k")

# Opens nothing: a FIFO doesn't block, a device isn't asked.
_FIND = os.O_PATH | os.O_CLOEXEC
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class NotBelow(OSError):
    """Raised for what isn't there, is no regular file, or lies elsewhere."""


def open_below(root: Path, path: Path) -> int:
    """Return a descriptor of a regular file to read it.

    Raises `NotBelow` where links lead out of ``root``, which has no links in its own path, and for
    what is no regular file. What was opened decides: another process may change a path meanwhile.
    """
    try:
        found = os.open(path, _FIND)
    except OSError as error:
        if error.errno in _NOTHING:
            raise NotBelow(f"{path} leads to nothing") from error
        raise
    try:
        itself = Path(f"/proc/self/fd/{found}")
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise NotBelow(f"{path} is no regular file")
        if not itself.readlink().is_relative_to(root):
            raise NotBelow(f"{path} leads out of {root}")
        return os.open(itself, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def files_below(root: Path) -> Iterator[Path]:
    """Yield the paths of the files below a directory that are served: no hidden ones.

    What `open_below` refuses is left out with a warning.
    """
    # By default os.walk ignores errors: what can't be read would be served as empty
    for directory, directories, names in os.walk(root, onerror=_raise):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") and name != ".gitattributes":
                continue
            if path.is_symlink() or not path.is_file():
                try:
                    os.close(open_below(root, path))
                except NotBelow as error:
                    log.warning("not served: %s", error)
                    continue
            yield path


def _raise(error: OSError) -> None:
    raise error
