"""The Hub's API for one dataset repository: the commit, the files of a commit, their addresses.

Every method waits for its answer in the calling thread; the requests run in the event loop of
another one. The HTTP client is imported with the first request.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from huggingface_hub import constants

from step37_flickr8k import __version__
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.errors import (
    HubUnavailable,
    InvalidMetadata,
    RevisionNotFound,
    SplitNotFound,
)
from step37_flickr8k.hub.listings import files_of, parquet_of
from step37_flickr8k.hub.loop import InLoop, run_in_loop
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.refusals import Refused, Requested, not_found, refusal
from step37_flickr8k.hub.retry import GivenUp, Unreachable, Untrusted
from step37_flickr8k.hub.source import Source, TransferStatistics
from step37_flickr8k.settings.options import FetchOptions, HubOptions

if TYPE_CHECKING:
    from step37_flickr8k.hub.client import Answer, HttpClient

__all__ = ["Hub", "is_commit"]

_T = TypeVar("_T")
_PARQUET = "refs/convert/parquet"  # the revision that holds the Hub's own conversion
_OPTIONAL_ATTEMPTS = 2  # for a listing that a download can do without
# What the public Hub grants for files at the least, in requests per window of 300 s.
_WITH_TOKEN, _WITHOUT_TOKEN, _WINDOW = 5000, 3000, 300


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a full commit SHA, which needs no request to resolve."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


class Hub:
    """One dataset repository on the Hub.

    Every method that makes requests raises `HubUnavailable` when all attempts failed, and
    `RepositoryNotFound`, `RevisionNotFound` or `AccessDenied` for what the Hub refuses.
    """

    def __init__(self, repo_id: str, options: HubOptions, fetch: FetchOptions) -> None:
        """Name the repository and how to reach it; no request is made."""
        self.endpoint = options.endpoint or _public_endpoint()
        self.has_token = options.token is not None
        self._repo_id = repo_id
        self._fetch = fetch
        self._headers = {**options.headers, "User-Agent": f"step37-flickr8k/{__version__}"}
        if options.token is not None:
            self._headers["Authorization"] = f"Bearer {options.token}"
        self._statistics: list[TransferStatistics] = []
        self._parquet: InLoop[list[RemoteFile]] | None = None

    @property
    def name(self) -> str:
        """The repository and where it is, for messages."""
        return f"{self._repo_id} at {self.endpoint}"

    @property
    def requests(self) -> int:
        """How many requests were made so far, also those of `count`."""
        return sum(statistics.requests for statistics in self._statistics)

    @property
    def retries(self) -> Counter[str]:
        """How many attempts were repeated so far, by cause."""
        retries: Counter[str] = Counter()
        for statistics in self._statistics:
            # A copy: another thread may still be asking.
            retries.update(statistics.retries.copy())
        return retries

    def count(self, statistics: TransferStatistics) -> None:
        """Count requests that were made elsewhere for this repository."""
        self._statistics.append(statistics)

    def public_rate_limit(self) -> RateLimit | None:
        """Return the least that the public Hub grants for files; None for other endpoints."""
        if self.endpoint != _public_endpoint():
            return None
        limit = _WITH_TOKEN if self.has_token else _WITHOUT_TOKEN
        return RateLimit(limit=limit, remaining=limit, reset=0, window=_WINDOW)

    # --- addresses ---

    def files(self, commit: str, split: str) -> Source:
        """Return where the split's files are served, Xet-backed or not."""
        return self._source(f"{quote(commit, safe='')}/{quote(split)}/")

    def parquet_files(self) -> Source:
        """Return where the files of the Parquet conversion are served."""
        return self._source(f"{quote(_PARQUET, safe='')}/")

    def _source(self, path: str) -> Source:
        base = f"{self.endpoint}/datasets/{self._repo_id}/resolve/{path}"
        return Source(base=base, headers=self._headers)

    # --- the API ---

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch, tag or commit names now."""
        if is_commit(revision):
            return revision
        url = self._api(f"revision/{quote(revision, safe='')}?expand=sha")
        requested = self._requested(revision)

        async def get(client: "HttpClient") -> object:
            return self._parsed(await self._answer(client, url, requested))

        match self._run(get):
            case {"sha": str(commit)} if is_commit(commit):
                return commit
        raise InvalidMetadata(
            f"{self.name} names no commit of {revision}: is {self.endpoint} a Hub?"
        )

    def head_metadata(self, commit: str, split: str) -> Mapping[str, str]:
        """Return the headers of the answer to a HEAD for metadata.csv, which costs as a file does.

        Raises `SplitNotFound` if the commit holds no such file.
        """
        url = self.files(commit, split).url(METADATA)
        requested = self._requested(commit, f"{split}/{METADATA}")

        async def head(client: "HttpClient") -> Mapping[str, str]:
            return (await self._answer(client, url, requested, head=True)).headers

        return self._run(head)

    def list_files(self, commit: str, split: str) -> Listing:
        """Return the files directly in the split's directory, by name.

        Raises `SplitNotFound` without a metadata.csv among them, and `InvalidMetadata` for a
        listing that is malformed.
        """
        requested = self._requested(commit, f"{split}/{METADATA}")
        url = self._tree(commit, split)
        files = self._run(lambda client: self._list(client, url, requested, f"{split}/"))
        if METADATA not in files:
            raise not_found(requested)
        return files

    def start_listing_parquet(self, split: str) -> None:
        """Begin to list the split's Parquet conversion in the background, for `list_parquet`."""
        self._parquet = InLoop(lambda: self._list_parquet(split))

    def list_parquet(self, split: str) -> list[RemoteFile]:
        """Return the files of the split's Parquet conversion, named from the root.

        Empty if there is none. In auto mode, where the download can do without, few attempts are
        made.
        """
        started = self._parquet or InLoop(lambda: self._list_parquet(split))
        return started.result()

    async def _list_parquet(self, split: str) -> list[RemoteFile]:
        requested = self._requested(_PARQUET, split)
        url = self._tree(_PARQUET, recursive=True)
        optional = self._fetch.mode == "auto"
        attempts = min(_OPTIONAL_ATTEMPTS, self._fetch.attempts) if optional else None
        try:
            listing = await self._connected(
                lambda client: self._list(client, url, requested, ""), attempts
            )
        except (RevisionNotFound, SplitNotFound):
            return []
        return parquet_of(split, listing.values())

    async def _list(
        self, client: "HttpClient", url: str, requested: Requested, prefix: str
    ) -> Listing:
        """Return the files of a listing; a page that fails is asked for again, not those before it.

        ``HfApi.list_repo_tree`` isn't used, because it sends the token wherever a link leads.
        """
        listing = Listing()
        try:
            async for page in self._pages(client, url, requested):
                for file in files_of(page):
                    name = file.name.removeprefix(prefix)
                    listing.add(RemoteFile(name, file.size, file.digest))
        except ValueError as error:
            raise InvalidMetadata(
                f"{self.name}: the listing at {requested.revision} is malformed ({error}):"
                " report it to the dataset's owner"
            ) from error
        return listing

    async def _pages(
        self, client: "HttpClient", url: str, requested: Requested
    ) -> AsyncIterator[object]:
        following: str | None = url
        while following is not None:
            answer = await self._answer(client, following, requested)
            yield self._parsed(answer)
            following = answer.following

    # --- requests ---

    def _run(self, call: Callable[["HttpClient"], Coroutine[Any, Any, _T]]) -> _T:
        return run_in_loop(lambda: self._connected(call))

    async def _connected(
        self,
        call: Callable[["HttpClient"], Coroutine[Any, Any, _T]],
        attempts: int | None = None,
    ) -> _T:
        # Importing aiohttp takes 0.2 s, which a warm start without a request saves.
        from step37_flickr8k.hub.client import connected  # noqa: PLC0415

        options = self._fetch if attempts is None else replace(self._fetch, attempts=attempts)
        api = Source(base=self.endpoint, headers=self._headers)
        async with connected(api, options, for_api=True) as client:
            self._statistics.append(client.statistics)
            return await call(client)

    async def _answer(
        self, client: "HttpClient", url: str, requested: Requested, *, head: bool = False
    ) -> "Answer":
        """Return the answer to a GET, or to a HEAD without following redirects."""
        method = "HEAD" if head else "GET"
        try:
            return await client.retry(self.name, lambda: client.ask(method, url, follow=not head))
        except Refused as error:
            raise refusal(error, requested) from error
        except GivenUp as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: GivenUp) -> HubUnavailable:
        if error.fault is None:
            return HubUnavailable(f"{self.name} can't be asked: {error}")
        remedy = ""
        if isinstance(error.fault, Untrusted):
            remedy = ": SSL_CERT_FILE must name the authority that signed its certificate"
        elif isinstance(error.fault, Unreachable) and proxy_before(self.endpoint) is None:
            remedy = "; where nodes reach it only through a proxy, HTTPS_PROXY must name that"
        return HubUnavailable(f"{self.name} doesn't answer, {error}: {error.fault}{remedy}")

    def _parsed(self, answer: "Answer") -> object:
        """Return the JSON of an answer.

        A login page, or one that says "back soon", is a 200, too.
        """
        try:
            value: object = json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            kind = answer.headers.get("Content-Type", "no type")
            raise HubUnavailable(
                f"{self.name} answers with what is no JSON ({kind}):"
                " does a login page or a proxy answer in its place?"
            ) from error
        return value

    def _api(self, path: str) -> str:
        return f"{self.endpoint}/api/datasets/{self._repo_id}/{path}"

    def _tree(self, revision: str, directory: str = "", *, recursive: bool = False) -> str:
        path = f"tree/{quote(revision, safe='')}" + (f"/{quote(directory)}" if directory else "")
        return self._api(f"{path}?recursive={str(recursive).lower()}&expand=false")

    def _requested(self, revision: str, path: str = "") -> Requested:
        return Requested(
            repository=self.name, revision=revision, path=path, with_token=self.has_token
        )


def _public_endpoint() -> str:
    # huggingface_hub knows it. Its public constant is HF_ENDPOINT where that is set, which the
    # settings have read already.
    return str(constants._HF_DEFAULT_ENDPOINT)  # noqa: SLF001
