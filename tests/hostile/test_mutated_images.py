"""Mutated images of every kind: a decode error or none, never an exception, a crash or a hang."""

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.digests import digest_of_bytes
from step37_flickr8k.download.jobs import Job
from step37_flickr8k.download.workers import Workers
from tests.helpers.mutated import check, mutated
from tests.helpers.pictures import pictures
from tests.hostile.seeds import SEED

IMAGES = 20_000
BY_WORKERS = 1_000
PROCESSES = 2
BATCH = 50
# A process that takes longer hangs: alone on a processor it needs a tenth of this.
SECONDS = 500
ROOT = Path(__file__).parents[2]


def decoded(warnings: str, first: int, last: int, directory: Path) -> str:
    """Return what is wrong with the images of these numbers; empty if nothing is."""
    directory.mkdir()
    arguments = map(str, (SEED, first, last, directory))
    said = directory / "stderr"
    how = ""
    with said.open("wb") as stderr:
        try:
            code = subprocess.run(
                [sys.executable, f"-W{warnings}", "-m", "tests.helpers.mutated", *arguments],
                cwd=ROOT,
                stderr=stderr,
                timeout=SECONDS,
                check=False,
            ).returncode
            how = "" if code == 0 else f"ended with {code}"
        except subprocess.TimeoutExpired:
            how = "hung"
    if not how:
        return ""
    current = directory / "current"
    number = current.read_text(encoding="ascii") if current.exists() else "none yet"
    lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join((f"image {number} of seed {SEED} {how}:", *lines[-40:]))


def test_no_mutated_image_ends_a_process(tmp_path: Path) -> None:
    """20,000 of them, in memory and on disk, one in eight shown, half where warnings are errors."""
    share = IMAGES // PROCESSES
    jobs = [
        (warnings, number * share, (number + 1) * share, tmp_path / warnings)
        for number, warnings in enumerate(("ignore", "error"))
    ]
    with ThreadPoolExecutor(PROCESSES) as pool:
        problems = [*filter(None, pool.map(lambda job: decoded(*job), jobs))]
    assert not problems, "\n\n".join(problems)


def test_no_mutated_image_costs_a_worker(cache: Path) -> None:
    """A thousand go the way of a download: written, decoded, answered for; none is an error."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    images = pictures()
    with contextlib.closing(Workers(directory)) as workers:
        for first in range(IMAGES, IMAGES + BY_WORKERS, BATCH):
            contents = [mutated(images, SEED, number)[1] for number in range(first, first + BATCH)]
            jobs = [
                Job(directory.temporary(), "a.jpg", content, digest_of_bytes(content, "sha256:"))
                for content in contents
            ]
            for number, done in enumerate(workers.do(jobs), first):
                assert done.error is None, (number, done.error)
                check(done.examined)
                assert not done.wrong


def test_a_mutated_image_is_the_same_each_time() -> None:
    """A number names an image that can be made again, and few are left as they were."""
    images = pictures()
    some = [mutated(images, SEED, number) for number in range(500)]
    assert some == [mutated(images, SEED, number) for number in range(500)]
    assert sum(images[name] == content for name, content in some) < 50
