"""One file of the repository by ``hf_hub_download``, in a process of its own."""

import logging
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from step37_flickr8k.dataset.digests import digest_of
from step37_flickr8k.errors import (
    CacheDamaged,
    ErrorReport,
    FolderNotUsable,
    HubUnavailable,
    InvalidSettings,
    TransientError,
)
from step37_flickr8k.hub.api import PUBLIC_ENDPOINT
from step37_flickr8k.hub.certificates import check_certificates
from step37_flickr8k.hub.file_request import FileAnswer, FileRequest
from step37_flickr8k.hub.plain_http import warn_of_readable
from step37_flickr8k.hub.proxies import Proxies
from step37_flickr8k.hub.retry import (
    LONGEST_PAUSE,
    Fault,
    Unreachable,
    is_failed_attempt,
    most_attempts,
    pause_before,
    too_long,
)
from step37_flickr8k.settings.options import FetchOptions, HubOptions

__all__ = ["download_file"]

log = logging.getLogger("step37_flickr8k")

_MODULE = "step37_flickr8k.hub.download_process"
_SOURCE = Path(__file__).parents[2]  # the directory that holds this package


def download_file(
    repo_id: str, filename: str, cache_dir: Path, *, options: HubOptions, fetch: FetchOptions
) -> Path:
    """Return the path of a file, downloaded to ``cache_dir/<filename>`` or reused from there.

    Its bytes are hashed either way: huggingface_hub keeps a file with wrong bytes of the right
    size. Here such a file is downloaded once more, and refused the second time.
    """
    root = cache_dir.resolve()
    # huggingface_hub doesn't check the name.
    if not filename or not (root / filename).resolve().is_relative_to(root):
        raise FolderNotUsable(
            f"{filename!r} is outside of {cache_dir}: name a file of the repository"
        )
    Proxies().check()
    check_certificates()
    request = FileRequest(
        repo_id=repo_id,
        filename=filename,
        directory=str(root),
        endpoint=options.endpoint or PUBLIC_ENDPOINT,
        token=options.token,
        headers=dict(options.headers),
        offline=options.offline,
        force=False,
        connect_timeout=fetch.connect_timeout,
        read_timeout=fetch.read_timeout,
    )
    if not request.offline:
        warn_of_readable(request.endpoint, options)
    path = cache_dir / filename
    for force in (False, True):
        _Download(replace(request, force=force), fetch.attempts).run()
        if _matches_note(path, cache_dir, filename):
            return path
        log.warning("%s has other bytes than the Hub states: downloading it again", path)
    raise CacheDamaged(
        f"{path} has other bytes than {request.requested.repository} states, twice:"
        " is there a proxy that changes them?"
    )


class _Download:
    """The download of one file, under the one retry policy; each attempt is a process."""

    def __init__(self, request: FileRequest, attempts: int) -> None:
        self._request = request
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
        answer = _in_process(self._request)
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


def _in_process(request: FileRequest) -> FileAnswer:
    """Return what the process that downloads the file says of it."""
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, our module
            [sys.executable or "", "-m", _MODULE],
            input=request.as_json(),
            stdout=subprocess.PIPE,
            # -m searches the current directory first, where any file may be json.py.
            cwd=_SOURCE,
            env={
                **os.environ,
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


def _matches_note(path: Path, cache_dir: Path, filename: str) -> bool:
    """Return whether a file has the hash that huggingface_hub noted for it.

    That is its ETag: a sha256 (LFS) or the sha1 of a git blob. A file without a note matches.
    """
    note = cache_dir / ".cache" / "huggingface" / "download" / f"{filename}.metadata"
    try:
        etag = note.read_text(encoding="utf-8").splitlines()[1].strip()
    except (OSError, IndexError):
        return True
    kind = {64: "sha256", 40: "git-sha1"}.get(len(etag))
    if kind is None:
        return True
    with path.open("rb") as file:
        return digest_of(file, f"{kind}:") == f"{kind}:{etag}"
