"""What a file system can do, found out with temporary files that are deleted at once.

A run asks nothing of this beforehand but whether names that differ are two: it meets a refusal
where it happens, and does without. This is for `doctor`, which says what that means.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.scan import nearest
from step37_flickr8k.cache.tree import Tree

__all__ = ["TRIED", "Lack", "distinguishes", "try_capabilities"]

_LONGEST_NAME = 255  # bytes
_PAUSE = 0.02  # s between two writes that get different times on most file systems


@dataclass(frozen=True)
class Lack:
    """Something that a file system can't do, how that showed, and what a run does without it."""

    what: str
    how: str
    without: str
    needed: bool = False


@dataclass(frozen=True)
class _Names:
    """Makes new names, each with an ending of its own, for files of ``tree``."""

    tree: Tree
    make: Callable[[str], Path]

    def __call__(self, end: str) -> Path:
        return self.make(end)


@dataclass(frozen=True)
class _Trial:
    """What is tried; ``attempt`` returns how a lack shows, or nothing; an OSError shows it, too."""

    what: str
    attempt: Callable[[_Names], str]
    without: str
    needed: bool = False


def try_capabilities(directory: CacheDirectory) -> Iterator[Lack]:
    """Yield what the file system of a cache directory, or of its nearest parent, can't do."""
    parent, made, tree = nearest(directory.home), list[Path](), directory.tree

    def name(end: str) -> Path:
        path = directory.temporary(parent)
        made.append(path.with_name(path.name + end))
        return made[-1]

    for trial in _TRIALS:
        try:
            how = trial.attempt(_Names(tree, name))
        except OSError as error:
            how = error.strerror or str(error)
        except UnicodeEncodeError as error:
            how = f"this process writes names in {error.encoding}"
        finally:
            while made:
                tree.forget(made.pop())
        if how:
            yield Lack(trial.what, how, trial.without, trial.needed)
            if trial.attempt is _delete:
                # Whatever else is tried would stay there
                return


def distinguishes(directory: CacheDirectory, one: str, other: str) -> bool:
    """Return whether the split's directory holds two names that differ in such an ending.

    A name that can't be stored there at all isn't taken for another one.
    """
    path = directory.temporary()
    path = path.with_name(path.name + one)
    try:
        return not _distinguish(one, other)(_Names(directory.tree, lambda _: path))
    except (OSError, UnicodeEncodeError):
        return True
    finally:
        directory.tree.forget(path)


def _delete(name: _Names) -> str:
    path = name("")
    os.close(name.tree.create(path))
    name.tree.unlink(path)
    return ""


def _link(name: _Names) -> str:
    first, second = name(""), name("")
    name.tree.write_new(first, b"1", durably=False)
    name.tree.link(first, second)
    return "" if name.tree.read(second) == b"1" else "the link shows other bytes"


def _create_exclusively(name: _Names) -> str:
    path = name("")
    os.close(name.tree.create(path))
    try:
        os.close(name.tree.create(path))
    except FileExistsError:
        return ""
    return "a name can be created twice"


def _overwrite(name: _Names) -> str:
    path = name("")
    name.tree.write_new(path, b"before", durably=False)
    name.tree.overwrite(path, b"after")
    return "" if name.tree.read(path) == b"after" else "the old bytes stay"


def _replace(name: _Names) -> str:
    first, second = name(""), name("")
    name.tree.write_new(first, b"new", durably=False)
    name.tree.write_new(second, b"old", durably=False)
    name.tree.rename(first, second)
    return "" if name.tree.read(second) == b"new" else "the old bytes stay"


def _sync(name: _Names) -> str:
    path = name("")
    descriptor = name.tree.create(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return ""


def _keep_times(name: _Names) -> str:
    first, second = name(""), name("")
    name.tree.write_new(first, b"1", durably=False)
    before = name.tree.rename(first, second).st_mtime_ns
    return "" if name.tree.status(second).st_mtime_ns == before else "a rename changes it"


def _distinguish_times(name: _Names) -> str:
    first, second = name(""), name("")
    name.tree.write_new(first, b"1", durably=False)
    time.sleep(_PAUSE)
    name.tree.write_new(second, b"1", durably=False)
    same = name.tree.status(first).st_mtime_ns == name.tree.status(second).st_mtime_ns
    return f"two writes {_PAUSE * 1000:.0f} ms apart have one time" if same else ""


def _name_ending(end: str) -> Callable[[_Names], str]:
    def attempt(name: _Names) -> str:
        path = name(end)
        os.close(name.tree.create(path))
        listed = name.tree.names(path.parent)
        return "" if path.name in listed else "it is listed under another name"

    return attempt


def _long_name(name: _Names) -> str:
    path = name("")
    return _name_ending("x" * (_LONGEST_NAME - len(os.fsencode(path.name))))(name)


def _distinguish(one: str, other: str) -> Callable[[_Names], str]:
    def attempt(name: _Names) -> str:
        path = name(one)
        os.close(name.tree.create(path))
        alias = path.with_name(path.name.removesuffix(one) + other)
        return "one is the other" if name.tree.exists(alias) else ""

    return attempt


_REFUSED = "images with such names can't be stored: a selection that has one ends with 2"
_SAME = "images whose names differ in this alone can't be stored: such a selection ends with 2"
_TRIALS = (
    _Trial(
        "deleting files",
        _delete,
        "what a killed run leaves unfinished stays and takes space; nothing else was tried",
    ),
    _Trial("hard links", _link, "none is needed: the lease is created exclusively instead"),
    _Trial(
        "exclusive creation",
        _create_exclusively,
        "two jobs that start together may both download; what they write is the same",
    ),
    _Trial(
        "overwriting a file",
        _overwrite,
        "choose another cache_dir: the lease's heartbeats can't be written, and a download that"
        " takes longer than its timeout ends",
        needed=True,
    ),
    _Trial(
        "renames over a file",
        _replace,
        "choose another cache_dir: nothing can be replaced there",
        needed=True,
    ),
    _Trial("fsync", _sync, "a power cut may cost files; the next run fetches them again"),
    _Trial("times that stay", _keep_times, "every warmup hashes all files: each seems to be new"),
    _Trial(
        "fine times",
        _distinguish_times,
        "a change that keeps size and time isn't noticed; verify finds it",
    ),
    _Trial("names of 255 bytes", _long_name, _REFUSED),
    _Trial("':' in names", _name_ending(":x"), _REFUSED),
    _Trial("'\u00e9' in names", _name_ending("\u00e9"), _REFUSED),
    _Trial("names that end with a dot", _name_ending("x."), _REFUSED),
    _Trial("upper and lower case", _distinguish("a", "A"), _SAME),
    _Trial("Unicode forms", _distinguish("\u00e9", "e\u0301"), _SAME),
)
TRIED = tuple(trial.what for trial in _TRIALS)
