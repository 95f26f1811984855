"""The Hub's API: the commit, the files with sizes and hashes, a single file; the only user of huggingface_hub."""

import contextlib
import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from step37_flickr8k.dataset.digests import digest_of
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.errors import (
    AccessDenied,
    CacheDamaged,
    FolderNotUsable,
    HubUnavailable,
    InvalidMetadata,
    InvalidSettings,
    RepositoryNotFound,
    RevisionNotFound,
    SplitNotFound,
    Step37Error,
)
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.hub.source import TransferStatistics
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.signals import awaited

__all__ = ["Hub", "is_commit"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
_NAME = "step37-flickr8k"  # of our distribution
_KIND = "dataset"
_PARQUET = "refs/convert/parquet"
_FEW = 2  # tries for a listing that can be done without
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_STRANGE = (ValueError, TypeError, KeyError, AttributeError)  # what a listing raises that isn't one
# Whose request this thread makes
_ASKING: ContextVar["Hub | None"] = ContextVar("_ASKING", default=None)


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a full commit, which needs no resolving."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


class Hub:
    """One dataset repository on the Hub."""

    def __init__(self, settings: WarmupSettings) -> None:
        """Name the repository and how to reach it; no request is made."""
        import huggingface_hub.constants  # noqa: PLC0415 - a fifth of a second: only where it is needed
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415

        self._settings = settings
        self._library: Any = huggingface_hub  # its types differ between versions
        self.endpoint = settings.endpoint or str(self._library.constants.ENDPOINT)
        # without a token of ours False, since True and None would have the library look for one by
        # itself
        self.token = settings.token.get_secret_value() if settings.token else False
        self._headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._as: dict[str, Any] = {
            "token": self.token,
            "library_name": _NAME,
            "library_version": _version(),
        }
        # whichever HTTP client this version of the library has: its errors share the base of the
        # Hub's own
        bases = huggingface_hub.errors.HfHubHTTPError.__mro__
        self._transport_error: Any = next(base for base in bases if base.__name__ == "HTTPError")
        self.requests = 0
        self.retries: Counter[str] = Counter()  # by cause
        self._counting = threading.Lock()
        self._parquet: Future[list[RemoteFile]] | None = None

    @property
    def name(self) -> str:
        """The repository and where it is, for messages."""
        return f"{self._settings.repo_id} at {self.endpoint}"

    def resolve(self, revision: str) -> str:
        """Give the commit that a branch, tag or commit means now."""
        if is_commit(revision):
            return revision
        answer, _ = self._ask(f"revision/{quote(revision, safe='')}", {"expand": "sha"}, revision)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not is_commit(commit):
            raise InvalidMetadata(
                f"{self.name} names no commit of {revision}: is {self.endpoint} a Hub?"
            )
        return commit

    @property
    def quota(self) -> int | None:
        """File requests that the public Hub grants in five minutes at the least; None for other addresses."""
        public = self.endpoint == self._library.constants._HF_DEFAULT_ENDPOINT  # noqa: SLF001 - else its name stood here
        return (5000 if self.token else 3000) if public else None

    def look(self, commit: str, split: str) -> Mapping[str, str]:
        """Ask for metadata.csv without its bytes, as files are asked for; gives the headers of the answer."""

        def head() -> Any:
            ways: dict[str, Any] = {
                "headers": self.headers(),
                "timeout": 30,
                "follow_redirects": False,
            }
            with self._session() as session:
                answer = session.head(f"{self.base(commit, split)}{METADATA}", **ways)
            if answer.status_code >= 400:
                self._library.utils.hf_raise_for_status(answer)
            return answer

        try:
            headers: Mapping[str, str] = self._patiently(head, commit).headers
        except self._library.errors.EntryNotFoundError as error:
            raise SplitNotFound(
                f"{self.name} holds no {split}/{METADATA} at {commit}: choose another split"
            ) from error
        return headers

    def list_files(self, commit: str, split: str) -> Listing:
        """Give the files right below ``<split>/`` by name; raises `SplitNotFound` without a metadata.csv among them."""
        missing = f"{self.name} holds no {split}/{METADATA} at {commit}: choose another split"
        try:
            files = Listing(_remote_file(entry, split) for entry in self._tree(commit, split))
        except self._library.errors.EntryNotFoundError as error:
            raise SplitNotFound(missing) from error
        except _STRANGE as error:
            raise InvalidMetadata(
                f"{self.name}: the listing at {commit} makes no sense ({error}): tell its owner"
            ) from error
        if METADATA not in files:
            raise SplitNotFound(missing)
        return files

    def look_for_parquet(self, split: str) -> None:
        """Begin to list the split's Parquet conversion in the background, for `list_parquet` to give."""
        found = self._parquet = Future()

        def look() -> None:
            try:
                found.set_result(self._list_parquet(split))
            except Exception as error:  # noqa: BLE001 - for who asks for it
                found.set_exception(error)

        threading.Thread(target=look, name="step37-listing", daemon=True).start()

    def list_parquet(self, split: str) -> list[RemoteFile]:
        """Give the files of the split's Parquet conversion, named from the root; empty if there is none.

        In auto mode it can be done without, so that it isn't tried often.
        """
        return self._list_parquet(split) if self._parquet is None else awaited(self._parquet)

    def _list_parquet(self, split: str) -> list[RemoteFile]:
        attempts = (
            min(_FEW, self._settings.attempts) if self._settings.fetch_mode == "auto" else None
        )
        try:
            tree = self._tree(_PARQUET, recursive=True, attempts=attempts)
            files = Listing(_remote_file(entry, "") for entry in tree).values()
        except (RevisionNotFound, self._library.errors.EntryNotFoundError):
            return []
        except _STRANGE as error:
            raise InvalidMetadata(
                f"{self.name}: the listing of {_PARQUET} makes no sense ({error})"
            ) from error
        of_split = [
            f
            for f in files
            if f.name.endswith(".parquet")
            and f.name.split("/")[1:-1] in ([split], [f"partial-{split}"])
        ]
        configurations = {file.name.split("/")[0] for file in of_split}
        chosen = "default" if "default" in configurations else min(configurations, default="")
        return [file for file in of_split if file.name.startswith(f"{chosen}/")]

    def _tree(
        self,
        revision: str,
        directory: str = "",
        *,
        recursive: bool = False,
        attempts: int | None = None,
    ) -> Iterator[Mapping[str, Any]]:
        """Give the files of a directory, a page at a time: one that fails is asked for again, not all those before it.

        Not by ``HfApi.list_repo_tree``: loading that is a fifth of a warm start, and it sends the
        token wherever a link leads.
        """
        where = f"tree/{quote(revision, safe='')}" + (f"/{quote(directory)}" if directory else "")
        entries, following = self._ask(
            where, {"recursive": recursive, "expand": False}, revision, attempts
        )
        while True:
            yield from (entry for entry in entries if entry["type"] == "file")
            if following is None:
                return
            entries, following = self._ask(following, None, revision, attempts)

    def _ask(
        self,
        where: str,
        parameters: Mapping[str, Any] | None,
        revision: str,
        attempts: int | None = None,
    ) -> tuple[Any, str | None]:
        """Ask the API about this repository; ``where`` may be a whole address. Gives the answer and where it goes on, if it does.

        Raises `HubUnavailable` for what isn't JSON: a login page, or one that says "back soon", is
        a 200, too.
        """
        url = urljoin(f"{self.endpoint}/api/datasets/{self._settings.repo_id}/", where)

        def get() -> Any:
            with self._session() as session:
                answer = session.get(url, params=parameters, headers=self.headers(), timeout=30)
            self._library.utils.hf_raise_for_status(answer)
            return answer

        answer = self._patiently(get, revision, attempts)
        try:
            return answer.json(), answer.links.get("next", {}).get("url")
        except ValueError as error:
            kind = answer.headers.get("Content-Type", "no type")
            told = f"{self.name} answers with what is no JSON ({kind})"
            raise HubUnavailable(
                f"{told}: does a login page or a proxy answer in its place?"
            ) from error

    @contextlib.contextmanager
    def _session(self) -> Iterator[Any]:
        """Give the library's HTTP client; what this thread asks by it meanwhile, redirects too, goes through `dress`."""
        try:
            session = self._library.utils.get_session()
        # ImportError for SOCKS, ValueError, OSError, and an InvalidURL without any base
        except Exception as error:
            told = f"no HTTP client can be made for {self.endpoint} ({_first_line(error)})"
            raise InvalidSettings(
                f"{told}: correct HTTPS_PROXY, HTTP_PROXY, ALL_PROXY or SSL_CERT_FILE"
            ) from error
        hooks = session.event_hooks
        # It stays there: for requests that aren't ours it does nothing
        if _dress not in hooks["request"]:
            session.event_hooks = {**hooks, "request": [*hooks["request"], _dress]}
        before = _ASKING.set(self)
        try:
            yield session
        finally:
            _ASKING.reset(before)

    def dress(self, request: Any) -> None:
        """Add the setting ``headers`` to a request to the endpoint; take them, and the token, from one to any other origin.

        The library itself hides the token alone, and copies all other headers into the request that
        a redirect leads to.
        """
        if _origin(str(request.url)) == _origin(self.endpoint):
            request.headers.update(self._headers)
        else:
            for name in ("Authorization", *self._headers):
                request.headers.pop(name, None)

    def base(self, commit: str, split: str) -> str:
        """Give the address below which the split's files are served, Xet-backed or not."""
        return self._base(commit, f"{split}/_")

    def parquet_base(self) -> str:
        """Give the address below which the Parquet conversion is served."""
        return self._base(_PARQUET, "_")

    def _base(self, revision: str, name: str) -> str:
        where = {"repo_type": _KIND, "revision": revision, "endpoint": self._settings.endpoint}
        return str(self._library.hf_hub_url(self._settings.repo_id, name, **where)).removesuffix(
            "_"
        )

    def headers(self) -> dict[str, str]:
        """Give the headers of requests to the endpoint, and to no other origin, as the library itself sends them."""
        return dict(self._library.utils.build_hf_headers(**self._as, headers=self._headers))

    def download(self, filename: str, cache_dir: Path, revision: str | None) -> Path:
        """Download one file to ``cache_dir/<filename>`` with hf_hub_download, or reuse it; its bytes are hashed either way.

        huggingface_hub keeps a file that came with wrong bytes of the right size: here it is
        fetched once more, and then refused.
        """
        place = cache_dir.resolve()
        # The library doesn't look
        if not filename or not (place / filename).resolve().is_relative_to(place):
            raise FolderNotUsable(
                f"{filename!r} lies outside of {cache_dir}: name a file of the repository"
            )
        get = self._library.hf_hub_download
        where = {
            "repo_type": _KIND,
            "revision": revision,
            "local_dir": cache_dir,
            "endpoint": self._settings.endpoint,
        }
        how = {**self._as, "local_files_only": self._settings.offline}
        try:
            for force in (False, True):
                call = partial(
                    get, self._settings.repo_id, filename, force_download=force, **where, **how
                )
                with self._session():
                    path = Path(self._patiently(call, str(revision)))
                if _is_right(path, cache_dir, filename):
                    return path
                log.warning("%s has other bytes than the Hub says: it is fetched again", path)
        except self._library.errors.EntryNotFoundError as error:
            raise SplitNotFound(
                f"{self.name} holds no {filename}: look at its list of files"
            ) from error
        raise CacheDamaged(
            f"{path} has other bytes than {self.name} says, twice: is there a proxy that changes them?"
        )

    def count(self, statistics: TransferStatistics) -> None:
        """Count as ours what was asked of it elsewhere."""
        with self._counting:
            self.requests += statistics.requests
            self.retries += statistics.retries

    def _patiently(self, call: Callable[[], _T], revision: str, attempts: int | None = None) -> _T:
        """Call the Hub, again after what may pass; anything else in plain words."""
        errors = self._library.errors
        attempts = 1 if self._settings.offline else attempts or self._settings.attempts
        for attempt in range(1, attempts + 1):
            with self._counting:
                self.requests += 1
            try:
                return call()
            # Hf_hub_download's word for "couldn't ask"
            except errors.LocalEntryNotFoundError as error:
                reason: Exception = error
            except errors.EntryNotFoundError:
                raise
            except errors.RevisionNotFoundError as error:
                raise RevisionNotFound(
                    f"{self.name} has no revision {revision}: choose a branch, tag or commit"
                ) from error
            except errors.GatedRepoError as error:
                raise AccessDenied(
                    f"{self.name} is gated: ask for access on its page, then pass a token of that user"
                ) from error
            except errors.RepositoryNotFoundError as error:
                raise RepositoryNotFound(f"{self.name} {self._hidden()}") from error
            except errors.HfHubHTTPError as error:
                self._raise_if_final(error)
                reason = error
            except (self._transport_error, OSError) as error:
                reason = error
            if attempt < attempts:
                with self._counting:
                    self.retries[self._cause_of(reason)] += 1
                pause = min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 - jitter
                log.info(
                    "the Hub can't answer now (%s), trying again in %.1f s",
                    _first_line(reason),
                    pause,
                )
                time.sleep(pause)
        raise self._given_up(attempts, reason) from reason

    def _cause_of(self, error: Exception) -> str:
        """Give the name under which a fault is counted, as the fetch calls it."""
        if isinstance(error, self._library.errors.HfHubHTTPError):
            return str(error.response.status_code)
        return "timeout" if "Timeout" in type(error).__name__ else "connection"

    def _given_up(self, attempts: int, reason: Exception) -> Step37Error:
        if self._settings.offline:
            return InvalidSettings(
                f"offline is set and this is not in the cache: unset it once ({_first_line(reason)})"
            )
        told = f"{self.name} doesn't answer after {attempts} tries: {_first_line(reason)}"
        if (
            not isinstance(reason, self._library.errors.HfHubHTTPError)
            and proxy_before(self.endpoint) is None
        ):
            told += "; where nodes reach it only through a proxy, HTTPS_PROXY must name that"
        return HubUnavailable(told)

    def _hidden(self) -> str:
        if self.token:
            return (
                "doesn't exist, or this token may not see it: check repo_id, and the token's rights"
            )
        return (
            "doesn't exist, or is private: check repo_id, or pass a token (HF_TOKEN or token_file)"
        )

    def _raise_if_final(self, error: Any) -> None:
        status = error.response.status_code
        if status in {401, 403}:
            raise AccessDenied(
                f"{self.name} refuses the token ({status}): check that it is valid and may read it"
            ) from error
        if status not in _AGAIN:
            raise RepositoryNotFound(f"{self.name} can't be used: {_first_line(error)}") from error


def _dress(request: Any) -> None:
    if (hub := _ASKING.get()) is not None:
        hub.dress(request)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _version() -> str:
    """Give our version for the Hub's own statistics; a copy of the source that was never installed has none."""
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


def _remote_file(entry: Mapping[str, Any], split: str) -> RemoteFile:
    digest = f"sha256:{entry['lfs']['oid']}" if entry.get("lfs") else f"git-sha1:{entry['oid']}"
    return RemoteFile(entry["path"].removeprefix(f"{split}/"), entry["size"], digest)


def _is_right(path: Path, cache_dir: Path, filename: str) -> bool:
    """Compare a file with the hash that huggingface_hub noted for it: its ETag, a sha256 (LFS) or a git blob's sha1."""
    try:
        note = (
            cache_dir / ".cache" / "huggingface" / "download" / f"{filename}.metadata"
        ).read_text(encoding="utf-8")
        etag = note.splitlines()[1].strip()
    except (OSError, IndexError):
        return True  # nothing is known
    kind = {64: "sha256", 40: "git-sha1"}.get(len(etag))
    if kind is None:
        return True
    with path.open("rb") as file:
        return digest_of(file, f"{kind}:") == f"{kind}:{etag}"


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
