"""The real thing: several processes, a real store, a real Hub; only rank 0 downloads and every rank knows how it went."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import errors, prepare_flickr8k_samples
from step37_flickr8k.flickr8k_loader import _is_global_rank_0, _maybe_barrier
from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.ranks import PATIENCE, Ranks, torchrun

MakeRanks = Callable[..., Ranks]


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[MakeRanks]:
    """Make jobs whose processes end with the test."""
    made: list[Ranks] = []

    def make(size: int, **environment: str) -> Ranks:
        made.append(Ranks(size, tmp_path / f"job-{len(made)}", environment))
        return made[-1]

    yield make
    for job in made:
        job.end()


def prepare(rank: int, arguments: dict[str, Any]) -> Any:
    """Call the loader, with arguments of this rank's own where given."""
    own = arguments.get("own", {}).get(rank, {})
    return [
        (Path(sample.image_path).name, sample.caption)
        for sample in prepare_flickr8k_samples(**arguments["all"] | own)
    ]


def prepare_twice(rank: int, arguments: dict[str, Any]) -> Any:
    """Call the loader for 3 rows, then for all."""
    assert _is_global_rank_0() is (rank == 0)
    _maybe_barrier()
    return [
        len(prepare(rank, {"all": arguments["all"] | {"sample_count": count}}))
        for count in (3, None, 3)
    ]


@pytest.mark.parametrize("size", [2, 4])
def test_only_rank_zero_downloads_and_all_get_the_same_list(
    hub: LocalHub, cache: Path, ranks: MakeRanks, size: int
) -> None:
    """With an initialised gloo group one process downloads, each file once, and every rank returns the same samples."""
    outcomes = ranks(size).start_group(prepare, {"all": {"cache_dir": str(cache)}}).outcomes()
    assert len(outcomes[0]) == 8
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert len(hub.file_requests()) == 9
    assert len([request for request in hub.requests if request.kind == "tree"]) == 1


def test_several_calls_in_one_process(hub: LocalHub, cache: Path, ranks: MakeRanks) -> None:
    """Calls with growing and shrinking selections stay in step, and fetch each file once."""
    outcomes = ranks(3).start_group(prepare_twice, {"all": {"cache_dir": str(cache)}}).outcomes()
    assert outcomes == [[3, 12, 3]] * 3
    assert len(hub.file_requests()) == 13


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"caption_key": "caption_9"}, errors.CaptionKeyNotFound),
        ({"split": "validation"}, errors.SplitNotFound),
        ({"repo_id": "intro/flickr9k"}, errors.RepositoryNotFound),
        ({"revision": "v2"}, errors.RevisionNotFound),
    ],
)
def test_an_error_is_the_same_on_every_rank(
    hub: LocalHub, cache: Path, ranks: MakeRanks, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """Rank 0's error reaches every rank: same class, same message."""
    assert hub.commit
    outcomes = (
        ranks(2).start_group(prepare, {"all": {"cache_dir": str(cache)} | arguments}).outcomes()
    )
    assert {type(outcome) for outcome in outcomes} == {error}
    assert len({str(outcome) for outcome in outcomes}) == 1


def test_different_arguments_are_a_mismatch_on_every_rank(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """A rank that asks for something else makes every rank raise CallMismatch, which names it and what differs."""
    assert hub.commit
    own = {1: {"sample_count": 4}}
    outcomes = (
        ranks(3).start_group(prepare, {"all": {"cache_dir": str(cache)}, "own": own}).outcomes()
    )
    assert {type(outcome) for outcome in outcomes} == {errors.CallMismatch}
    assert all(
        "rank 1 on" in str(outcome) and "sample_count is 4 here and 8 on rank 0" in str(outcome)
        for outcome in outcomes
    )


def test_processes_without_a_store_download_once(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """Eight processes that share nothing but the directory: the lease lets one download, the others wait for the record."""
    hub.faults.add(Fault.delay(0.02))
    job = ranks(8, STEP37_HEARTBEAT_TIMEOUT="10", RANK="0", WORLD_SIZE="1")
    for rank in range(8):
        job._start(
            rank,
            prepare_alone,
            job.environment,
            (str(cache), str(job.directory / f"result-{rank}")),
        )
    assert job.outcomes() == [12] * 8
    assert len(hub.file_requests()) == 13


def prepare_alone(cache: str, result: str) -> None:
    """Call the loader without a process group."""
    import pickle

    Path(result).write_bytes(
        pickle.dumps(len(prepare_flickr8k_samples(sample_count=None, cache_dir=cache)))
    )


def test_the_command_under_plain_launcher_variables(
    hub: LocalHub, cache: Path, ranks: MakeRanks, tmp_path: Path
) -> None:
    """RANK, WORLD_SIZE and MASTER_* are enough: all ranks end with 0, rank 0 writes the report, one process downloaded."""
    report = tmp_path / "report.json"
    job = ranks(3).start_all("warmup", "--cache-dir", str(cache), "--report", str(report))
    assert job.wait() == {0: 0, 1: 0, 2: 0}
    told = json.loads(report.read_text())
    assert (told["ok"], told["commit"], told["rows"], told["files"]) == (True, hub.commit, 12, 12)
    assert [told["ranks"][str(rank)]["ok"] for rank in range(3)] == [True] * 3
    assert len(hub.file_requests()) == 13
    for rank in range(3):
        assert "12 rows at commit" in job.log(rank)
        assert f"global rank {rank} of 3" in job.log(rank).splitlines()[0]


def test_the_command_tells_rank_zeros_failure_on_every_rank(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """Exit code and message are rank 0's on all ranks."""
    assert hub.commit
    job = ranks(3).start_all("warmup", "--cache-dir", str(cache), "--caption-key", "caption_9")
    assert set(job.wait().values()) == {2}
    for rank in range(3):
        assert " ERROR caption_key 'caption_9' is no column" in job.log(rank)


def test_the_command_under_torchrun(hub: LocalHub, cache: Path) -> None:
    """Under torchrun the ranks meet at its agent's store; a second run makes no file request."""
    arguments = ["-m", "step37_flickr8k", "warmup", "--cache-dir", str(cache)]
    for expected in (13, 13):
        done = subprocess.run(
            [*torchrun(4), *arguments],
            env=os.environ | {"TORCHELASTIC_ERROR_FILE": ""},
            capture_output=True,
            check=False,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["run"].startswith("torchrun-")
        assert len(hub.file_requests()) == expected


def on_another_backend(rank: int, size: int, port: int, cache: str, result: str) -> None:
    """Be a rank of a group whose backend has no working collective at all."""
    import pickle
    from datetime import timedelta

    import torch.distributed as dist
    from torch.testing._internal.distributed import fake_pg  # noqa: F401 - registers the backend "fake"

    store = dist.TCPStore(
        "127.0.0.1", port, size, rank == 0, timedelta(seconds=60), wait_for_workers=False
    )
    dist.init_process_group("fake", store=store, rank=rank, world_size=size)
    Path(result).write_bytes(pickle.dumps(prepare(rank, {"all": {"cache_dir": cache}})))
    # Rank 0 serves the store: it stays until the others, whom it doesn't wait for, have their rows.
    own = Path(result)
    deadline = time.monotonic() + PATIENCE
    while rank == 0 and time.monotonic() < deadline:
        if all(own.with_name(f"result-{other}").exists() for other in range(size)):
            break
        time.sleep(0.05)


def test_the_groups_backend_does_not_matter(hub: LocalHub, cache: Path, ranks: MakeRanks) -> None:
    """Only the group's store is used: with a backend whose collectives do nothing every rank still gets the outcome."""
    job = ranks(3)
    for rank in range(3):
        arguments = (rank, 3, job.port, str(cache), str(job.directory / f"result-{rank}"))
        job._start(rank, on_another_backend, job.environment, arguments)
    outcomes = job.outcomes()
    assert len(outcomes[0]) == 8
    assert outcomes[1] == outcomes[2] == outcomes[0]
    assert len(hub.file_requests()) == 9
