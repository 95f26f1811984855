"""One file of the repository by ``hf_hub_download``, in a process of its own."""

import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from step37_flickr8k.errors import (
    ErrorReport,
    HubUnavailable,
    InvalidSettings,
    TransientError,
)
from step37_flickr8k.hub.file_request import FileAnswer, FileRequest
from step37_flickr8k.hub.retry import (
    LONGEST_PAUSE,
    Fault,
    Unreachable,
    is_failed_attempt,
    most_attempts,
    pause_before,
    too_long,
)

__all__ = ["fetch_file"]

log = logging.getLogger("step37_flickr8k")

_MODULE = "step37_flickr8k.hub.download_process"
# huggingface_hub can't be imported with one that is no whole number; a request has its own timeouts
_NOT_PASSED = {"HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"}
_SOURCE = Path(__file__).parents[2]  # the directory that holds this package


def fetch_file(request: FileRequest, attempts: int, descriptors: Sequence[int]) -> None:
    """Download a file by ``hf_hub_download``, or find that it is there.

    The process that does it has the ``descriptors`` by which ``request.opened`` is reached. What it
    has written isn't verified: huggingface_hub keeps a file with wrong bytes of the right size.
    """
    _Download(request, attempts, descriptors).run()


class _Download:
    """The download of one file, under the one retry policy; each attempt is a process."""

    def __init__(self, request: FileRequest, attempts: int, descriptors: Sequence[int]) -> None:
        self._request = request
        self._descriptors = descriptors
        self._attempts = 1 if request.offline else attempts
        self._reached = False

    def run(self) -> None:
        """Download the file, or find that it is there."""
        name, failed, asked = self._request.requested.repository, 0, 0.0
        while (fault := self._attempt()) is not None:
            failed += is_failed_attempt(fault)
            asked += fault.pause or 0.0
            if asked > LONGEST_PAUSE:
                raise HubUnavailable(
                    f"{name} can't be asked: {fault}: it asks for {too_long(asked)}"
                )
            if failed >= most_attempts(fault, self._attempts):
                raise self._given_up(fault, failed)
            pause = pause_before(failed, fault, random.uniform(0.5, 1))  # noqa: S311 - jitter
            log.info("%s: %s, retrying in %.1f s", name, fault, pause)
            time.sleep(pause)

    def _attempt(self) -> Fault | None:
        """Make one attempt; return what failed and may be retried, and raise what may not."""
        answer = _in_process(self._request, self._descriptors)
        if answer.error is not None:
            raise ErrorReport.from_json(answer.error).exception()
        if not answer.cause:
            return None
        if answer.connecting:
            first = not self._reached
            return Unreachable(answer.cause, detail=answer.detail, first_contact=first)
        self._reached = True
        return Fault(answer.cause, answer.pause, detail=answer.detail)

    def _given_up(self, fault: Fault, failed: int) -> Exception:
        request = self._request
        if request.offline:
            return InvalidSettings(
                f"offline is set and {request.filename} is not in {request.directory}:"
                f" unset it once ({fault})"
            )
        tries = f"{failed} {'try' if failed == 1 else 'tries'}"
        return HubUnavailable(f"{request.requested.repository} can't be asked: {fault} ({tries})")


def _in_process(request: FileRequest, descriptors: Sequence[int]) -> FileAnswer:
    """Return what the process that downloads the file says of it."""
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, our module
            [sys.executable or "", "-m", _MODULE],
            input=request.as_json(),
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
            # -m searches the current directory first, where any file may be json.py.
            cwd=_SOURCE,
            env={
                **{name: value for name, value in os.environ.items() if name not in _NOT_PASSED},
                "PYTHONPATH": os.pathsep.join(str(Path(each).absolute()) for each in sys.path),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "1" if request.offline else "0",
            },
            check=False,
        )
    except OSError as error:
        raise TransientError(
            f"the process that downloads {request.filename} can't start: {error}"
        ) from error
    *_, last = [b"", *done.stdout.splitlines()]
    try:
        return FileAnswer.from_json(last)
    except ValueError:
        raise TransientError(
            f"the process that downloads {request.filename} ended without an answer"
            f" (exit code {done.returncode}): what it wrote to stderr says why"
        ) from None
