"""What a failed request means: a fault that is retried, or an error that names who refused."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from step37_flickr8k.hub.addresses import host_of
from step37_flickr8k.hub.certificates import not_trusted
from step37_flickr8k.hub.proxies import without_password
from step37_flickr8k.hub.refusals import refused_by_proxy
from step37_flickr8k.hub.retry import Fault, Unreachable, first_line
from step37_flickr8k.limited.named import no_more_files

__all__ = ["FAULTS", "as_fault", "failure_of", "read_exactly"]

# Errors after which an attempt is retried.
FAULTS = (Fault, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError)

_SHOWN = 200  # characters of somebody else's text that a message repeats


def as_fault(error: Exception) -> Fault:
    """Return an attempt's error, one of `FAULTS`, with the name under which it is counted."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        silent = isinstance(error, aiohttp.SocketTimeoutError)
        detail = "silent for longer than read_timeout" if silent else first_line(error)
        return Unreachable("timeout", detail=detail)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Fault("truncated", detail=_said(error))
    return Unreachable("connection", detail=_said(error))


def _said(error: Exception) -> str:
    """Return what is wrong with an answer; the 400 in aiohttp's texts is no server's word."""
    at_fault = error.__cause__ if isinstance(error, aiohttp.ClientPayloadError) else error
    if isinstance(at_fault, aiohttp.ClientResponseError | HttpProcessingError):
        return f"its answer isn't sound HTTP: {' '.join(at_fault.message.split())[:_SHOWN]}"
    return first_line(error)


def failure_of(error: Exception, url: URL, proxy: str | None, *, first_contact: bool) -> Exception:
    """Return what it means that a request got no answer.

    ``first_contact`` says that the address's host never answered before.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return not_trusted(f"{error.host}:{error.port}", error.certificate_error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        answer = f"{error.status} {error.message}"
        if 400 <= error.status < 500 and error.status != 429:
            return refused_by_proxy(without_password(proxy or ""), host_of(url), answer)
        return Fault(
            str(error.status),
            detail=f"the proxy {without_password(proxy or '')} answers {answer} for {host_of(url)}",
        )
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        cause = "timeout" if isinstance(error, aiohttp.ConnectionTimeoutError) else "connection"
        if why := no_more_files(_number_of(error)):
            return Unreachable("open files", detail=f"no connection can be opened: {why}")
        detail = _why_unconnected(error, url, proxy)
        return Unreachable(cause, detail=detail, first_contact=first_contact)
    return as_fault(error)


def _number_of(error: Exception) -> int | None:
    return error.os_error.errno if isinstance(error, aiohttp.ClientConnectorError) else None


def _why_unconnected(error: Exception, url: URL, proxy: str | None) -> str:
    there = f"the proxy {without_password(proxy)}" if proxy else host_of(url)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"{there} doesn't answer in time"
    if not isinstance(error, aiohttp.ClientConnectorError):
        return first_line(error)
    why = error.os_error.strerror or type(error).__name__
    if isinstance(error.os_error, ssl.SSLError):
        why = f"{error.os_error.reason}: does it speak plain HTTP? Then http:// belongs there"
    elif (number := error.os_error.errno or 0) > 0:
        # asyncio's text names addresses in place of the reason.
        why = os.strerror(number)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        whose = " of the proxy" if proxy else ""
        return f"the name {error.host}{whose} isn't known here ({why})"
    return f"{there} can't be reached ({why})"


async def read_exactly(pieces: AsyncIterator[bytes], size: int, source: str = "") -> bytearray:
    """Return the bytes of an answer that must have ``size``; raises `Fault` for another number.

    ``source`` ends the message: it names the host, where that isn't the endpoint.
    """
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > size:
            raise Fault(f"more than {size} bytes", detail=f"more than {size} bytes{source}")
    if len(content) != size:
        cause = f"{len(content)} bytes instead of {size}"
        raise Fault(cause, detail=f"{cause}{source}")
    return content
