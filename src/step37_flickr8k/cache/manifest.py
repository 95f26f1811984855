"""The manifest: what is verified of the split's files, a line for each.

``.step37-flickr8k/<split>.manifest`` is read by the downloader and by ``verify`` alone. It is
replaced as a whole. A line is a JSON list: name, size, digest, mtime in ns, and what
decoding has shown: decode error, another kind than the name says, pixels if they are too many.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.scan import Entry
from step37_flickr8k.dataset.names import is_table, why_not_plain
from step37_flickr8k.images.examined import FINE, Examined

__all__ = ["ManifestEntry", "read_manifest", "unchanged", "write_manifest"]

log = logging.getLogger("step37_flickr8k")

# Bytes, and files, that are read. A line has 150 bytes with the usual names, and takes 450 of
# memory.
_LARGEST, _MOST = 1 << 28, 1 << 21
# A name has at most 1,024 bytes and a decode error 200 characters, either six times as long as JSON
_LONGEST_LINE = 1 << 14
_PLAIN = re.compile("[0-9A-Za-z_-][0-9A-Za-z_.-]{0,199}")
# What a file system can say of a file
_Number = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
# A tuple for each line. Validated like this, a million lines take no longer and no more memory than
# with json.loads and checks by hand.
_LINE = TypeAdapter(
    tuple[str, _Number, str, _Number, str, str, _Number], config=ConfigDict(strict=True)
)


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A file whose bytes were hashed: size in bytes, digest, and mtime in ns.

    A later change shows in size or mtime. ``examined`` is what decoding the image has shown.
    """

    size: int
    digest: str
    mtime_ns: int
    examined: Examined = FINE


def read_manifest(directory: CacheDirectory) -> dict[str, ManifestEntry]:
    """Return what is verified of the split's files, by name.

    Empty if there is no manifest, or one that can't be read: then every file is hashed again.
    """
    path = directory.home / f"{directory.split}.manifest"
    manifest: dict[str, ManifestEntry] = {}
    try:
        with directory.tree.open(path, _LARGEST) as lines:
            while line := lines.readline(_LONGEST_LINE):
                name, size, digest, mtime_ns, error, kind, pixels = _LINE.validate_json(line)
                _check(name, len(manifest))
                examined = Examined(error, kind, pixels) if error or kind else FINE
                manifest[name] = ManifestEntry(size, digest, mtime_ns, examined)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        malformed = f"line {len(manifest) + 1} is malformed"
        reason = error.strerror if isinstance(error, OSError) else malformed
        log.warning("%s can't be read (%s): every file will be hashed", path, reason)
        return {}
    return manifest


def _check(name: str, before: int) -> None:
    """Raise ValueError for a name that leads elsewhere: what is repaired would be written there.

    Also for one after too many others.
    """
    # Most names are plain, and there may be a million
    if not _PLAIN.fullmatch(name) and not is_table(name) and (why := why_not_plain(name)):
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
        if scan.get(name) == Entry(entry.size, entry.mtime_ns)
    }
