"""What an error answer of the Hub means: an error that names the cause and the remedy."""

from collections.abc import Mapping
from dataclasses import dataclass

from step37_flickr8k.errors import (
    AccessDenied,
    RepositoryNotFound,
    RevisionNotFound,
    SplitNotFound,
    Step37Error,
)

__all__ = ["Refused", "Requested", "not_found", "refusal"]


class Refused(Exception):
    """Raised for an answer with an error status that retrying doesn't change."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status} {reason}".strip())
        self.status = status
        self.headers = headers

    @property
    def by_hub(self) -> bool:
        """Whether the Hub itself answered: it says so in a header, and 401 is never a proxy's."""
        return "X-Error-Code" in self.headers or self.status == 401


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What a request asks for, for messages: ``path`` at ``revision`` of ``repository``."""

    repository: str
    revision: str
    path: str
    with_token: bool


def refusal(refused: Refused, requested: Requested) -> Step37Error:
    """Return what an error answer means for what was requested.

    The Hub answers 401 for a repository that doesn't exist as for one that is private, so that
    nobody can probe for names.
    """
    repository, code = requested.repository, refused.headers.get("X-Error-Code")
    if code == "RevisionNotFound":
        return RevisionNotFound(
            f"{repository} has no revision {requested.revision}: choose a branch, tag or commit"
        )
    if code == "EntryNotFound":
        return not_found(requested)
    if code == "GatedRepo":
        return AccessDenied(
            f"{repository} is gated: ask for access on its page, then pass a token of that user"
        )
    if code == "RepoNotFound":
        return RepositoryNotFound(f"{repository} {_hidden(with_token=requested.with_token)}")
    if refused.status in {401, 403}:
        return AccessDenied(
            f"{repository} refuses the token ({refused.status}):"
            " check that it is valid and may read it"
        )
    return RepositoryNotFound(f"{repository} can't be used: it answers {refused}")


def not_found(requested: Requested) -> SplitNotFound:
    """Return the error for a path that the revision doesn't hold."""
    return SplitNotFound(
        f"{requested.repository} holds no {requested.path} at {requested.revision}:"
        " check the names in its list of files"
    )


def _hidden(*, with_token: bool) -> str:
    if with_token:
        return "doesn't exist, or this token may not see it: check repo_id, and the token's rights"
    return "doesn't exist, or is private: check repo_id, or pass a token (HF_TOKEN or token_file)"
