"""A split in bulk, out of its Parquet conversion: few requests, and only bytes whose hash is wanted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import InvalidSettings, Step37Error
from step37_flickr8k.job.plan import make_plan
from step37_flickr8k.job.results import Mode
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.warmup import Warmup
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.settings import WarmupSettings
from tests.conftest import Draw, picture
from tests.helpers.conversion import convert
from tests.helpers.digests import digest_of_file
from tests.helpers.faulty_worker import start_instead

COUNT = 240


@pytest.fixture
def bulk(draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve 240 pictures with their Parquet conversion."""
    directory = draw(COUNT)
    with LocalHub(directory, parquet=convert(directory, tmp_path / "parquet")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def warm(hub: LocalHub, cache: Path, **settings: Any) -> dict[str, Any]:
    given = WarmupSettings(endpoint=hub.endpoint, cache_dir=cache, read_timeout=1, **settings)
    run = Run(Task.from_settings(given), World.from_environment({}))
    warmed = Warmup(run).share(Group.alone())
    for row in warmed.rows:
        expected = digest_of_file(hub.directory / "train" / row.file_name, "sha256:")
        assert digest_of_file(cache / "train" / row.file_name, "sha256:") == expected
    assert not list((cache / "train").glob(".*"))
    return warmed.result.as_json()


def test_a_whole_split_takes_a_dozen_requests(bulk: LocalHub, cache: Path) -> None:
    """In auto mode all images come out of the Parquet files: under 20 requests at the Hub, redirects to the CDN included."""
    result = warm(bulk, cache)
    assert (result["files"], result["rows"]) == (COUNT, COUNT)
    # Huggingface_hub asks for something of its own, once
    asked = [one for one in bulk.requests if one.kind != "other"]
    assert result["requests"] == len(asked) < 20
    assert not [one for one in bulk.requests if one.repo_path.endswith(".jpg")]


@pytest.mark.parametrize(
    "settings", [{"sample_count": 100}, {"fetch_mode": "files"}], ids=["less than half", "told so"]
)
def test_files_come_one_by_one(bulk: LocalHub, cache: Path, settings: dict[str, Any]) -> None:
    """When less than half of the bytes are wanted, or the settings say so, no Parquet file is read."""
    result = warm(bulk, cache, **settings)
    assert result["files"] == settings.get("sample_count", COUNT)
    assert not [
        one for one in bulk.requests if one.kind == "resolve" and one.repo_path.endswith(".parquet")
    ]


def test_a_small_selection_in_parquet_mode_reads_no_further_than_needed(
    bulk: LocalHub, cache: Path
) -> None:
    """fetch_mode=parquet takes what was asked for out of the first row groups."""
    result = warm(bulk, cache, fetch_mode="parquet", sample_count=5)
    assert (result["files"], result["rows"]) == (5, 5)


_SLOWLY = """
import time
from step37_flickr8k.cache.directory import CacheDirectory
put = CacheDirectory.put
def slowly(*args, **how):
    time.sleep(0.03)
    put(*args, **how)
CacheDirectory.put = slowly
"""


def test_a_slow_file_system_has_many_writers_here_too(
    bulk: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The threads that write in a worker aren't what its limit of memory is about."""
    start_instead(monkeypatch, tmp_path, late=_SLOWLY)
    assert warm(bulk, cache)["files"] == COUNT
    assert not [one for one in bulk.requests if one.repo_path.endswith(".jpg")]


def test_what_is_there_already_is_not_taken_again(bulk: LocalHub, cache: Path) -> None:
    """The rest of a split comes in bulk when its first quarter lies there, though no early row group has anything new."""
    warm(bulk, cache, sample_count=COUNT // 4, fetch_mode="files")
    bulk.clear_requests()
    result = warm(bulk, cache)
    assert result["files"] == COUNT - COUNT // 4
    assert not [one for one in bulk.requests if one.repo_path.endswith(".jpg")]


def test_a_conversion_of_other_images_is_given_up_early(
    draw: Draw, tmp_path: Path, cache: Path
) -> None:
    """Images whose hash nobody wants are never written; the real ones come file by file."""
    directory = draw(COUNT)
    stale = convert(directory, tmp_path / "parquet", other=lambda number: picture(number, size=20))
    with LocalHub(directory, parquet=stale) as hub:
        result = warm(hub, cache)
        assert result["files"] == COUNT
        images = {one.repo_path for one in hub.file_requests() if one.repo_path.endswith(".jpg")}
        assert len(images) == COUNT
    assert len(list((cache / "train").glob("*.jpg"))) == COUNT


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault.status(503, path="*.parquet", every=3), "503"),
        (Fault.reset(path="*.parquet", at=0.5, every=3), ""),
        (Fault.truncate(path="*.parquet", at=0.7, every=3), "truncated"),
        (Fault.stall(path="*.parquet", at=0.6, every=3), "timeout"),
        (Fault.quota(6, window=3), "429"),
    ],
    ids=["503", "reset", "truncated", "stall", "quota"],
)
def test_faults_are_weather_here_too(bulk: LocalHub, cache: Path, fault: Fault, cause: str) -> None:
    """A fault in mid-stream costs a request, not the images before it; every byte is right."""
    bulk.faults.add(fault)
    result = warm(bulk, cache)
    assert result["files"] == COUNT
    assert sum(result["retries"].values()) > 0
    assert not cause or result["retries"][cause] > 0
    assert not [one for one in bulk.requests if one.repo_path.endswith(".jpg")]


@pytest.mark.parametrize("at", [0.1, 0.5, 0.999])
def test_corrupt_bytes_are_fetched_one_by_one(bulk: LocalHub, cache: Path, at: float) -> None:
    """A flipped byte in an image, a page's header or the footer never lands: those images come as files."""
    bulk.faults.add(Fault.corrupt(path="*.parquet", at=at))
    result = warm(bulk, cache)
    assert result["files"] == COUNT
    assert [one for one in bulk.requests if one.repo_path.endswith(".jpg")]


def test_files_that_are_no_parquet_are_passed_over(draw: Draw, tmp_path: Path, cache: Path) -> None:
    """A conversion that can't be read at all costs a few requests and a warning."""
    directory = draw(COUNT)
    place = tmp_path / "parquet" / "default" / "train"
    place.mkdir(parents=True)
    (place / "0000.parquet").write_bytes(b"PAR1" + bytes(5000))
    with LocalHub(directory, parquet=tmp_path / "parquet") as hub:
        assert warm(hub, cache)["files"] == COUNT


@pytest.mark.parametrize("status", [400, 403, 404, 503])
def test_a_conversion_that_cannot_be_listed_is_done_without(
    bulk: LocalHub, cache: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In auto mode the conversion is a help: whatever the Hub says of it, the images come file by file, and soon."""
    bulk.faults.add(Fault.status(status, kind="tree", path=""))
    assert warm(bulk, cache)["files"] == COUNT
    assert "can't be listed, so the images come file by file" in caplog.text
    assert len([one for one in bulk.requests if one.kind == "tree" and not one.repo_path]) <= 2
    with pytest.raises(Step37Error):
        warm(bulk, cache.with_name("2"), fetch_mode="parquet", attempts=1)


def test_a_signal_while_the_workers_end_leaves_nothing_unfinished(
    draw: Draw, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata lies there under a temporary name when the run fails; a signal that comes just then takes it along, too."""
    close = Workers.close
    unfinished: list[Path] = []

    def close_until_a_signal(workers: Workers) -> None:
        close(workers)
        unfinished.extend((cache / "train").glob(".*"))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Workers, "close", close_until_a_signal)
    with LocalHub(draw(2)) as hub, pytest.raises(KeyboardInterrupt):
        warm(hub, cache, fetch_mode="parquet")
    assert unfinished
    assert not list((cache / "train").glob(".*"))


def test_parquet_mode_without_a_conversion_says_so(draw: Draw, cache: Path) -> None:
    """fetch_mode=parquet on a repository without a conversion is an error that names the remedy."""
    with (
        LocalHub(draw(2)) as hub,
        pytest.raises(
            InvalidSettings, match="no Parquet conversion of train: choose auto or files"
        ),
    ):
        warm(hub, cache, fetch_mode="parquet")


def test_parquet_mode_without_pyarrow_says_so(
    bulk: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pyarrow auto takes the files, and fetch_mode=parquet names what to install."""
    monkeypatch.setattr("step37_flickr8k.download.conversion.is_available", lambda: False)
    with pytest.raises(InvalidSettings, match=r"needs pyarrow: pip install pyarrow, or"):
        warm(bulk, cache, fetch_mode="parquet")
    assert warm(bulk, cache)["files"] == COUNT
    assert [one for one in bulk.requests if one.repo_path.endswith(".jpg")]


def test_the_plan_foretells_the_mode(bulk: LocalHub, cache: Path) -> None:
    """Plan decides as warmup does, and its number of requests is one that warmup keeps to."""
    settings = WarmupSettings(endpoint=bulk.endpoint, cache_dir=cache)
    plan = make_plan(Run(Task.from_settings(settings), World.from_environment({})))
    assert plan.mode is Mode.PARQUET
    bulk.clear_requests()
    warm(bulk, cache)
    assert len([one for one in bulk.requests if one.origin == "hub"]) <= plan.requests < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_stream_ends_it_at_once(
    bulk: LocalHub, cache: Path, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM while row groups come: the command ends at once, and no torn file stays."""
    # Two footers come, then row groups of which every third answer stops halfway.
    bulk.faults.add(Fault.stall(600, path="*.parquet", kind="cdn", at=0.5, every=3))
    command = [
        sys.executable,
        "-m",
        "step37_flickr8k",
        "warmup",
        "--cache-dir",
        str(cache),
        "--endpoint",
        bulk.endpoint,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
    )
    while len([one for one in bulk.requests if one.kind == "cdn" and one.bytes_sent]) < 3:
        time.sleep(0.05)
    process.send_signal(number)
    start = time.monotonic()
    assert process.wait(120) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert time.monotonic() - start < 60
    assert not list((cache / "train").glob(".*"))
