"""The HTTP client for the API and for files: retries, the rate limit, whole answers."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from step37_flickr8k.hub.addresses import at_endpoint, host_of, parsed
from step37_flickr8k.hub.bounds import TimeLimit, pieces_of, whole
from step37_flickr8k.hub.certificates import check_certificates, trusting
from step37_flickr8k.hub.failures import FAULTS, as_fault
from step37_flickr8k.hub.proxies import Proxies
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.refusals import denied, refused_on_the_way
from step37_flickr8k.hub.requests import Requests
from step37_flickr8k.hub.retry import (
    LONGEST_PAUSE,
    Fault,
    GivenUp,
    is_failed_attempt,
    most_attempts,
    pause_before,
    too_long,
)
from step37_flickr8k.hub.source import Source, TransferStatistics
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["Answer", "ForApi", "HttpClient", "connected"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
# A request that its caller can do without isn't made after a longer pause.
_OPTIONAL_PAUSE = 5.0  # s
_WATCH_INTERVAL = 1.0  # s between two reports of a wait
# Read timeouts in which an answer of the API must be complete, and any answer must begin. Each one
# alone would never end where a byte arrives now and then.
_READ_TIMEOUTS = 4
_SHOWN = 20  # characters of somebody else's text that a message repeats

# Takes in the seconds for which the rate limit allows no request, and 0 when it does again.
Watch = Callable[[float], None]


@contextlib.asynccontextmanager
async def connected(
    source: Source, options: FetchOptions, api: "ForApi | None" = None
) -> "AsyncIterator[HttpClient]":
    """Yield a client for the source; its connections end with the context.

    With ``api`` retries are logged at level info, and redirects don't leave HTTPS.

    Raises:
        InvalidSettings: the environment names a proxy or certificates that can't be used.
    """
    Proxies().check()
    check_certificates()
    timeout = aiohttp.ClientTimeout(
        total=None,
        # A proxy's answer to CONNECT, too, which has no limit of its own
        connect=options.connect_timeout + options.read_timeout,
        sock_connect=options.connect_timeout,
        sock_read=options.read_timeout,
    )
    # Not trust_env: it reads ~/.netrc at every request, and would send the passwords in it to the
    # origins that redirects lead to.
    async with aiohttp.ClientSession(
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=options.concurrency, ssl=trusting()),
        cookie_jar=aiohttp.DummyCookieJar(),
        # A file's bytes are hashed as they are, and an answer of the API has a limit
        auto_decompress=False,
    ) as session:
        client = HttpClient(source, session, options, api)
        try:
            yield client
        finally:
            source.statistics.add(client.statistics)


@dataclass(frozen=True)
class ForApi:
    """How requests to the API differ from those for files.

    ``watch`` learns of waits for the rate limit. An ``optional`` answer isn't waited for.
    """

    watch: Watch = lambda _: None
    optional: bool = False


@dataclass(frozen=True)
class Answer:
    """A complete answer of ``host``; ``following`` is the next page's address, if there is one."""

    headers: Mapping[str, str]
    content: bytes
    following: str | None
    host: str


class HttpClient:
    """Requests to one source, for use in one event loop; `connected` makes it."""

    def __init__(
        self,
        source: Source,
        session: aiohttp.ClientSession,
        options: FetchOptions,
        api: ForApi | None,
    ) -> None:
        self.statistics = TransferStatistics()
        self.connections = options.concurrency
        self._source = source
        self._requests = Requests(source, session, self.statistics, self._note_rate_limit)
        self._attempts = options.attempts
        self._answer_timeout = options.connect_timeout + _READ_TIMEOUTS * options.read_timeout
        self._api = api
        # Whether a 429 that doesn't say how long to wait was logged
        self._logged_no_pause = False
        # A time of the loop's clock. Until then no request is made: the rate limit is used up.
        self._open_at = 0.0

    @property
    def closed_for(self) -> float:
        """The seconds for which the rate limit allows no request; not positive if it does."""
        return self._open_at - asyncio.get_running_loop().time()

    async def until_open(self) -> None:
        """Wait until the rate limit allows requests."""
        if (left := self.closed_for) <= 0:
            return
        while left > 0:
            if left > LONGEST_PAUSE:
                raise GivenUp(f"the Hub allows no request for {too_long(left)}")
            if self._api is None:
                await asyncio.sleep(left + random.uniform(0, 0.1))  # noqa: S311 - jitter
            else:
                self._api.watch(left)
                await asyncio.sleep(min(left, _WATCH_INTERVAL))
            left = self.closed_for  # it may have moved on meanwhile
        if self._api is not None:
            self._api.watch(0)

    async def retry(self, name: str, once: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return what ``once`` returns, retrying what may pass.

        Raises `GivenUp` from the last fault when all attempts are used up.
        """
        failed, asked = 0, 0.0
        while True:
            await self.until_open()
            try:
                return await once()
            except FAULTS as error:
                fault = as_fault(error)
                failed += is_failed_attempt(fault)
                asked += fault.pause or 0.0
                if asked > LONGEST_PAUSE:
                    raise GivenUp(f"{fault}: it asks for {too_long(asked)}", fault) from error
                pause = pause_before(failed, fault, random.uniform(0.5, 1))  # noqa: S311 - jitter
                unwanted = self._is_optional and pause > _OPTIONAL_PAUSE
                if unwanted or failed >= most_attempts(fault, self._attempts):
                    tries = f"{max(1, failed)} {'try' if failed <= 1 else 'tries'}"
                    raise GivenUp(f"{fault} ({tries})", fault) from error
                self.statistics.retries[fault.cause] += 1
                await self._pause(name, fault, pause)

    @property
    def _is_optional(self) -> bool:
        return self._api is not None and self._api.optional

    async def _pause(self, name: str, fault: Fault, pause: float) -> None:
        level = logging.DEBUG if self._api is None else logging.INFO
        log.log(level, "%s: %s, retrying in %.1f s", name, fault, pause)
        if fault.cause != "429":
            await asyncio.sleep(pause)
            return
        if fault.pause is None and not self._logged_no_pause:
            log.info(
                "the Hub wants fewer requests (429) and states no pause:"
                " each counts as a failed attempt"
            )
            self._logged_no_pause = True
        # The limit is everybody's: all tasks of this client wait.
        self._close_for(pause)

    def _close_for(self, pause: float) -> None:
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + pause)

    async def get(self, name: str, span: tuple[int, int] | None = None) -> aiohttp.ClientResponse:
        """Return the answer to a request for a file, or for its bytes ``span``: ``[start, end)``.

        Raises:
            Fault: the attempt failed and may be retried.
            GivenUp: retrying can't help.
            AccessDenied: the Hub doesn't let the file be read.
            CertificateNotTrusted, ProxyRefused: nobody gets through to it.
        """
        headers = {"Accept-Encoding": "identity"}  # the bytes themselves are hashed
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        url = URL(self._source.url(name), encoded=True)
        async with TimeLimit(self._answer_timeout, f"the answer of {host_of(url)}"):
            response = await self._requests.send("GET", url, headers)
        if response.status == (200 if span is None else 206):
            return response
        async with response:
            judged = self._requests.judged(response)
            if isinstance(judged, Fault):
                raise judged
            if response.status in {403, 407} and not judged.by_hub:
                raise refused_on_the_way(judged, host_of(response.url))
            if response.status in {401, 403}:
                with_token = "Authorization" in self._source.headers
                raise denied(f"the Hub, asked for {name},", response.status, with_token=with_token)
            raise GivenUp(f"the Hub answered {judged}")

    def pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the bytes of a file as they arrive; raises `Fault` if they hardly do."""
        return pieces_of(response, self._answer_timeout, host_of(response.url))

    def source_of(self, response: aiohttp.ClientResponse) -> str:
        """Return the end of a message about an answer that another host than the endpoint sent.

        A login page in place of a file is a 200, too. Compressed bytes, which nobody asked for, are
        not those of the file.
        """
        kind = f" ({response.content_type})" if response.content_type == "text/html" else ""
        host = "" if self._requests.is_own(response) else f" from {host_of(response.url)}{kind}"
        coded = response.headers.get("Content-Encoding", "identity")[:_SHOWN]
        return host if coded == "identity" else f"{host}, compressed on the way ({coded})"

    async def ask(self, method: str, url: str, *, follow: bool = True) -> Answer:
        """Return the complete answer to a request; without ``follow`` also that of a redirect.

        Raises:
            Fault: the attempt failed and may be retried.
            GivenUp: redirects lead nowhere.
            Refused: the endpoint's answer is an error that retrying doesn't change.
        """
        asked, headers = parsed(url), {"Accept-Encoding": "gzip"}
        async with (
            TimeLimit(self._answer_timeout, f"the answer of {host_of(asked)}"),
            await self._requests.send(
                method, asked, headers, follow=follow, only_https=asked.scheme == "https"
            ) as response,
        ):
            if response.status >= (300 if follow else 400):
                raise self._requests.judged(response)
            content, host = await whole(response), host_of(response.url)
            return Answer(response.headers, content, self._following(response), host)

    def _following(self, response: aiohttp.ClientResponse) -> str | None:
        """Return the address of the next page, which is asked for at the endpoint."""
        try:
            link = response.links.get("next")
            return None if link is None else at_endpoint(URL(link["url"]), self._requests.base)
        except (ValueError, KeyError) as error:
            raise GivenUp(f"the link to the next page is not an address ({error})") from error

    def _note_rate_limit(self, headers: Mapping[str, str]) -> None:
        """Keep the stated rate limit; when nothing of it remains, requests wait for the reset."""
        if "RateLimit" in headers and (limit := RateLimit.from_headers(headers)) is not None:
            self.statistics.rate_limit = limit
            if limit.remaining == 0:
                self._close_for(limit.reset)
