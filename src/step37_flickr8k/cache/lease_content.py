"""What a lease says on disk: who holds it, how far the holder is, and how it ended.

A lease is a JSON object in a file of its own, padded with spaces to 4096 bytes. Its bytes change
with every heartbeat.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from step37_flickr8k.cache.process import Process, exists, this_process
from step37_flickr8k.cluster.codec import read_progress
from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.errors import ErrorReport

__all__ = ["HEARTBEATS", "LARGEST", "Claim", "LeaseContent", "read_lease"]

# Heartbeats per timeout, and how many of them a holder that lives doesn't miss
HEARTBEATS = 8
_MISSED = 2

# A lease has this size from its first instant: on a full disk it can be rewritten in place, but it
# can't grow
_SIZE = 4096  # bytes
# Bytes that are read; a failure's message may take six times its characters as JSON
LARGEST = 1 << 16
_BEYOND = 1 << 63  # what no file, process or second is counted to
_USUAL_TIMEOUT = 120.0  # s, for a lease of an older version, which doesn't contain it


def _or(default: object) -> WrapValidator:
    """Return a validator that replaces a value that can't be read: an edited lease still counts."""

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            return default

    return WrapValidator(validate)


def _progress(value: object) -> Progress | None:
    try:
        progress = read_progress(value)
    # The state is written as text to be read, however deep it is
    except (ValueError, RecursionError):
        return None
    counts = (progress.files, progress.of_files, progress.bytes, progress.of_bytes)
    known = all(0 <= count < _BEYOND for count in (*counts, *progress.retries.values()) if count)
    return progress if known else None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who asks for the lease.

    A replaced pod has the same host and pid; ``process`` distinguishes them. It is None where the
    system doesn't say enough, and in a lease of an older version.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True)

    run: str | None
    rank: Annotated[int, Field(ge=0, lt=_BEYOND)]
    host: str
    pid: Annotated[int, Field(ge=0, lt=_BEYOND)]
    process: Annotated[Process | None, _or(None)] = None

    @staticmethod
    def of_this_process(*, run: str | None, rank: int, host: str) -> "Claim":
        """Return the claim of this very process."""
        return Claim(run=run, rank=rank, host=host, pid=os.getpid(), process=this_process())


@dataclass(frozen=True, kw_only=True)
class LeaseContent(Claim):
    """A lease as it is on disk.

    ``timeout`` is the silence, in seconds, after which another process may take it. ``heartbeats``
    counts how often the holder has rewritten it; until the first one there is no progress.
    """

    nonce: str
    timeout: Annotated[float, Field(ge=0, lt=_BEYOND), _or(_USUAL_TIMEOUT)] = _USUAL_TIMEOUT
    state: Literal["held", "released", "failed"] = "held"
    heartbeats: Annotated[int, Field(alias="beat", ge=0)] = 0
    progress: Annotated[Progress | None, PlainValidator(_progress)] = None
    failure: Annotated[ErrorReport | None, _or(None)] = None

    def silence_for(self, claim: Claim) -> float:
        """Return after how many seconds of silence the claim may take over, whatever the timeout.

        At once if the lease has ended, or if its holder was a process of this machine that no
        longer exists. Where that isn't known, the same rank of the same run was restarted: it may
        at once on the holder's host. Elsewhere the holder must have missed two heartbeats, since
        two living processes may take themselves for that rank.
        """
        if self.state != "held":
            return 0.0
        is_own_past = claim.run is not None and (self.run, self.rank) == (claim.run, claim.rank)
        # Clones of a virtual machine have the boot in common, but hardly the host's name
        is_here = self.host == claim.host
        lives = exists(self.pid, self.process) if is_here else None
        if lives and (self.pid, self.process) != (claim.pid, claim.process):
            return math.inf
        if lives is False:
            return 0.0
        if not is_own_past:
            return math.inf
        return 0.0 if is_here else _MISSED * self.timeout / HEARTBEATS

    def failure_for(self, claim: Claim) -> ErrorReport | None:
        """Return the failure that another rank of the claim's run has left here, if any."""
        is_same_run = claim.run is not None and self.run == claim.run
        is_other_rank = self.rank != claim.rank
        return self.failure if self.state == "failed" and is_same_run and is_other_rank else None

    def as_bytes(self) -> bytes:
        """Return the bytes on disk."""
        value: dict[str, object] = {
            "nonce": self.nonce,
            "state": self.state,
            "beat": self.heartbeats,
            "run": self.run,
            "rank": self.rank,
            "host": self.host,
            "pid": self.pid,
            "timeout": self.timeout,
        }
        if self.process:
            value["process"] = asdict(self.process)
        if self.heartbeats:
            value["progress"] = self.progress.as_json() if self.progress else {}
        if self.failure:
            value["failure"] = {"error": self.failure.error, "message": self.failure.message}
        return json.dumps(value).encode().ljust(_SIZE)


_READER = TypeAdapter(LeaseContent)


def read_lease(content: bytes) -> LeaseContent | None:
    """Return what a lease says; None if it was read in the middle of a heartbeat."""
    try:
        return _READER.validate_json(content)
    except ValidationError:
        return None
