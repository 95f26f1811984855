"""The manifest: what is verified of the split's files, a line for each.

``.step37-flickr8k/<split>.manifest`` is read by the downloader and by ``verify`` alone. It is
replaced as a whole. A line is a JSON list: name, size, digest, mtime in ns, and what
decoding has shown: decode error, another kind than the name says, pixels if they are too many.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.scan import Entry
from step37_flickr8k.dataset.names import is_table, why_not_plain
from step37_flickr8k.images.examined import FINE, Examined

__all__ = ["ManifestEntry", "read_manifest", "unchanged", "write_manifest"]

log = logging.getLogger("step37_flickr8k")

# A tuple for each line. Validated like this, a million lines take no longer and no more memory than
# with json.loads and checks by hand.
_LINE = TypeAdapter(tuple[str, int, str, int, str, str, int], config=ConfigDict(strict=True))


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
        with path.open("rb") as lines:
            for line in lines:
                name, size, digest, mtime_ns, error, kind, pixels = _LINE.validate_json(line)
                _check(name)
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


def _check(name: str) -> None:
    """Raise ValueError for a name that leads elsewhere: what is repaired would be written there."""
    if "/" in name and not is_table(name) and (why := why_not_plain(name)):
        raise ValueError(why)


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
