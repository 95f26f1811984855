"""Whose word an answer is: the Hub's, a CDN's, a proxy's. The right one is blamed."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from step37_flickr8k import get_flickr8k_dataset_file
from step37_flickr8k.errors import (
    AccessDenied,
    FetchFailed,
    FolderNotUsable,
    HubUnavailable,
    ProxyRefused,
    RepositoryNotFound,
)
from step37_flickr8k.hub.client import connected
from step37_flickr8k.hub.source import Source
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.settings.options import FetchOptions
from tests.helpers.proxies import proxy
from tests.helpers.servers import Serve, listening
from tests.unit.hub.test_api import port_of, warm

TOKEN = "token"


def resolves(hub: LocalHub) -> int:
    return len([one for one in hub.requests if one.kind == "resolve"])


# --- behind a redirect ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 400, 410, 451])
def test_a_signed_address_that_has_expired_is_asked_for_again(
    hub: LocalHub, cache: Path, status: int
) -> None:
    """What a CDN refuses once is asked for again at the Hub, which signs a new address."""
    hub.faults.add(Fault.status(status, kind="cdn", times=1))
    result = warm(endpoint=hub.endpoint, cache_dir=cache)
    assert (result["files"], result["retries"]) == (12, {str(status): 1})
    assert resolves(hub) == 12 + 1 + 1  # images, metadata.csv, the second request for one image


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("mode", ["files", "auto"])
def test_a_cdn_that_keeps_refusing_is_named(
    hub: LocalHub, cache: Path, status: int, mode: str
) -> None:
    """The file fails, transiently, with the CDN's host; no token is blamed."""
    hub.faults.add(Fault.status(status, kind="cdn", path="train/0003.jpg"))
    cdn = hub.cdn_endpoint.removeprefix("http://")
    with pytest.raises(
        FetchFailed,
        match=rf"1 of 12 files could not be fetched: 0003.jpg \({cdn} answers {status} .*2 tries",
    ) as caught:
        warm(endpoint=hub.endpoint, cache_dir=cache, attempts=2, fetch_mode=mode, token="hf_x")
    assert TOKEN not in str(caught.value)
    assert len(list((cache / "train").glob("*.jpg"))) == 11


@pytest.mark.parametrize("status", [401, 403])
def test_the_hubs_own_refusal_ends_the_run_at_once(hub: LocalHub, cache: Path, status: int) -> None:
    """The same status from the endpoint is its word: check the token, or pass one."""
    hub.faults.add(Fault.status(status, kind="resolve", path="*.jpg"))
    with pytest.raises(AccessDenied, match=rf"jpg, refuses the token \({status}\)"):
        warm(endpoint=hub.endpoint, cache_dir=cache, token="hf_x")
    with pytest.raises(AccessDenied, match=rf"without a token \({status}\): pass one"):
        warm(endpoint=hub.endpoint, cache_dir=cache)


@pytest.mark.parametrize("kind", ["api", "tree"])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_api_redirects_to_is_not_the_hub(
    hub: LocalHub, cache: Path, kind: str, status: int
) -> None:
    """A refusal from where the API redirects to, be it another port, isn't the Hub's."""
    with LocalHub(hub.directory) as elsewhere:
        elsewhere.faults.add(Fault.status(status))
        hub.faults.add(Fault.redirect(f"{elsewhere.endpoint}/login", kind=kind))
        there = elsewhere.endpoint.removeprefix("http://")
        with pytest.raises(HubUnavailable, match=f"{there} answers {status} .*2 tries") as caught:
            warm(endpoint=hub.endpoint, cache_dir=cache, attempts=2, token="hf_x")
    assert TOKEN not in str(caught.value)


def test_a_redirect_on_the_endpoints_own_origin_stays_the_hub(hub: LocalHub, cache: Path) -> None:
    """A renamed repository's new address is the Hub's, so its 404 is the Hub's word."""
    hub.faults.add(Fault.redirect("/api/datasets/intro/other/revision/main", kind="api", times=1))
    with pytest.raises(RepositoryNotFound, match="doesn't exist"):
        warm(endpoint=hub.endpoint, cache_dir=cache)


@pytest.mark.parametrize("kind", ["api", "tree"])
def test_a_login_page_elsewhere_is_named(hub: LocalHub, cache: Path, kind: str) -> None:
    """A captive portal redirects to its own page, a 200: the message names its host."""
    with LocalHub(hub.directory) as portal:
        # JSON is no login page, but what isn't JSON is: an image
        page = f"{portal.endpoint}/datasets/intro/flickr8k/resolve/main/train/metadata.csv"
        hub.faults.add(Fault.redirect(page, kind=kind))
        there = portal.endpoint.removeprefix("http://")
        with pytest.raises(HubUnavailable, match=rf"no JSON \(.*, from {there}\): does a login"):
            warm(endpoint=hub.endpoint, cache_dir=cache, attempts=2)


def page(status: str, body: str) -> Serve:
    """Return a server that answers every request with a web page."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()

    return serve


def test_a_login_page_in_place_of_a_file_is_named(hub: LocalHub, cache: Path) -> None:
    """A portal that answers 200 where the CDN should: the file fails with the portal's host."""
    with listening(page("200 OK", "login")) as port:
        hub.faults.add(Fault.redirect(f"http://127.0.0.1:{port}/", path="train/0003.jpg"))
        said = rf"0003.jpg \(5 bytes instead of \d+ from 127.0.0.1:{port} \(text/html\) \(2 tries"
        with pytest.raises(FetchFailed, match=said):
            warm(endpoint=hub.endpoint, cache_dir=cache, attempts=2)


@pytest.mark.parametrize("asked", ["the api", "a file"])
def test_a_filters_page_blames_no_token(cache: Path, asked: str) -> None:
    """A firewall answers 403 with a page at the Hub's own address: have it allowed there."""

    async def get_file(port: int) -> None:
        source = Source(base=f"http://127.0.0.1:{port}/", headers={})
        async with connected(source, FetchOptions()) as client:
            await client.get("train/0003.jpg")

    def ask(port: int) -> None:
        if asked == "the api":
            warm(endpoint=f"http://127.0.0.1:{port}", cache_dir=cache)
        else:
            asyncio.run(get_file(port))

    with (
        listening(page("403 Forbidden", "blocked")) as port,
        pytest.raises(ProxyRefused, match=r"web page \(403 Forbidden"),
    ):
        ask(port)


def test_bytes_that_a_mirror_compresses_are_said_to_be(cache: Path) -> None:
    """Nobody asked for gzip: the table has other bytes, and the message says why."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        kind, body = "", json.dumps({"sha": "a" * 40})
        if "/tree/" in path:
            entry = {"type": "file", "path": "train/metadata.csv", "size": 3, "oid": "b" * 40}
            body = json.dumps([entry])
        elif "/resolve/" in path:
            kind, body = "Content-Encoding: gzip\r\n", "1234567"
        head = f"HTTP/1.1 200 OK\r\n{kind}Content-Length: {len(body)}\r\nConnection: close"
        writer.write(f"{head}\r\n\r\n{body}".encode())
        await writer.drain()

    said = r"metadata.csv \(more than 3 bytes, compressed on the way \(gzip\) \(2 tries"
    with listening(serve) as port, pytest.raises(FetchFailed, match=said):
        warm(endpoint=f"http://127.0.0.1:{port}", cache_dir=cache, attempts=2)


# --- proxies --------------------------------------------------------------------------------------


def behind(monkeypatch: pytest.MonkeyPatch, address: str, spared: str = "") -> None:
    """Have the environment name a proxy for everything."""
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.setenv("https_proxy", address)
    monkeypatch.setenv("no_proxy", spared)


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ("403 Forbidden", "have it allowed there, or add its host to NO_PROXY"),
        ("407 Proxy Authentication Required", "put user and password into its address"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxys_refusal_is_the_proxys(
    cache: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, answer: str, remedy: str
) -> None:
    """A proxy that forbids a host, or wants a login, is named at once, with the remedy."""
    with proxy(lambda *_: answer) as there:
        behind(monkeypatch, there.address.replace("//", "//user:secret@"))
        address = there.address.removeprefix("http://")
        with pytest.raises(
            ProxyRefused,
            match=rf"the proxy {address} refuses requests to .*hub.invalid.* \({answer}\): "
            f"{remedy}",
        ) as caught:
            warm(endpoint=f"{scheme}://hub.invalid", cache_dir=cache, token="hf_x")
        assert len(there.seen) == 1
    assert TOKEN not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("403 Forbidden", r"refuses requests to hub.invalid \(403 Forbidden\)"),
        ("407 No", r"refuses requests to hub.invalid \(407 No\): put user and password"),
        ("503 Busy", r"the proxy .* answers 503 Busy for hub.invalid \(2 tries\)"),
    ],
)
def test_a_proxys_word_is_the_same_for_a_single_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, answer: str, said: str
) -> None:
    """hf_hub_download's requests have the same policy and the same messages."""
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("STEP37_ATTEMPTS", "2")
    with proxy(lambda *_: answer) as there:
        behind(monkeypatch, there.address)
        with pytest.raises((ProxyRefused, HubUnavailable), match=said):
            get_flickr8k_dataset_file(repo_id="a/b", filename="x", cache_dir=cache)


def test_a_single_file_of_a_cdn_is_asked_for_again(hub: LocalHub, cache: Path) -> None:
    """An expired address costs hf_hub_download one attempt; a limit with a pause costs none."""
    hub.faults.add(Fault.status(403, kind="cdn", times=1))
    hub.faults.add(Fault.status(429, retry_after=1, kind="resolve", times=1))
    path = get_flickr8k_dataset_file(
        repo_id="intro/flickr8k", filename="train/0001.jpg", cache_dir=cache
    )
    assert path.read_bytes() == (hub.directory / "train" / "0001.jpg").read_bytes()


def test_a_directory_that_cannot_be_used_is_no_weather(hub: LocalHub) -> None:
    """A single file into a place that takes none ends at once, with 2."""
    assert hub.commit
    with pytest.raises(FolderNotUsable, match=r"/proc/none: .*: choose another cache_dir"):
        get_flickr8k_dataset_file(
            repo_id="intro/flickr8k", filename="train/0001.jpg", cache_dir=Path("/proc/none")
        )


@pytest.mark.parametrize("where", ["endpoint", "proxy"])
def test_tls_with_a_server_of_plain_http_is_said(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """https:// for a server of plain HTTP, as endpoint or proxy: three attempts, and a hint."""
    address = hub.endpoint.replace("http:", "https:")
    if where == "proxy":
        monkeypatch.setenv("https_proxy", address)
    endpoint = "https://hub.invalid" if where == "proxy" else address
    with pytest.raises(HubUnavailable, match=r"plain HTTP\? Then http:// .* \(3 tries\)"):
        warm(endpoint=endpoint, cache_dir=cache)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_overloaded_is_weather(
    cache: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A 503 of a proxy is retried, and in the end the proxy is named."""
    with proxy(lambda *_: "503 Service Unavailable") as there:
        behind(monkeypatch, there.address)
        with pytest.raises(HubUnavailable, match=r"503 Service Unavailable.* \(2 tries\)"):
            warm(endpoint=f"{scheme}://hub.invalid", cache_dir=cache, attempts=2)
        assert len(there.seen) == 2


def test_a_proxy_that_forbids_the_cdn_alone_is_named(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allowlist without the CDN: over plain HTTP the message names the CDN and the proxy."""
    cdn = port_of(hub.cdn_endpoint)

    def refuse(_: str, authority: str) -> str | None:
        return "403 Forbidden" if authority.endswith(f":{cdn}") else None

    with proxy(refuse) as there:
        behind(monkeypatch, there.address)
        address = there.address.removeprefix("http://")
        with pytest.raises(
            FetchFailed,
            match=rf"hub.invalid:{cdn} through the proxy {address} answers 403 Forbidden",
        ):
            warm(
                endpoint=f"http://hub.invalid:{port_of(hub.endpoint)}",
                cache_dir=cache,
                attempts=2,
                token="hf_x",
            )


@pytest.mark.parametrize("spared", ["127.0.0.0/8", "10.0.0.0/8,127.0.0.1", "*", "127.0.0.1/32"])
def test_a_spared_network_is_reached_directly_by_both_clients(
    hub: LocalHub, cache: Path, spared: str
) -> None:
    """NO_PROXY with a network spares requests to the API, for files, and by hf_hub_download."""
    script = (
        "from pathlib import Path; import sys; from step37_flickr8k import *\n"
        "prepare_flickr8k_samples(cache_dir=sys.argv[1])\n"
        "get_flickr8k_dataset_file(repo_id='intro/flickr8k', filename='train/0009.jpg',"
        " cache_dir=Path(sys.argv[1]))"
    )
    with proxy(lambda *_: "403 Forbidden") as there:
        assert hub.commit
        environment = {"http_proxy": there.address, "HTTP_PROXY": there.address, "no_proxy": spared}
        done = subprocess.run(
            [sys.executable, "-c", script, str(cache)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, there.seen) == (0, []), done.stderr
    assert len(list((cache / "train").glob("*.jpg"))) == 9


def test_a_proxy_that_never_answers_a_tunnel_is_not_waited_for_for_ever(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that stays silent has the time of connect_timeout and read_timeout."""
    # A listener that accepts nothing: the kernel takes the connection
    with socket.create_server(("127.0.0.1", 0)) as silent:
        behind(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HubUnavailable, match=r"the proxy .* doesn't answer in time \(1 try\)"):
            warm(
                endpoint="https://hub.invalid",
                cache_dir=cache,
                attempts=1,
                connect_timeout=0.5,
                read_timeout=0.5,
            )
