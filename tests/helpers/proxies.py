"""A real HTTP proxy for tests: it forwards, tunnels and counts; every host is this machine."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.helpers.servers import Serve, closed, listening, pump

# Returns the status line's end and the headers with which a request is refused, or None.
Refuse = Callable[[str, str], str | None]


@dataclass
class Proxy:
    """A running proxy: its address, and what was asked of it, as method and ``host:port``."""

    address: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        """The hosts that were asked for."""
        return {authority.rpartition(":")[0] for _, authority in self.seen}


@contextlib.contextmanager
def proxy(refuse: Refuse = lambda *_: None, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy. ``refuse(method, authority)`` may answer in place of the host."""
    made = Proxy()
    with listening(_serve(made, refuse), tls) as port:
        made.address = f"http{'s' if tls else ''}://127.0.0.1:{port}"
        yield made


def _serve(made: Proxy, refuse: Refuse) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError:  # somebody only tried to connect
            return
        method, target, _ = first.split(" ")
        authority = target if method == "CONNECT" else urlsplit(target).netloc
        authority += "" if ":" in authority else ":80"
        made.seen.append((method, authority))
        made.paths.append(target)
        if answer := refuse(method, authority):
            writer.write(f"HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
            return
        try:
            there, back = await asyncio.open_connection(
                "127.0.0.1", int(authority.rpartition(":")[2])
            )
        except OSError:
            writer.write(
                b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return
        with closed(back):
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                # One request a connection, so that each is counted
                kept = [
                    line for line in lines if not line.lower().startswith(("connection:", "proxy-"))
                ]
                path = target.partition("//")[2].partition("/")[2]
                request = [f"{method} /{path} HTTP/1.1", "Connection: close", *kept]
                back.write("\r\n".join(request).encode())
            await asyncio.gather(pump(reader, back), pump(there, writer))

    return serve
