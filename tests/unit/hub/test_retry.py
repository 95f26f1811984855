"""The retry policy: what is retried, what counts as an attempt, and how long a pause is."""

import math
import time
from email.utils import formatdate

import pytest

from step37_flickr8k.hub.retry import (
    Fault,
    GivenUp,
    Unreachable,
    is_failed_attempt,
    is_retriable,
    most_attempts,
    pause_before,
    requested_pause,
)

USED_UP = {"RateLimit": '"resolvers";r=0;t=12'}


@pytest.mark.parametrize(
    ("status", "retriable"),
    [
        (301, False),
        (400, False),
        (401, False),
        (403, False),
        (404, False),
        (407, False),
        (408, True),
        (410, False),
        (416, False),
        (425, True),
        (429, True),
        (451, False),
        (499, False),
        (500, True),
        (502, True),
        (503, True),
        (504, True),
        (599, True),
    ],
)
def test_overload_and_server_errors_are_retriable(status: int, retriable: bool) -> None:
    """A server's error, a timeout and a rate limit may pass; any other refusal stays."""
    assert is_retriable(status) is retriable


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        (Fault("429", 12.0), False),
        (Fault("429", 0.5), False),
        (Fault("429"), True),
        (Fault("503", 12.0), True),
        (Fault("503"), True),
        (Fault("timeout"), True),
        (Unreachable("connection"), True),
    ],
    ids=lambda value: f"{value.cause} {value.pause}" if isinstance(value, Fault) else "",
)
def test_waiting_for_a_rate_limit_is_no_failed_attempt(fault: Fault, failed: bool) -> None:
    """A 429 that says how long to wait uses up no attempt; every other fault does."""
    assert is_failed_attempt(fault) is failed


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(1, 0.4), (2, 0.8), (3, 1.6), (4, 3.2), (7, 25.6), (8, 30.0), (9, 30.0), (100, 30.0)],
)
@pytest.mark.parametrize("jitter", [0.5, 0.75, 1.0])
def test_a_pause_doubles_up_to_half_a_minute(attempt: int, seconds: float, jitter: float) -> None:
    """Each failed attempt doubles the pause, up to 30 s; jitter scales it at every attempt."""
    assert pause_before(attempt, Fault("503"), jitter) == pytest.approx(seconds * jitter)


@pytest.mark.parametrize("requested", [0.5, 7.0, 300.0])
@pytest.mark.parametrize("attempt", [1, 8])
def test_a_pause_that_the_server_asks_for_is_kept_as_it_is(attempt: int, requested: float) -> None:
    """A requested pause is neither scaled by jitter nor shortened to the longest one."""
    assert pause_before(attempt, Fault("429", requested), 0.5) == requested


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("007", 7.0),
        ("1", 1.0),
        ("0", 0.5),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("3601", 3601.0),
        ("999999999", 999999999.0),
        ("1000000000", math.inf),
        ("9" * 5000, math.inf),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1_0", None),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
        ("\u0663", None),
        ("\u00b2", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_retry_after_is_whole_seconds(value: str, seconds: float | None) -> None:
    """ASCII digits are a pause of half a second at least; all else says nothing."""
    assert requested_pause({"Retry-After": value}) == seconds


@pytest.mark.parametrize(
    ("until", "seconds"),
    [("07:28:00", 300.0), ("07:23:00", 0.5), ("07:00:00", 0.5), ("08:28:00", 3900.0)],
)
def test_retry_after_may_be_a_date(until: str, seconds: float | None) -> None:
    """A date is read by the server's own clock; one that is over is the shortest pause."""
    headers = {
        "Retry-After": f"Wed, 21 Oct 2026 {until} GMT",
        "Date": "Wed, 21 Oct 2026 07:23:00 GMT",
    }
    assert requested_pause(headers) == seconds


def test_a_date_without_the_servers_clock_is_read_by_this_ones() -> None:
    """A server that sends no Date is believed to have this machine's time."""
    pause = requested_pause({"Retry-After": formatdate(time.time() + 100, usegmt=True)})
    assert pause == pytest.approx(100, abs=5)


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (Unreachable("connection", first_contact=True), 3),
        (Unreachable("connection"), 8),
        (Fault("503"), 8),
    ],
    ids=["never reached", "reached before", "an answer"],
)
def test_a_host_that_never_answered_is_tried_three_times(fault: Fault, attempts: int) -> None:
    """A mistyped name ends in seconds; a host that answered before has the weather's attempts."""
    assert most_attempts(fault, 8) == attempts
    assert most_attempts(fault, 1) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        (USED_UP, 12.0),
        ({"RateLimit": '"resolvers";r=0;t=0'}, 0.5),
        ({"RateLimit": '"resolvers";r=1;t=12'}, None),
        ({"RateLimit": "nothing readable"}, None),
        ({"RateLimit-Policy": '"fixed window";"resolvers";q=100;w=300'}, None),
        ({**USED_UP, "Retry-After": "2"}, 2.0),
        ({**USED_UP, "Retry-After": "0"}, 0.5),
        ({**USED_UP, "Retry-After": "soon"}, 12.0),
    ],
    ids=str,
)
def test_a_used_up_rate_limit_asks_for_a_pause(
    headers: dict[str, str], seconds: float | None
) -> None:
    """Without a readable Retry-After the pause lasts until a used up rate limit is reset."""
    assert requested_pause(headers) == seconds


def test_a_fault_is_named_by_its_detail_or_its_cause() -> None:
    """The message is the detail where there is one; the cause stays what it is counted under."""
    assert str(Fault("503")) == "503"
    detailed = Unreachable("connection", detail="refused by 127.0.0.1")
    assert (str(detailed), detailed.cause, detailed.pause) == (
        "refused by 127.0.0.1",
        "connection",
        None,
    )


def test_giving_up_keeps_the_last_fault() -> None:
    """Whoever catches it learns which fault the last attempt met, if there was one."""
    fault = Unreachable("connection")
    assert GivenUp("after 8 attempts", fault).fault is fault
    assert GivenUp("a redirect to nowhere").fault is None
