"""What an error answer of the Hub means, by its code and status."""

import pytest

from step37_flickr8k.errors import (
    AccessDenied,
    ConfigurationError,
    ProxyRefused,
    RepositoryNotFound,
    RevisionNotFound,
    SplitNotFound,
    exit_code_of,
)
from step37_flickr8k.hub.refusals import ErrorAnswer, Refused, Requested, not_found, refusal

CODE = "X-Error-Code"
CHECK = "check the names in its list of files"
CHECK_ALL = "check repo_id, revision and endpoint"
PASS = "pass one (HF_TOKEN or token_file)"
HIDDEN = "doesn't exist, or is private: check repo_id, or pass a token (HF_TOKEN or token_file)"


def requested(*, with_token: bool = False) -> Requested:
    return Requested(
        repository="intro/flickr8k",
        revision="v2",
        path="train/metadata.csv",
        with_token=with_token,
    )


def refused(status: int, code: str = "", reason: str = "", proxy: str | None = None) -> Refused:
    return Refused(status, reason, {CODE: code} if code else {}, proxy)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            refused(404, "RevisionNotFound"),
            RevisionNotFound,
            "intro/flickr8k has no revision v2: choose a branch, tag or commit",
        ),
        (
            refused(404, "EntryNotFound"),
            SplitNotFound,
            f"intro/flickr8k holds no train/metadata.csv at v2: {CHECK}",
        ),
        (
            refused(403, "GatedRepo"),
            AccessDenied,
            "intro/flickr8k is gated: ask for access on its page, then pass a token of that user",
        ),
        (
            refused(401, "GatedRepo"),
            AccessDenied,
            "intro/flickr8k is gated: ask for access on its page, then pass a token of that user",
        ),
        (
            refused(401, "RepoNotFound"),
            RepositoryNotFound,
            f"intro/flickr8k {HIDDEN}",
        ),
        (
            refused(401),
            AccessDenied,
            f"intro/flickr8k refuses access without a token (401): {PASS}",
        ),
        (
            refused(403),
            AccessDenied,
            f"intro/flickr8k refuses access without a token (403): {PASS}",
        ),
        (
            refused(403, "SomethingNew"),
            AccessDenied,
            f"intro/flickr8k refuses access without a token (403): {PASS}",
        ),
        (
            refused(404, reason="Not Found"),
            RepositoryNotFound,
            f"intro/flickr8k can't be used: it answers 404 Not Found: {CHECK_ALL}",
        ),
        (
            refused(400, "SomethingNew", "Bad Request"),
            RepositoryNotFound,
            f"intro/flickr8k can't be used: it answers 400 Bad Request: {CHECK_ALL}",
        ),
        (
            refused(451),
            RepositoryNotFound,
            f"intro/flickr8k can't be used: it answers 451: {CHECK_ALL}",
        ),
    ],
    ids=lambda value: (
        f"{value} {value.headers.get(CODE, '')}" if isinstance(value, Refused) else ""
    ),
)
def test_code_before_status_decides_the_error(
    answer: Refused, error: type[ConfigurationError], message: str
) -> None:
    """The Hub's code decides, then the status; the message names what was requested."""
    found = refusal(answer, requested())
    assert (type(found), str(found)) == (error, message)
    assert exit_code_of(found) == 2


def test_a_hidden_repository_names_the_remedy_that_is_left() -> None:
    """Who passes a token already is referred to its rights, not asked for a token."""
    answer = refused(404, "RepoNotFound")
    assert "or pass a token" in str(refusal(answer, requested(with_token=False)))
    assert "or this token may not see it" in str(refusal(answer, requested(with_token=True)))


def test_a_path_that_the_listing_lacks_is_the_same_error_as_the_hubs() -> None:
    """A missing path reads alike, whether a listing or an answer revealed it."""
    answered = refusal(refused(404, "EntryNotFound"), requested())
    listed = not_found(requested())
    assert (type(answered), str(answered)) == (type(listed), str(listed))


@pytest.mark.parametrize("status", [401, 403])
def test_the_token_is_blamed_only_if_there_is_one(status: int) -> None:
    """Who passes a token is told to check it; who passes none is told to pass one."""
    with_token = refusal(refused(status), requested(with_token=True))
    assert "refuses the token" in str(with_token)
    assert "without a token" in str(refusal(refused(status), requested()))


@pytest.mark.parametrize(("status", "is_filter"), [(403, True), (401, False), (404, False)])
def test_a_web_page_that_forbids_is_a_filters(status: int, is_filter: bool) -> None:
    """The Hub's API forbids in JSON. A mirror that wants a login does so with a page, and 401."""
    page = Refused(status, "No", {"Content-Type": "text/html; charset=utf-8"})
    assert page.by_hub is not is_filter
    assert isinstance(refusal(page, requested(with_token=True)), ProxyRefused) is is_filter
    page.headers = {**page.headers, CODE: "GatedRepo"}
    assert page.by_hub


@pytest.mark.parametrize(
    ("answer", "by_hub"),
    [
        (refused(404, "RepoNotFound", proxy="p:3128"), True),
        (refused(403, "GatedRepo", proxy="p:3128"), True),
        (refused(401, proxy="p:3128"), True),
        (refused(403, proxy="p:3128"), False),
        (refused(404, proxy="p:3128"), False),
        (refused(407, proxy="p:3128"), False),
        (refused(403), True),
        (refused(404), True),
    ],
    ids=lambda value: (
        f"{value} {value.headers.get(CODE, '')} {value.proxy or 'no proxy'}"
        if isinstance(value, Refused)
        else ""
    ),
)
def test_an_answer_without_a_code_may_be_a_proxys(answer: Refused, by_hub: bool) -> None:
    """Behind a proxy that reads the request, the Hub is known by its code and by 401."""
    assert answer.by_hub is by_hub


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (403, "have it allowed there, or add its host to NO_PROXY"),
        (407, "put user and password into its address"),
    ],
)
def test_a_proxys_refusal_is_the_proxys(status: int, remedy: str) -> None:
    """A proxy that blocks, or wants a login, is named with the remedy; the token isn't blamed."""
    found = refusal(refused(status, reason="No", proxy="p:3128"), requested(with_token=True))
    assert isinstance(found, ProxyRefused)
    assert str(found).startswith(
        f"the proxy p:3128 refuses requests to intro/flickr8k ({status} No): {remedy}"
    )
    assert exit_code_of(found) == 2


@pytest.mark.parametrize(
    ("status", "own", "final"),
    [
        (403, True, True),
        (403, False, False),
        (503, True, False),
        (503, False, False),
        (200, False, True),
        (304, False, True),
    ],
)
def test_only_the_endpoint_has_the_last_word(status: int, own: bool, final: bool) -> None:
    """An error of another origin may pass; what is no error doesn't become one that is retried."""
    answer = ErrorAnswer(
        status=status, reason="No", headers={}, host="cdn.example", own=own, proxy=None
    )
    assert isinstance(answer.judged(), Refused) is final
