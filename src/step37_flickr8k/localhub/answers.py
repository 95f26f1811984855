"""What the Hub answers: decided here from values, sent elsewhere."""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .repository import RepoFile, Snapshot
from .routes import Route, cdn_path

_MOST_DIGITS = 19  # of a size in bytes; Python reads no more than 4,300


@dataclass(frozen=True)
class Policy:
    """Who may read the repository, and how it is served."""

    repo_id: str
    repo_type: str = "dataset"
    token: str | None = None
    gated: bool = False
    page_size: int = 1000
    renamed_from: str = ""
    xet: Path | None = None


@dataclass(frozen=True)
class FileSpan:
    """Bytes ``start`` to ``start + size`` of a file."""

    file: RepoFile
    start: int
    size: int


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of an answer; the body is bytes, or a span of a file."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileSpan = b""

    @property
    def size(self) -> int:
        """The body's length in bytes."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size

    def with_headers(self, headers: Mapping[str, str]) -> "Answer":
        """Return the same answer with further headers."""
        return replace(self, headers={**self.headers, **headers})


def as_json(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    """Answer with a value as JSON."""
    headers = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return Answer(status, headers, json.dumps(value).encode())


def refusal(
    status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Return an error as the Hub writes it.

    The message stands in ``X-Error-Message`` and in the body, the error's name in ``X-Error-Code``.
    """
    said = {
        "X-Error-Message": message,
        **({"X-Error-Code": code} if code else {}),
        **(headers or {}),
    }
    return as_json({"error": message}, status=status, headers=said)


def refuse(route: Route, authorization: str | None, policy: Policy) -> Answer | None:
    """Return the Hub's refusal of this request; None if the repository is open to it.

    Without a token a repository that is missing or private is a 401, so that nobody learns which;
    with a valid one a missing repository is a 404. A gated one shows its info and its tree, not its
    files nor a token for their store.
    """
    bearer = (authorization or "").removeprefix("Bearer ")
    if bearer and policy.token and bearer != policy.token:
        return refusal(401, "Invalid credentials in Authorization header")
    served = (route.repo_type, route.repo_id) == (policy.repo_type, policy.repo_id)
    if not served or (policy.token and not bearer):
        if bearer:
            return refusal(404, "Repository not found", code="RepoNotFound")
        return refusal(401, "Invalid username or password.", code="RepoNotFound")
    if policy.gated and route.kind in {"resolve", "xet-token"}:
        restricted = f"Access to {policy.repo_type} {policy.repo_id} is restricted"
        message = f"{restricted} and you are not in the authorized list."
        return refusal(403, message, code="GatedRepo")
    return None


def elsewhere(
    route: Route, raw_path: str, authorization: str | None, policy: Policy
) -> Answer | None:
    """Return the redirect from the repository's former name, or what `refuse` returns."""
    if route.repo_id == policy.renamed_from:
        target = raw_path.replace(f"/datasets/{route.repo_id}", f"/datasets/{policy.repo_id}")
        return Answer(307, {"Location": target})
    return refuse(route, authorization, policy)


def info(snapshot: Snapshot, policy: Policy, *, blobs: bool) -> Answer:
    """Describe the repository at a commit and name its files; ``blobs`` adds sizes and hashes."""
    value = {
        "_id": snapshot.commit[:24],
        "id": policy.repo_id,
        "author": policy.repo_id.partition("/")[0],
        "sha": snapshot.commit,
        "lastModified": "2024-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "private": policy.token is not None,
        "gated": "manual" if policy.gated else False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [
            _sibling(snapshot.files[name], blobs=blobs) for name in sorted(snapshot.files)
        ],
    }
    return as_json(value)


def _sibling(file: RepoFile, *, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": file.repo_path}
    sibling: dict[str, Any] = {"rfilename": file.repo_path, "size": file.size, "blobId": file.oid}
    if file.lfs is not None:
        sibling["lfs"] = {
            "sha256": file.sha256,
            "size": file.size,
            "pointerSize": file.pointer_size,
        }
    return sibling


@dataclass(frozen=True)
class TreeQuery:
    """The part of a directory's tree that is asked for: the entries after the path ``cursor``."""

    directory: str
    recursive: bool = False
    expand: bool = False
    cursor: str = ""


def tree(snapshot: Snapshot, query: TreeQuery, *, page_size: int) -> tuple[Answer, str | None]:
    """Return a page of a directory and the next page's cursor, None after the last page."""
    directory = query.directory.strip("/")
    if not snapshot.has_directory(directory):
        return _no_entry(snapshot, directory), None
    names = snapshot.names_below(directory, recursive=query.recursive)
    page, cursor = snapshot.page(names, after=query.cursor, size=page_size)
    return as_json([snapshot.entry(name, expand=query.expand) for name in page]), cursor


def paths_info(snapshot: Snapshot, names: Iterable[str], *, expand: bool) -> Answer:
    """Describe the files and directories of these names; unknown ones are left out."""
    known = [name for name in names if name in snapshot.files or name in snapshot.directories]
    return as_json([snapshot.entry(name, expand=expand) for name in known])


def xet_token(store: Path) -> Answer:
    """Return where the Xet store is, with a token for an hour, which the store doesn't check."""
    expires = str(int(time.time()) + 3600)
    said = {
        "X-Xet-Cas-Url": f"local://{store}",
        "X-Xet-Access-Token": "any",
        "X-Xet-Token-Expiration": expires,
    }
    return as_json({}, headers=said)


def resolve(
    snapshot: Snapshot, repo_path: str, *, wanted: str | None, cdn: str | None, xet_auth: str = ""
) -> Answer:
    """Serve a file; redirect to an LFS file on the CDN if ``cdn``, the CDN's endpoint, is given.

    ``wanted`` is the Range header, ``xet_auth`` the address of a token for the Xet store.
    """
    file = snapshot.files.get(repo_path)
    if file is None:
        return _no_entry(snapshot, repo_path)
    headers = {"X-Repo-Commit": snapshot.commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if file.sha256 is not None:
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
        if file.xet:
            headers |= {"X-Xet-Hash": file.xet, "Link": f'<{xet_auth}>; rel="xet-auth"'}
        if cdn is not None:
            return Answer(302, {**headers, "Location": cdn + cdn_path(file.sha256, repo_path)})
    return _serve(file, headers, wanted)


def from_cdn(file: RepoFile | None, *, wanted: str | None) -> Answer:
    """Serve an LFS file as a CDN does: nothing about the repository in the headers."""
    if file is None:
        return Answer(404, {"Content-Type": "text/plain"}, b"Not Found")
    return _serve(file, {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"}, wanted)


def _no_entry(snapshot: Snapshot, name: str) -> Answer:
    return refusal(
        404,
        f"{name} does not exist",
        code="EntryNotFound",
        headers={"X-Repo-Commit": snapshot.commit},
    )


def _serve(file: RepoFile, headers: dict[str, str], wanted: str | None) -> Answer:
    if not file.is_unchanged():
        return refusal(
            500, f"{file.repo_path} has changed on disk since it was scanned: refresh the local Hub"
        )
    headers = {**headers, "Content-Type": "application/octet-stream"}
    span = byte_range(wanted, file.size)
    if span is None:
        return Answer(200, headers, FileSpan(file, 0, file.size))
    if not span:
        return Answer(416, {**headers, "Content-Range": f"bytes */{file.size}"})
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{file.size}"
    return Answer(206, headers, FileSpan(file, span.start, len(span)))


def byte_range(wanted: str | None, size: int) -> range | None:
    """Read a Range header for a file of ``size`` bytes.

    None means the whole file: there is no header, or it has several ranges or another unit. An
    empty range can't be satisfied.
    """
    match = re.fullmatch("bytes=([0-9]*)-([0-9]*)", wanted or "")
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - _number(last)), size)
    return range(_number(first), min(_number(last) + 1, size) if last else size)


def _number(digits: str) -> int:
    """Return a number; one that is longer than any file's size is no more than that."""
    return int(digits) if len(digits) < _MOST_DIGITS else 10**_MOST_DIGITS
