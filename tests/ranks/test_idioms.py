"""How training scripts call the library: each idiom works at once, with the default timeouts."""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import prepare_flickr8k_samples, run_on_rank_zero
from step37_flickr8k.localhub import LocalHub
from tests.helpers.ranks import Ranks

# Seconds, of a machine that may be busy. Whoever waits for a rank that doesn't call waits for 150 s
# (for its report) or 900 s (for its arrival).
AT_ONCE = 100.0


def barrier() -> None:
    import torch.distributed as dist

    dist.barrier()


def samples(cache_dir: str, count: int = 8) -> int:
    return len(prepare_flickr8k_samples(cache_dir=cache_dir, sample_count=count))


def rank_zero_first(rank: int, cache_dir: str) -> list[int]:
    """Call on rank 0, then a barrier, then on all: what `prepare_data` and `setup` do."""
    if rank == 0:
        samples(cache_dir)
    barrier()
    return [samples(cache_dir)]


def main_process_first(rank: int, cache_dir: str) -> list[int]:
    """Call on rank 0, then on the others: what accelerate's `main_process_first` does."""
    if rank != 0:
        barrier()
    found = samples(cache_dir)
    if rank == 0:
        barrier()
    return [found]


def rank_zero_alone(rank: int, cache_dir: str) -> list[int]:
    """Call on rank 0 only."""
    found = [samples(cache_dir)] if rank == 0 else [8]
    barrier()
    return found


def one_rank_of_each_node(rank: int, cache_dir: str) -> list[int]:
    """Call on every second rank, as the first of each node."""
    found = [samples(cache_dir)] if rank % 2 == 0 else [8]
    barrier()
    return found


def twice_on_rank_zero(rank: int, cache_dir: str) -> list[int]:
    """Call for 8 rows once more on rank 0, then all for 5: the second calls still meet."""
    if rank == 0:
        samples(cache_dir)
    return [samples(cache_dir), samples(cache_dir, 5) + 3]


def at_different_times(rank: int, cache_dir: str) -> list[int]:
    """Call on each rank seconds after the one before."""
    time.sleep(2.0 * rank)
    return [samples(cache_dir)]


IDIOMS = (
    rank_zero_first,
    main_process_first,
    rank_zero_alone,
    one_rank_of_each_node,
    twice_on_rank_zero,
    at_different_times,
)


def timed(rank: int, arguments: tuple[str, str]) -> tuple[list[int], float]:
    """Call in one of these ways; return what came of it, and in how many seconds."""
    name, cache_dir = arguments
    start = time.monotonic()
    call: Callable[[int, str], list[int]] = globals()[name]
    return call(rank, cache_dir), time.monotonic() - start


def make(cache_dir: str, count: int) -> int:
    """Make a file that isn't there; note that this rank had to."""
    directory = Path(cache_dir)
    directory.mkdir(exist_ok=True)
    if not (directory / str(count)).exists():
        (directory / str(count)).touch()
        with (directory / "made").open("a") as made:
            made.write(f"{count}\n")
    return count


def any_work(cache_dir: str, count: int = 8) -> int:
    return int(run_on_rank_zero(functools.partial(make, cache_dir, count), arguments={"n": count}))


def timed_any_work(rank: int, arguments: tuple[str, str]) -> tuple[list[int], float]:
    """Do the same with other work."""
    globals()["samples"] = any_work
    return timed(rank, arguments)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    """Start a job; its processes end with the test."""
    made: list[Ranks] = []

    def start(size: int, *arguments: Any, call: Any = timed, **environment: str) -> Ranks:
        made.append(Ranks(size, tmp_path / f"job-{len(made)}"))
        return made[-1].start_group(call, arguments, **environment)

    yield start
    for job in made:
        job.end()


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_each_idiom_works_cold_and_warm(
    hub: LocalHub, cache: Path, start: Callable[..., Ranks], idiom: Callable[..., list[int]]
) -> None:
    """No rank waits for one that doesn't call; each file is fetched once, and every rank has it."""
    for _ in ("cold", "warm"):
        outcomes = start(4, idiom.__name__, str(cache)).outcomes()
        assert all(set(found) == {8} for found, _ in outcomes), outcomes
        assert max(seconds for _, seconds in outcomes) < AT_ONCE
    assert len(hub.file_requests()) == 9


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_each_idiom_works_for_any_work(
    cache: Path, start: Callable[..., Ranks], idiom: Callable[..., list[int]]
) -> None:
    """The same without a dataset: what rank 0 makes is made once, and every rank has the result."""
    outcomes = start(4, idiom.__name__, str(cache), call=timed_any_work).outcomes()
    assert all(set(found) == {8} for found, _ in outcomes), outcomes
    assert max(seconds for _, seconds in outcomes) < AT_ONCE
    made = (cache / "made").read_text().split()
    assert made == (["8", "5"] if idiom is twice_on_rank_zero else ["8"])


def test_ranks_that_a_library_started_itself_are_those_of_the_group(
    hub: LocalHub, cache: Path, start: Callable[..., Ranks]
) -> None:
    """Fabric's ranks have LOCAL_RANK and WORLD_SIZE without RANK; the process group decides."""
    environment = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    outcomes = start(2, "rank_zero_first", str(cache), **environment).outcomes()
    assert [found for found, _ in outcomes] == [[8], [8]]
    assert len(hub.file_requests()) == 9
