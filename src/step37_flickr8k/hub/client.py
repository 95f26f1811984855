"""The HTTP client for the API and for files: redirects, proxies, retries, the rate limit.

The token and the headers of the settings go to the endpoint's own origin alone, wherever redirects
lead. The only user of aiohttp besides `localhub`.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from step37_flickr8k.errors import AccessDenied
from step37_flickr8k.hub.certificates import check_certificates
from step37_flickr8k.hub.proxies import Proxies
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.refusals import Refused
from step37_flickr8k.hub.retry import (
    Fault,
    GivenUp,
    Unreachable,
    Untrusted,
    first_line,
    is_failed_attempt,
    is_retriable,
    pause_before,
    requested_pause,
)
from step37_flickr8k.hub.source import Source, TransferStatistics
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["FAULTS", "Answer", "HttpClient", "as_fault", "connected", "read_exactly"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
_REDIRECTS = 5
# A redirect's body below this size is read, which keeps the connection for the next request.
_SHORT_BODY = 1 << 16  # bytes

# Errors after which an attempt is retried.
FAULTS = (Fault, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError)


@contextlib.asynccontextmanager
async def connected(
    source: Source, options: FetchOptions, *, for_api: bool = False
) -> "AsyncIterator[HttpClient]":
    """Yield a client for the source; its connections end with the context.

    For the API answers are decompressed and retries are logged at level info; for files the bytes
    stay as they are, since they are hashed.

    Raises:
        InvalidSettings: the environment names a proxy or certificates that can't be used.
    """
    proxies = Proxies()
    proxies.check()
    check_certificates()
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=options.connect_timeout, sock_read=options.read_timeout
    )
    # Not trust_env: it reads ~/.netrc at every request, and would send the passwords in it to the
    # origins that redirects lead to.
    async with aiohttp.ClientSession(
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=options.concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=for_api,
    ) as session:
        level = logging.INFO if for_api else logging.DEBUG
        client = HttpClient(source, session, options, proxies, level)
        try:
            yield client
        finally:
            source.statistics.add(client.statistics)


@dataclass(frozen=True)
class Answer:
    """A complete answer; ``following`` is the address of the next page, if there is one."""

    headers: Mapping[str, str]
    content: bytes
    following: str | None


class HttpClient:
    """Requests to one source, for use in one event loop; `connected` makes it."""

    def __init__(
        self,
        source: Source,
        session: aiohttp.ClientSession,
        options: FetchOptions,
        proxies: Proxies,
        log_level: int,
    ) -> None:
        self.statistics = TransferStatistics()
        self.connections = options.concurrency
        self._source = source
        self._origin = URL(source.base, encoded=True).origin()
        self._session = session
        self._attempts = options.attempts
        self._proxies = proxies
        self._log_level = log_level
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
        while (left := self.closed_for) > 0:  # noqa: ASYNC110 - it may have moved on meanwhile
            await asyncio.sleep(left + random.uniform(0, 0.1))  # noqa: S311 - jitter

    async def retry(self, name: str, once: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return what ``once`` returns, retrying what may pass.

        Raises `GivenUp` from the last fault when all attempts are used up.
        """
        failed = 0
        while True:
            await self.until_open()
            try:
                return await once()
            except FAULTS as error:
                fault = as_fault(error)
                failed += is_failed_attempt(fault)
                if failed >= self._attempts:
                    raise GivenUp(f"{fault.cause} ({failed} tries)", fault) from error
                self.statistics.retries[fault.cause] += 1
                await self._pause(name, fault, failed)

    async def _pause(self, name: str, fault: Fault, failed: int) -> None:
        pause = pause_before(failed, fault, random.uniform(0.5, 1))  # noqa: S311 - jitter
        log.log(self._log_level, "%s: %s, retrying in %.1f s", name, fault, pause)
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
            AccessDenied: the file may not be read.
        """
        headers = {"Accept-Encoding": "identity"}  # the bytes themselves are hashed
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        url = URL(self._source.url(name), encoded=True)
        response = await self._request("GET", url, headers)
        if response.status == (200 if span is None else 206):
            return response
        async with response:
            if response.status in {401, 403}:
                raise AccessDenied(
                    f"the Hub refuses {name} ({response.status}):"
                    " check that the token is valid and may read it"
                )
            _raise_if_retriable(response)
            raise GivenUp(f"the Hub answered {response.status} {response.reason}")

    async def ask(self, method: str, url: str, *, follow: bool = True) -> Answer:
        """Return the complete answer to a request; without ``follow`` also that of a redirect.

        Raises:
            Fault: the attempt failed and may be retried.
            GivenUp: redirects lead nowhere.
            Refused: the answer is an error that retrying doesn't change.
        """
        async with await self._request(method, _parsed(url), {}, follow=follow) as response:
            _raise_if_retriable(response)
            if response.status >= (300 if follow else 400):
                raise Refused(response.status, response.reason or "", response.headers)
            following = response.links.get("next")
            return Answer(
                response.headers,
                await response.read(),
                None if following is None else str(following["url"]),
            )

    async def _request(
        self, method: str, url: URL, headers: Mapping[str, str], *, follow: bool = True
    ) -> aiohttp.ClientResponse:
        for _ in range(_REDIRECTS):
            # The token must not follow a redirect to another origin.
            own = self._source.headers if url.origin() == self._origin else {}
            self.statistics.requests += 1
            response = await self._session.request(
                method,
                url,
                headers={**headers, **own},
                allow_redirects=False,
                proxy=self._proxies.of(url.scheme, url.host_port_subcomponent or ""),
            )
            self._note_rate_limit(response.headers)
            redirected = 300 <= response.status < 400 and "Location" in response.headers
            if not (follow and redirected):
                return response
            async with response:
                if response.content_length is not None and response.content_length < _SHORT_BODY:
                    await response.read()
                url = _joined(url, response.headers["Location"])
        raise GivenUp(f"more than {_REDIRECTS} redirects")

    def _note_rate_limit(self, headers: Mapping[str, str]) -> None:
        """Keep the stated rate limit; when nothing of it remains, requests wait for the reset."""
        if "RateLimit" in headers and (limit := RateLimit.from_headers(headers)) is not None:
            self.statistics.rate_limit = limit
            if limit.remaining == 0:
                self._close_for(limit.reset)


def as_fault(error: Exception) -> Fault:
    """Return an attempt's error, one of `FAULTS`, with the name under which it is counted."""
    if isinstance(error, Fault):
        return error
    detail = first_line(error)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return Unreachable("timeout", detail=detail)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Fault("truncated", detail=detail)
    untrusted = isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError)
    return (Untrusted if untrusted else Unreachable)("connection", detail=detail)


async def read_exactly(pieces: AsyncIterator[bytes], size: int) -> bytearray:
    """Return the bytes of an answer that must have ``size``; raises `Fault` for another number."""
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > size:
            raise Fault(f"more than {size} bytes")
    if len(content) != size:
        raise Fault(f"{len(content)} bytes instead of {size}")
    return content


def _raise_if_retriable(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if is_retriable(status):
        detail = f"{status} {response.reason}"
        raise Fault(str(status), requested_pause(response.headers), detail=detail)


def _parsed(address: str) -> URL:
    return _checked(URL(address, encoded=True), address)


def _joined(url: URL, location: str) -> URL:
    try:
        target = url.join(URL(location, encoded=True))
    except ValueError as error:
        raise GivenUp(f"redirected to {location[:200]!r}, not an address ({error})") from error
    return _checked(target, location)


def _checked(url: URL, address: str) -> URL:
    """Return an address that may be followed."""
    try:
        host, _ = url.host, url.port  # parsed only when they are read
    except ValueError as error:
        raise GivenUp(f"redirected to {address[:200]!r}, not an address ({error})") from error
    if url.scheme not in {"http", "https"} or host is None:
        raise GivenUp(f"redirected to {url.scheme or 'nowhere'}:, which is not followed")
    return url
