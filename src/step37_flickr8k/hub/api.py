"""The Hub's API for one dataset repository: the commit, the files of a commit, their addresses.

Every method waits for its answer in the calling thread; the requests run in the event loop of
another one. The HTTP client is imported with the first request.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from step37_flickr8k import __version__
from step37_flickr8k.cluster.progress import ProgressTracker
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.names import ABOVE, TABLES, find_table
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import (
    InvalidMetadata,
    RepositoryNotFound,
    RevisionNotFound,
    SplitNotFound,
    Step37Error,
)
from step37_flickr8k.hub.api_client import ApiClient
from step37_flickr8k.hub.listings import directories_of, files_of, parquet_of
from step37_flickr8k.hub.loop import InLoop
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.refusals import Refused, Requested
from step37_flickr8k.hub.source import Source, TransferStatistics
from step37_flickr8k.settings.options import FetchOptions, HubOptions

if TYPE_CHECKING:
    from step37_flickr8k.hub.client import HttpClient

__all__ = ["PUBLIC_ENDPOINT", "Hub", "is_commit"]

PUBLIC_ENDPOINT = "https://huggingface.co"
_MOST_SPLITS = 20  # directories that are searched for the message
_PARQUET = "refs/convert/parquet"  # the revision that holds the Hub's own conversion
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
        self.endpoint = options.endpoint or PUBLIC_ENDPOINT
        self.has_token = options.token is not None
        self._repo_id = repo_id
        self._fetch = fetch
        headers = {**options.headers, "User-Agent": f"step37-flickr8k/{__version__}"}
        if options.token is not None:
            headers["Authorization"] = f"Bearer {options.token}"
        self._client = ApiClient(self.name, self.endpoint, headers, fetch)
        self._parquet: InLoop[list[RemoteFile]] | None = None

    @property
    def name(self) -> str:
        """The repository and where it is, for messages."""
        return f"{self._repo_id} at {self.endpoint}"

    @property
    def requests(self) -> int:
        """How many requests were made so far, also those of `count`."""
        return self._client.requests

    @property
    def retries(self) -> Counter[str]:
        """How many attempts were repeated so far, by cause."""
        return self._client.retries

    def count(self, statistics: TransferStatistics) -> None:
        """Count requests that were made elsewhere for this repository."""
        self._client.count(statistics)

    def report_to(self, tracker: ProgressTracker) -> None:
        """Report waits for the API's rate limit as progress from now on."""
        self._client.report_to(tracker)

    def public_rate_limit(self) -> RateLimit | None:
        """Return the least that the public Hub grants for files; None for other endpoints."""
        if self.endpoint != PUBLIC_ENDPOINT:
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
        return self._client.source(f"/datasets/{self._repo_id}/resolve/{path}")

    # --- the API ---

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch, tag or commit names now."""
        if is_commit(revision):
            return revision
        url = self._api(f"revision/{quote(revision, safe='')}")
        requested = self._requested(revision)

        async def get(client: "HttpClient") -> object:
            try:
                return await self._client.json(client, f"{url}?expand=sha", requested)
            except RepositoryNotFound as error:
                if isinstance(error.__cause__, Refused) and error.__cause__.has_code:
                    raise
                # Some mirrors know the address without a query alone (Artifactory answers 404). The
                # answer is longer: it names all files.
                return await self._client.json(client, url, requested)

        match self._client.run(get):
            case {"sha": str(commit)} if is_commit(commit):
                return commit
        raise InvalidMetadata(
            f"{self.name} names no commit of {revision}: is {self.endpoint} a Hub?"
        )

    def head_metadata(self, commit: str, split: str) -> Mapping[str, str]:
        """Return the headers of the answer to a HEAD for the table, which costs as a file does.

        Raises `SplitNotFound` if the commit holds no table of the split, nor one at its root.
        """
        names = (*TABLES, *(ABOVE + name for name in TABLES))
        headers = self._client.run(lambda client: self._head(client, commit, split, names))
        if headers is None:
            raise self._split_not_found(commit, split)
        return headers

    async def _head(
        self, client: "HttpClient", commit: str, split: str, names: Iterable[str]
    ) -> Mapping[str, str] | None:
        """Return the headers of the first of these files that there is; None without one."""
        files, requested = self.files(commit, split), self._requested(commit, split)
        for name in names:
            with contextlib.suppress(SplitNotFound):
                answer = await self._client.answer(client, files.url(name), requested, head=True)
                return answer.headers
        return None

    def list_files(self, commit: str, split: str) -> Listing:
        """Return the files below the split's directory, by their names from there.

        Without a metadata table among them, those at the root are listed and added, as `ABOVE`
        them. Raises `SplitNotFound` if there is none either, and `InvalidMetadata` for a listing
        that is malformed, or two tables in one directory.
        """
        requested = self._requested(commit, split)
        url, root = self._tree(commit, split, recursive=True), self._tree(commit)

        async def list_all(client: "HttpClient") -> Listing:
            files = await self._list(client, url, requested, f"{split}/")
            if find_table(files, self.name, split) is None:
                for file in (await self._list(client, root, requested, "")).values():
                    if file.name in TABLES:
                        files.add(replace(file, name=ABOVE + file.name))
            return files

        files = Listing()
        with contextlib.suppress(SplitNotFound):
            files = self._client.run(list_all)
        if find_table(files, self.name, split) is None:
            raise self._split_not_found(commit, split)
        return files

    def _split_not_found(self, commit: str, split: str) -> SplitNotFound:
        """Return the error for a split that isn't there, with those that are."""
        missing = f"no {split}/{TABLES[0]}, .jsonl or .parquet, nor one at the root"
        try:
            above, splits = self._client.run(lambda client: self._splits(client, commit))
        except Step37Error:
            available = "check the names in its list of files"
        else:
            available = f"available: {listed(splits)}" if splits else "the commit has no split"
            if above:
                missing = f"{above} is at the root, but there is no directory {split}"
        return SplitNotFound(
            f"split {split!r} not found in {self._repo_id}@{commit[:7]} ({missing}); {available}"
        )

    async def _splits(self, client: "HttpClient", commit: str) -> tuple[str, list[str]]:
        """Return the table at the root, if any, and the directories that hold a table.

        With a table at the root these are all directories.
        """
        root = await self._client.json(client, self._tree(commit), self._requested(commit))
        directories = directories_of(root)
        for file in files_of(root):
            if file.name in TABLES:
                return file.name, directories
        return "", [
            split
            for split in directories[:_MOST_SPLITS]
            if await self._head(client, commit, split, TABLES) is not None
        ]

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
        try:
            listing = await self._client.connected(
                lambda client: self._list(client, url, requested, ""),
                optional=self._fetch.mode == "auto",
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
            async for page in self._client.pages(client, url, requested):
                for file in files_of(page):
                    name = file.name.removeprefix(prefix)
                    listing.add(RemoteFile(name, file.size, file.digest))
        except ValueError as error:
            raise InvalidMetadata(
                f"{self.name}: the listing at {requested.revision} is malformed ({error}):"
                " report it to whoever runs that address"
            ) from error
        return listing

    def _api(self, path: str) -> str:
        return f"{self.endpoint}/api/datasets/{self._repo_id}/{path}"

    def _tree(self, revision: str, directory: str = "", *, recursive: bool = False) -> str:
        path = f"tree/{quote(revision, safe='')}" + (f"/{quote(directory)}" if directory else "")
        return self._api(f"{path}?recursive={str(recursive).lower()}&expand=false")

    def _requested(self, revision: str, path: str = "") -> Requested:
        return Requested(
            repository=self.name, revision=revision, path=path, with_token=self.has_token
        )
