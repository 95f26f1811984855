"""One request after another: redirects, proxies, whose word an answer is; no retries.

The token and the headers of the settings go to the endpoint's own origin alone, wherever redirects
lead. An error status is the Hub's word only from there, too.
"""

import asyncio
from collections.abc import Callable, Mapping

import aiohttp
from yarl import URL

from step37_flickr8k.hub.addresses import host_of, is_own, joined
from step37_flickr8k.hub.failures import failure_of
from step37_flickr8k.hub.proxies import Proxies, without_password
from step37_flickr8k.hub.refusals import ErrorAnswer, Refused
from step37_flickr8k.hub.retry import Fault, GivenUp
from step37_flickr8k.hub.source import Source, TransferStatistics

__all__ = ["Requests"]

_REDIRECTS = 5
# A redirect's body below this size is read, which keeps the connection for the next request.
_SHORT_BODY = 1 << 16  # bytes


class Requests:
    """Makes requests to a source; ``note`` is called with the headers of every answer."""

    def __init__(
        self,
        source: Source,
        session: aiohttp.ClientSession,
        statistics: TransferStatistics,
        note: Callable[[Mapping[str, str]], None],
    ) -> None:
        self.base = URL(source.base, encoded=True)
        self._source = source
        self._session = session
        self._statistics = statistics
        self._note = note
        self._proxies = Proxies()

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        *,
        follow: bool = True,
        only_https: bool = False,
    ) -> aiohttp.ClientResponse:
        """Return the answer to a request, or to the one that redirects lead to.

        With ``only_https`` they may not lead to plain HTTP, where anybody on the way can change
        the answer.

        Raises:
            Fault: no answer came, but may come later.
            GivenUp: redirects lead nowhere.
            CertificateNotTrusted, ProxyRefused: nobody gets through to it.
        """
        for _ in range(_REDIRECTS):
            response = await self._request_once(method, url, headers)
            self._note(response.headers)
            redirected = 300 <= response.status < 400 and "Location" in response.headers
            if not (follow and redirected):
                return response
            async with response:
                if response.content_length is not None and response.content_length < _SHORT_BODY:
                    await response.read()
                url = joined(url, response.headers["Location"])
                if only_https and url.scheme != "https":
                    raise GivenUp(
                        f"redirected from HTTPS to plain HTTP at {host_of(url)}, which is not"
                        " followed: the endpoint must redirect to an address with https://"
                    )
        raise GivenUp(f"more than {_REDIRECTS} redirects")

    async def _request_once(
        self, method: str, url: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        # The token must not follow a redirect to another origin.
        own = self._source.headers if is_own(url, self.base) else {}
        origin, proxy = str(url.origin()), self._proxy_before(url)
        self._statistics.requests += 1
        try:
            response = await self._session.request(
                method,
                url,
                headers={**headers, **own},
                allow_redirects=False,
                proxy=proxy,
            )
        except (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
            first_contact = origin not in self._source.reached
            raise failure_of(error, url, proxy, first_contact=first_contact) from error
        self._source.reached.add(origin)
        return response

    def _proxy_before(self, url: URL) -> str | None:
        return self._proxies.of(url.scheme, url.host_port_subcomponent or "")

    def is_own(self, response: aiohttp.ClientResponse) -> bool:
        """Return whether the endpoint's own origin sent an answer."""
        return is_own(response.url, self.base)

    def judged(self, response: aiohttp.ClientResponse) -> Fault | Refused:
        """Return what an error answer means, and who said it."""
        url, proxy = response.url, None
        if url.scheme == "http" and (read_by := self._proxy_before(url)):
            proxy = without_password(read_by)
        return ErrorAnswer(
            status=response.status,
            reason=response.reason or "",
            headers=response.headers,
            host=host_of(url),
            own=is_own(url, self.base),
            proxy=proxy,
        ).judged()
