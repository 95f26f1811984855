"""A process that downloads one file by ``hf_hub_download``: `single_file` starts it.

huggingface_hub has one HTTP client and one set of constants for a whole process. In this process
they are set: without telemetry, which asks the Hub on its own, without Xet, which asks other
servers, and with a client that reads proxies, certificates and timeouts as the download's own does.
The process of the user stays as it is.
"""

import errno
import importlib
import signal
import ssl
import sys
from pathlib import Path, PosixPath
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors
from yarl import URL

from step37_flickr8k import __version__
from step37_flickr8k.errors import (
    ErrorReport,
    FolderFull,
    FolderNotUsable,
    InvalidSettings,
    Step37Error,
)
from step37_flickr8k.hub.addresses import host_of, is_own
from step37_flickr8k.hub.certificates import not_trusted, trusting
from step37_flickr8k.hub.file_request import FileAnswer, FileRequest
from step37_flickr8k.hub.proxies import Proxies, without_password
from step37_flickr8k.hub.refusals import ErrorAnswer, Refused, refusal, refused_by_proxy
from step37_flickr8k.hub.retry import Fault, Unreachable, first_line

__all__ = ["main"]

# Whichever HTTP client this version of the library has, its errors share a base with the Hub's.
_HTTP_ERROR: Any = next(
    base for base in hub_errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)
_http: Any = importlib.import_module(_HTTP_ERROR.__module__.partition(".")[0])
_file_download: Any = importlib.import_module("huggingface_hub.file_download")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_USABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
}
_RANGE_NOT_SATISFIABLE = 416  # huggingface_hub's own affair: it resumes files


def main() -> None:
    """Read a request from stdin, and write to stdout what became of it, both as lines of JSON."""
    # Ctrl-C reaches the whole group: the process that waits for this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request, answer = FileRequest.from_json(sys.stdin.buffer.readline()), FileAnswer()
    try:
        _download(request)
    except Fault as fault:
        connecting = isinstance(fault, Unreachable) and fault.first_contact
        answer = FileAnswer(fault.cause, fault.pause, str(fault), connecting)
    except Step37Error as error:
        answer = FileAnswer(error=ErrorReport.of(error).as_json())
    sys.stdout.buffer.write(answer.as_json())
    sys.stdout.buffer.flush()


class _Unresolved(PosixPath):
    """A path that isn't resolved: one to an open directory leads there whatever its name is."""

    def resolve(self, *_: object, **__: object) -> "_Unresolved":
        """Return the path itself."""
        return self


def _download(request: FileRequest) -> None:
    # It would resolve the path to one by names, which another user may change.
    _file_download.Path = _Unresolved
    huggingface_hub.set_client_factory(
        lambda: _http.Client(transport=_Transport(request), follow_redirects=True, trust_env=False)
    )
    try:
        huggingface_hub.hf_hub_download(
            request.repo_id,
            request.filename,
            repo_type="dataset",
            local_dir=request.opened,
            endpoint=request.endpoint,
            # Without a token False: with None the library would find one by itself.
            token=request.token or False,
            headers=dict(request.headers),
            library_name="step37-flickr8k",
            library_version=__version__,
            local_files_only=request.offline,
            force_download=request.force,
        )
    except hub_errors.HfHubHTTPError as error:
        raise _refused(_judged(error.response, request), request) from error
    except _HTTP_ERROR as error:
        raise Fault("connection", detail=first_line(error)) from error
    except OSError as error:
        raise _of_file_system(error, request) from error
    except ValueError as error:
        raise InvalidSettings(first_line(error)) from error


class _Transport:
    """Makes the requests of huggingface_hub's client; what fails is judged here, and not retried.

    Only a HEAD for a file that is there already fails as that library expects it: then it takes
    what is there.
    """

    def __init__(self, request: FileRequest) -> None:
        self._request = request
        self._endpoint = URL(request.endpoint, encoded=True)
        self._proxies = Proxies()
        self._context = trusting()
        self._transports: dict[str | None, Any] = {}
        there = Path(request.opened, request.filename).is_file()
        self._reuses = there and not request.force
        read, connect = request.read_timeout, request.connect_timeout
        self._timeout = {"connect": connect, "read": read, "write": read, "pool": read}

    def handle_request(self, request: Any) -> Any:
        """Return the answer to a request."""
        url = URL(str(request.url), encoded=True)
        if not is_own(url, self._endpoint):
            for name in ("Authorization", *self._request.headers):
                request.headers.pop(name, None)
        request.extensions["timeout"] = self._timeout
        proxy = self._proxies.of(url.scheme, url.host_port_subcomponent or "")
        lenient = self._reuses and request.method == "HEAD"
        try:
            response = self._through(proxy).handle_request(request)
        except _http.TransportError as error:
            if lenient:
                raise
            raise _unanswered(error, url, proxy) from error
        response.request = request
        if response.status_code >= 400 and response.status_code != _RANGE_NOT_SATISFIABLE:
            judged = _judged(response, self._request, proxy)
            if not lenient:
                raise _refused(judged, self._request)
        return response

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            transport.close()

    def _through(self, proxy: str | None) -> Any:
        if proxy not in self._transports:
            self._transports[proxy] = _http.HTTPTransport(verify=self._context, proxy=proxy)
        return self._transports[proxy]


def _judged(response: Any, request: FileRequest, proxy: str | None = None) -> Fault | Refused:
    url = URL(str(response.request.url), encoded=True)
    read_by = without_password(proxy) if proxy and url.scheme == "http" else None
    return ErrorAnswer(
        status=int(response.status_code),
        reason=response.reason_phrase,
        headers=response.headers,
        host=host_of(url),
        own=is_own(url, URL(request.endpoint, encoded=True)),
        proxy=read_by,
    ).judged()


def _refused(judged: Fault | Refused, request: FileRequest) -> Exception:
    return judged if isinstance(judged, Fault) else refusal(judged, request.requested)


def _unanswered(error: Exception, url: URL, proxy: str | None) -> Exception:
    """Return what it means that a request got no answer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return not_trusted(host_of(url), cause)
        cause = cause.__cause__ or cause.__context__
    status = str(error).partition(" ")[0]
    if isinstance(error, _http.ProxyError) and status.isdigit():
        named = without_password(proxy or "")
        if status.startswith("4"):
            return refused_by_proxy(named, host_of(url), str(error))
        return Fault(status, detail=f"the proxy {named} answers {error} for {host_of(url)}")
    there = f"the proxy {without_password(proxy)}" if proxy else host_of(url)
    kind = "timeout" if isinstance(error, _http.TimeoutException) else "connection"
    connecting = isinstance(error, _http.ConnectError | _http.ConnectTimeout | _http.ProxyError)
    detail = f"{there} can't be reached ({first_line(error)})" if connecting else first_line(error)
    return Unreachable(kind, detail=detail, first_contact=connecting)


def _of_file_system(error: OSError, request: FileRequest) -> Exception:
    where = f"{request.directory}: {error.strerror}"
    if error.errno in _FULL:
        return FolderFull(f"{where}: free space, then run it again")
    if error.errno in _NOT_USABLE:
        return FolderNotUsable(f"{where}: choose another cache_dir, or let this user write")
    return Fault("connection", detail=first_line(error))


if __name__ == "__main__":
    main()
