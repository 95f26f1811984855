"""The job's secret, out of the file that a setting names."""

import os
import stat
from pathlib import Path

from step37_flickr8k.errors import InvalidSettings

__all__ = ["read_job_secret"]

# Bytes; the scripts that make one write 64 hexadecimal digits
_SHORTEST, _LONGEST = 16, 4096
_MAKE_ONE = "make one: (umask 077; openssl rand -hex 32 >FILE)"


def read_job_secret(file: Path | None) -> bytes:
    """Return the secret in a file, nothing where none is named.

    Raises `InvalidSettings` for a file that others can read or change, or that holds no secret.
    """
    if file is None:
        return b""
    try:
        # Opening a pipe would wait for whoever writes into it
        _refuse_kind(file, file.stat())
        with file.open("rb") as opened:
            _refuse_others(file, os.fstat(opened.fileno()), os.fstatvfs(opened.fileno()))
            secret = opened.read(_LONGEST + 1).strip()
    except OSError as error:
        raise InvalidSettings(
            f"job_secret_file: {file} can't be read ({error.strerror}): all ranks need it, on "
            "every node and in every container"
        ) from None
    if not _SHORTEST <= len(secret) <= _LONGEST:
        raise InvalidSettings(
            f"job_secret_file: {file} holds no secret of {_SHORTEST} to {_LONGEST} bytes: "
            f"{_MAKE_ONE}"
        )
    return secret


def _refuse_kind(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidSettings(f"job_secret_file: {file} is no regular file: {_MAKE_ONE}")


def _refuse_others(file: Path, found: os.stat_result, system: os.statvfs_result) -> None:
    """Refuse a file that other users can read or change.

    A Secret that Kubernetes mounts is root's, for all to read unless the pod has an fsGroup, and on
    a file system that is read-only: nobody but the container sees it.
    """
    _refuse_kind(file, found)
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in {os.getuid(), 0}:
        raise InvalidSettings(
            f"job_secret_file: {file} belongs to user {found.st_uid}, and this is user "
            f"{os.getuid()}: {_MAKE_ONE}"
        )
    is_mounted = found.st_uid == 0 and bool(system.f_flag & os.ST_RDONLY)
    is_of_a_group = found.st_uid == 0 and os.getuid() != 0 and not mode & 0o027
    if mode & 0o077 and not is_mounted and not is_of_a_group:
        raise InvalidSettings(
            f"job_secret_file: {file} can be read or changed by others (mode {mode:04o}): "
            f"chmod 600 {file}, if nobody has read it yet"
        )
