"""Programs for the same faults: the command, and one that calls `run_on_rank_zero`."""

import functools
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from step37_flickr8k import prepare_flickr8k_samples, run_on_rank_zero
from step37_flickr8k.errors import EmptySelection, exit_code_of
from tests.helpers.ranks import Ranks

IMAGES = 12
log = logging.getLogger("step37_flickr8k")


# --- the program ----------------------------------------------------------------------------------


def fetch_image(directory: Path, number: int) -> None:
    """Fetch an image that isn't there yet, however often that is refused."""
    name = f"{number:04}.jpg"
    url = f"{os.environ['HF_ENDPOINT']}/datasets/intro/flickr8k/resolve/main/train/{name}"
    while not (directory / name).exists():
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                (directory / f"{name}.part").write_bytes(answer.read())
            (directory / f"{name}.part").rename(directory / name)
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.5)


def fetch_images(cache: str, fails: str) -> object:
    """Fetch all images; the work of `run_on_rank_zero`."""
    if fails == "before":
        raise EmptySelection("no rows")
    directory = Path(cache) / "train"
    directory.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(int(os.environ.get("STEP37_CONCURRENCY", "4"))) as pool:
        done = pool.map(functools.partial(fetch_image, directory), range(IMAGES))
        for number, _ in enumerate(done):
            if fails == "during" and number == 5:
                raise OSError(28, "No space left on device")
    log.info("publishing")
    return object() if fails == "after" else [str(file) for file in directory.glob("*.jpg")]


def fetched(cache: str, fails: str = "") -> int:
    """Fetch all images on rank 0; return how many this rank can read."""
    files = run_on_rank_zero(functools.partial(fetch_images, cache, fails), arguments={"to": cache})
    return sum(Path(file).is_file() for file in files)


def fetching_program(cache: str, fails: str) -> None:
    """Be a rank of the program, which ends and logs as the command does."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(levelname)s %(message)s")
    log.info("global rank %s of %s", os.environ["RANK"], os.environ["WORLD_SIZE"])
    try:
        assert fetched(cache, fails) == IMAGES
    except Exception as error:  # noqa: BLE001 - an ending like any other
        log.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 - in one line
        sys.exit(exit_code_of(error))


# --- the two of them ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """How a program is made to fail: its options, the exit code, and how its message begins."""

    options: tuple[str, ...]
    code: int
    words: str


@dataclass(frozen=True)
class Program:
    """What every rank of a job runs; ``start(job, rank, cache, *options, **environment)``.

    ``call`` is the same in a process group, ``script`` under torchrun. ``terminated`` is the exit
    code after SIGTERM, ``delay`` the seconds of a request with which the work takes its time.
    """

    name: str
    start: Callable[..., None]
    call: Callable[[str], int]
    script: str
    terminated: int
    delay: float
    failures: dict[str, Failure]

    def start_all(self, job: Ranks, cache: Path, *options: str, **environment: str) -> Ranks:
        """Start all ranks of a job."""
        for rank in range(job.size):
            self.start(job, rank, cache, *options, **environment)
        return job


def _start_command(job: Ranks, rank: int, cache: Path, *options: str, **environment: str) -> None:
    arguments = ("warmup", "--cache-dir", str(cache), "--log-level", "debug", *options)
    job.start_command(rank, *arguments, **environment)


def _start_fetching(
    job: Ranks, rank: int, cache: Path, fails: str = "", **environment: str
) -> None:
    job.start_program(rank, fetching_program, str(cache), fails, **environment)


def _all_samples(cache: str) -> int:
    return len(prepare_flickr8k_samples(cache_dir=cache, sample_count=None))


COMMAND = Program(
    name="warmup",
    start=_start_command,
    call=_all_samples,
    script="from step37_flickr8k import cli\n"
    "sys.argv = ['step37-flickr8k', 'warmup', '--concurrency', '1', '--cache-dir', sys.argv[1]]\n"
    "cli.main()\n",
    terminated=143,
    delay=0.15,
    failures={
        "before": Failure(
            ("--caption-key", "caption_9"), 2, "caption_key 'caption_9' is no column"
        ),
        "during": Failure(("--attempts", "2"), 75, "0005.jpg"),
        "after": Failure((), 2, "train.json: Is a directory"),
    },
)
FETCHING = Program(
    name="run_on_rank_zero",
    start=_start_fetching,
    call=fetched,
    script="from tests.helpers.programs import fetching_program\n"
    "os.environ['STEP37_CONCURRENCY'] = '1'\n"
    "fetching_program(sys.argv[1], '')\n",
    terminated=-15,
    # Without a ready record a follower that starts again must find rank 0
    delay=0.8,
    failures={
        "before": Failure(("before",), 2, "EmptySelection: no rows"),
        "during": Failure(("during",), 1, "OSError: [Errno 28] No space left on device"),
        "after": Failure(("after",), 1, "TypeError: the result is a object"),
    },
)
PROGRAMS = (COMMAND, FETCHING)
