"""The one policy for requests that fail, to the API and for files; pure functions.

A fault of the network or an overloaded server is retried after a growing pause, up to the setting
``attempts``. Waiting for a rate limit for as long as the server asks is not a failed attempt.
"""

from collections.abc import Mapping

from step37_flickr8k.hub.rate_limit import RateLimit

__all__ = [
    "Fault",
    "GivenUp",
    "Unreachable",
    "Untrusted",
    "first_line",
    "is_failed_attempt",
    "is_retriable",
    "pause_before",
    "requested_pause",
]

# Request Timeout, Too Early, Too Many Requests. All 5xx are retried, too.
_RETRIABLE = {408, 425, 429}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.4, 30.0  # s
# The shortest pause after "Retry-After": a 0 from a busy proxy must not become a loop.
_LEAST_REQUESTED_PAUSE = 0.5  # s


class Fault(Exception):
    """Raised for an attempt that failed and may be retried.

    ``cause`` is the name under which it is counted, ``pause`` the seconds the server asks for.
    """

    def __init__(self, cause: str, pause: float | None = None, *, detail: str = "") -> None:
        super().__init__(detail or cause)
        self.cause = cause
        self.pause = pause


class Unreachable(Fault):
    """Raised for an attempt that got no answer."""


class Untrusted(Fault):
    """Raised for an attempt that met a certificate which isn't trusted here."""


class GivenUp(Exception):
    """Raised for a request that no further attempt would answer, or after the last attempt.

    ``fault`` is that of the last attempt.
    """

    def __init__(self, message: str, fault: Fault | None = None) -> None:
        super().__init__(message)
        self.fault = fault


def is_retriable(status: int) -> bool:
    """Return whether the same request may well succeed later, by the answer's status."""
    return status in _RETRIABLE or status >= 500


def is_failed_attempt(fault: Fault) -> bool:
    """Return whether a fault uses up an attempt; a stated wait for a rate limit doesn't."""
    return fault.cause != "429" or fault.pause is None


def pause_before(attempt: int, fault: Fault, jitter: float) -> float:
    """Return the seconds to wait before a retry, after ``attempt`` failed ones.

    It is what the server asks for, else a pause that doubles, scaled by ``jitter`` (0.5 to 1) so
    that clients that failed together don't return together.
    """
    if fault.pause is not None:
        return fault.pause
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (attempt - 1)) * jitter


def requested_pause(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which the server wants the next request; None if it doesn't say.

    Read from ``Retry-After``, or from the reset of a ``RateLimit`` of which nothing remains.
    """
    asked = headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit() and len(asked) <= 9:
        return max(float(asked), _LEAST_REQUESTED_PAUSE)
    limit = RateLimit.from_headers(headers)
    if limit is not None and limit.remaining == 0:
        return max(limit.reset, _LEAST_REQUESTED_PAUSE)
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, its class where it has none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
