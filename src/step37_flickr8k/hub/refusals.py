"""What an error answer of the Hub means: an error that names the cause and the remedy."""

from collections.abc import Mapping
from dataclasses import dataclass

from step37_flickr8k.errors import (
    AccessDenied,
    ProxyRefused,
    RepositoryNotFound,
    RevisionNotFound,
    SplitNotFound,
    Step37Error,
)
from step37_flickr8k.hub.retry import Fault, is_retriable, requested_pause

__all__ = [
    "ErrorAnswer",
    "Refused",
    "Requested",
    "denied",
    "not_found",
    "refusal",
    "refused_by_proxy",
    "refused_on_the_way",
]


class Refused(Exception):
    """Raised for an answer of the endpoint's own origin with an error status that stays.

    ``proxy`` is the one that read the request and could have answered itself: one before plain
    HTTP. An HTTPS proxy passes on what it can't read.
    """

    def __init__(
        self, status: int, reason: str, headers: Mapping[str, str], proxy: str | None = None
    ) -> None:
        super().__init__(f"{status} {reason}".strip())
        self.status = status
        self.headers = headers
        self.proxy = proxy

    @property
    def has_code(self) -> bool:
        """Whether it says in the Hub's own way what is wrong; mirrors may not."""
        return "X-Error-Code" in self.headers

    @property
    def by_hub(self) -> bool:
        """Whether the Hub itself answered: a proxy sends neither its code nor 401.

        Nor does the Hub forbid anything with a web page; a filter before it does.
        """
        if self.has_code or self.status == 401:
            return True
        return self.proxy is None and not (self.status == 403 and self._is_page)

    @property
    def _is_page(self) -> bool:
        return self.headers.get("Content-Type", "").lower().startswith("text/html")


@dataclass(frozen=True, kw_only=True)
class ErrorAnswer:
    """An answer with an error status, and who may have sent it.

    ``host`` is where it comes from, ``own`` whether that is the endpoint's own origin, and
    ``proxy`` the one that read the request.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    host: str
    own: bool
    proxy: str | None

    def judged(self) -> Fault | Refused:
        """Return what it means: it may pass, or it is the endpoint's word.

        Any of another origin than the endpoint's may pass: the address of a CDN has a date, and the
        endpoint names a new one.
        """
        # Below 400 it is no error, but not what was asked for, a whole file for a part of it.
        if self.status < 400 or (self.own and not is_retriable(self.status)):
            return Refused(self.status, self.reason, self.headers, self.proxy)
        detail = f"{self.status} {self.reason}".strip()
        if not self.own:
            through = f" through the proxy {self.proxy}" if self.proxy else ""
            detail = f"{self.host}{through} answers {detail}"
        return Fault(str(self.status), requested_pause(self.headers), detail=detail)


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
    if refused.status in {403, 407} and not refused.by_hub:
        return refused_on_the_way(refused, repository)
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
    if refused.status in {401, 403} and code != "RepoNotFound":
        return denied(repository, refused.status, with_token=requested.with_token)
    hidden = _hidden(with_token=requested.with_token)
    other = f"can't be used: it answers {refused}: check repo_id, revision and endpoint"
    return RepositoryNotFound(f"{repository} {hidden if code == 'RepoNotFound' else other}")


def denied(what: str, status: int, *, with_token: bool) -> AccessDenied:
    """Return the error for what the Hub itself refuses to show."""
    if with_token:
        return AccessDenied(
            f"{what} refuses the token ({status}): check that it is valid and may read it"
        )
    return AccessDenied(
        f"{what} refuses access without a token ({status}): pass one (HF_TOKEN or token_file)"
    )


def refused_on_the_way(refused: Refused, what: str) -> ProxyRefused:
    """Return the error for an answer that isn't the Hub's: its proxy's, or that of a filter."""
    if refused.proxy is not None:
        return refused_by_proxy(refused.proxy, what, str(refused))
    return ProxyRefused(
        f"{what} answers with a web page ({refused}), as filters do and the Hub doesn't:"
        " have the address allowed there"
    )


def refused_by_proxy(proxy: str, what: str, answer: str) -> ProxyRefused:
    """Return the error for a request that a proxy refuses, by its answer (``403 Forbidden``)."""
    if answer.startswith("407"):
        remedy = "put user and password into its address, http://user:password@host:port"
    else:
        remedy = "have it allowed there, or add its host to NO_PROXY where nodes reach it directly"
    return ProxyRefused(f"the proxy {proxy} refuses requests to {what} ({answer}): {remedy}")


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
