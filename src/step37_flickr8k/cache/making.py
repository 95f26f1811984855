"""Make directories, never through a link: what is written would end up outside of the cache."""

from collections.abc import Iterable
from pathlib import Path

from step37_flickr8k.cache.remedies import not_a_directory
from step37_flickr8k.cache.tree import Tree
from step37_flickr8k.cache.writing import make_directory

__all__ = ["make_directories", "make_root", "parents_of"]


def make_root(root: Path) -> None:
    """Create a cache directory, which may be a link, and its parents, unless it is there."""
    try:
        make_directory(root)
    except FileExistsError as error:
        raise not_a_directory(Path(error.filename)) from error


def make_directories(tree: Tree, directories: Iterable[Path]) -> None:
    """Create directories below the root, each in one that is there, unless they are there."""
    for directory in directories:
        try:
            tree.make(directory)
        except NotADirectoryError as error:
            raise not_a_directory(Path(error.filename)) from error


def parents_of(names: Iterable[str]) -> list[str]:
    """Return the subdirectories in which files of these names lie, each after its own parent."""
    found: set[str] = set()
    for name in names:
        parent = name.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return sorted(found)
