"""What a lease says on disk: who holds it, how far the holder is, and how it ended.

A lease is a JSON object in a file of its own, padded with spaces to 4096 bytes. Its bytes change
with every heartbeat.
"""

import json
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
from step37_flickr8k.errors import ErrorReport, RankZeroLost

__all__ = ["Claim", "LeaseContent", "read_lease"]

# A lease has this size from its first instant: on a full disk it can be rewritten in place, but it
# can't grow
_SIZE = 4096  # bytes
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
        return read_progress(value)
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who asks for the lease.

    A replaced pod has the same host and pid; ``process`` distinguishes them. It is None where the
    system doesn't say enough, and in a lease of an older version.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True)

    run: str | None
    rank: int
    host: str
    pid: int
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
    timeout: Annotated[float, _or(_USUAL_TIMEOUT)] = _USUAL_TIMEOUT
    state: Literal["held", "released", "failed"] = "held"
    heartbeats: Annotated[int, Field(alias="beat")] = 0
    progress: Annotated[Progress | None, PlainValidator(_progress)] = None
    failure: Annotated[ErrorReport | None, _or(None)] = None

    @property
    def failure_text(self) -> str | None:
        """Why the holder failed, with the error's class; None if it didn't, or doesn't say."""
        if self.failure is None:
            return None
        # A signal that ended the holder is described by the message alone
        is_signal = self.failure.error == RankZeroLost.__name__
        message = self.failure.message
        return message if is_signal else f"{self.failure.error}: {message}"

    def may_pass_to(self, claim: Claim) -> bool:
        """Return whether the claim may take over at once.

        It may if the lease has ended, or if its holder was a process of this machine that no longer
        exists. Where that isn't known, the same rank of the same run may: it was restarted.
        """
        if self.state != "held":
            return True
        is_own_past = claim.run is not None and (self.run, self.rank) == (claim.run, claim.rank)
        # Clones of a virtual machine have the boot in common, but hardly the host's name
        lives = exists(self.pid, self.process) if self.host == claim.host else None
        if lives and (self.pid, self.process) != (claim.pid, claim.process):
            return False
        return is_own_past or lives is False

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
