"""Create a file that only one process gets: by a hard link, or where there are none by O_EXCL."""

import contextlib
import errno
from pathlib import Path

from step37_flickr8k.cache.tree import Tree
from step37_flickr8k.cache.writing import fill

__all__ = ["NO_LINKS", "create_exclusively"]

# What ``link`` reports where there are no hard links. SMB, FAT and many FUSE file systems (gcsfuse,
# blobfuse, s3fs) refuse them, each with another error. EPERM and EACCES also come from
# fs.protected_hardlinks if an NFS server makes files another user's.
NO_LINKS = {
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.EMLINK,
    errno.EXDEV,
    errno.EINVAL,
}


def create_exclusively(tree: Tree, path: Path, content: bytes, temporary: Path) -> bool:
    """Create a file with this content; return False if the name is taken.

    A link to a complete ``temporary`` is atomic on every NFS version and never shows an empty file.
    Without hard links the file is created by O_EXCL and then written, so a reader may find it empty
    or half written, for ever if its writer was killed then.
    """
    try:
        tree.write_new(temporary, content, durably=True)
        try:
            tree.link(temporary, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create(tree, path, content)
    except FileExistsError:
        return False
    finally:
        tree.forget(temporary)
    return True


def _create(tree: Tree, path: Path, content: bytes) -> bool:
    descriptor = tree.create(path)
    try:
        fill(descriptor, content, durably=True)
    except OSError:
        # A full disk: the file is this process's own, and nobody else is to wait for it
        tree.forget(path)
        raise
    # Where a file only appears when it is closed, as in an object store, two nodes may both have
    # created it. The one whose bytes are there has it.
    with contextlib.suppress(FileNotFoundError):
        return tree.read(path, len(content) + 1) == content
    return False
