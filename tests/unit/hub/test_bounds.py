"""What a server sends has bounds: bytes, time, speed, pages, pauses; each end has its words."""

import asyncio
import contextlib
import gzip
import json
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from step37_flickr8k import errors
from step37_flickr8k.cluster.progress import ProgressTracker, State
from step37_flickr8k.hub import api_client
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.hub.client import connected
from step37_flickr8k.hub.retry import GivenUp
from step37_flickr8k.settings.options import FetchOptions, HubOptions
from tests.helpers.servers import Serve, listening

COMMIT = "a" * 40
OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(bytes(100 << 20), 1)


def hub_at(port: int, read_timeout: float = 10.0, attempts: int = 2) -> Hub:
    """Return a repository at a port."""
    options = HubOptions(endpoint=f"http://127.0.0.1:{port}")
    return Hub("intro/flickr8k", options, fetch_options(read_timeout, attempts))


def fetch_options(read_timeout: float, attempts: int = 2) -> FetchOptions:
    return FetchOptions(
        concurrency=4,
        attempts=attempts,
        connect_timeout=0.1,
        read_timeout=read_timeout,
        mode="files",
    )


def answering(answer: Callable[[str], bytes]) -> Serve:
    """Answer each request by its path, and end the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        writer.write(answer(path))
        await writer.drain()

    return serve


def body(content: bytes, *headers: str) -> bytes:
    lines = [*headers, f"Content-Length: {len(content)}", "Connection: close"]
    return OK + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + content


def entry(name: str) -> dict[str, Any]:
    return {"type": "file", "path": f"train/{name}", "size": 1, "oid": "0" * 40}


# --- one answer -----------------------------------------------------------------------------------


Send = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
        await writer.drain()


async def endless_early_hints(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    while True:
        writer.write(b"X-Y: " + b"z" * 1000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def byte_by_byte(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def gzip_bomb(writer: asyncio.StreamWriter) -> None:
    writer.write(body(BOMB, "Content-Encoding: gzip"))
    await writer.drain()


async def unknown_encoding(writer: asyncio.StreamWriter) -> None:
    writer.write(body(b"{}", "Content-Encoding: br"))
    await writer.drain()


async def deep_json(writer: asyncio.StreamWriter) -> None:
    writer.write(body(b"[" * 200_000 + b"]" * 200_000))
    await writer.drain()


async def huge_number(writer: asyncio.StreamWriter) -> None:
    writer.write(body(b'{"sha": ' + b"9" * 5_000_000 + b"}"))
    await writer.drain()


LATE = (
    "isn't complete after 2 s|silent for longer than read_timeout"  # that, too, on a busy machine
)
# How each ends, and the read timeout at which it does
ENDS: dict[Send, tuple[str, float]] = {
    endless_body: ("more than 17 MB", 10.0),
    gzip_bomb: ("more than 17 MB", 10.0),
    endless_early_hints: (LATE, 0.5),
    endless_headers: (f"{LATE}|isn't sound HTTP", 0.5),
    byte_by_byte: (LATE, 0.5),
    unknown_encoding: ("isn't sound HTTP: encoding 'br'", 10.0),
    deep_json: ("what is no JSON", 10.0),
    huge_number: ("what is no JSON", 10.0),
}


@pytest.mark.parametrize("send", ENDS, ids=lambda send: send.__name__)
def test_an_answer_without_measure_has_an_end(send: Send) -> None:
    """Bytes, time, compression, depth and digits are bounded, and the message says by what."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await send(writer)

    said, read_timeout = ENDS[send]
    with listening(serve) as port, pytest.raises(errors.HubUnavailable, match=said):
        hub_at(port, read_timeout, attempts=1).resolve("main")


def test_a_compressed_answer_is_read() -> None:
    """Gzip is asked for, and decompressed within the limit."""
    answer = body(gzip.compress(json.dumps({"sha": COMMIT}).encode()), "Content-Encoding: gzip")
    with listening(answering(lambda _: answer)) as port:
        assert hub_at(port).resolve("main") == COMMIT


# --- listings -------------------------------------------------------------------------------------


def pages(entries: Callable[[int], list[Any]], following: Callable[[int], int | None]) -> Serve:
    """Serve a listing whose page n has these entries and names that next page."""

    def answer(path: str) -> bytes:
        query = urlsplit(path).query
        number = int(query.partition("page=")[2] or 0)
        link = following(number)
        headers = (
            [] if link is None else [f'Link: <{path.partition("?")[0]}?page={link}>; rel="next"']
        )
        return body(json.dumps(entries(number)).encode(), *headers)

    return answering(answer)


def test_a_listing_that_leads_back_to_a_page_is_an_error() -> None:
    """A page that is seen twice would come again for ever."""
    serve = pages(lambda n: [entry(f"{n}.jpg")], lambda n: (n + 1) % 3)
    with listening(serve) as port, pytest.raises(errors.InvalidMetadata, match="leads back"):
        hub_at(port).list_files(COMMIT, "train")


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("_MOST_PAGES", 10, "more than 10 pages"),
        ("_MOST_ENTRIES", 10, "more than 10 entries"),
        ("_LARGEST_LISTING", 5000, "more than 5,000 bytes"),
        ("_LONGEST_LISTING", 0.2, "isn't complete after"),
    ],
)
def test_a_listing_without_end_ends(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float, said: str
) -> None:
    """Entries, pages, bytes and time of all pages together are bounded."""
    monkeypatch.setattr(api_client, limit, value)
    serve = pages(lambda n: [entry(f"{n}.jpg")], lambda n: n + 1)
    with listening(serve) as port, pytest.raises(errors.HubUnavailable, match=said):
        hub_at(port).list_files(COMMIT, "train")


def test_each_page_of_a_listing_is_progress() -> None:
    """A long listing is no stall: what was listed so far is reported."""
    seen: list[str] = []
    tracker = ProgressTracker(lambda progress: seen.append(progress.text))
    serve = pages(
        lambda n: [entry("metadata.csv" if n == 0 else f"{n}.jpg")],
        lambda n: n + 1 if n < 3 else None,
    )
    with listening(serve) as port:
        hub = hub_at(port)
        hub.report_to(tracker)
        assert len(hub.list_files(COMMIT, "train")) == 4
    assert seen == [f"{State.LISTING.value}, {count} entries" for count in (1, 2, 3)]


# --- pauses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    ["Retry-After: 999999999", "Retry-After: 3601", 'RateLimit: "api";r=0;t=999999999'],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_of_more_than_an_hour_is_not_made(status: int, header: str) -> None:
    """It ends with words that name it, not years later."""
    answer = f"HTTP/1.1 {status} Later\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode()
    with (
        listening(answering(lambda _: answer)) as port,
        pytest.raises(
            errors.HubUnavailable, match=r"(more than a year|3,601 s), and more than 3,600 s"
        ),
    ):
        hub_at(port).resolve("main")


@pytest.mark.parametrize("status", [429, 503])
def test_pauses_of_one_request_add_up_to_an_hour_at_most(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A server that asks for one more pause each time is not waited for without end."""
    monkeypatch.setattr("step37_flickr8k.hub.client.LONGEST_PAUSE", 2.5)
    answer = f"HTTP/1.1 {status} Later\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".encode()
    with (
        listening(answering(lambda _: answer)) as port,
        pytest.raises(errors.HubUnavailable, match=r"it asks for 3 s, and more than"),
    ):
        hub_at(port, attempts=50).resolve("main")


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_drips_is_given_up() -> None:
    """A byte now and then keeps every read timeout; the speed has a limit, too."""
    sent = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        sent.append(1)
        with contextlib.suppress(ConnectionError):
            await byte_by_byte(writer)

    async def fetch(port: int) -> None:
        source = hub_at(port).files(COMMIT, "train")
        async with connected(source, fetch_options(read_timeout=0.5)) as client:

            async def once() -> None:
                async with await client.get("0.jpg") as response:
                    async for _ in client.pieces(response):
                        pass

            await client.retry("0.jpg", once)

    with listening(serve) as port, pytest.raises(GivenUp, match=r"only \d+ bytes in \d s from 127"):
        asyncio.run(fetch(port))
    assert len(sent) == 2


# --- plain HTTP -----------------------------------------------------------------------------------


def test_the_api_is_not_followed_from_https_to_plain_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There anybody on the way could write the listing, with its hashes; a page's link neither."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    plain: list[str] = []

    def in_plain(path: str) -> bytes:
        plain.append(path)
        return body(b"[]")

    with listening(answering(in_plain)) as insecure:

        def secure(path: str) -> bytes:
            address = f"http://127.0.0.1:{insecure}/elsewhere"
            if "revision" in path:
                moved = f"HTTP/1.1 307 Moved\r\nLocation: {address}\r\nContent-Length: 0\r\n\r\n"
                return moved.encode()
            link = [] if "elsewhere" in path else [f'Link: <{address}>; rel="next"']
            return body(json.dumps([entry("metadata.csv")]).encode(), *link)

        with listening(answering(secure), tls) as port:
            options = HubOptions(endpoint=f"https://localhost:{port}")
            hub = Hub("intro/flickr8k", options, fetch_options(10.0))
            with pytest.raises(errors.HubUnavailable, match="from HTTPS to plain HTTP"):
                hub.resolve("main")
            assert len(hub.list_files(COMMIT, "train")) == 1
    assert plain == []
