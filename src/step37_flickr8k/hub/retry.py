"""The one policy for requests that fail, to the API and for files; pure functions.

A fault of the network or an overloaded server is retried after a growing pause, up to the setting
``attempts``. Waiting for a rate limit for as long as the server asks is not a failed attempt.
"""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from step37_flickr8k.hub.rate_limit import RateLimit

__all__ = [
    "LONGEST_PAUSE",
    "Fault",
    "GivenUp",
    "Unreachable",
    "first_line",
    "is_failed_attempt",
    "is_retriable",
    "most_attempts",
    "pause_before",
    "requested_pause",
    "too_long",
]

# Request Timeout, Too Early, Too Many Requests. All 5xx are retried, too.
_RETRIABLE = {408, 425, 429}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.4, 30.0  # s
# The shortest pause after "Retry-After": a 0 from a busy proxy must not become a loop.
_LEAST_REQUESTED_PAUSE = 0.5  # s
# The longest one, and all of one request together: the Hub's windows have 5 minutes. A server that
# asks for more isn't waited for, since nobody wants a job of many nodes to wait for a day.
LONGEST_PAUSE = 3600.0  # s
_LONGEST_SHOWN = 31_536_000.0  # s
# Attempts to connect to a host that never answered yet: its name may be mistyped.
_FIRST_CONTACT = 3


class Fault(Exception):
    """Raised for an attempt that failed and may be retried.

    ``cause`` is the name under which it is counted, ``pause`` the seconds the server asks for.
    """

    def __init__(self, cause: str, pause: float | None = None, *, detail: str = "") -> None:
        super().__init__(detail or cause)
        self.cause = cause
        self.pause = pause


class Unreachable(Fault):
    """Raised for an attempt that got no answer.

    ``first_contact`` says that no connection was made, to a host that never answered before.
    """

    def __init__(self, cause: str, *, detail: str = "", first_contact: bool = False) -> None:
        super().__init__(cause, detail=detail)
        self.first_contact = first_contact


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


def most_attempts(fault: Fault, attempts: int) -> int:
    """Return how many of ``attempts`` are worth making after such a fault."""
    if isinstance(fault, Unreachable) and fault.first_contact:
        return min(attempts, _FIRST_CONTACT)
    return attempts


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
    seconds = _retry_after(headers)
    if seconds is None:
        limit = RateLimit.from_headers(headers)
        seconds = limit.reset if limit is not None and limit.remaining == 0 else None
    return None if seconds is None else max(seconds, _LEAST_REQUESTED_PAUSE)


def too_long(seconds: float) -> str:
    """Return the end of a message about a pause that is longer than any that is waited for."""
    asked = f"{seconds:,.0f} s" if seconds < _LONGEST_SHOWN else "more than a year"
    return (
        f"{asked}, and more than {LONGEST_PAUSE:,.0f} s aren't waited for:"
        " run it again then, or ask whoever runs that address"
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After``: a number, or a date by the server's own clock."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():
        return float(asked) if len(asked) <= 9 else float("inf")
    try:
        until = parsedate_to_datetime(asked).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        now = time.time()
    return until - now


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, its class where it has none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
