"""One origin of the local Hub: the Hub itself, or its CDN.

Reads a request, lets the faults act, sends the answer, keeps the log.
"""

import asyncio
import json
import re
import time
from dataclasses import asdict, dataclass

from aiohttp import web

from . import answers
from .answers import Answer, Policy
from .body import reset, send_file
from .faults import Fault, Faults
from .repository import Repository, Snapshot
from .requests import Request, RequestLog
from .routes import Origin, Route, parse


@dataclass
class Backend:
    """What both origins share; ``cdn_port`` is None when the Hub itself serves LFS files.

    ``control`` lets other processes use the log and the faults.
    """

    repository: Repository
    policy: Policy
    faults: Faults
    log: RequestLog
    cdn_port: int | None
    control: bool


class OriginServer:
    """The requests of one origin."""

    def __init__(self, origin: Origin, backend: Backend) -> None:
        """Answer as the Hub itself, or as its CDN."""
        self._origin = origin
        self._backend = backend

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, after the faults that match it, and log it on arrival."""
        raw_path = request.raw_path.partition("?")[0]
        if self._backend.control and raw_path.startswith("/_localhub/"):
            return await _control(request, raw_path, self._backend)
        route = parse(self._origin, raw_path)
        number = self._backend.log.add(_arrived(request, route, self._origin))
        verdict = self._backend.faults.before(route.kind, route.repo_path)
        if verdict.delay:
            await asyncio.sleep(verdict.delay)
        if verdict.end is None:
            answer = await self._answer(request, route)
        elif verdict.end.effect == "reset":
            reset(request)
            return web.Response()
        else:
            answer = _ending(verdict.end, request.raw_path)
        answer = answer.with_headers(verdict.headers)
        return await self._send(request, route, answer, number)

    async def _answer(self, request: web.BaseRequest, route: Route) -> Answer:
        if route.kind == "other":
            return answers.refusal(404, "Not Found")
        if request.method not in ({"POST"} if route.kind == "paths-info" else {"GET", "HEAD"}):
            return answers.refusal(405, "Method Not Allowed")
        repository, policy = self._backend.repository, self._backend.policy
        if route.kind == "cdn":
            return answers.from_cdn(
                repository.find(route.repo_path, route.sha256), wanted=request.headers.get("Range")
            )
        elsewhere = answers.elsewhere(
            route, request.raw_path, request.headers.get("Authorization"), policy
        )
        if elsewhere is not None:
            return elsewhere
        snapshot = repository.at(route.revision)
        if snapshot is None:
            return answers.refusal(
                404, f"Invalid rev id: {route.revision}", code="RevisionNotFound"
            )
        return await self._open(request, route, snapshot)

    async def _open(self, request: web.BaseRequest, route: Route, snapshot: Snapshot) -> Answer:
        policy, query = self._backend.policy, request.query
        if route.kind == "resolve":
            wanted, cdn = request.headers.get("Range"), self._cdn_endpoint(request)
            auth = str(
                request.url.with_path(
                    f"/api/{policy.repo_type}s/{policy.repo_id}/xet-read-token/{snapshot.commit}"
                )
            )
            return answers.resolve(snapshot, route.repo_path, wanted=wanted, cdn=cdn, xet_auth=auth)
        if route.kind == "xet-token":
            return (
                answers.refusal(404, "Not Found")
                if policy.xet is None
                else answers.xet_token(policy.xet)
            )
        if route.kind == "paths-info":
            form = await request.post()
            names = [str(name) for name in form.getall("paths", [])]
            return answers.paths_info(snapshot, names, expand=_is_true(form.get("expand")))
        if route.kind == "api":
            return answers.info(snapshot, policy, blobs=_is_true(query.get("blobs")))
        recursive, expand = _is_true(query.get("recursive")), _is_true(query.get("expand"))
        asked = answers.TreeQuery(route.repo_path, recursive, expand, query.get("cursor", ""))
        answer, cursor = answers.tree(snapshot, asked, page_size=policy.page_size)
        if cursor is None:
            return answer
        return answer.with_headers(
            {"Link": f'<{request.url.update_query(cursor=cursor)}>; rel="next"'}
        )

    def _cdn_endpoint(self, request: web.BaseRequest) -> str | None:
        # The host name is the one that the client used: behind a Service or a published port the
        # server's own would mean nothing to the client.
        port = self._backend.cdn_port
        return None if port is None else str(request.url.with_port(port).origin())

    async def _send(
        self, request: web.BaseRequest, route: Route, answer: Answer, number: int
    ) -> web.StreamResponse:
        def note(count: int) -> None:
            # Called before the bytes leave: a client that has its answer finds it in the log.
            self._backend.log.update(number, status=answer.status, bytes_sent=count)

        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = answer.size
        note(0)
        await response.prepare(request)
        if request.method == "HEAD" or answer.size == 0:
            return response
        if isinstance(answer.body, bytes):
            note(answer.size)
            await response.write(answer.body)
            return response
        faults = self._backend.faults.on_bytes(route.kind, route.repo_path)
        await send_file(request, response, answer.body, faults=faults, note=note)
        return response


def _arrived(request: web.BaseRequest, route: Route, origin: Origin) -> Request:
    return Request(
        method=request.method,
        path=request.raw_path,
        kind=route.kind,
        repo_path=route.repo_path,
        status=0,
        authorization="Authorization" in request.headers,
        origin=origin,
        time=time.time(),
        bytes_sent=0,
        user_agent=request.headers.get("User-Agent", ""),
        header_names=tuple(name.lower() for name in request.headers),
        client=request.remote or "",
    )


def _ending(fault: Fault, raw_path: str) -> Answer:
    """Return the answer of a fault that ends a request.

    Its status is the fault's own, or 429 for a rate limit that is used up.
    """
    if fault.effect == "quota":
        return answers.refusal(429, "Too Many Requests")
    if fault.effect == "redirect":
        return Answer(fault.code, {"Location": fault.location or raw_path})
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return answers.refusal(fault.code, f"{fault.code} on demand", headers=headers)


def _by_a_program(request: web.BaseRequest) -> bool:
    """Return whether no browser's page can have sent a request.

    One of another origin names it; one that leads its own name here has that name as host.
    """
    host = request.url.host or ""
    named = host != "localhost" and not re.fullmatch(r"[0-9.]+|\[?[0-9a-f:.]+\]?", host)
    return "Origin" not in request.headers and not named


def _is_true(value: object) -> bool:
    return str(value).lower() in {"true", "1"}


async def _control(request: web.BaseRequest, raw_path: str, backend: Backend) -> web.Response:
    """Let another process use the log and the faults, but no web page.

    GET and DELETE ``requests`` read and clear the log, POST and DELETE ``faults`` set and clear
    faults.
    """
    if not _by_a_program(request):
        return web.json_response({"error": "for programs on this machine alone"}, status=403)
    asked = (request.method, raw_path.removeprefix("/_localhub/"))
    if asked == ("GET", "requests"):
        return web.json_response([asdict(one) for one in backend.log.read()])
    if asked == ("DELETE", "requests"):
        backend.log.clear()
    elif asked == ("DELETE", "faults"):
        backend.faults.clear()
    elif asked == ("POST", "faults"):
        try:
            backend.faults.add(*(Fault(**item) for item in json.loads(await request.text())))
        except (TypeError, ValueError) as error:
            return web.json_response({"error": f"not a list of faults: {error}"}, status=400)
    else:
        return web.json_response({"error": "Not Found"}, status=404)
    return web.Response(status=204)
