"""What reading a cache costs a row, beside a plain loop over ``csv.DictReader`` in the same run.

``make bench-readers``. Makes a ready cache for each number of rows, with a table of five captions;
its images are links to a few small files. Each figure is the median of three processes: processor
time, which is less disturbed by other processes than the clock, and the peak of memory above what
the process had before.
"""

import argparse
import csv
import hashlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from step37_flickr8k import Flickr8kSample, prepare_flickr8k_samples
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import ManifestEntry, write_manifest
from step37_flickr8k.cache.record import Coverage, Record, read_record, write_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.cache.verify import digest_of_file, is_complete
from step37_flickr8k.cache.visible import rows_when_visible
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.dataset.decide import decide
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.names import METADATA
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.diagnostics.status import status
from step37_flickr8k.flickr8k_loader import samples_of
from step37_flickr8k.job import Run, Task, verify

COMMIT = "c" * 40
CONTENT = b"\xff\xd8\xff\xd9"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
LINKS = 50_000  # names of a file: ext4 takes 65,000
RUNS = 3
WORDS = ("a", "man", "woman", "dog", "in", "red", "is", "running", "on", "the", "green", "grass")
SELECTION = Selection(
    repo_id="intro/flickr8k", split="train", caption_key="caption_0", sample_count=None
)


class Cost(NamedTuple):
    """Processor seconds, and bytes of memory at the peak."""

    seconds: float
    memory: int


# --- what is measured: each returns how many rows it has read ---------------------------------------

measuring: list[Callable[[], None]] = []


@contextmanager
def prepared() -> Iterator[None]:
    """Leave out of a measurement what is done in this context."""
    yield
    measuring[0]()


def dict_reader(directory: CacheDirectory) -> int:
    with (directory.files / METADATA).open(newline="", encoding="utf-8") as table:
        return len([(row["file_name"], row["caption_0"]) for row in csv.DictReader(table)])


def cold_plan(directory: CacheDirectory) -> int:
    with prepared():
        listing = Listing(
            RemoteFile(name, 130_000, DIGEST)
            for name in (METADATA, *(row.file_name for row in rows(directory)))
        )
    return decide(rows(directory), listing, {}).rows


def follower(directory: CacheDirectory) -> int:
    visible = rows_when_visible(directory, SELECTION, COMMIT, 60)
    return len(samples_of(directory, visible))


def rank_zero(directory: CacheDirectory) -> int:
    samples: list[Flickr8kSample] = prepare_flickr8k_samples(
        sample_count=None, cache_dir=str(directory.root)
    )
    return len(samples)


def warm_start(directory: CacheDirectory) -> int:
    record = recorded(directory)
    assert is_complete(directory, record, check="all")  # noqa: S101 - what is measured
    return record.captions["caption_0"].rows


def whole_status(directory: CacheDirectory) -> int:
    (split,) = status(directory.root)
    return split.files if split.is_ready else 0


def whole_verify(directory: CacheDirectory) -> int:
    run = Run(Task(selection=SELECTION, cache_dir=directory.root), World())
    found = verify(run)
    return 0 if found.damaged else found.files - 1


def rows(directory: CacheDirectory) -> Iterator[Row]:
    return rows_of(directory, recorded(directory), SELECTION)


def recorded(directory: CacheDirectory) -> Record:
    record = read_record(directory)
    assert record is not None  # noqa: S101 - it was made
    return record


MEASURED = {
    "csv.DictReader, into a list of pairs": dict_reader,
    "cold plan: the decision": cold_plan,
    "samples of a warm cache, on any rank but 0": follower,
    "samples of a warm cache, on rank 0 or alone": rank_zero,
    "status": whole_status,
    "warmup of a warm cache: size and mtime of every file": warm_start,
    "verify, but for the images' bytes": whole_verify,
}


def cost_of(name: str, root: Path, count: int) -> Cost:
    """Return what one measurement costs, in the process that it is called in."""
    before = {"seconds": 0.0, "memory": 0.0}

    def begin() -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is now's
        before.update(seconds=time.process_time(), memory=memory_of("VmRSS"))

    measuring[:] = [begin]
    begin()
    read = MEASURED[name](CacheDirectory(root, "train"))
    seconds = time.process_time() - before["seconds"]
    memory = memory_of("VmHWM") - int(before["memory"])
    if read != count:
        raise SystemExit(f"{name} has read {read:,} of {count:,} rows")
    return Cost(seconds, memory)


def memory_of(figure: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{figure}:"))
    return int(kilobytes) << 10


def median(name: str, root: Path, count: int, runs: int) -> Cost:
    costs = []
    for _ in range(runs):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            costs.append(pool.submit(cost_of, name, root, count).result())
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        int(statistics.median(cost.memory for cost in costs)),
    )


# --- the cache --------------------------------------------------------------------------------------


def make_cache(root: Path, count: int) -> None:
    """Make a ready cache without a download; one of twenty captions has a quote or a comma."""
    directory = CacheDirectory(root, "train")
    directory.make()
    chance = random.Random(1)  # noqa: S311 - captions
    names = [f"{chance.randrange(10**9):010}_{number:07x}.jpg" for number in range(count)]
    with (directory.files / METADATA).open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", *(f"caption_{number}" for number in range(5))])
        writer.writerows([name, *(caption(chance) for _ in range(5))] for name in names)
    for at in range(0, count, LINKS):
        original, *others = (f"{directory.files}/{name}" for name in names[at : at + LINKS])
        Path(original).write_bytes(CONTENT)
        for other in others:
            os.link(original, other)
    manifest = {
        name: ManifestEntry(entry.size, DIGEST, entry.mtime_ns)
        for name, entry in directory.scan().items()
    }
    digest = digest_of_file(directory, directory.files / METADATA, "git-sha1:")
    manifest[METADATA] = ManifestEntry(manifest[METADATA].size, digest, manifest[METADATA].mtime_ns)
    record = Record(repo_id=SELECTION.repo_id, commit=COMMIT, metadata=digest, captions={})
    write_manifest(directory, manifest)
    write_record(directory, record.grown("caption_0", Coverage(count, everything=True), manifest))


def caption(chance: random.Random) -> str:
    words = chance.choices(WORDS, k=11)
    if chance.random() < 0.05:
        words[3] = chance.choice(['"big"', f"{words[3]},"])
    return " ".join(words) + " ."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    for count in arguments.rows:
        with tempfile.TemporaryDirectory() as directory:
            make_cache(Path(directory), count)
            print(f"{count:,} rows")
            print(f"{'us a row':>9} {'of DictReader':>13} {'seconds':>8} {'peak MB':>8}")
            peer = None
            for name in MEASURED:
                cost = median(name, Path(directory), count, arguments.runs)
                peer = peer or cost
                print(
                    f"{cost.seconds * 1e6 / count:>9.2f} {cost.seconds / peer.seconds:>13.2f}"
                    f" {cost.seconds:>8.2f} {cost.memory / 1e6:>8.0f}  {name}",
                    flush=True,
                )
            print()


if __name__ == "__main__":
    main()
