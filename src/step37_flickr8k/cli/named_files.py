"""Files that the user names for a page or an image."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from step37_flickr8k.cache.outputs import check_output, write_output
from step37_flickr8k.errors import InvalidSettings

__all__ = ["check_writable", "write"]


def check_writable(file: Path) -> None:
    """Raise `InvalidSettings` if a file can't be written; a file that exists isn't changed."""
    with _errors(file):
        check_output(file)


def write(file: Path, content: str | bytes) -> None:
    """Write a file as `write_output` does; raises `InvalidSettings` if that fails."""
    with _errors(file):
        write_output(file, content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidSettings(
            f"{file} can't be written: {error.strerror}; name another file"
        ) from error
