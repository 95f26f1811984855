"""The manifest: what is verified of the split's files, a line for each.

``.step37-flickr8k/<split>.manifest`` is read by the downloader and by ``verify`` alone. It is
replaced as a whole. A line is a JSON list: name, size, digest, mtime in ns, and what
decoding has shown: decode error, another kind than the name says, pixels if they are too many.
"""

import contextlib
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, BinaryIO, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.scan import Entry
from step37_flickr8k.dataset.names import are_usual, is_table, why_not_plain
from step37_flickr8k.images.examined import FINE, Examined

__all__ = [
    "Line",
    "ManifestEntry",
    "entry_of",
    "read_lines",
    "read_manifest",
    "unchanged",
    "write_manifest",
]

log = logging.getLogger("step37_flickr8k")

# Bytes, and files, that are read. A line has 150 bytes with the usual names, and takes 450 of
# memory.
_LARGEST, _MOST = 1 << 28, 1 << 21
# A name has at most 1,024 bytes and a decode error 200 characters, either six times as long as JSON
_LONGEST_LINE = 1 << 14
# What a file system can say of a file
_Number = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
# A tuple for each line. Validated like this, a million lines take no longer and no more memory than
# with json.loads and checks by hand.
Line: TypeAlias = tuple[str, _Number, str, _Number, str, str, _Number]
_LINE = TypeAdapter(Line, config=ConfigDict(strict=True))
_LINES = TypeAdapter(list[Line], config=ConfigDict(strict=True))


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A file whose bytes were hashed: size in bytes, digest, and mtime in ns.

    A later change shows in size or mtime. ``examined`` is what decoding the image has shown.
    """

    size: int
    digest: str
    mtime_ns: int
    examined: Examined = FINE

    @property
    def as_scanned(self) -> Entry:
        """What a scan shows while the file is unchanged."""
        return Entry(self.size, self.mtime_ns)


def read_manifest(directory: CacheDirectory) -> dict[str, ManifestEntry]:
    """Return what is verified of the split's files, by name.

    Empty if there is no manifest, or one that can't be read: then every file is hashed again.
    """
    return {name: entry_of(line) for name, line in read_lines(directory).items()}


def read_lines(directory: CacheDirectory) -> dict[str, Line]:
    """Return the lines of the manifest as `read_manifest` finds them, by name.

    That takes half the time, for those who need few entries.
    """
    path = directory.home / f"{directory.split}.manifest"
    found: dict[str, Line] = {}
    try:
        with directory.tree.open(path, _LARGEST) as file:
            for lines in _blocks(file):
                found.update(_parsed(lines, len(found)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        malformed = f"line {len(found) + 1} is malformed"
        reason = error.strerror if isinstance(error, OSError) else malformed
        log.warning("%s can't be read (%s): every file will be hashed", path, reason)
        return {}
    return found


def entry_of(line: Line) -> ManifestEntry:
    """Return the entry that a line holds."""
    _, size, digest, mtime_ns, error, kind, pixels = line
    examined = Examined(error, kind, pixels) if error or kind else FINE
    return ManifestEntry(size, digest, mtime_ns, examined)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield whole lines, together as many bytes as one may have; a longer one in parts."""
    rest = b""
    while content := rest + file.read(_LONGEST_LINE - len(rest)):
        end = content.rfind(b"\n") + 1 or len(content)
        yield content[:end]
        rest = content[end:]


def _parsed(lines: bytes, before: int) -> Iterator[tuple[str, Line]]:
    """Yield what lines hold, by name; raises ValueError for what is no line, after those before it.

    All together take half the time of one after the other.
    """
    found: list[Line] = []
    # Brackets and line ends could be a text's, but a text of JSON has no line end
    if lines[:1] == b"[" and lines[-2:] == b"]\n":
        with contextlib.suppress(ValueError):
            found = _LINES.validate_json(b"[" + lines[:-1].replace(b"\n", b",\n") + b"]")
    names = [line[0] for line in found]
    one_by_one: Iterable[Line] = found
    if not len(found) == lines.count(b"\n") == lines.count(b"]\n[") + 1:
        one_by_one = map(_LINE.validate_json, io.BytesIO(lines))
    elif before + len(found) <= _MOST and are_usual(names):
        yield from zip(names, found, strict=True)
        return
    for number, line in enumerate(one_by_one, before):
        _check(line[0], number)
        yield line[0], line


def _check(name: str, before: int) -> None:
    """Raise ValueError for a name that leads elsewhere: what is repaired would be written there.

    Also for one after too many others.
    """
    if not is_table(name) and (why := why_not_plain(name)):
        raise ValueError(why)
    if before >= _MOST:
        raise ValueError("too many files")


def write_manifest(directory: CacheDirectory, manifest: Mapping[str, ManifestEntry]) -> None:
    """Write a line for each verified file."""
    lines = (_line(name, entry) for name, entry in sorted(manifest.items()))
    directory.write(f"{directory.split}.manifest", "".join(lines).encode())


def _line(name: str, entry: ManifestEntry) -> str:
    shown = entry.examined
    values = (name, entry.size, entry.digest, entry.mtime_ns)
    return json.dumps([*values, shown.decode_error, shown.misnamed, shown.too_large]) + "\n"


def unchanged(
    manifest: Mapping[str, ManifestEntry], scan: Mapping[str, Entry]
) -> dict[str, ManifestEntry]:
    """Return the entries whose file the scan shows with the same size and mtime."""
    return {
        name: entry
        for name, entry in manifest.items()
        if (found := scan.get(name)) is not None
        and found.size == entry.size
        and found.mtime_ns == entry.mtime_ns
    }
