"""The Hub's API: the commit, the files with sizes and hashes, a single file; the only user of huggingface_hub."""

import logging
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from step37_flickr8k.errors import AccessDenied, HubUnavailable, RepositoryNotFound, RevisionNotFound, SplitNotFound
from step37_flickr8k.plan import METADATA, RemoteFile
from step37_flickr8k.settings import WarmupSettings

__all__ = ["Hub", "is_commit"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
_KIND = "dataset"
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a full commit, which needs no resolving."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


class Hub:
    """One dataset repository on the Hub."""

    def __init__(self, settings: WarmupSettings) -> None:
        """Name the repository and how to reach it; no request is made."""
        import huggingface_hub  # noqa: PLC0415 - half a second: only where it is needed

        self._settings = settings
        self._library: Any = huggingface_hub  # its types differ between versions
        # without a token of ours False, since True and None would have the library look for one by itself
        self.token = settings.token.get_secret_value() if settings.token else False
        self._api = huggingface_hub.HfApi(endpoint=settings.endpoint, token=self.token, library_name="step37-flickr8k")
        # whichever HTTP client this version of the library has: its errors share the base of the Hub's own
        bases = huggingface_hub.errors.HfHubHTTPError.__mro__
        self._transport_error: Any = next(base for base in bases if base.__name__ == "HTTPError")
        self.requests = 0

    @property
    def name(self) -> str:
        """The repository and where it is, for messages."""
        return f"{self._settings.repo_id} at {self._api.endpoint}"

    def resolve(self, revision: str) -> str:
        """Give the commit that a branch, tag or commit means now."""
        if is_commit(revision):
            return revision
        get = self._api.dataset_info
        repo_id = self._settings.repo_id
        return str(self._patiently(lambda: get(repo_id, revision=revision, expand=["sha"], timeout=30), revision).sha)

    def list_files(self, commit: str, split: str) -> dict[str, RemoteFile]:
        """Give the files right below ``<split>/`` by name; raises `SplitNotFound` without a metadata.csv among them."""

        def read_tree() -> dict[str, RemoteFile]:
            tree = self._api.list_repo_tree(self._settings.repo_id, split, revision=commit, repo_type=_KIND)
            files = (_remote_file(entry, split) for entry in tree if isinstance(entry, self._library.hf_api.RepoFile))
            return {file.name: file for file in files}

        missing = f"{self.name} holds no {split}/{METADATA} at {commit}: choose another split"
        try:
            files = self._patiently(read_tree, commit)
        except self._library.errors.EntryNotFoundError as error:
            raise SplitNotFound(missing) from error
        self.requests += len(files) // 1000  # the pages after the first
        if METADATA not in files:
            raise SplitNotFound(missing)
        return files

    def url(self, commit: str, split: str, name: str) -> str:
        """Give the address that serves a file's bytes, Xet-backed or not."""
        where = {"repo_type": _KIND, "revision": commit, "endpoint": self._settings.endpoint}
        return str(self._library.hf_hub_url(self._settings.repo_id, f"{split}/{name}", **where))

    def headers(self) -> dict[str, str]:
        """Give the headers of requests to the endpoint, and to no other origin, as the library itself sends them."""
        build = self._library.utils.build_hf_headers
        return dict(build(token=self.token, library_name="step37-flickr8k"))

    def download(self, filename: str, cache_dir: Path, revision: str | None) -> Path:
        """Download one file to ``cache_dir/<filename>`` with hf_hub_download, or reuse it."""
        get = self._library.hf_hub_download
        where = {"repo_type": _KIND, "revision": revision, "local_dir": cache_dir, "endpoint": self._settings.endpoint}
        try:
            return Path(self._patiently(lambda: get(self._settings.repo_id, filename, **where, token=self.token), str(revision)))
        except self._library.errors.EntryNotFoundError as error:
            raise SplitNotFound(f"{self.name} holds no {filename}: look at its list of files") from error

    def _patiently(self, call: Callable[[], _T], revision: str) -> _T:
        """Call the Hub, again after what may pass; anything else in plain words."""
        errors = self._library.errors
        for attempt in range(1, self._settings.attempts + 1):
            self.requests += 1
            try:
                return call()
            except errors.LocalEntryNotFoundError as error:  # hf_hub_download's word for "couldn't ask"
                reason: Exception = error
            except errors.EntryNotFoundError:
                raise
            except errors.RevisionNotFoundError as error:
                raise RevisionNotFound(f"{self.name} has no revision {revision}: choose a branch, tag or commit") from error
            except errors.GatedRepoError as error:
                raise AccessDenied(f"{self.name} is gated: ask for access on its page, then pass a token of that user") from error
            except errors.RepositoryNotFoundError as error:
                raise RepositoryNotFound(f"{self.name} {self._hidden()}") from error
            except errors.HfHubHTTPError as error:
                self._raise_if_final(error)
                reason = error
            except (self._transport_error, OSError) as error:
                reason = error
            if attempt < self._settings.attempts:
                pause = min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 - jitter
                log.info("the Hub can't answer now (%s), trying again in %.1f s", _first_line(reason), pause)
                time.sleep(pause)
        raise HubUnavailable(
            f"{self.name} doesn't answer after {self._settings.attempts} tries: {_first_line(reason)}"
        ) from reason

    def _hidden(self) -> str:
        if self.token:
            return "doesn't exist, or this token may not see it: check repo_id, and the token's rights"
        return "doesn't exist, or is private: check repo_id, or pass a token (HF_TOKEN or token_file)"

    def _raise_if_final(self, error: Any) -> None:
        status = error.response.status_code
        if status in {401, 403}:
            raise AccessDenied(f"{self.name} refuses the token ({status}): check that it is valid and may read it") from error
        if status not in _AGAIN:
            raise RepositoryNotFound(f"{self.name} can't be used: {_first_line(error)}") from error


def _remote_file(entry: Any, split: str) -> RemoteFile:
    digest = f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git-sha1:{entry.blob_id}"
    return RemoteFile(entry.path.removeprefix(f"{split}/"), entry.size, digest)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
