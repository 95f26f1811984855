"""The rate limit in the headers of the Hub's answers, and the wait that follows from it."""

import pytest

from step37_flickr8k.hub.rate_limit import RateLimit


@pytest.mark.parametrize(
    ("requests", "seconds"),
    [(10, 0), (90, 0), (91, 200), (191, 500), (190, 200), (291, 800)],
    ids=str,
)
def test_a_wait_counts_windows(requests: int, seconds: float) -> None:
    """Remaining requests wait for nothing; each further window holds ``limit`` of them."""
    limit = RateLimit.from_headers(
        {
            "RateLimit": '"resolvers";r=90;t=200',
            "RateLimit-Policy": '"fixed window";"resolvers";q=100;w=300',
        }
    )
    assert limit == RateLimit(limit=100, remaining=90, reset=200, window=300)
    assert limit.wait(requests) == seconds


@pytest.mark.parametrize(
    "header",
    ['"resolvers";r=0;t=' + "9" * 5000, '"resolvers";r=' + "9" * 5000 + ";t=1", '"resolvers"'],
    ids=len,
)
def test_a_number_that_no_hub_means_is_passed_over(header: str) -> None:
    """A rate limit with a number of more than nine digits, or without numbers, isn't read."""
    assert RateLimit.from_headers({"RateLimit": header}) is None
    absurd = {
        "RateLimit": '"resolvers";r=1;t=2',
        "RateLimit-Policy": '"fixed window";"resolvers";q=' + "9" * 5000 + ";w=300",
    }
    assert RateLimit.from_headers(absurd) == RateLimit(limit=1, remaining=1, reset=2, window=2)


@pytest.mark.parametrize(
    ("state", "policy", "expected"),
    [
        ('"api";r=7;t=30', '"fixed window";"api";q=10;w=60', RateLimit(10, 7, 30.0, 60.0)),
        ('"api" ; r=7 ; t=30', '"api" ; q=10 ; w=60', RateLimit(10, 7, 30.0, 60.0)),
        ('"api";r=7;t=30', "", RateLimit(7, 7, 30.0, 30.0)),
        ('"api";r=7;t=30', '"api";q=10', RateLimit(7, 7, 30.0, 30.0)),
        ('"api";r=0;t=30', "", RateLimit(1, 0, 30.0, 30.0)),
        ('"api";r=0;t=30', '"api";q=0;w=60', RateLimit(1, 0, 30.0, 60.0)),
    ],
)
def test_a_policy_that_is_missing_is_the_window_under_way(
    state: str, policy: str, expected: RateLimit
) -> None:
    """Limit and window are the policy's, else what remains now; a limit is never 0."""
    headers = {"RateLimit": state, "RateLimit-Policy": policy}
    assert RateLimit.from_headers(headers) == expected


@pytest.mark.parametrize("state", ["", "r=7;t=30", '"api";r=7', '"api";t=30;r=7', '"api";r=-7;t=3'])
def test_without_a_readable_state_there_is_no_limit(state: str) -> None:
    """A policy alone doesn't say what remains, so it is no rate limit."""
    headers = {"RateLimit": state, "RateLimit-Policy": '"api";q=10;w=60'}
    assert RateLimit.from_headers(headers) is None


@pytest.mark.parametrize(("requests", "seconds"), [(0, 0), (1, 30), (2, 90), (3, 150)], ids=str)
def test_a_limit_that_is_used_up_makes_the_first_request_wait(
    requests: int, seconds: float
) -> None:
    """With nothing remaining each request waits for the reset and for the windows before it."""
    assert RateLimit(limit=1, remaining=0, reset=30, window=60).wait(requests) == seconds
