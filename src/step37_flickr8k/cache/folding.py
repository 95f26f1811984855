"""Names that a file system takes for one: refused before the first byte is fetched for them.

SMB, APFS, exFAT and directories of ext4 with casefold take upper and lower case for the same; APFS
and some settings of ZFS also the Unicode forms of a letter. That is found out by trying.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping

from step37_flickr8k.cache.capabilities import distinguishes
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.making import parents_of
from step37_flickr8k.dataset.names import folded
from step37_flickr8k.errors import FolderNotUsable

__all__ = ["check_names"]


def check_names(directory: CacheDirectory, names: Iterable[str], found: Iterable[str]) -> None:
    """Raise `FolderNotUsable` if two of these names would be one file, or one subdirectory.

    Of the files that are ``found`` there, those that the file system takes for one of the
    names are deleted: a rename would keep their name, and no listing would show the new one.
    """
    fold = _folding(directory)
    if fold is None:
        return
    wanted: dict[str, str] = {}
    names = list(names)
    for name in (*names, *parents_of(names)):
        other = wanted.setdefault(fold(name), name)
        if other != name:
            raise FolderNotUsable(
                f"{directory.files} can't hold both {other!a} and {name!a}, because its file system"
                " takes them for one name: choose a cache_dir on a file system that distinguishes"
                " case and Unicode forms"
            )
    for name in found:
        if wanted.get(fold(name), name) != name:
            directory.discard(directory.path(name))


def _folding(directory: CacheDirectory) -> Callable[[str], str] | None:
    """Return what makes two names one here; None where every name is its own."""
    kinds: Mapping[tuple[bool, bool], Callable[[str], str] | None] = {
        (True, True): None,
        (False, True): str.casefold,
        (True, False): lambda name: unicodedata.normalize("NFC", name),
        (False, False): folded,
    }
    case = distinguishes(directory, "a", "A")
    return kinds[case, distinguishes(directory, "\u00e9", "e\u0301")]
