"""The local Hub as a whole: its two origins in a thread of their own."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, final

from aiohttp import web

from .answers import Policy
from .faults import Faults
from .origin import Backend, OriginServer
from .repository import Repository
from .requests import Request, RequestLog
from .routes import Origin

BACKLOG = 1024
GRACE = 0.1
"""Seconds that a request under way gets when the server stops."""


@final
class LocalHub:
    """A Hub over a directory, for as long as the ``with`` block runs.

    It may be entered again after it has ended.
    """

    def __init__(  # noqa: PLR0913 - each is a property of the Hub that it stands for
        self,
        directory: Path | str,
        *,
        repo_id: str = "intro/flickr8k",
        repo_type: Literal["dataset", "model"] = "dataset",
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int = 0,
        token: str | None = None,
        gated: bool = False,
        redirect_lfs: bool = True,
        page_size: int = 1000,
        revisions: Iterable[str] = (),
        parquet: Path | str | None = None,
        renamed_from: str = "",
        xet: Path | str | None = None,
        control: bool = False,
    ) -> None:
        """Serve ``directory`` as the repository ``repo_id``, of a dataset or of a model.

        A port of 0 is any free one. With a ``token`` the repository is private; ``gated`` refuses
        its files to all. LFS files are redirected to the CDN's port, or with ``redirect_lfs=False``
        served by the Hub itself. A page of the tree has ``page_size`` entries. ``revisions`` are
        further branches or tags of the current commit. ``parquet`` is a directory to serve as the
        Hub's own Parquet conversion (``<configuration>/<split>/*.parquet``). Requests for a
        repository ``renamed_from`` are redirected to ``repo_id``. ``xet`` is a directory for a Xet
        store, filled with the LFS files at the start and at each refresh (needs hf_xet): they then
        are Xet-backed, and served by their plain address as ever. Clients read the store as that
        directory, so only those on this machine can. With ``control`` any process that reaches a
        port may read the log and set faults, see the package.
        """
        self.directory = Path(directory)
        self.faults = Faults()
        self.endpoint = ""
        """The Hub's URL, while it runs."""
        self.cdn_endpoint = ""
        """The CDN's URL, while it runs; no request comes there with ``redirect_lfs=False``."""
        xet = None if xet is None else Path(xet).absolute()
        self._policy = Policy(repo_id, repo_type, token, gated, page_size, renamed_from, xet)
        self._redirect_lfs = redirect_lfs
        self._ports = (port, cdn_port)
        self._host = host
        self._revisions = tuple(revisions)
        self._parquet = None if parquet is None else Path(parquet)
        self._log = RequestLog()
        self._control = control
        self._repository: Repository | None = None
        self._stack = ExitStack()

    @property
    def commit(self) -> str:
        """The commit that main points to; RuntimeError before the first start."""
        return self._scanned().current.commit

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests in the order of their arrival, on both origins."""
        return self._log.read()

    def file_requests(self) -> tuple[Request, ...]:
        """Return the GETs that were answered with a file's bytes, by either origin.

        Each of them is a download.
        """
        return tuple(
            one
            for one in self.requests
            if one.method == "GET" and one.kind in {"resolve", "cdn"} and one.status in {200, 206}
        )

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._log.clear()

    def refresh(self, *, keep_old: bool = False) -> str:
        """Scan the directory again and return the new commit.

        ``keep_old`` lets the old commit's id resolve further. Only the old listing is kept, not
        the bytes: a file that has changed since is answered with 500 there.
        """
        return self._scanned().rescan(keep_old=keep_old)

    def __enter__(self) -> "LocalHub":
        """Scan the directory and start serving.

        Raises NotADirectoryError when the directory isn't there, OSError when a port is taken.
        """
        self._repository = Repository(
            self.directory, self._revisions, self._parquet, self._policy.xet
        )
        with ExitStack() as stack:
            hub, cdn = (stack.enter_context(_bind(self._host, port)) for port in self._ports)
            self.endpoint, self.cdn_endpoint = _url(self._host, hub), _url(self._host, cdn)
            cdn_port = cdn.getsockname()[1] if self._redirect_lfs else None
            backend = Backend(
                repository=self._repository,
                policy=self._policy,
                faults=self.faults,
                log=self._log,
                cdn_port=cdn_port,
                control=self._control,
            )
            stack.callback(_start({"hub": hub, "cdn": cdn}, backend))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop serving; what is under way is cut off."""
        self._stack.close()

    def _scanned(self) -> Repository:
        if self._repository is None:
            message = "the local Hub has not been started: use it in a with statement"
            raise RuntimeError(message)
        return self._repository


def run(hub: LocalHub, *, on_ready: Callable[[LocalHub], None]) -> None:
    """Serve until Ctrl-C or SIGTERM, then return.

    ``on_ready`` is called once it listens. For the main thread only.
    """
    # Both raise KeyboardInterrupt: a handler that set an event could deadlock with the wait that it
    # interrupts.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), hub:
            on_ready(hub)
            threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        remedy = "choose another port, or 0 for any free one"
        message = f"can't listen on {host}:{port}: {error.strerror}: {remedy}"
        raise OSError(error.errno, message) from error


def _url(host: str, listening: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"


def _start(sockets: dict[Origin, socket.socket], backend: Backend) -> Callable[[], None]:
    """Serve in a new thread; return the function that stops it and waits for its end."""
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()
    thread = threading.Thread(
        target=lambda: _serve(loop, sockets, backend, stopping), name="localhub", daemon=True
    )
    thread.start()

    def stop() -> None:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()

    return stop


def _serve(
    loop: asyncio.AbstractEventLoop,
    sockets: dict[Origin, socket.socket],
    backend: Backend,
    stopping: asyncio.Event,
) -> None:
    async def until_stopped() -> None:
        runners = [
            await _listen(OriginServer(origin, backend), listening)
            for origin, listening in sockets.items()
        ]
        await stopping.wait()
        await asyncio.gather(*(runner.cleanup() for runner in runners))

    try:
        loop.run_until_complete(until_stopped())
    finally:
        loop.close()


async def _listen(origin: OriginServer, listening: socket.socket) -> web.ServerRunner:
    # A request whose client has gone is cancelled: a stall may take an hour
    server = web.Server(origin.handle, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=GRACE)
    await runner.setup()
    await web.SockSite(runner, listening, backlog=BACKLOG).start()
    return runner
