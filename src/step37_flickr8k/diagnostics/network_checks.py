"""The checks of the network: endpoint, proxy, token and clock.

Requests are made as the downloader makes them, so that what works here works there.
"""

import socket
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from step37_flickr8k.diagnostics.finding import Finding
from step37_flickr8k.errors import (
    AccessDenied,
    CertificateNotTrusted,
    ConfigurationError,
    RepositoryNotFound,
    SplitNotFound,
    Step37Error,
)
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.hub.plain_http import REMEDY, readable
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.refusals import Refused
from step37_flickr8k.settings import WarmupSettings

__all__ = ["check_clock", "check_network", "with_few_attempts"]

# Attempts for each request: somebody waits for the answer
_ATTEMPTS = 2
# Seconds that a clock may be wrong: certificates and signed addresses have dates
_CLOCK_TOLERANCE = 60.0


def check_network(settings: WarmupSettings) -> list[Finding]:
    """Return findings of four checks: endpoint, proxy, token, clock."""
    if settings.offline:
        checks = ("endpoint", "proxy", "token", "clock")
        return [Finding.not_checked(check, "offline is set") for check in checks]
    fetch = with_few_attempts(settings).fetch_options()
    hub = Hub(settings.repo_id, settings.hub_options(), fetch)
    proxy = proxy_before(hub.endpoint)
    first_hop = f"//{proxy}" if proxy else hub.endpoint
    if reason := _unreachable(first_hop, settings.connect_timeout):
        return _not_reached(hub, proxy, reason, settings)
    start = time.monotonic()
    try:
        headers = hub.head_metadata(hub.resolve(settings.revision or "main"), settings.split)
    # Whatever answers in place of the Hub may send anything
    except (Step37Error, ValueError, KeyError, TypeError) as error:
        return _refused(hub, proxy, error, settings)
    limit = RateLimit.from_headers(headers)
    left = f", {limit.remaining:,} file requests left in {limit.reset:.0f} s" if limit else ""
    return [
        Finding.ok("endpoint", f"{hub.name} answers in {time.monotonic() - start:.1f} s{left}"),
        Finding.ok(
            "proxy",
            f"through the proxy {proxy}, whose users share one rate limit" if proxy else "none",
        ),
        _token(hub, settings),
        check_clock(headers),
    ]


def _token(hub: Hub, settings: WarmupSettings) -> Finding:
    """Return what is to be said of a token with which the files can be read."""
    well = "it may read the files" if hub.has_token else "none is set, and none is needed"
    if exposed := readable(hub.endpoint, settings.hub_options()):
        return Finding.warning("token", f"{well}, but {exposed}", REMEDY)
    return Finding.ok("token", well)


def check_clock(headers: Mapping[str, str]) -> Finding:
    """Compare this node's clock with the date in an answer of the endpoint."""
    date = next((value for name, value in headers.items() if name.lower() == "date"), None)
    if date is None:
        return Finding.not_checked("clock", "the endpoint sends no date")
    ahead = time.time() - parsedate_to_datetime(date).timestamp()
    if abs(ahead) < _CLOCK_TOLERANCE:
        return Finding.ok("clock", f"within {_CLOCK_TOLERANCE:.0f} s of the endpoint's")
    return Finding.warning(
        "clock",
        f"{abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the endpoint's",
        "synchronize it (chronyc tracking); certificates and signed addresses have dates",
    )


def with_few_attempts(settings: WarmupSettings) -> WarmupSettings:
    """Return the settings with at most two attempts for each request."""
    return settings.model_copy(update={"attempts": min(settings.attempts, _ATTEMPTS)})


def _unreachable(address: str, seconds: float) -> str:
    """Try to connect; return why it failed, or nothing."""
    parts = urlsplit(address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), seconds).close()
    except socket.gaierror as error:
        return f"the name {parts.hostname} isn't known here ({error.strerror})"
    except OSError as error:
        return f"{parts.netloc} can't be reached ({error.strerror or error})"
    return ""


def _not_reached(
    hub: Hub, proxy: str | None, reason: str, settings: WarmupSettings
) -> list[Finding]:
    """Return the findings when the first hop, endpoint or proxy, refuses the connection."""
    unknown = [
        Finding.not_checked(check, "the endpoint isn't reached") for check in ("token", "clock")
    ]
    if proxy is None:
        remedy = (
            "check endpoint; if nodes reach it only through a proxy, set HTTPS_PROXY; otherwise"
            " warm up on a node with a network"
        )
        return [
            Finding.problem("endpoint", reason, remedy),
            Finding.ok("proxy", "none"),
            *unknown,
        ]
    return [
        Finding.not_checked("endpoint", "the proxy is in the way"),
        _proxy_problem(hub, proxy, reason, settings),
        *unknown,
    ]


def _proxy_problem(hub: Hub, proxy: str, reason: str, settings: WarmupSettings) -> Finding:
    host = urlsplit(hub.endpoint).hostname
    remedy = "correct HTTPS_PROXY or HTTP_PROXY, or ask whoever runs the proxy"
    if not _unreachable(hub.endpoint, settings.connect_timeout):
        remedy = f"{host} is reached without it: add it to NO_PROXY"
    message = f"requests to {host} go through the proxy {proxy}: {reason}"
    return Finding.problem("proxy", message, remedy)


def _is_by_hub(error: Exception) -> bool:
    answer = error.__cause__
    return isinstance(error, SplitNotFound) or (isinstance(answer, Refused) and answer.by_hub)


def _refused(
    hub: Hub, proxy: str | None, error: Exception, settings: WarmupSettings
) -> list[Finding]:
    """Return the findings when a request failed, and blame whoever sent the answer."""
    by_hub = _is_by_hub(error)
    unknown = "the Hub refused the request" if by_hub else "the request failed"
    clock = Finding.not_checked("clock", unknown)
    reason = (
        str(error)
        if isinstance(error, Step37Error)
        else f"{hub.name} answers, but not as a Hub does ({type(error).__name__})"
    )
    if proxy and not by_hub and not isinstance(error, CertificateNotTrusted):
        return [
            Finding.not_checked("endpoint", "the proxy is in the way"),
            Finding.not_checked("token", "the proxy is in the way"),
            _proxy_problem(hub, proxy, reason, settings),
            clock,
        ]
    through = Finding.ok("proxy", f"through the proxy {proxy}" if proxy else "none")
    if isinstance(error, AccessDenied | RepositoryNotFound) and by_hub:
        remedy = "set HF_TOKEN or token_file to a token that may read it, or correct repo_id"
        return [
            Finding.ok("endpoint", f"{hub.endpoint} answers"),
            through,
            Finding.problem("token", reason, remedy),
            clock,
        ]
    remedy = (
        "correct what the message names"
        if isinstance(error, ConfigurationError)
        else "check whether a login page or a proxy answers instead of the Hub"
    )
    return [
        Finding.problem("endpoint", reason, remedy),
        through,
        Finding.not_checked("token", unknown),
        clock,
    ]
