"""One file of the repository by ``hf_hub_download``; the only user of huggingface_hub's client."""

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import errors as hub_errors

from step37_flickr8k import __version__
from step37_flickr8k.dataset.digests import digest_of
from step37_flickr8k.errors import (
    CacheDamaged,
    FolderNotUsable,
    HubUnavailable,
    InvalidSettings,
)
from step37_flickr8k.hub.certificates import check_certificates
from step37_flickr8k.hub.proxies import Proxies
from step37_flickr8k.hub.refusals import Refused, Requested, refusal
from step37_flickr8k.hub.retry import Fault, first_line, is_retriable, pause_before, requested_pause
from step37_flickr8k.settings.options import HubOptions

__all__ = ["download_file"]

log = logging.getLogger("step37_flickr8k")

# Whichever HTTP client this version of the library has, its errors share a base with the Hub's.
_CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    *(
        base
        for base in hub_errors.HfHubHTTPError.__mro__
        if base.__name__ == "HTTPError" and issubclass(base, Exception)
    ),
)


def download_file(
    repo_id: str, filename: str, cache_dir: Path, *, options: HubOptions, attempts: int
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
    download = _Download(repo_id, filename, cache_dir, options, attempts)
    for force in (False, True):
        path = download.run(force=force)
        if _matches_note(path, cache_dir, filename):
            return path
        log.warning("%s has other bytes than the Hub states: downloading it again", path)
    raise CacheDamaged(
        f"{path} has other bytes than {download.name} states, twice:"
        " is there a proxy that changes them?"
    )


class _Download:
    """The download of one file by ``hf_hub_download``, under the one retry policy."""

    def __init__(
        self, repo_id: str, filename: str, cache_dir: Path, options: HubOptions, attempts: int
    ) -> None:
        self._repo_id = repo_id
        self._filename = filename
        self._cache_dir = cache_dir
        self._options = options
        self._attempts = 1 if options.offline else attempts
        self._endpoint = options.endpoint or str(huggingface_hub.constants.ENDPOINT)
        self.name = f"{repo_id} at {self._endpoint}"

    def run(self, *, force: bool) -> Path:
        """Return the file's path; ``force`` downloads it even if it is there."""
        for attempt in range(1, self._attempts + 1):
            try:
                return self._download(force=force)
            except Fault as error:
                fault = error
            if attempt < self._attempts:
                pause = pause_before(attempt, fault, random.uniform(0.5, 1))  # noqa: S311 - jitter
                log.info("%s: %s, retrying in %.1f s", self.name, fault, pause)
                time.sleep(pause)
        if self._options.offline:
            raise InvalidSettings(
                f"offline is set and {self._filename} is not in {self._cache_dir}:"
                f" unset it once ({fault})"
            ) from fault
        raise HubUnavailable(
            f"{self.name} doesn't answer after {self._attempts} tries: {fault}"
        ) from fault

    def _download(self, *, force: bool) -> Path:
        """Make one attempt; raises `Fault` for what may be retried."""
        requested = Requested(
            repository=self.name,
            revision="main",
            path=self._filename,
            with_token=self._options.token is not None,
        )
        try:
            with _headers_stay_at(self._endpoint, self._options.headers):
                path = huggingface_hub.hf_hub_download(
                    self._repo_id,
                    self._filename,
                    repo_type="dataset",
                    local_dir=self._cache_dir,
                    endpoint=self._options.endpoint,
                    # Without a token of the settings False: with None the library would
                    # find one by itself.
                    token=self._options.token or False,
                    headers=dict(self._options.headers),
                    library_name="step37-flickr8k",
                    library_version=__version__,
                    local_files_only=self._options.offline,
                    force_download=force,
                )
        except hub_errors.HfHubHTTPError as error:
            raise _failure_of(error.response, requested) from error
        except _CONNECTION_ERRORS as error:
            raise Fault("connection", detail=first_line(error)) from error
        return Path(path)


def _failure_of(response: Any, requested: Requested) -> Exception:
    """Return an error answer as a `Fault` if it may be retried, else as what it means."""
    status = int(response.status_code)
    if is_retriable(status):
        return Fault(str(status), requested_pause(response.headers))
    return refusal(Refused(status, response.reason_phrase, response.headers), requested)


@contextmanager
def _headers_stay_at(endpoint: str, headers: Mapping[str, str]) -> Iterator[None]:
    """Keep headers from other origins than the endpoint's, for this thread and this context.

    The library itself hides the token from them, and copies all other headers into the request
    that a redirect leads to. Its client is shared by the process: a hook is added and removed.
    """
    if not headers:
        yield
        return
    thread = threading.get_ident()

    def remove_headers(request: Any) -> None:
        if threading.get_ident() == thread and _origin(str(request.url)) != _origin(endpoint):
            for name in ("Authorization", *headers):
                request.headers.pop(name, None)

    hooks = huggingface_hub.get_session().event_hooks["request"]
    hooks.append(remove_headers)
    try:
        yield
    finally:
        hooks.pop(hooks.index(remove_headers))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


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
