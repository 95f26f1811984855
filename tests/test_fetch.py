"""The fetch under faults: every byte right, every fault counted, nothing torn."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.errors import AccessDenied, FetchFailed, FolderFull, LeaseLost
from step37_flickr8k.fetch import fetch
from step37_flickr8k.folder import CacheFolder, digest_of
from step37_flickr8k.landing import Arrived
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.plan import RemoteFile
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.wire import Source, Tally
from step37_flickr8k.workers import Workers


class Fetching:
    """A fetch of all pictures of a hub into a cache folder."""

    def __init__(self, hub: LocalHub, cache: Path) -> None:
        self.hub = hub
        self.folder = CacheFolder(cache, "train")
        self.folder.make()
        self.told: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {"read_timeout": 0.5, "attempts": 6}
        paths = sorted((hub.folder / "train").glob("*.jpg"))
        self.files = [RemoteFile(path.name, path.stat().st_size, digest_of(path, "sha256:")) for path in paths]

    def run(self, land: Callable[[Sequence[Arrived]], None] | None = None, progress: Any = None) -> Tally:
        url = f"{self.hub.endpoint}/datasets/intro/flickr8k/resolve/{self.hub.commit}/train"
        with contextlib.closing(Workers(self.folder)) as workers:
            return fetch(
                self.files,
                Source(base=f"{url}/", headers={"Authorization": "Bearer hf_x"}),
                workers,
                land or self.publish,
                settings=WarmupSettings(**self.settings),
                progress=progress or (lambda state, **numbers: self.told.append({"state": state, **numbers})),
            )

    def publish(self, batch: Sequence[Arrived]) -> None:
        for arrived in batch:
            self.folder.publish(arrived.temporary, arrived.file.name)

    def assert_all_right(self) -> None:
        for file in self.files:
            assert digest_of(self.folder.files / file.name, file.digest) == file.digest
        self.assert_nothing_torn()

    def assert_nothing_torn(self) -> None:
        assert not list(self.folder.files.glob(".*"))


@pytest.fixture
def fetching(hub: LocalHub, cache: Path) -> Fetching:
    return Fetching(hub, cache)


def test_one_get_a_file(fetching: Fetching) -> None:
    """Each file costs one GET at the endpoint, and the redirect it answers with; no HEAD."""
    tally = fetching.run()
    fetching.assert_all_right()
    assert (tally.files, tally.requests, sum(tally.retries.values())) == (12, 24, 0)
    assert tally.bytes == sum(file.size for file in fetching.files)
    assert {request.method for request in fetching.hub.requests} == {"GET"}


def test_the_token_stays_with_the_endpoint(fetching: Fetching) -> None:
    """The endpoint sees the Authorization header, the origin that it redirects to doesn't."""
    fetching.run()
    assert {(request.origin, request.authorization) for request in fetching.hub.requests} == {
        ("hub", True),
        ("cdn", False),
    }


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault.status(503, path="train/*.jpg", every=3), "503"),
        (Fault.reset(path="train/*.jpg", every=3), "connection"),
        (Fault.truncate(path="train/*.jpg", every=3), "truncated"),
        (Fault.corrupt(path="train/*.jpg", every=3), "wrong bytes"),
        (Fault.stall(30, path="train/*.jpg", every=3), "timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_are_weather(fetching: Fetching, fault: Fault, cause: str) -> None:
    """Every third answer faulty: the fetch succeeds, every byte is right, and the tally says what happened."""
    fetching.hub.faults.add(fault)
    tally = fetching.run()
    fetching.assert_all_right()
    assert tally.retries[cause] > 0
    assert tally.bytes == sum(file.size for file in fetching.files)


def test_a_used_up_quota_is_waited_for(fetching: Fetching) -> None:
    """A 429 stops all workers for as long as the Hub says, costs no try, and the progress says what is waited for."""
    fetching.settings["attempts"] = 1
    fetching.hub.faults.add(Fault.quota(5, window=1.0))
    tally = fetching.run()
    fetching.assert_all_right()
    assert tally.retries["429"] > 0
    assert any(told["state"].startswith("waiting for quota") for told in fetching.told)


def test_what_fails_for_good_is_named_and_the_rest_comes(fetching: Fetching) -> None:
    """Failures are collected: at the end the error names the files and causes, and what came is kept."""
    fetching.settings["attempts"] = 2
    fetching.hub.faults.add(Fault.corrupt(path="train/0003.jpg"), Fault.status(404, path="train/0005.jpg"))
    with pytest.raises(FetchFailed, match=r"2 of 12 files.*0003\.jpg \(wrong bytes \(2 tries\)\)") as caught:
        fetching.run()
    assert "0005.jpg (the Hub answered 404" in str(caught.value)
    assert len(list(fetching.folder.files.iterdir())) == 10
    fetching.assert_nothing_torn()


def test_a_refused_token_ends_the_fetch(fetching: Fetching) -> None:
    """A 403 is no weather."""
    fetching.hub.faults.add(Fault.status(403, path="train/*.jpg"))
    with pytest.raises(AccessDenied):
        fetching.run()


@pytest.mark.parametrize("error", [LeaseLost("another one"), FolderFull("no space")])
def test_what_landing_raises_ends_the_fetch_at_once(fetching: Fetching, error: Exception) -> None:
    """A lost lease or a full disk stops everything before the next rename, and leaves nothing torn."""

    def land(_: Sequence[Arrived]) -> None:
        raise error

    with pytest.raises(type(error)):
        fetching.run(land)
    fetching.assert_nothing_torn()


def test_large_files_are_written_as_they_come(hub: LocalHub, cache: Path) -> None:
    """A file larger than a block is streamed, its hash taken on the way."""
    (hub.folder / "train" / "big.jpg").write_bytes(os.urandom(5 << 20))
    hub.refresh()
    fetching = Fetching(hub, cache)
    fetching.run()
    fetching.assert_all_right()


def test_an_interrupt_ends_within_two_seconds_with_nothing_torn(fetching: Fetching) -> None:
    """Ctrl-C in mid-download: the interrupt comes through at once and no unfinished file stays."""
    fetching.settings["read_timeout"] = 60
    fetching.hub.faults.add(Fault.stall(60, path="train/*.jpg"))
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetching.run()
    assert time.monotonic() - start < 2.5
    fetching.assert_nothing_torn()


def test_what_progress_raises_ends_the_fetch(fetching: Fetching) -> None:
    """Work that nobody waits for any more is stopped through its progress."""
    fetching.hub.faults.add(Fault.stall(60, path="train/*.jpg"))

    class Enough(Exception):
        pass

    def refuse(state: str, **_: float) -> None:
        raise Enough(state)

    with pytest.raises(Enough):
        fetching.run(progress=refuse)
    fetching.assert_nothing_torn()


def test_a_large_file_cut_short_leaves_nothing_torn(hub: LocalHub, cache: Path) -> None:
    """A large file that is half written when the fetch ends is deleted."""
    (hub.folder / "train" / "big.jpg").write_bytes(os.urandom(5 << 20))
    hub.refresh()
    hub.faults.add(Fault.stall(60, path="train/big.jpg", at=0.5))
    fetching = Fetching(hub, cache)
    fetching.settings["read_timeout"] = 60
    fetching.files = [file for file in fetching.files if file.name == "big.jpg"]

    def refuse(state: str, **_: float) -> None:
        if list(fetching.folder.files.glob(".*")):
            raise LeaseLost(state)

    with pytest.raises(LeaseLost):
        fetching.run(progress=refuse)
    fetching.assert_nothing_torn()


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts a small file system: run the tests as root, in a container for example")
@pytest.mark.parametrize("size", [50_000, 5 << 20], ids=["whole", "in blocks"])
def test_a_full_disk_in_mid_file_is_said_as_such(hub: LocalHub, tmp_path: Path, size: int) -> None:
    """However a file is written, no space left ends the fetch as FolderFull, which names the remedy, with nothing torn."""
    (hub.folder / "train" / "big.jpg").write_bytes(os.urandom(size))
    hub.refresh()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", small], check=True)
    try:
        fetching = Fetching(hub, small)
        fetching.files = [file for file in fetching.files if file.name == "big.jpg"]
        with pytest.raises(FolderFull, match="free space"):
            fetching.run()
        fetching.assert_nothing_torn()
    finally:
        subprocess.run(["umount", small], check=True)
