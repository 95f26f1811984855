"""`make test-kill`: runs killed at random moments, and runs whose machine loses power, each followed by one that ends well."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import read_record
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import captioned, needs_sys_admin, picture, write_rows
from tests.helpers.digests import digest_of_file
from tests.helpers.ranks import Ranks

COUNT = 40  # pictures
ROUNDS = 100
BEGINNINGS = ("cold", "growing", "new commit", "purged")
BRISK = {"STEP37_CONCURRENCY": "8", "STEP37_FETCH_MODE": "files", "STEP37_PROGRESS": "off"}


def draw(directory: Path, shift: int) -> Path:
    """Draw a dataset; with another shift a third of its pictures are others."""
    (directory / "train").mkdir(parents=True)
    for number in range(COUNT):
        (directory / "train" / f"{number:04}.jpg").write_bytes(
            picture(number + (shift if number % 3 == 0 else 0))
        )
    write_rows(directory / "train", [captioned(number) for number in range(COUNT)])
    return directory


@dataclass
class Rounds:
    """Two commits of a dataset, served; caches as runs find them; and how a run is made."""

    old: LocalHub
    new: LocalHub
    place: Path

    def run(self, cache: Path, number: int, *arguments: str, hub: LocalHub | None = None) -> Ranks:
        """Start a run of the command; runs of one number are tries of one job, which don't wait for a dead one's lease."""
        job = Ranks(1, self.place / f"job-{number}", BRISK | {"STEP37_RUN_ID": f"run-{number}"})
        job.start_command(
            0,
            "warmup",
            "--cache-dir",
            str(cache),
            "--endpoint",
            (hub or self.new).endpoint,
            *arguments,
        )
        return job

    def begin(self, beginning: str, cache: Path) -> None:
        """Bring the cache directory into the state that the run finds."""
        shutil.rmtree(cache, ignore_errors=True)
        if beginning == "cold":
            return
        template = self.place / beginning
        if not template.exists():
            narrow = ("--sample-count", "20") if beginning == "growing" else ()
            job = self.run(
                template, -1, *narrow, hub=self.old if beginning == "new commit" else self.new
            )
            assert job.wait() == {0: 0}, job.log(0)
        shutil.copytree(template, cache)  # with times
        if beginning == "purged":
            for number in range(0, COUNT, 4):
                (cache / "train" / f"{number:04}.jpg").unlink()
            (cache / "train" / "0001.jpg").write_bytes(b"torn")

    def seconds(self, beginning: str, cache: Path) -> float:
        """Give how long an undisturbed run takes."""
        self.begin(beginning, cache)
        job = self.run(cache, -1)
        start = time.monotonic()
        assert job.wait() == {0: 0}, job.log(0)
        return time.monotonic() - start

    def right(self, cache: Path) -> set[str]:
        """Give the names of the files that have the new commit's bytes."""
        files = {path.name: path for path in (cache / "train").glob("[!.]*")}
        return {
            name
            for name, path in files.items()
            if path.read_bytes() == (self.new.directory / "train" / name).read_bytes()
        }

    def assert_whole(self, cache: Path) -> None:
        """Whatever has a final name is whole, of one of both commits."""
        for path in (cache / "train").glob("[!.]*"):
            known = [
                (hub.directory / "train" / path.name).read_bytes() for hub in (self.old, self.new)
            ]
            assert path.read_bytes() in [*known, b"torn"], path.name

    def assert_true_to_its_word(self, cache: Path) -> None:
        """Whatever a record speaks of is right."""
        directory = CacheDirectory(cache, "train")
        record = read_record(directory)
        if record is None:
            return
        hub = {self.old.commit: self.old, self.new.commit: self.new}[record.commit]
        for row in range(record.captions["caption_0"].rows):
            name = f"{row:04}.jpg"
            assert (cache / "train" / name).read_bytes() == (
                hub.directory / "train" / name
            ).read_bytes(), name
        for name, proof in read_manifest(directory).items():
            assert (
                digest_of_file(cache / "train" / name, proof.digest) == proof.digest
                or record.commit == self.old.commit
            ), name

    def assert_ends_well(self, cache: Path, number: int) -> int:
        """Run again: every byte is right, no orphan is left, and only what was missing or wrong came; gives how many came."""
        before = self.right(cache)
        self.new.clear_requests()
        job = self.run(cache, number)
        assert job.wait() == {0: 0}, job.log(0)
        names = sorted(path.name for path in (self.new.directory / "train").iterdir())
        assert sorted(os.listdir(cache / "train")) == names
        assert self.right(cache) == set(names)
        ours = sorted(os.listdir(cache / ".step37-flickr8k"))
        assert len(ours) == 3, ours
        assert [name.rstrip("0123456789") for name in ours] == [
            "train.json",
            "train.lease.",
            "train.manifest",
        ]
        fetched = sorted(Path(request.repo_path).name for request in self.new.file_requests())
        assert fetched == sorted(set(names) - before)
        return len(fetched)


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    with LocalHub(draw(tmp_path / "old", 0)) as old, LocalHub(draw(tmp_path / "new", 100)) as new:
        new.faults.add(Fault.delay(0.01))
        yield Rounds(old, new, tmp_path)


@pytest.mark.timeout(1200)
def test_a_hundred_killed_runs(
    rounds: Rounds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL at a random moment leaves the old state, or files that the next run hashes first; the next run ends well."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    cache = tmp_path / "cache"
    last = {beginning: rounds.seconds(beginning, cache) for beginning in BEGINNINGS}
    struck: Counter[str] = Counter()
    came = 0
    begin = time.monotonic()
    for number in range(ROUNDS):
        beginning = BEGINNINGS[number % len(BEGINNINGS)]
        rounds.begin(beginning, cache)
        job = rounds.run(cache, number)
        start = time.monotonic()
        job.processes[0].join(chance.uniform(0, last[beginning]))
        job.signal(0, signal.SIGKILL)
        killed = job.wait()[0] == -signal.SIGKILL
        # a run takes longer and shorter with what else the machine does
        last[beginning] = 1.02 * last[beginning] if killed else time.monotonic() - start
        struck[moment(cache, rounds) if killed else "after its end"] += 1
        rounds.assert_whole(cache)
        if beginning != "purged":  # there it was us who broke what a record speaks of
            rounds.assert_true_to_its_word(cache)
        came += rounds.assert_ends_well(cache, number)
    seconds = time.monotonic() - begin
    figures = [
        f"{ROUNDS} rounds of SIGKILL in {seconds:.0f} s (seed {seed}): no wrong byte, no orphan; killed"
    ]
    figures += [f"  {times:3} {name}" for name, times in struck.most_common()]
    figures += [
        f"  the runs after them fetched {came} files, {came / ROUNDS:.1f} of {COUNT + 1} each"
    ]
    with capsys.disabled():
        print("", *figures, sep="\n")  # noqa: T201 - the figures
    assert struck["after its end"] < ROUNDS / 4, "the moments were no moments of a run"


def moment(cache: Path, rounds: Rounds) -> str:
    """Tell by what lies there when a run was killed."""
    if not (cache / ".step37-flickr8k").exists():
        return "before it wrote anything"
    unfinished = [*(cache / "train").glob(".*"), *(cache / ".step37-flickr8k").glob(".*")]
    record = read_record(CacheDirectory(cache, "train"))
    if (
        record is not None
        and record.commit == rounds.new.commit
        and record.captions["caption_0"].everything
    ):
        return "with a ready record"
    if unfinished:
        return f"with {'a file' if len(unfinished) == 1 else 'several files'} unfinished"
    files = len(rounds.right(cache)) if (cache / "train").exists() else 0
    return "between two files" if files else "before the first file"


# --- the power fails ------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """Mount an ext4 image that is written back as late as can be: what nobody flushed is not in the image."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,commit=300", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@needs_sys_admin
@pytest.mark.timeout(600)
def test_the_power_fails(
    rounds: Rounds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a power failure at any moment the next run ends well; after one just when a run was done, the cache is warm."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4: apt-get install e2fsprogs")
    chance = random.Random(time.time())
    blank = tmp_path / "blank"
    with blank.open("wb") as out:
        out.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", blank], check=True)
    last = rounds.seconds("cold", tmp_path / "cache")
    ready = 0
    for number in range(10):
        done = number % 2 == 0
        pause = (
            (lambda job: job.wait())
            if done
            else (lambda _: time.sleep(chance.uniform(0, 1.5 * last)))
        )
        lost = power_failure(rounds, blank, tmp_path, number, pause)
        with mounted(lost, tmp_path / "after") as place:
            # Names may have come without their bytes: nobody said they had
            rounds.assert_true_to_its_word(place / "cache")
            record = read_record(CacheDirectory(place / "cache", "train"))
            ready += record is not None
            came = rounds.assert_ends_well(place / "cache", number)
            assert not done or (record is not None and came == 0), (
                "not all was durable when the run was done"
            )
    with capsys.disabled():
        told = f"no wrong byte, no orphan; {ready} times a ready record"
        print(f"\n10 power failures, 5 of them just when a run was done: {told}")  # noqa: T201 - the figures


def power_failure(
    rounds: Rounds, blank: Path, tmp_path: Path, number: int, pause: Callable[[Ranks], object]
) -> Path:
    """Run on a fresh image; give what was in it, as a power failure would leave it, when ``pause`` had returned."""
    image, lost = tmp_path / "image", tmp_path / "lost"
    shutil.copy(blank, image)
    with mounted(image, tmp_path / "before") as place:
        job = rounds.run(place / "cache", number)
        pause(job)
        frozen = freeze(job.processes[0].pid)
        shutil.copy(image, lost)
        for pid in reversed(frozen):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()
        for pid in frozen:  # else the file system is still in use
            until_in(pid, "Z")
    return lost


def freeze(pid: int) -> list[int]:
    """Stop a run, then its workers, and wait until none of their threads is in a system call any more; gives whom."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:  # it has ended
        return []
    until_in(pid, "TZ")
    return [pid, *(frozen for child in children(pid) for frozen in freeze(child))]


def until_in(pid: int, those: str) -> None:
    """Wait until a process's threads are all in one of those states, or have ended."""
    deadline = time.monotonic() + 60
    while not states(pid) <= set(those):
        assert time.monotonic() < deadline, f"process {pid} is in state {states(pid)}"
        time.sleep(0.01)


def states(pid: int) -> set[str]:
    """Give the states of a process's threads; none when it has ended and been waited for."""
    found = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            found.add(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0])
    return found


def children(pid: int) -> list[int]:
    """Give the processes that a process has started."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text(encoding="utf-8").split()]
