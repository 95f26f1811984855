"""What an error answer of the Hub means, by its code and status."""

import pytest

from step37_flickr8k.errors import (
    AccessDenied,
    ConfigurationError,
    RepositoryNotFound,
    RevisionNotFound,
    SplitNotFound,
    exit_code_of,
)
from step37_flickr8k.hub.refusals import Refused, Requested, not_found, refusal

CODE = "X-Error-Code"
CHECK = "check the names in its list of files"
HIDDEN = "doesn't exist, or is private: check repo_id, or pass a token (HF_TOKEN or token_file)"


def requested(*, with_token: bool = False) -> Requested:
    return Requested(
        repository="intro/flickr8k",
        revision="v2",
        path="train/metadata.csv",
        with_token=with_token,
    )


def refused(status: int, code: str = "", reason: str = "") -> Refused:
    return Refused(status, reason, {CODE: code} if code else {})


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
            "intro/flickr8k refuses the token (401): check that it is valid and may read it",
        ),
        (
            refused(403),
            AccessDenied,
            "intro/flickr8k refuses the token (403): check that it is valid and may read it",
        ),
        (
            refused(403, "SomethingNew"),
            AccessDenied,
            "intro/flickr8k refuses the token (403): check that it is valid and may read it",
        ),
        (
            refused(404, reason="Not Found"),
            RepositoryNotFound,
            "intro/flickr8k can't be used: it answers 404 Not Found",
        ),
        (
            refused(400, "SomethingNew", "Bad Request"),
            RepositoryNotFound,
            "intro/flickr8k can't be used: it answers 400 Bad Request",
        ),
        (refused(451), RepositoryNotFound, "intro/flickr8k can't be used: it answers 451"),
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


@pytest.mark.parametrize(
    ("answer", "by_hub"),
    [
        (refused(404, "RepoNotFound"), True),
        (refused(403, "GatedRepo"), True),
        (refused(401), True),
        (refused(403), False),
        (refused(404), False),
        (refused(407), False),
    ],
    ids=lambda value: (
        f"{value} {value.headers.get(CODE, '')}" if isinstance(value, Refused) else ""
    ),
)
def test_an_answer_without_a_code_may_be_a_proxys(answer: Refused, by_hub: bool) -> None:
    """The Hub is known by its code, and by 401; any other bare refusal may come from a proxy."""
    assert answer.by_hub is by_hub
