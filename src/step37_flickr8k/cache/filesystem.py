"""What a file system is: local to this node, or one that other nodes may see. Used for advice."""

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["local_file_system"]

# f_type of those that no other node can see. FUSE is not among them: sshfs, CephFS, GlusterFS and
# others use it.
_LOCAL = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
}


def local_file_system(directory: Path) -> str | None:
    """Return the name of a directory's file system if only this node can see it; otherwise None.

    For a directory that doesn't exist yet it is that of its nearest parent.
    """
    if sys.platform != "linux":
        return None
    statfs = ctypes.CDLL(None).statfs
    # A struct statfs, whose first member is f_type
    buffer = ctypes.create_string_buffer(1024)
    if not any(statfs(os.fsencode(each), buffer) == 0 for each in (directory, *directory.parents)):
        return None
    return _LOCAL.get(ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF)
