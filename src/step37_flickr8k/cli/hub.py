"""The command ``hub``: serve a directory as a dataset repository."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from step37_flickr8k import localhub
from step37_flickr8k.cli.output import print_json, print_lines
from step37_flickr8k.dataset.names import TABLES
from step37_flickr8k.errors import InvalidSettings

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Serve until the process is interrupted or terminated."""
    if not _holds_a_split(parsed.directory):
        raise InvalidSettings(
            f"{parsed.directory} holds no split: name a directory with <split>/{TABLES[0]}, or"
            f" another table ({', '.join(TABLES[1:])}), and the images"
        )
    hub = localhub.LocalHub(
        parsed.directory,
        repo_id=parsed.repo_id,
        host=parsed.host,
        port=parsed.port,
        parquet=parsed.parquet,
    )
    if parsed.delay:
        hub.faults.add(localhub.Fault.delay(parsed.delay))

    def announce(hub: localhub.LocalHub) -> None:
        serving = f"serving {parsed.directory} as {parsed.repo_id} at commit {hub.commit}"
        # A full or closed stderr is no reason not to serve
        with contextlib.suppress(OSError):
            if not parsed.quiet:
                print(f"{serving}; press Ctrl-C to stop", file=sys.stderr)
        if parsed.json:
            print_json({"endpoint": hub.endpoint, "repo_id": parsed.repo_id, "commit": hub.commit})
        else:
            print_lines(f"export HF_ENDPOINT={hub.endpoint}")

    try:
        localhub.run(hub, on_ready=announce)
    except OSError as error:
        raise InvalidSettings(f"can't serve {parsed.directory}: {error}") from error
    return 0


def _holds_a_split(directory: Path) -> bool:
    """Return whether a table is in the directory, or in one of its own; true if it can't be read.

    What can't be read is named by the server.
    """
    try:
        return any((each / name).is_file() for each in _within(directory) for name in TABLES)
    except OSError:
        return True


def _within(directory: Path) -> Iterator[Path]:
    yield directory
    yield from (each for each in directory.iterdir() if each.is_dir())
