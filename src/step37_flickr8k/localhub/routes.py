"""What a URL asks for."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

Origin = Literal["hub", "cdn"]

# The shorter reading comes first, so that a repository without a namespace ("squad/tree/main") is
# found, too.
_REPO = r"(?P<repo_id>[^/]+(?:/[^/]+)??)"
_API = r"/api/(?P<repo_type>dataset|model)s"
_PATTERNS: dict[Origin, dict[str, re.Pattern[str]]] = {
    "hub": {
        "tree": re.compile(rf"{_API}/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<repo_path>.*))?"),
        "paths-info": re.compile(rf"{_API}/{_REPO}/paths-info/(?P<revision>[^/]+)"),
        "xet-token": re.compile(rf"{_API}/{_REPO}/xet-read-token/(?P<revision>[^/]+)"),
        # A model has no prefix there
        "resolve": re.compile(
            rf"/(?:(?P<repo_type>dataset)s/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<repo_path>.+)"
        ),
        "api": re.compile(rf"{_API}/{_REPO}(?:/revision/(?P<revision>[^/]+))?"),
    },
    "cdn": {"cdn": re.compile(r"/cdn/(?P<sha256>[0-9a-f]{64})/(?P<repo_path>.+)")},
}


@dataclass(frozen=True)
class Route:
    """The kind of a request and the names in its URL, unquoted."""

    kind: str
    repo_type: str = "model"
    repo_id: str = ""
    revision: str = "main"
    repo_path: str = ""
    sha256: str = ""


def parse(origin: Origin, raw_path: str) -> Route:
    """Read the path of a URL, still quoted, its query left out.

    What ``origin`` doesn't serve is of kind "other".
    """
    for kind, pattern in _PATTERNS[origin].items():
        if match := pattern.fullmatch(raw_path):
            names = {
                name: unquote(value)
                for name, value in match.groupdict().items()
                if value is not None
            }
            return Route(kind, **names)
    return Route("other")


def cdn_path(sha256: str, repo_path: str) -> str:
    """Return the path on the CDN that `parse` reads back.

    The repository's path is in it for faults to match.
    """
    return f"/cdn/{sha256}/{quote(repo_path)}"
