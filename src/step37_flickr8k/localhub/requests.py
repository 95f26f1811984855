"""The log of what was asked: tests and benchmarks count requests here."""

import itertools
import threading
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Request:
    """One request that arrived."""

    method: str
    path: str
    """The path as sent, with its query."""
    kind: str
    """api (info, revision), tree, paths-info, resolve, xet-token, cdn, or other."""
    repo_path: str
    status: int
    """0 while there is no answer yet, and for ever after a reset before it."""
    authorization: bool
    """Whether an Authorization header came with it."""
    origin: Literal["hub", "cdn"]
    time: float
    """When it arrived, in seconds since the epoch."""
    bytes_sent: int
    """Bytes of the body that were handed to the socket."""
    user_agent: str
    header_names: tuple[str, ...] = ()
    """The names of its headers, in lower case."""
    client: str = ""
    """The address that it came from."""


class RequestLog:
    """The requests in the order of their arrival; may be read from any thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._numbers = itertools.count()

    def add(self, request: Request) -> int:
        """Note a request on arrival; return its number."""
        number = next(self._numbers)
        with self._lock:
            self._requests[number] = request
        return number

    def update(self, number: int, *, status: int, bytes_sent: int) -> None:
        """Note how far a request's answer has come, before those bytes leave.

        A request that was cleared isn't noted again.
        """
        with self._lock:
            if number in self._requests:
                self._requests[number] = replace(
                    self._requests[number], status=status, bytes_sent=bytes_sent
                )

    def read(self) -> tuple[Request, ...]:
        """Return all requests so far."""
        with self._lock:
            return tuple(self._requests.values())

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._requests.clear()
