"""Names of images: which a row may give, and which of a commit is meant by one that it lacks."""

import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Sequence

from step37_flickr8k.errors import InvalidMetadata

__all__ = [
    "ABOVE",
    "METADATA",
    "TABLES",
    "are_usual",
    "find_table",
    "folded",
    "in_repository",
    "is_above",
    "is_image",
    "is_table",
    "similar",
    "why_not_plain",
]

# The metadata table's names, as imagefolder of `datasets` knows them
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_LONGEST_COMPONENT = 255  # bytes: what every supported file system can hold
_LONGEST_NAME = 1024  # bytes: a path may have 4,096 with cache_dir
METADATA = TABLES[0]
# How the name of a table begins that is above the split's directory, at the repository's root
ABOVE = "../"
# How the names of images end, for advice alone: what a row names is an image whatever its name
_IMAGES = (
    *(".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jpeg", ".jpg", ".jxl", ".pbm", ".pgm"),
    *(".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
# Names, each with a line end behind it, that are plain, or a table's, and in ASCII
_COMPONENT = r"[0-9A-Za-z_-][ -.0-9;-\[\]-~]{0,199}"
_USUAL = re.compile(rf"(?:{_COMPONENT}(?:/{_COMPONENT}){{0,3}}\n)*")
# Control characters, and surrogates, which are no characters at all
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_table(name: str) -> bool:
    """Return whether a file of the split, or one above it, is a metadata table."""
    return name.removeprefix(ABOVE) in TABLES


def is_above(name: str) -> bool:
    """Return whether a table is above the split's directory, at the repository's root."""
    return name.startswith(ABOVE) and is_table(name)


def in_repository(split: str, name: str) -> str:
    """Return the path in the repository of one of a split's files, or of a table above them."""
    return name.removeprefix(ABOVE) if is_above(name) else f"{split}/{name}"


def find_table(names: Container[str], repository: str, split: str) -> str | None:
    """Return the metadata table among the names of a split's files; None without one.

    A table of the split is nearer than one above it. Raises `InvalidMetadata` for two in one
    directory, since nobody knows which one is meant.
    """
    for above, directory in (("", f"{split}/"), (ABOVE, "")):
        found = [name for name in TABLES if above + name in names]
        if len(found) > 1:
            raise InvalidMetadata(
                f"{repository} holds {' and '.join(directory + name for name in found)}:"
                " which one is meant? Keep one of them in the directory"
            )
        if found:
            return above + found[0]
    return None


def is_image(name: str) -> bool:
    """Return whether a file's name is one that images have."""
    return name.lower().endswith(_IMAGES)


def why_not_plain(name: str) -> str | None:
    """Return why a name can't be that of an image below the split's directory; None if it can.

    Names become paths of the cache. None may lead out of it, collide with one of its own files, or
    be refused by a file system. Directories are separated by ``/``.
    """
    drive = re.match("[A-Za-z]:", name)
    if drive or not name or name.startswith("/"):
        return (
            f"it begins with {drive[0]}, which is a drive on Windows"
            if drive
            else "it is a path of its own"
        )
    if "\\" in name:
        return "it has a backslash: separate directories by /"
    if name in TABLES:
        return f"it is {name} itself"
    if _CONTROL.search(name):
        return "it has control characters"
    if len(name.encode()) > _LONGEST_NAME:
        return f"it is longer than {_LONGEST_NAME:,} bytes"
    return next(filter(None, map(_why_not_a_component, name.split("/"))), None)


def are_usual(names: Sequence[str]) -> bool:
    """Return whether all these names are such that `why_not_plain` needn't be asked.

    None is a table's. It takes a fraction of the time: there may be a million of them.
    """
    text = "\n".join(names) + "\n"
    return (
        text.count("\n") == len(names)
        and _USUAL.fullmatch(text) is not None
        and not any(table in names for table in TABLES)
    )


def _why_not_a_component(part: str) -> str | None:
    if part in {"", ".", ".."}:
        return f"it has a component {part!r}"
    if part.startswith("."):
        return "it is hidden"
    if len(part.encode()) > _LONGEST_COMPONENT:
        return f"it is longer than {_LONGEST_COMPONENT} bytes"
    return None


def folded(name: str) -> str:
    """Return what two names have in common that a file system may take for one.

    Such a file system takes upper and lower case, or the Unicode forms of a letter, for the same.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def similar(name: str, names: Iterable[str]) -> str | None:
    """Return the first of these names that ``name`` may mean; None without one.

    It differs by case, Unicode form or edge blanks; otherwise by its directory; otherwise by its
    ending.
    """
    for how in (_bare, _without_directory, _without_ending):
        wanted = how(name)
        if (found := _first(names, wanted, how)) is not None:
            return found
    return None


def _first(names: Iterable[str], wanted: str, how: Callable[[str], str]) -> str | None:
    return next((each for each in names if not is_table(each) and how(each) == wanted), None)


def _bare(name: str) -> str:
    return folded(name).strip()


def _without_directory(name: str) -> str:
    return _bare(name.rpartition("/")[2])


def _without_ending(name: str) -> str:
    stem, _, ending = _without_directory(name).rpartition(".")
    return stem or ending
