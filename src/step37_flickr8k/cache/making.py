"""Make directories, never through a link: what is written would end up outside of the cache."""

from collections.abc import Iterable
from pathlib import Path

from step37_flickr8k.cache.remedies import not_a_directory
from step37_flickr8k.cache.writing import make_directory
from step37_flickr8k.errors import FolderNotUsable

__all__ = ["make_directories", "parents_of", "refuse_link"]


def make_directories(*directories: Path) -> None:
    """Create directories, and their parents, unless they are there."""
    for directory in directories:
        refuse_link(directory)
        try:
            make_directory(directory)
        except FileExistsError as error:
            raise not_a_directory(Path(error.filename)) from error


def refuse_link(directory: Path) -> None:
    """Raise `FolderNotUsable` if a directory is a symbolic link."""
    if directory.is_symlink():
        raise FolderNotUsable(
            f"{directory} is a symbolic link: make the cache_dir itself one, or move it away"
        )


def parents_of(names: Iterable[str]) -> list[str]:
    """Return the subdirectories in which files of these names lie, each after its own parent."""
    found: set[str] = set()
    for name in names:
        parent = name.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return sorted(found)
