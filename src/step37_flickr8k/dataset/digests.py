"""Digests as the Hub gives them: ``sha256:<hex>`` of LFS files, ``git-sha1:<hex>`` of plain git blobs."""

import hashlib
import os
from pathlib import Path
from typing import Any

__all__ = ["digest_of", "digest_of_bytes", "hasher"]

_CHUNK = 1 << 20  # bytes


def hasher(digest: str, size: int) -> Any:
    """Give the hash object for ``sha256:...`` or ``git-sha1:...``; a git blob's hash begins with its size."""
    if digest.startswith("sha256:"):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def digest_of_bytes(content: bytes | bytearray | memoryview, like: str) -> str:
    """Hash a file's bytes in the manner of the digest ``like``."""
    hashing = hasher(like, len(content))
    hashing.update(content)
    return f"{like.partition(':')[0]}:{hashing.hexdigest()}"


def digest_of(path: Path, like: str) -> str:
    """Hash a file in the manner of the digest ``like``."""
    kind = like.partition(":")[0]
    with path.open("rb") as file:
        hashing = hasher(like, os.fstat(file.fileno()).st_size)
        while chunk := file.read(_CHUNK):
            hashing.update(chunk)
    return f"{kind}:{hashing.hexdigest()}"
