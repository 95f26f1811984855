"""The way to the Hub: proxies, certificates, offline mode, headers, renamed repositories, quotas, strange redirects."""

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from step37_flickr8k import __version__, get_flickr8k_dataset_file, prepare_flickr8k_samples
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.errors import (
    FetchFailed,
    HubUnavailable,
    InvalidMetadata,
    InvalidSettings,
)
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.warmup import Warmup
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.settings.options import FetchOptions, HubOptions
from tests.conftest import Draw
from tests.helpers.servers import Serve, closed, listening, pump


def to(port: int, seen: list[bytes] | None = None) -> Serve:
    """Hand each connection on to a port; keep its first line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readline()
        if seen is not None:
            seen.append(first)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        with closed(back):
            back.write(first)
            await asyncio.gather(pump(reader, back), pump(there, writer))

    return serve


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def warm(**settings: Any) -> dict[str, Any]:
    run = Run(Task.from_settings(WarmupSettings(**settings)), World.from_environment({}))
    return Warmup(run).share(Group.alone()).result.as_json()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "step37_flickr8k", *arguments]
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_proxy_of_the_environment_is_used(hub: LocalHub, cache: Path) -> None:
    """HTTP_PROXY takes all requests, listing and files, and NO_PROXY spares its hosts."""
    seen: list[bytes] = []
    # a proxy sees absolute addresses; the local Hub understands them as they are
    with listening(to(port_of(hub.endpoint), seen)) as port:
        proxy = f"http://127.0.0.1:{port}"
        url = f"http://hub.invalid:{port_of(hub.endpoint)}"
        result = run(
            "warmup",
            "--cache-dir",
            str(cache),
            "--endpoint",
            url,
            "--attempts",
            "1",
            HTTP_PROXY=proxy,
            http_proxy=proxy,
        )
        assert "hub.invalid" in b"".join(seen).decode(), result.stderr
        seen.clear()
        spared = {"http_proxy": proxy, "no_proxy": "127.0.0.1"}
        assert run("warmup", "--cache-dir", str(cache / "2"), **spared).returncode == 0
        assert not seen


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("HTTP_PROXY", "http://:bad"),
        ("HTTPS_PROXY", "ftp://x"),
        ("SSL_CERT_FILE", "/none"),
    ],
)
def test_an_environment_that_no_client_understands_is_said(
    cache: Path, name: str, value: str
) -> None:
    """A proxy of another kind, without a port, or certificates that aren't there: 2, in one line that names the variable."""
    result = run(
        "warmup", "--cache-dir", str(cache), "--endpoint", "http://127.0.0.1:9", **{name: value}
    )
    assert result.returncode == 2, result.stderr
    assert f"{name} is " in result.stderr.splitlines()[-1]
    assert "correct or unset it" in result.stderr.splitlines()[-1]


def test_a_private_certificate_authority_is_trusted(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """SSL_CERT_FILE names the authority that signed a mirror's certificate, for the listing and for the files."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(tls)
    with listening(to(port_of(hub.endpoint)), tls) as port:
        there = (
            "--cache-dir",
            str(cache),
            "--endpoint",
            f"https://localhost:{port}",
            "--attempts",
            "1",
        )
        refused = run("warmup", *there)
        assert (refused.returncode, "SSL_CERT_FILE must name" in refused.stderr) == (2, True), (
            refused.stderr
        )
        # an LFS file is redirected to the CDN's port: served by the Hub itself instead, since only
        # that speaks TLS here
        with (
            LocalHub(hub.directory, redirect_lfs=False) as plain,
            listening(to(port_of(plain.endpoint)), tls) as second,
        ):
            there = (*there[:3], f"https://localhost:{second}", "--attempts", "2")
            result = run("warmup", *there, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
    assert result.returncode == 0, result.stderr


def test_offline_takes_what_the_cache_holds(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_HUB_OFFLINE: a warm cache is used without a request, in the library and in the command; a cold one is an error."""
    told = run("warmup", "--cache-dir", str(cache), HF_HUB_OFFLINE="1")
    assert (told.returncode, "offline is set" in told.stderr) == (2, True)
    assert run("warmup", "--cache-dir", str(cache)).returncode == 0
    hub.clear_requests()
    for command in (
        ("warmup",),
        ("plan",),
        ("warmup", "--offline"),
        ("warmup", "--sample-count", "3"),
    ):
        result = run(*command, "--cache-dir", str(cache), HF_HUB_OFFLINE="1")
        assert result.returncode == 0, result.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8
    other = run("warmup", "--cache-dir", str(cache), "--revision", "0" * 40, HF_HUB_OFFLINE="1")
    assert other.returncode == 2
    wanted = f"intro/flickr8k, split train, revision {'0' * 40}: all rows with caption_0"
    assert (
        f"offline is set, but {cache} holds no ready record that fits ({wanted}): run warmup once"
        in other.stderr
    )
    (cache / "train" / "0003.jpg").unlink()
    gone = run("warmup", "--cache-dir", str(cache), HF_HUB_OFFLINE="1")
    assert "files that the ready record in" in gone.stderr
    assert "are missing or were changed: run warmup once with the network" in gone.stderr
    assert hub.requests == ()


def test_offline_a_single_file_is_taken_from_disk(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """get_flickr8k_dataset_file offline: what is there is given, what isn't is an error at once, and nobody is asked."""
    ask: dict[str, Any] = {"repo_id": "intro/flickr8k", "cache_dir": cache}
    path = get_flickr8k_dataset_file(filename="train/0001.jpg", **ask)
    hub.clear_requests()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get_flickr8k_dataset_file(filename="train/0001.jpg", **ask) == path
    with pytest.raises(InvalidSettings, match="offline is set"):
        get_flickr8k_dataset_file(filename="train/0002.jpg", **ask)
    assert hub.requests == ()


def test_a_single_file_with_wrong_bytes_is_fetched_again(hub: LocalHub, cache: Path) -> None:
    """A body corrupted on the wire, which hf_hub_download accepts, is fetched once more; a second time it is refused."""
    ask: dict[str, Any] = {"repo_id": "intro/flickr8k", "cache_dir": cache}
    hub.faults.add(Fault.corrupt(path="train/0001.jpg", times=1))
    path = get_flickr8k_dataset_file(filename="train/0001.jpg", **ask)
    assert path.read_bytes() == (hub.directory / "train/0001.jpg").read_bytes()
    path.write_bytes(bytes(path.stat().st_size))
    assert (
        get_flickr8k_dataset_file(filename="train/0001.jpg", **ask).read_bytes()
        == (hub.directory / "train/0001.jpg").read_bytes()
    )
    hub.faults.add(Fault.corrupt(path="train/0002.jpg"))
    with pytest.raises(FetchFailed, match=r"0002\.jpg has other bytes than .* states, twice"):
        get_flickr8k_dataset_file(filename="train/0002.jpg", **ask)


def test_headers_go_to_the_endpoint_alone(hub: LocalHub, cache: Path, tmp_path: Path) -> None:
    """The setting `headers` reaches the Hub's API and its files, never a redirect's origin; a password in .netrc goes nowhere."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    result = run(
        "warmup",
        "--cache-dir",
        str(cache),
        STEP37_HEADERS='{"X-Team": "vision"}',
        HOME=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    files = [one for one in hub.requests if one.kind in {"tree", "resolve", "cdn"}]
    assert {(one.origin, "x-team" in one.header_names) for one in files} == {
        ("hub", True),
        ("cdn", False),
    }
    assert not any(one.authorization for one in files)


def test_headers_do_not_follow_the_api_to_another_origin(hub: LocalHub, cache: Path) -> None:
    """Where the API redirects to another origin, that one sees neither the token nor `headers`; on the Hub's own both go on."""
    secrets = {"token": "hf_x", "headers": {"X-Team": "vision"}}
    with LocalHub(hub.directory) as elsewhere:
        hub.faults.add(
            Fault.redirect(
                f"{elsewhere.endpoint}/api/datasets/intro/flickr8k/revision/main", kind="api"
            )
        )
        assert warm(endpoint=hub.endpoint, cache_dir=cache, **secrets)["files"] == 12
        asked = [one for one in (*hub.requests, *elsewhere.requests) if one.kind in {"api", "tree"}]
        told = {
            (one in elsewhere.requests, one.authorization, "x-team" in one.header_names)
            for one in asked
        }
    assert told == {(False, True, True), (True, False, False)}


def test_headers_of_a_single_file_go_to_the_endpoint_alone(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """get_flickr8k_dataset_file, too, shows `headers` and the token to the Hub, and neither to the CDN."""
    monkeypatch.setenv("STEP37_HEADERS", '{"X-Team": "vision"}')
    monkeypatch.setenv("STEP37_TOKEN", "hf_x")
    get_flickr8k_dataset_file(repo_id="intro/flickr8k", filename="train/0001.jpg", cache_dir=cache)
    files = [one for one in hub.requests if one.kind in {"resolve", "cdn"}]
    assert {(one.origin, "x-team" in one.header_names, one.authorization) for one in files} == {
        ("hub", True, True),
        ("cdn", False, False),
    }


def test_the_hub_is_told_who_asks(hub: LocalHub, cache: Path) -> None:
    """Each of our requests names this project and its version, for who looks at a Hub's or a mirror's log."""
    prepare_flickr8k_samples(sample_count=3, cache_dir=str(cache))
    agents = {
        request.user_agent.partition(";")[0]
        for request in hub.requests
        if "/intro/flickr8k/" in request.path
    }
    assert agents == {f"step37-flickr8k/{__version__}"}


def test_a_renamed_repository_is_found(draw: Draw, cache: Path) -> None:
    """The Hub redirects from a repository's former name; the warmup follows, and the token with it, on the same origin."""
    with LocalHub(
        draw(), repo_id="new/flickr8k", renamed_from="intro/flickr8k", token="hf_x"
    ) as hub:
        result = warm(endpoint=hub.endpoint, cache_dir=cache, token="hf_x", attempts=1)
    assert result["files"] == 12


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "redirected to file:"),
        ("", "more than 5 redirects"),
        ("gopher://x/", "redirected to gopher:"),
    ],
)
def test_strange_redirects_end_the_file(
    hub: LocalHub, cache: Path, location: str, reason: str
) -> None:
    """A redirect to another scheme is never followed, one to itself not for ever; the files are named."""
    hub.faults.add(Fault.redirect(location, path="*.jpg", kind="resolve"))
    with pytest.raises(
        FetchFailed, match=f"12 of 12 files could not be fetched: 0000.jpg .{reason}"
    ):
        warm(endpoint=hub.endpoint, cache_dir=cache, attempts=2)


def test_the_plan_foretells_the_wait(draw: Draw, cache: Path) -> None:
    """Plan reads the quota that the Hub tells, and says how long more requests than that will wait."""
    with LocalHub(draw(12)) as hub:
        hub.faults.add(Fault.quota(5, window=100))
        result = run("plan", "--cache-dir", str(cache), "--endpoint", hub.endpoint)
    assert result.returncode == 0, result.stderr
    assert "limit     5 requests in 100 s; expect to wait" in result.stdout


def test_a_quota_is_no_surprise(hub: LocalHub, cache: Path) -> None:
    """When the Hub says that nothing is left, nobody asks for what would be refused: one refusal at most of those in flight."""
    hub.faults.add(Fault.quota(4, window=1.0))
    result = warm(endpoint=hub.endpoint, cache_dir=cache, concurrency=1)
    assert result["files"] == 12
    assert result["retries"] == {}


# --- the listing ----------------------------------------------------------------------------------


def test_a_page_of_the_listing_that_fails_is_asked_for_again_alone(draw: Draw, cache: Path) -> None:
    """One 503 in the middle of a long listing costs one request more, not all pages before it."""
    with LocalHub(draw(), page_size=5) as hub:
        hub.faults.add(Fault.status(503, kind="tree", every=2, times=1))
        result = warm(cache_dir=cache, endpoint=hub.endpoint, fetch_mode="files")
        pages = [request for request in hub.requests if request.kind == "tree"]
    assert [request.status for request in pages] == [200, 503, 200, 200]
    assert (result["rows"], result["requests"]) == (12, len(hub.requests))


def answering(seen: list[bytes], *answers: tuple[bytes, str]) -> Serve:
    """Answer with one body and its further header lines after the other; keep the requests."""
    rest = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        body, lines = next(rest)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{lines}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return serve


PAGE = json.dumps(
    [{"type": "file", "path": "train/metadata.csv", "size": 3, "oid": "0" * 40}]
).encode()


def test_a_mirror_that_knows_no_query_is_asked_without_one() -> None:
    """Artifactory answers 404 to a revision with a query: the commit is found without it."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readuntil(b"\r\n\r\n")
        seen.append(first.split()[1])
        body = b"" if b"?" in seen[-1] else json.dumps({"sha": "c" * 40}).encode()
        status = "200 OK" if body else "404 Not Found"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    with listening(serve) as port:
        hub = Hub("a/b", HubOptions(endpoint=f"http://127.0.0.1:{port}"), FetchOptions(attempts=1))
        assert hub.resolve("main") == "c" * 40
    path = b"/api/datasets/a/b/revision/main"
    assert seen == [path + b"?expand=sha", path]


@pytest.mark.parametrize("path", ["", "/artifactory/api/huggingface/"])
@pytest.mark.parametrize(
    "link",
    [
        "https://huggingface.invalid/api/datasets/a/b/tree/{commit}/train?cursor=x%3D%3D&limit=2",
        "/api/datasets/a/b/tree/{commit}/train?cursor=x%3D%3D&limit=2",
        "http://127.0.0.1:9{path}api/datasets/a/b/tree/{commit}/train?cursor=x%3D%3D&limit=2",
    ],
)
def test_the_next_page_is_asked_for_at_the_endpoint(path: str, link: str) -> None:
    """A link that names the public Hub is followed at the mirror, under its own path."""
    seen: list[bytes] = []
    commit = "c" * 40
    told = link.format(commit=commit, path=path or "/")
    pages = ((b"[]", f'Link: <{told}>; rel="next"\r\n'), (PAGE, ""))
    with listening(answering(seen, *pages)) as port:
        options = HubOptions(
            endpoint=f"http://127.0.0.1:{port}{path}".rstrip("/"), token="hf_secret"
        )
        hub = Hub("a/b", options, FetchOptions(attempts=1))
        assert list(hub.list_files(commit, "train")) == ["metadata.csv"]
    asked = f"GET {path.rstrip('/')}/api/datasets/a/b/tree/{commit}/train?cursor=x%3D%3D&limit=2 "
    assert seen[1].startswith(asked.encode())
    assert b"Bearer hf_secret" in seen[1]


@pytest.mark.parametrize(
    "link",
    ["<http://[bad>; rel=next", "nonsense", "<>; rel=next", '<x?y=1>; rel="last"', ";;;", "<"],
)
def test_a_link_that_leads_nowhere_is_an_end_or_an_error(link: str) -> None:
    """A malformed Link is no next page, or an error of the listing; nothing else."""
    with listening(answering([], (PAGE, f"Link: {link}\r\n"), (PAGE, ""))) as port:
        hub = Hub("a/b", HubOptions(endpoint=f"http://127.0.0.1:{port}"), FetchOptions(attempts=1))
        with contextlib.suppress(InvalidMetadata, HubUnavailable):
            assert list(hub.list_files("c" * 40, "train")) == ["metadata.csv"]


def test_a_listing_that_leads_back_to_itself_ends() -> None:
    """Pages that name each other for ever are an error of the listing that names the page."""
    pages = [(b"[]", f'Link: </page?cursor={number % 2}>; rel="next"\r\n') for number in range(9)]
    with listening(answering([], *pages)) as port:
        hub = Hub("a/b", HubOptions(endpoint=f"http://127.0.0.1:{port}"), FetchOptions(attempts=1))
        with pytest.raises(InvalidMetadata, match=r"no end, its page .*/page.cursor=0 leads back"):
            hub.list_files("c" * 40, "train")
