"""One listener of the local Hub: reads a request, lets the faults act, sends the answer, keeps the log."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from aiohttp import web

from . import answers
from .answers import Answer, FileSpan, Policy
from .faults import Fault, Faults
from .repository import Repository
from .requests import Request, RequestLog
from .routes import Origin, Route, parse

CHUNK = 1 << 20
"""The most bytes that are read and sent at once."""


@dataclass
class Backend:
    """What both listeners share; ``cdn_port`` is None when the Hub itself serves LFS files."""

    repository: Repository
    policy: Policy
    faults: Faults
    log: RequestLog
    cdn_port: int | None


class Listener:
    """The requests of one origin."""

    def __init__(self, origin: Origin, backend: Backend) -> None:
        """Answer as the Hub itself, or as its CDN."""
        self._origin = origin
        self._backend = backend

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, after the faults that match it, and log it on arrival."""
        raw_path = request.raw_path.partition("?")[0]
        if raw_path.startswith("/_localhub/"):
            return await _control(request, raw_path, self._backend)
        route = parse(self._origin, raw_path)
        number = self._backend.log.add(_arrived(request, route, self._origin))
        verdict = self._backend.faults.before(route.kind, route.repo_path)
        if verdict.delay:
            await asyncio.sleep(verdict.delay)
        if verdict.end is not None and verdict.end.effect == "reset":
            return _reset(request)
        answer = _ending(verdict.end) if verdict.end is not None else await self._answer(request, route)
        return await self._send(request, route, answer, headers=verdict.headers, number=number)

    async def _answer(self, request: web.BaseRequest, route: Route) -> Answer:
        if route.kind == "other":
            return answers.refusal(404, "Not Found")
        if request.method not in ({"POST"} if route.kind == "paths-info" else {"GET", "HEAD"}):
            return answers.refusal(405, "Method Not Allowed")
        if route.kind == "cdn":
            snapshot = self._backend.repository.current
            return answers.from_cdn(snapshot, route, wanted=request.headers.get("Range"))
        policy = self._backend.policy
        closed = answers.refuse(route, request.headers.get("Authorization"), policy)
        return closed or await self._open_answer(request, route, policy)

    async def _open_answer(self, request: web.BaseRequest, route: Route, policy: Policy) -> Answer:
        snapshot = answers.find_commit(self._backend.repository, route.revision)
        if isinstance(snapshot, Answer):
            return snapshot
        if route.kind == "resolve":
            return answers.resolve(
                snapshot, route.repo_path, wanted=request.headers.get("Range"), cdn=self._cdn_endpoint(request)
            )
        if route.kind == "paths-info":
            form = await request.post()
            names = [str(name) for name in form.getall("paths", [])]
            return answers.paths_info(snapshot, names, expand=_is_true(str(form.get("expand", ""))))
        if route.kind == "api":
            return answers.info(snapshot, policy, blobs=_is_true(request.query.get("blobs", "")))
        query = answers.TreeQuery(
            folder=route.repo_path,
            recursive=_is_true(request.query.get("recursive", "")),
            expand=_is_true(request.query.get("expand", "")),
            cursor=request.query.get("cursor", ""),
        )
        answer, cursor = answers.tree(snapshot, query, page_size=policy.page_size)
        if cursor is None:
            return answer
        link = f'<{request.url.update_query(cursor=cursor)}>; rel="next"'
        return Answer(answer.status, {**answer.headers, "Link": link}, answer.body)

    def _cdn_endpoint(self, request: web.BaseRequest) -> str | None:
        # By the host name that the client used: behind a Service or a published port ours would mean nothing to it.
        port = self._backend.cdn_port
        return None if port is None else str(request.url.with_port(port).origin())

    async def _send(
        self, request: web.BaseRequest, route: Route, answer: Answer, *, headers: dict[str, str], number: int
    ) -> web.StreamResponse:
        log = self._backend.log
        response = web.StreamResponse(status=answer.status, headers={**answer.headers, **headers})
        response.content_length = answer.size
        # Logged before anything leaves: a client that has its answer finds it in the log.
        log.update(number, status=answer.status, bytes_sent=0)
        await response.prepare(request)
        if request.method == "HEAD" or answer.size == 0:
            return response
        faults = self._backend.faults.on_bytes(route.kind, route.repo_path) if isinstance(answer.body, FileSpan) else ()
        with _reader(answer) as pieces:
            for start, piece in pieces(_cuts(answer.size, faults)):
                for fault in (one for one in faults if _mark(one, answer.size) == start):
                    if not await _strike(fault, request, response):
                        return response
                await _pace(faults, len(piece))
                log.update(number, status=answer.status, bytes_sent=start + len(piece))
                await response.write(_flip(piece) if _is_corrupt(faults, answer.size, start) else piece)
        return response
