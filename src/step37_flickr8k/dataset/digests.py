"""The Hub's digests: ``sha256:<hex>`` of files in LFS, ``git-sha1:<hex>`` of plain git blobs."""

import hashlib
import os
from typing import BinaryIO, Protocol

__all__ = ["Hasher", "digest_of", "digest_of_bytes", "hasher"]

_CHUNK = 1 << 20  # bytes


class Hasher(Protocol):
    """What is needed of a hash object of `hashlib`."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far."""
        ...


def hasher(like: str, size: int) -> Hasher:
    """Return a new hash object of the kind of the digest ``like``, for a file of ``size`` bytes.

    The size matters because the hash of a git blob begins with it.
    """
    if like.startswith("sha256:"):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def digest_of_bytes(content: bytes | bytearray | memoryview, like: str) -> str:
    """Return the digest of a file's bytes, of the same kind as the digest ``like``."""
    hashing = hasher(like, len(content))
    hashing.update(content)
    return f"{_kind(like)}:{hashing.hexdigest()}"


def digest_of(stream: BinaryIO, like: str) -> str:
    """Return the digest of a seekable stream, read from its start, of the same kind as ``like``."""
    hashing = hasher(like, stream.seek(0, os.SEEK_END))
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        hashing.update(chunk)
    return f"{_kind(like)}:{hashing.hexdigest()}"


def _kind(digest: str) -> str:
    return digest.partition(":")[0]
