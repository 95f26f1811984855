"""The fetch under faults: every byte right, every fault counted, nothing torn."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.download import workers
from step37_flickr8k.download.batches import Batches, VerifiedFile
from step37_flickr8k.download.files import fetch
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import AccessDenied, FetchFailed, FolderFull, FolderNotUsable, LeaseLost
from step37_flickr8k.hub.source import Source, TransferStatistics
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.settings.options import FetchOptions
from tests.conftest import MakeTmpfs
from tests.helpers.digests import digest_of_file
from tests.helpers.faulty_worker import start_instead
from tests.helpers.ranks import PATIENCE


class Fetching:
    """A fetch of all pictures of a hub into a cache directory."""

    def __init__(self, hub: LocalHub, cache: Path) -> None:
        self.hub = hub
        self.directory = CacheDirectory(cache, "train")
        self.directory.make()
        self.told: list[Progress] = []
        self.options: dict[str, Any] = {"read_timeout": 0.5, "attempts": 6}
        paths = sorted((hub.directory / "train").glob("*.jpg"))
        self.files = [
            RemoteFile(path.name, path.stat().st_size, digest_of_file(path, "sha256:"))
            for path in paths
        ]

    def run(
        self, publish: Callable[[Sequence[VerifiedFile]], None] | None = None, progress: Any = None
    ) -> TransferStatistics:
        url = f"{self.hub.endpoint}/datasets/intro/flickr8k/resolve/{self.hub.commit}/train"
        source = Source(base=f"{url}/", headers={"Authorization": "Bearer hf_x"})
        with contextlib.closing(Workers(self.directory)) as pool:
            fetch(
                self.files,
                source,
                pool,
                publish or self.publish,
                options=FetchOptions(**self.options),
                progress=progress or self.told.append,
            )
        return source.statistics

    def publish(self, batch: Sequence[VerifiedFile]) -> None:
        for arrived in batch:
            self.directory.publish(arrived.temporary, arrived.file.name)

    def assert_all_right(self) -> None:
        for file in self.files:
            assert digest_of_file(self.directory.files / file.name, file.digest) == file.digest
        self.assert_nothing_torn()

    def assert_nothing_torn(self) -> None:
        assert not list(self.directory.files.glob(".*"))


@pytest.fixture
def fetching(hub: LocalHub, cache: Path) -> Fetching:
    return Fetching(hub, cache)


def test_one_get_a_file(fetching: Fetching) -> None:
    """Each file costs one GET at the endpoint, and the redirect it answers with; no HEAD."""
    statistics = fetching.run()
    fetching.assert_all_right()
    assert (statistics.files, statistics.requests, sum(statistics.retries.values())) == (12, 24, 0)
    assert statistics.bytes == sum(file.size for file in fetching.files)
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
    """Every third answer faulty: the fetch succeeds, every byte is right, and the statistics says what happened."""
    fetching.hub.faults.add(fault)
    statistics = fetching.run()
    fetching.assert_all_right()
    assert statistics.retries[cause] > 0
    assert statistics.bytes == sum(file.size for file in fetching.files)


def test_a_used_up_quota_is_waited_for(fetching: Fetching) -> None:
    """A 429 stops all workers for as long as the Hub says, costs no try, and the progress says what is waited for."""
    fetching.options["attempts"] = 1
    fetching.hub.faults.add(Fault.quota(5, window=1.0))
    statistics = fetching.run()
    fetching.assert_all_right()
    assert statistics.retries["429"] > 0
    assert any(told.state is State.WAITING_FOR_RATE_LIMIT for told in fetching.told)


def test_a_file_that_waited_for_its_connection_asks_whether_the_quota_has_closed(
    fetching: Fetching,
) -> None:
    """With one connection no request is ever refused: the answer before says that none is left."""
    fetching.options["concurrency"] = 1
    # As many as are in hand: the third waits while the second hears it
    fetching.files = fetching.files[:3]
    fetching.hub.faults.add(Fault.quota(2, window=1.0))
    statistics = fetching.run()
    fetching.assert_all_right()
    assert statistics.retries["429"] == 0


def test_a_429_that_does_not_say_how_long_is_a_try(
    fetching: Fetching, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that refuses for ever, without a word on when to come again, uses up the tries, and that is said once."""
    caplog.set_level("INFO")
    fetching.options["attempts"] = 3
    fetching.hub.faults.add(Fault.status(429, path="train/0003.jpg", kind="resolve"))
    with pytest.raises(
        FetchFailed, match=r"1 of 12 files.*0003\.jpg \(429 Too Many Requests \(3 tries\)\)"
    ):
        fetching.run()
    assert [record.message for record in caplog.records if "429" in record.message] == [
        "the Hub wants fewer requests (429) and states no pause: each counts as a failed attempt"
    ]


@pytest.mark.parametrize("location", ["http://[bad/", "http://h:99999999/", "http://xn--/"])
def test_a_redirect_to_no_address_is_a_failure_of_the_file(
    fetching: Fetching, location: str
) -> None:
    """An address that can't be is named with the file, and the other files come."""
    fetching.hub.faults.add(Fault.redirect(location, path="train/0003.jpg", kind="resolve"))
    with pytest.raises(
        FetchFailed,
        match=r"1 of 12 files.*0003\.jpg \(redirected to 'http://.*, not an address",
    ):
        fetching.run()
    assert len(list(fetching.directory.files.iterdir())) == 11


def test_an_error_is_not_hidden_by_the_clearing_up(hub: LocalHub, cache: Path) -> None:
    """SIGTERM in mid-download ends with 143 also where the directory has gone from its path."""
    hub.faults.add(Fault.stall(60, path="train/*.jpg"))
    command = [sys.executable, "-m", "step37_flickr8k", "warmup", "--cache-dir", str(cache)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not any(request.repo_path.endswith(".jpg") for request in hub.requests):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (cache / "train").rename(cache / "away")
        (cache / "train").write_text("no directory")
        process.terminate()
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, told
    assert "ended by SIGTERM" in told
    assert not list((cache / "away").glob(".*"))


def test_what_fails_for_good_is_named_and_the_rest_comes(fetching: Fetching) -> None:
    """Failures are collected: at the end the error names the files and causes, and what came is kept."""
    fetching.options |= {"attempts": 2, "read_timeout": 60}
    fetching.hub.faults.add(
        Fault.corrupt(path="train/0003.jpg"), Fault.status(404, path="train/0005.jpg")
    )
    with pytest.raises(
        FetchFailed, match=r"2 of 12 files.*0003\.jpg \(wrong bytes \(2 tries\)\)"
    ) as caught:
        fetching.run()
    assert "0005.jpg (the Hub answered 404" in str(caught.value)
    assert len(list(fetching.directory.files.iterdir())) == 10
    fetching.assert_nothing_torn()


def test_a_refused_token_ends_the_fetch(fetching: Fetching) -> None:
    """A 403 is no weather."""
    fetching.hub.faults.add(Fault.status(403, path="train/*.jpg"))
    with pytest.raises(AccessDenied):
        fetching.run()


@pytest.mark.parametrize("error", [LeaseLost("another one"), FolderFull("no space")])
def test_what_publishing_raises_ends_the_fetch_at_once(
    fetching: Fetching, error: Exception
) -> None:
    """A lost lease or a full disk stops everything before the next rename, and leaves nothing torn."""

    def publish(_: Sequence[VerifiedFile]) -> None:
        raise error

    with pytest.raises(type(error)):
        fetching.run(publish)
    fetching.assert_nothing_torn()


def test_large_files_are_written_as_they_come(hub: LocalHub, cache: Path) -> None:
    """A file larger than a block is streamed, its hash taken on the way."""
    (hub.directory / "train" / "big.jpg").write_bytes(os.urandom(5 << 20))
    hub.refresh()
    fetching = Fetching(hub, cache)
    fetching.run()
    fetching.assert_all_right()


def test_an_interrupt_ends_it_at_once_with_nothing_torn(fetching: Fetching) -> None:
    """Ctrl-C in mid-download: the interrupt comes through at once and no unfinished file stays."""
    fetching.options["read_timeout"] = 600
    fetching.hub.faults.add(Fault.stall(600, path="train/*.jpg"))
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetching.run()
    assert time.monotonic() - start < 60
    fetching.assert_nothing_torn()


@pytest.fixture
def _endless_decoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let workers take for ever to decode a picture."""
    hangs = "import time\njob_runner.examine = lambda *_: time.sleep(600)"
    start_instead(monkeypatch, tmp_path, late=hangs)


@pytest.mark.usefixtures("_endless_decoding")
def test_an_error_does_not_wait_for_decoders(fetching: Fetching) -> None:
    """An error kills the workers in the middle of a batch, and what they have written is deleted."""

    class Enough(Exception):
        pass

    async def fail_meanwhile(workers: Workers) -> None:
        with Batches(workers, fetching.publish) as batches:
            for file in fetching.files:
                batches.add(
                    file, bytearray((fetching.hub.directory / "train" / file.name).read_bytes())
                ).cancel()
            while not list(fetching.directory.files.glob(".*")):  # noqa: ASYNC110 - it's a file system that is waited for
                await asyncio.sleep(0.01)
            raise Enough

    with contextlib.closing(Workers(fetching.directory)) as pool, pytest.raises(Enough):
        asyncio.run(fail_meanwhile(pool))
    fetching.assert_nothing_torn()


@pytest.mark.usefixtures("_endless_decoding")
def test_an_interrupt_does_not_wait_for_decoders(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while large pictures are decoded ends the workers, too, with nothing torn."""
    monkeypatch.setattr(workers, "_CLOSING", 300)
    interrupted: list[float] = []

    def interrupt(_: Progress) -> None:
        if list(fetching.directory.files.glob(".*")) and not interrupted:
            interrupted.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fetching.run(progress=interrupt)
    # Of the 300 in which workers may end by themselves
    assert time.monotonic() - interrupted[0] < 100
    fetching.assert_nothing_torn()


def test_a_file_system_that_turns_read_only_ends_the_fetch(hub: LocalHub, tmpfs: MakeTmpfs) -> None:
    """Where neither a rename nor the deletion of what was written succeeds any more the error comes through, at once."""
    turning = tmpfs("size=4m")
    fetching = Fetching(hub, turning.path)
    fetching.files = fetching.files[:1]

    def publish(batch: Sequence[VerifiedFile]) -> None:
        turning.make_read_only()
        fetching.publish(batch)

    with pytest.raises(FolderNotUsable, match="Read-only file system"):
        fetching.run(publish)


def test_what_progress_raises_ends_the_fetch(fetching: Fetching) -> None:
    """Work that nobody waits for any more is stopped through its progress."""
    fetching.hub.faults.add(Fault.stall(60, path="train/*.jpg"))

    class Enough(Exception):
        pass

    def refuse(progress: Progress) -> None:
        raise Enough(progress.text)

    with pytest.raises(Enough):
        fetching.run(progress=refuse)
    fetching.assert_nothing_torn()


def test_a_large_file_cut_short_leaves_nothing_torn(hub: LocalHub, cache: Path) -> None:
    """A large file that is half written when the fetch ends is deleted."""
    (hub.directory / "train" / "big.jpg").write_bytes(os.urandom(5 << 20))
    hub.refresh()
    hub.faults.add(Fault.stall(60, path="train/big.jpg", at=0.5))
    fetching = Fetching(hub, cache)
    fetching.options["read_timeout"] = 60
    fetching.files = [file for file in fetching.files if file.name == "big.jpg"]

    def refuse(progress: Progress) -> None:
        if list(fetching.directory.files.glob(".*")):
            raise LeaseLost(progress.text)

    with pytest.raises(LeaseLost):
        fetching.run(progress=refuse)
    fetching.assert_nothing_torn()


@pytest.mark.parametrize("size", [50_000, 5 << 20], ids=["whole", "in blocks"])
def test_a_full_disk_in_mid_file_is_said_as_such(
    hub: LocalHub, tmpfs: MakeTmpfs, size: int
) -> None:
    """However a file is written, no space left ends the fetch as FolderFull, which names the remedy, with nothing torn."""
    (hub.directory / "train" / "big.jpg").write_bytes(os.urandom(size))
    hub.refresh()
    fetching = Fetching(hub, tmpfs("size=40k").path)
    fetching.files = [file for file in fetching.files if file.name == "big.jpg"]
    with pytest.raises(FolderFull, match="free space"):
        fetching.run()
    fetching.assert_nothing_torn()
