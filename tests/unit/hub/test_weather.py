"""The API is weather as files are: limits are waited for, silence and unknown hosts have an end."""

import asyncio
import logging
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import cli, get_flickr8k_dataset_file
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.errors import FetchFailed, HubUnavailable, SplitNotFound
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.warmup import Warmup
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.settings import WarmupSettings
from tests.conftest import Draw
from tests.helpers.ranks import free_port
from tests.helpers.servers import listening
from tests.unit.hub.test_api import port_of, to, warm


def progress_of(hub: LocalHub, cache: Path) -> list[Progress]:
    """Warm the cache and return what was reported meanwhile."""
    reported: list[Progress] = []
    settings = WarmupSettings(endpoint=hub.endpoint, cache_dir=cache, attempts=1)
    run = Run(Task.from_settings(settings), World.from_environment({}))
    Warmup(run).warm(ProgressTracker(reported.append))
    return reported


@pytest.mark.parametrize(("kind", "path"), [("api", ""), ("tree", "train")])
def test_a_wait_for_the_apis_rate_limit_is_progress(
    hub: LocalHub, cache: Path, kind: str, path: str
) -> None:
    """A 429 with Retry-After costs no attempt, and the wait is reported until its end."""
    hub.faults.add(Fault.status(429, retry_after=3, kind=kind, path=path, times=1))
    reported = progress_of(hub, cache)
    waits = [each.detail for each in reported if each.state is State.WAITING_FOR_RATE_LIMIT]
    assert waits[0] == "3 s"
    assert len(waits) >= 3
    after = reported[reported.index(Progress(State.WAITING_FOR_RATE_LIMIT, waits[-1])) + 1]
    assert after == Progress(State.LISTING)


def test_a_wait_for_the_metadata_is_progress_too(hub: LocalHub, cache: Path) -> None:
    """The first file's 429 is reported as a wait, not as reading that stands still."""
    hub.faults.add(Fault.status(429, retry_after=2, path="*.csv", kind="resolve", times=1))
    states = [each.state for each in progress_of(hub, cache)]
    assert State.WAITING_FOR_RATE_LIMIT in states
    assert states.index(State.READING_METADATA) < states.index(State.WAITING_FOR_RATE_LIMIT)


def test_a_long_wait_for_the_api_is_no_stall(hub: LocalHub, cache: Path) -> None:
    """Reports of a wait keep rank 0 from being declared stalled, however long it takes."""
    hub.faults.add(Fault.status(429, retry_after=3, kind="api", times=1))
    idle: list[float] = []
    tracker = ProgressTracker()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            idle.append(tracker.idle())

    watching = threading.Thread(target=look)
    watching.start()
    try:
        settings = WarmupSettings(endpoint=hub.endpoint, cache_dir=cache)
        run = Run(Task.from_settings(settings), World.from_environment({}))
        Warmup(run).warm(tracker)
    finally:
        done.set()
        watching.join()
    assert max(idle) < 2.5


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("999999999", ": it asks for more than a year"),
        ("1000000000", ": it asks for more than a year"),
        ("3601", ": it asks for 3,601 s"),
        ("-5", r" \(2 tries\)"),
        ("soon", r" \(2 tries\)"),
    ],
)
def test_a_pause_that_nobody_can_mean_is_not_waited_for(
    hub: LocalHub, cache: Path, asked: str, said: str
) -> None:
    """A Retry-After of days ends it at once, nonsense uses up the attempts: both name the 429."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {asked}\r\nContent-Length: 0"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()

    assert hub.commit
    with (
        listening(serve) as port,
        pytest.raises(HubUnavailable, match="429 Too Many Requests" + said),
    ):
        warm(endpoint=f"http://127.0.0.1:{port}", cache_dir=cache, attempts=2)


def test_an_optional_listing_is_not_waited_for(draw: Draw, cache: Path) -> None:
    """The Parquet listing is refused for minutes: the images come file by file, now."""
    with LocalHub(draw(120)) as hub:
        hub.faults.add(Fault.status(429, retry_after=200, kind="tree", path=""))
        start = time.monotonic()
        assert warm(endpoint=hub.endpoint, cache_dir=cache)["files"] == 120
    assert time.monotonic() - start < 60


# --- silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["api", "tree", "resolve"])
def test_the_read_timeout_holds_for_every_request(hub: LocalHub, cache: Path, kind: str) -> None:
    """An answer that is slower than read_timeout is a timeout, of the API as of a file."""
    hub.faults.add(Fault.delay(1.0, kind=kind))
    slow: dict[str, Any] = {"endpoint": hub.endpoint, "cache_dir": cache, "attempts": 1}
    with pytest.raises((HubUnavailable, FetchFailed), match="silent for longer than read_timeout"):
        warm(read_timeout=0.4, **slow)
    assert warm(read_timeout=10, **slow)["files"] == 12


def test_the_read_timeout_holds_for_hf_hub_download(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The single file's HEAD and GET have the same limit, whatever huggingface_hub's own is."""
    hub.faults.add(Fault.delay(1.0, kind="resolve"))
    one: dict[str, Any] = {
        "repo_id": "intro/flickr8k",
        "filename": "train/0001.jpg",
        "cache_dir": cache,
    }
    monkeypatch.setenv("STEP37_ATTEMPTS", "1")
    monkeypatch.setenv("STEP37_READ_TIMEOUT", "0.4")
    with pytest.raises(HubUnavailable, match=r"timed out \(1 try\)"):
        get_flickr8k_dataset_file(**one)
    monkeypatch.setenv("STEP37_READ_TIMEOUT", "10")
    assert get_flickr8k_dataset_file(**one).is_file()


# --- first contact --------------------------------------------------------------------------------


@pytest.fixture
def unknown() -> str:
    """Return an address where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://hub.invalid", r"the name hub.invalid isn't known here"),
        ("", r"127.0.0.1:\d+ can't be reached \(Connection refused\)"),
    ],
    ids=["name", "port"],
)
def test_a_host_that_never_answered_is_given_up_in_seconds(
    cache: Path, capsys: pytest.CaptureFixture[str], unknown: str, endpoint: str, why: str
) -> None:
    """An unknown name or a refused connection: three attempts, and what to check."""
    start = time.monotonic()
    arguments = ["plan", "--cache-dir", str(cache), "--endpoint", endpoint or unknown]
    assert cli.run(arguments) == 75
    assert time.monotonic() - start < 15
    said = capsys.readouterr().err
    assert "(3 tries): check endpoint (HF_ENDPOINT), and whether this node has a network" in said
    assert "HTTPS_PROXY must name that" in said
    assert re.search(why, said)


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("http://proxy.invalid:3128", r"the name proxy.invalid of the proxy isn't known here"),
        ("", r"the proxy 127.0.0.1:\d+ can't be reached \(Connection refused\)"),
    ],
    ids=["name", "port"],
)
def test_of_a_proxy_that_never_answered_the_proxy_is_to_be_checked(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unknown: str,
    proxy: str,
    why: str,
) -> None:
    """The endpoint wasn't asked, so nothing is said against it."""
    monkeypatch.setenv("HTTP_PROXY", proxy or unknown)
    monkeypatch.setenv("NO_PROXY", "")
    arguments = ["plan", "--cache-dir", str(cache), "--endpoint", "http://hub.example"]
    assert cli.run(arguments) == 75
    said = capsys.readouterr().err
    assert re.search(why, said)
    assert "(3 tries): check the proxy's address (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY)" in said
    assert "check endpoint" not in said


def test_a_single_file_of_an_unknown_host_is_given_up_in_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch, unknown: str
) -> None:
    """hf_hub_download's own retries don't add to it."""
    monkeypatch.setenv("HF_ENDPOINT", unknown)
    start = time.monotonic()
    with pytest.raises(HubUnavailable, match=r"can't be reached .* \(3 tries\)"):
        get_flickr8k_dataset_file(repo_id="a/b", filename="x.jpg", cache_dir=cache)
    assert time.monotonic() - start < 30


def test_a_single_file_that_is_there_needs_no_hub(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, unknown: str
) -> None:
    """What an earlier call has downloaded is taken while nobody answers, as by hf_hub_download."""
    assert hub.commit
    one: dict[str, Any] = {
        "repo_id": "intro/flickr8k",
        "filename": "train/0001.jpg",
        "cache_dir": cache,
    }
    path = get_flickr8k_dataset_file(**one)
    monkeypatch.setenv("HF_ENDPOINT", unknown)
    assert get_flickr8k_dataset_file(**one) == path


def test_a_host_that_has_answered_is_weather(
    hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection refused in the middle has all attempts: the Hub comes back."""
    port, gone = free_port(), threading.Event()

    def interrupted() -> None:
        with listening(to(port_of(hub.endpoint))) as inner, serving(port, inner):
            while not [one for one in hub.requests if one.kind == "tree"]:
                time.sleep(0.01)
        gone.set()
        before = len(caplog.messages)
        while not (done.is_set() or any("refused" in said for said in caplog.messages[before:])):
            time.sleep(0.01)
        with listening(to(port_of(hub.endpoint))) as inner, serving(port, inner):
            done.wait(240)

    caplog.set_level(logging.DEBUG, "step37_flickr8k")
    done = threading.Event()
    behind = threading.Thread(target=interrupted)
    behind.start()
    try:
        while not answers(port):
            time.sleep(0.01)
        result = warm(endpoint=f"http://127.0.0.1:{port}", cache_dir=cache, fetch_mode="files")
    finally:
        done.set()
        behind.join()
    assert result["files"] == 12
    assert gone.is_set()
    assert result["retries"]["connection"] >= 1


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def serving(port: int, inner: int) -> "Relay":
    return Relay(port, inner)


class Relay:
    """Passes connections of a port on to another one, until it ends with all of them."""

    def __init__(self, port: int, inner: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._inner = inner
        self._open: list[socket.socket] = []

    def __enter__(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._inner))
            self._open += [client, there]
            for source, target in ((client, there), (there, client)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while block := source.recv(1 << 16):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


# --- splits ---------------------------------------------------------------------------------------


def test_a_split_that_is_not_there_comes_with_those_that_are(draw: Draw, cache: Path) -> None:
    """The error lists the directories that hold a table, and no others."""
    draw(2, "train")
    directory = draw(2, "validation")
    (directory / "scripts").mkdir()
    (directory / "scripts" / "make.py").write_text("")
    with LocalHub(directory) as hub:
        with pytest.raises(SplitNotFound) as caught:
            warm(endpoint=hub.endpoint, cache_dir=cache, split="test")
        assert str(caught.value) == (
            f"split 'test' not found in intro/flickr8k@{hub.commit[:7]} (no test/metadata.csv,"
            " .jsonl or .parquet, nor one at the root);"
            " available: train, validation"
        )
        with pytest.raises(SplitNotFound, match=r"scripts/metadata.csv, .*; available: train"):
            warm(endpoint=hub.endpoint, cache_dir=cache, split="scripts")
        hub.faults.add(Fault.status(500, kind="tree", path=""))
        with pytest.raises(SplitNotFound, match="check the names in its list of files"):
            warm(endpoint=hub.endpoint, cache_dir=cache, split="test", attempts=1)
