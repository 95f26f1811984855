"""A directory as a dataset repository: its files with their hashes, its commit, its tree."""

import bisect
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .files import NotBelow, files_below, open_below
from .xet import seed

PARQUET = "refs/convert/parquet"
"""The revision under which the Hub keeps its conversion of a dataset to Parquet."""
PLAIN_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".md", ".txt"})


@dataclass(frozen=True)
class RepoFile:
    """One file as it was when the directory was scanned."""

    repo_path: str
    root: Path
    """The directory that was scanned, without links in its path."""
    source: Path
    size: int
    mtime_ns: int
    oid: str
    """The git blob sha1: of the file itself, or of its pointer file if it is an LFS file."""
    sha256: str | None
    """The sha256 of an LFS file; None for a file that git holds itself."""
    pointer_size: int = 0
    xet: str = ""
    """The hash under which the Xet store holds an LFS file, if there is one."""

    @property
    def etag(self) -> str:
        """The file's ETag on the Hub: the sha256 of an LFS file, the git blob sha1 of others."""
        return self.sha256 or self.oid

    @property
    def lfs(self) -> dict[str, Any] | None:
        """Sha256, size and pointer size in bytes, as the Hub names them; None for a plain file."""
        if self.sha256 is None:
            return None
        return {"oid": self.sha256, "size": self.size, "pointerSize": self.pointer_size}

    def open(self) -> int | None:
        """Return a descriptor of the file; None if it isn't that of the scan any more.

        It has that one's size and mtime, and is a regular file below the same directory.
        """
        try:
            descriptor = open_below(self.root, self.source)
        except NotBelow:
            return None
        found = os.fstat(descriptor)
        if (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns):
            return descriptor
        os.close(descriptor)
        return None

    def is_unchanged(self) -> bool:
        """Return whether `open` would open it."""
        if (descriptor := self.open()) is None:
            return False
        os.close(descriptor)
        return True


@dataclass(frozen=True)
class Snapshot:
    """All files of one commit."""

    commit: str
    files: Mapping[str, RepoFile]
    directories: Mapping[str, str]
    """Directory path -> tree oid, without the root."""

    def has_directory(self, directory: str) -> bool:
        """Return whether the commit holds this directory; "" is the root."""
        return directory == "" or directory in self.directories

    def names_below(self, directory: str, *, recursive: bool) -> list[str]:
        """Return the sorted paths of the files and directories in ``directory``.

        With ``recursive`` they are those anywhere below it.
        """
        prefix = f"{directory}/" if directory else ""
        below = (name for name in (*self.files, *self.directories) if name.startswith(prefix))
        return sorted(name for name in below if recursive or "/" not in name[len(prefix) :])

    def page(self, names: list[str], *, after: str, size: int) -> tuple[list[str], str | None]:
        """Return the page of at most ``size`` names after ``after``, and the next page's cursor.

        The cursor is None after the last page.
        """
        start = bisect.bisect_right(names, after) if after else 0
        page = names[start : start + size]
        return page, page[-1] if start + size < len(names) else None

    def entry(self, name: str, *, expand: bool) -> dict[str, Any]:
        """Describe a file or directory as the Hub's tree does; ``expand`` adds the last commit."""
        file = self.files.get(name)
        if file is None:
            entry: dict[str, Any] = {
                "type": "directory",
                "oid": self.directories[name],
                "size": 0,
                "path": name,
            }
        else:
            entry = {"type": "file", "oid": file.oid, "size": file.size, "path": name}
            if file.lfs is not None:
                entry["lfs"] = file.lfs
            if file.xet:
                entry["xetHash"] = file.xet
        if expand:
            entry["lastCommit"] = {
                "id": self.commit,
                "title": "Add the files",
                "date": "2024-01-01T00:00:00.000Z",
            }
        return entry


class Repository:
    """The commits of one directory: the current one, and older ones that are to stay listed."""

    def __init__(
        self,
        directory: Path,
        revisions: tuple[str, ...] = (),
        parquet: Path | None = None,
        xet: Path | None = None,
    ) -> None:
        """Scan ``directory``.

        ``revisions`` are further branches or tags of the current commit, besides main. ``parquet``
        is the directory of its Parquet conversion, ``xet`` that of a store for its LFS files.
        Raises NotADirectoryError when there is no such directory.
        """
        self._directory = directory
        self._branches = frozenset({"main", *revisions})
        self._kept: dict[str, Snapshot] = {}
        self._parquet = None if parquet is None else scan(parquet)
        self._xet = xet
        self.current = self._scan()

    def rescan(self, *, keep_old: bool = False) -> str:
        """Make a new commit of what the directory holds now.

        ``keep_old`` lets the old commit's id resolve further.
        """
        if keep_old:
            self._kept[self.current.commit] = self.current
        self.current = self._scan()
        return self.current.commit

    def at(self, revision: str) -> Snapshot | None:
        """Find the snapshot of a branch, tag or full commit id; None if it is not listed."""
        if revision in self._branches or revision == self.current.commit:
            return self.current
        return self._parquet if revision == PARQUET else self._kept.get(revision)

    def find(self, repo_path: str, sha256: str) -> RepoFile | None:
        """Find an LFS file by its hash, as a CDN does: it knows no revisions."""
        for snapshot in filter(None, (self.current, self._parquet)):
            file = snapshot.files.get(repo_path)
            if file is not None and file.sha256 == sha256:
                return file
        return None

    def _scan(self) -> Snapshot:
        found = scan(self._directory)
        return found if self._xet is None else _backed(found, self._xet)


def scan(directory: Path) -> Snapshot:
    """Return a snapshot of all regular files below ``directory`` except hidden ones.

    Every file is hashed, and the commit is derived from paths and hashes: equal directories have
    equal commits, on every machine. Raises NotADirectoryError when there is no such directory.
    """
    if not directory.is_dir():
        wanted = "<split>/metadata.csv and <split>/*.jpg"
        message = f"{directory} is not a directory: name one that holds {wanted}"
        raise NotADirectoryError(message)
    directory = directory.resolve()
    with ThreadPoolExecutor() as pool:
        files = {
            file.repo_path: file
            for file in pool.map(lambda path: _hash(directory, path), files_below(directory))
        }
    listing = "".join(f"{name}\0{files[name].etag}\n" for name in sorted(files))
    directories = sorted(
        {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    )
    return Snapshot(
        commit=hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest(),
        files=files,
        directories={
            name: _git_oid(b"tree", f"{name}\0{listing}".encode()) for name in directories
        },
    )


def _backed(snapshot: Snapshot, store: Path) -> Snapshot:
    """Put a snapshot's LFS files into a Xet store."""
    hashes = seed(store, [file.source for file in snapshot.files.values() if file.sha256])
    return replace(
        snapshot,
        files={n: replace(f, xet=hashes.get(f.source, "")) for n, f in snapshot.files.items()},
    )


def _hash(directory: Path, source: Path) -> RepoFile:
    with os.fdopen(open_below(directory, source), "rb") as file:
        status = os.fstat(file.fileno())
        content = file.read()
    sha256: str | None = None
    pointer = b""
    if source.suffix not in PLAIN_SUFFIXES and source.name != ".gitattributes":
        sha256 = hashlib.sha256(content).hexdigest()
        version = "version https://git-lfs.github.com/spec/v1"
        pointer = f"{version}\noid sha256:{sha256}\nsize {len(content)}\n".encode()
    return RepoFile(
        repo_path=source.relative_to(directory).as_posix(),
        root=directory,
        source=source,
        size=len(content),
        mtime_ns=status.st_mtime_ns,
        oid=_git_oid(b"blob", pointer or content),
        sha256=sha256,
        pointer_size=len(pointer),
    )


def _git_oid(kind: bytes, content: bytes) -> str:
    return hashlib.sha1(
        b"%s %d\0%s" % (kind, len(content), content), usedforsecurity=False
    ).hexdigest()
