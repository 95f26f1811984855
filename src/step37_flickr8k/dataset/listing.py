"""The files of a commit, with sizes and digests, packed so that a million of them fit in memory."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

__all__ = ["Chosen", "Listing", "RemoteFile"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the commit: name in the split, size in bytes, and digest.

    The digest is ``sha256:<hex>`` of a file in LFS, ``git-sha1:<hex>`` of a plain blob.
    """

    name: str
    size: int
    digest: str


class Listing(Mapping[str, RemoteFile]):
    """The files of a commit by name, packed: about 200 bytes a file, even for a million files.

    ``is_whole`` is whether the commit has no others.
    """

    _KINDS = (("sha256", 32), ("git-sha1", 20))

    def __init__(self, files: Iterable[RemoteFile] = (), *, is_whole: bool = True) -> None:
        """Add the files, in order."""
        self.is_whole = is_whole
        self._index: dict[str, int] = {}
        self._names: list[str] = []
        self._sizes = array("Q")
        self._kinds = bytearray()
        self._digests = bytearray()  # 32 bytes each
        for file in files:
            self.add(file)

    def add(self, file: RemoteFile) -> None:
        """Add a file; the same file twice counts once.

        Raises ValueError for an impossible size or digest, or when another file has its name.
        """
        kind, _, digest = file.digest.partition(":")
        raw = bytes.fromhex(digest)
        if (kind, len(raw)) not in self._KINDS or not 0 <= file.size < 1 << 63:
            raise ValueError(f"{file.name}: {file.size} bytes, {file.digest}")
        if (known := self._index.setdefault(file.name, len(self._names))) < len(self._names):
            if self.at(known) != file:
                raise ValueError(
                    f"{file.name} is there twice, as {self.at(known).digest} and as {file.digest}"
                )
        else:
            self._names.append(file.name)
            self._sizes.append(file.size)
            self._kinds.append(self._KINDS.index((kind, len(raw))))
            self._digests += raw.ljust(32, b"\0")

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> RemoteFile:
        return self.at(self._index[name])

    def position(self, name: str) -> int | None:
        """Return a file's number; None if there is no such file."""
        return self._index.get(name)

    def at(self, number: int) -> RemoteFile:
        """Return a file by its number."""
        kind, length = self._KINDS[self._kinds[number]]
        digest = self._digests[32 * number : 32 * number + length].hex()
        return RemoteFile(self._names[number], self._sizes[number], f"{kind}:{digest}")


class Chosen(Sequence[RemoteFile]):
    """Some files of a listing, in order, stored as a number each."""

    def __init__(self, listing: Listing, numbers: Iterable[int]) -> None:
        """Choose files by their numbers in the listing."""
        self._listing = listing
        self._numbers = array("Q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[RemoteFile]:
        return map(self._listing.at, self._numbers)

    @overload
    def __getitem__(self, key: int) -> RemoteFile: ...
    @overload
    def __getitem__(self, key: slice) -> "Chosen": ...
    def __getitem__(self, key: int | slice) -> "RemoteFile | Chosen":
        if isinstance(key, slice):
            return Chosen(self._listing, self._numbers[key])
        return self._listing.at(self._numbers[key])
