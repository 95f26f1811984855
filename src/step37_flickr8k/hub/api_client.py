"""Requests to the API, for callers without an event loop: retried, counted, read as JSON.

The HTTP client is imported with the first request.
"""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.errors import HubUnavailable, InvalidMetadata
from step37_flickr8k.hub.loop import run_in_loop
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.hub.refusals import Refused, Requested, refusal
from step37_flickr8k.hub.retry import GivenUp, Unreachable
from step37_flickr8k.hub.source import Source, TransferStatistics
from step37_flickr8k.settings.options import FetchOptions

if TYPE_CHECKING:
    from step37_flickr8k.hub.client import Answer, HttpClient

__all__ = ["ApiClient"]

_T = TypeVar("_T")
_OPTIONAL_ATTEMPTS = 2  # for an answer that a download can do without
# What all pages of a listing may have together. A million files are some 1,000 pages and 250 MB.
_MOST_ENTRIES, _MOST_PAGES = 2_000_000, 20_000
_LARGEST_LISTING = 512 << 20  # bytes
_LONGEST_LISTING = 3600.0  # s
_MOST_DIGITS = 1000  # of a number in an answer


class ApiClient:
    """Makes requests to an endpoint; ``name`` is what messages call it."""

    def __init__(
        self, name: str, endpoint: str, headers: Mapping[str, str], options: FetchOptions
    ) -> None:
        """Name the endpoint; no request is made."""
        self._name = name
        self._endpoint = endpoint
        self._headers = headers
        self._options = options
        self._statistics: list[TransferStatistics] = []
        self._reached: set[str] = set()  # origins that answered
        self._tracker: ProgressTracker | None = None

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
        """Count requests that were made elsewhere."""
        self._statistics.append(statistics)

    def report_to(self, tracker: ProgressTracker) -> None:
        """Report waits for the rate limit as progress from now on."""
        self._tracker = tracker

    def source(self, path: str = "") -> Source:
        """Return an address of the endpoint with its headers; what it reaches is known here."""
        return Source(base=self._endpoint + path, headers=self._headers, reached=self._reached)

    def run(self, call: Callable[["HttpClient"], Coroutine[Any, Any, _T]]) -> _T:
        """Return what a call of the HTTP client returns, waiting for it in this thread."""
        return run_in_loop(lambda: self.connected(call))

    async def connected(
        self,
        call: Callable[["HttpClient"], Coroutine[Any, Any, _T]],
        *,
        optional: bool = False,
    ) -> _T:
        """Return what a call of the HTTP client returns; few attempts if it's ``optional``."""
        # Importing aiohttp takes 0.2 s, which a warm start without a request saves.
        from step37_flickr8k.hub.client import ForApi, connected  # noqa: PLC0415

        options = self._options
        if optional:
            options = replace(options, attempts=min(_OPTIONAL_ATTEMPTS, options.attempts))
        # An optional answer is awaited with other work, whose progress counts.
        api = ForApi(_Wait(None if optional else self._tracker), optional)
        async with connected(self.source(), options, api) as client:
            self._statistics.append(client.statistics)
            return await call(client)

    async def answer(
        self, client: "HttpClient", url: str, requested: Requested, *, head: bool = False
    ) -> "Answer":
        """Return the answer to a GET, or to a HEAD without following redirects."""
        method = "HEAD" if head else "GET"
        try:
            return await client.retry(self._name, lambda: client.ask(method, url, follow=not head))
        except Refused as error:
            raise refusal(error, requested) from error
        except GivenUp as error:
            raise self._unavailable(error) from error

    async def json(self, client: "HttpClient", url: str, requested: Requested) -> object:
        """Return the JSON of an answer."""
        return self._parsed(await self.answer(client, url, requested))

    async def pages(
        self, client: "HttpClient", url: str, requested: Requested
    ) -> AsyncIterator[object]:
        """Yield the pages of a listing; one that fails is asked for again, not those before it.

        All pages together have a limit of entries, pages, bytes and time: a listing has an end,
        whoever writes it. Each page but the last is progress.
        """
        following: str | None = url
        asked, entries, size = set[str](), 0, 0
        until = time.monotonic() + _LONGEST_LISTING
        while following is not None:
            if following in asked:
                raise InvalidMetadata(
                    f"{self._name}: a listing has no end, its page {following} leads back to itself"
                )
            asked.add(following)
            answer = await self.answer(client, following, requested)
            page = self._parsed(answer)
            yield page
            following = answer.following
            entries += len(page) if isinstance(page, list) else 0
            size += len(answer.content)
            if following is not None:
                self._check_listing(len(asked), entries, size, until)
                self._report(Progress(State.LISTING, f"{entries:,} entries"))

    def _check_listing(self, pages: int, entries: int, size: int, until: float) -> None:
        """Raise `HubUnavailable` if a listing that goes on is beyond measure."""
        beyond = ""
        if entries > _MOST_ENTRIES:
            beyond = f"has more than {_MOST_ENTRIES:,} entries"
        elif pages > _MOST_PAGES:
            beyond = f"has more than {_MOST_PAGES:,} pages"
        elif size > _LARGEST_LISTING:
            beyond = f"has more than {_LARGEST_LISTING:,} bytes"
        elif time.monotonic() > until:
            beyond = f"isn't complete after {_LONGEST_LISTING:,g} s"
        if beyond:
            raise HubUnavailable(
                f"{self._name}: the listing {beyond} ({entries:,} entries so far):"
                " ask whoever runs that address, or choose another repository"
            )

    def _report(self, progress: Progress) -> None:
        if self._tracker is not None:
            self._tracker.report(progress)

    def _unavailable(self, error: GivenUp) -> HubUnavailable:
        remedy = ""
        if isinstance(error.fault, Unreachable) and error.fault.first_contact:
            if proxy_before(self._endpoint):
                remedy = (
                    ": check the proxy's address (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY), or add the"
                    " endpoint's host to NO_PROXY where nodes reach it directly"
                )
            else:
                remedy = (
                    ": check endpoint (HF_ENDPOINT), and whether this node has a network; where"
                    " nodes reach it only through a proxy, HTTPS_PROXY must name that"
                )
        return HubUnavailable(f"{self._name} can't be asked: {error}{remedy}")

    def _parsed(self, answer: "Answer") -> object:
        """Return the JSON of an answer.

        A login page, or one that says "back soon", is a 200, too.
        """
        try:
            value: object = json.loads(answer.content, parse_int=_int)
        except (ValueError, RecursionError) as error:
            kind = answer.headers.get("Content-Type", "no type")
            raise HubUnavailable(
                f"{self._name} answers with what is no JSON ({kind}, from {answer.host}):"
                " does a login page or a proxy answer in its place?"
            ) from error
        return value


def _int(digits: str) -> int:
    """Return a number of JSON; converting one of a million digits takes hours in Python 3.10."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


class _Wait:
    """Reports a wait for the rate limit as progress, and at its end what was reported before."""

    def __init__(self, tracker: ProgressTracker | None) -> None:
        self._tracker = tracker
        self._before = Progress(State.LISTING)

    def __call__(self, seconds: float) -> None:
        if self._tracker is None:
            return
        if not (now := self._tracker.snapshot()).state.is_waiting:
            self._before = now
        waiting = Progress(State.WAITING_FOR_RATE_LIMIT, f"{seconds:.0f} s")
        self._tracker.report(waiting if seconds > 0 else self._before)
