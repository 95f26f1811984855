"""What the process that downloads a single file is asked for, and what it answers."""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from step37_flickr8k.hub.refusals import Requested

__all__ = ["FileAnswer", "FileRequest"]


@dataclass(frozen=True)
class FileRequest:
    """What to download, and how; times in seconds.

    ``opened`` is a path to ``directory`` for the process that downloads.
    """

    repo_id: str
    filename: str
    directory: str
    opened: str
    endpoint: str
    token: str | None
    headers: Mapping[str, str]
    offline: bool
    force: bool
    connect_timeout: float
    read_timeout: float

    @property
    def requested(self) -> Requested:
        """What is asked for, for messages."""
        return Requested(
            repository=f"{self.repo_id} at {self.endpoint}",
            revision="main",
            path=self.filename,
            with_token=self.token is not None,
        )

    def as_json(self) -> bytes:
        """Return it as the line that `from_json` reads."""
        return json.dumps(astuple(self)).encode() + b"\n"

    @staticmethod
    def from_json(line: bytes) -> "FileRequest":
        """Read what `as_json` wrote."""
        return FileRequest(*json.loads(line))


@dataclass(frozen=True)
class FileAnswer:
    """What became of a request: a fault with a cause, an error, or neither if the file is there.

    ``connecting`` says that no connection was made. ``error`` is an `ErrorReport` as JSON.
    """

    cause: str = ""
    pause: float | None = None
    detail: str = ""
    connecting: bool = False
    error: Mapping[str, str] | None = None

    def as_json(self) -> bytes:
        """Return it as the line that `from_json` reads."""
        return json.dumps(astuple(self)).encode() + b"\n"

    @staticmethod
    def from_json(line: bytes) -> "FileAnswer":
        """Read what `as_json` wrote."""
        return FileAnswer(*json.loads(line))
