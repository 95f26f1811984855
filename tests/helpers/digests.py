"""Digests of files wherever they are."""

from pathlib import Path

from step37_flickr8k.dataset.digests import digest_of

__all__ = ["digest_of_file"]


def digest_of_file(path: Path, like: str) -> str:
    """Return a file's digest, of the same kind as the digest ``like``."""
    with path.open("rb") as file:
        return digest_of(file, like)
