"""Processes write and decode what has come; they may die without an image being lost or wronged."""

import contextlib
import errno
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.digests import digest_of_bytes
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.download import worker_process
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import FolderFull, Step37Error, TransientError
from step37_flickr8k.images.examined import FINE
from step37_flickr8k.limited import process
from tests.conftest import MakeTmpfs, picture
from tests.helpers.allowances import here
from tests.helpers.faulty_worker import start_instead, where_a_picture


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    directory = CacheDirectory(cache, "train")
    directory.make()
    return directory


@pytest.fixture
def pool(directory: CacheDirectory) -> Iterator[Workers]:
    with contextlib.closing(Workers(directory)) as pool:
        yield pool


def jobs_for(directory: CacheDirectory, contents: list[bytes]) -> list[Job]:
    return [
        Job(directory.temporary(), f"{number}.jpg", content, digest_of_bytes(content, "sha256:"))
        for number, content in enumerate(contents)
    ]


def children() -> set[int]:
    told = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(encoding="utf-8")
    return {int(pid) for pid in told.split()}


@pytest.mark.parametrize("count", [3, 12])
def test_flaws_are_told_in_order(pool: Workers, count: int) -> None:
    """A truncated image and text are told apart from good ones and written all the same, here and by a worker."""
    contents = [picture(number) for number in range(count)]
    contents[0] = contents[0][:-200]
    contents[2] = b"not an image"
    jobs = jobs_for(pool.directory, contents)
    done = pool.do(jobs)
    assert [number for number, each in enumerate(done) if each.examined.decode_error] == [0, 2]
    assert "truncated" in str(done[0].examined.decode_error).lower()
    assert done[2].examined.decode_error == "cannot identify image file 2.jpg"
    assert [job.path.read_bytes() for job in jobs] == contents


@pytest.mark.parametrize("count", [3, 12])
def test_wrong_bytes_are_not_written(pool: Workers, count: int) -> None:
    """A file that came with other bytes than its digest says leaves nothing on disk, and doesn't harm the others."""
    jobs = jobs_for(pool.directory, [picture(number) for number in range(count)])
    jobs[1] = Job(jobs[1].path, "1.jpg", picture(20), jobs[1].digest)
    assert pool.do(jobs) == [Done(), Done(wrong=True), *[Done()] * (count - 2)]
    assert [job.path.exists() for job in jobs] == [number != 1 for number in range(count)]


@pytest.mark.parametrize("count", [3, 12])
def test_what_the_file_system_says_comes_back_as_it_is(pool: Workers, count: int) -> None:
    """An error of writing is that of the directory, by its class, and the half-written file is gone."""
    jobs = jobs_for(pool.directory, [picture(number) for number in range(count)])
    jobs[2] = Job(
        pool.directory.files / "nowhere" / "a.tmp", "2.jpg", jobs[2].content, jobs[2].digest
    )
    errors = [done.error for done in pool.do(jobs)]
    assert isinstance(errors[2], Step37Error)
    assert "train/nowhere: No such file" in str(errors[2])
    assert errors.count(None) == count - 1


def test_a_full_disk_is_said_as_such(tmp_path: Path, tmpfs: MakeTmpfs) -> None:
    """What a worker's file system has no room for is FolderFull here."""
    directory = CacheDirectory(tmp_path, "train")
    directory.make()
    with contextlib.closing(Workers(directory)) as pool:
        pool.start()
        full = tmpfs("size=8k").path
        done = pool.do([Job(full / "a.tmp", "a.jpg", bytes(100_000))])
        assert isinstance(done[0].error, FolderFull)
        assert not list(full.iterdir())


def test_images_in_place_are_only_decoded(pool: Workers) -> None:
    """What another tool has left is looked at where it lies, and not touched."""
    paths = [pool.directory.files / f"{number}.jpg" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number) if number != 4 else b"text")
    before = [path.stat().st_mtime_ns for path in paths]
    examined = pool.check([(path, path.name) for path in paths])
    assert [number for number, shown in enumerate(examined) if shown.decode_error] == [4]
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_slow_directory_has_many_writers(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each write takes long a worker's writes go side by side, from the second batch on."""
    at_once, most = [0], [0]
    lock = threading.Lock()
    put = CacheDirectory.put

    def slowly(self: CacheDirectory, path: Path, content: bytes) -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        put(self, path, content)
        with lock:
            at_once[0] -= 1

    monkeypatch.setattr(CacheDirectory, "put", slowly)
    runner = here(directory)
    for expected in (1, 4):
        jobs = jobs_for(directory, [picture(number) for number in range(8)])
        assert [*runner.do(MAX_PIXELS, jobs)] == [Done()] * 8
        assert most[0] >= expected
    assert most[0] > 1


def test_a_killed_worker_is_replaced(pool: Workers) -> None:
    """A worker that the kernel kills for memory costs no file and no image its good name."""
    before = children()
    for round_ in range(2):
        jobs = jobs_for(pool.directory, [picture(number) for number in range(12)])
        assert pool.do(jobs) == [Done()] * 12
        assert all(job.path.read_bytes() == job.content for job in jobs)
        started = children() - before
        assert started, round_
        for pid in started:
            os.kill(pid, signal.SIGKILL)


def test_a_picture_that_kills_its_worker_twice_is_named_and_not_condemned(
    pool: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may be this machine: that is an error, with how the worker died, and no decode_error; the others are done all the same."""
    start_instead(monkeypatch, tmp_path, late=where_a_picture("os.abort()"))
    jobs = jobs_for(pool.directory, [picture(number) for number in range(12)])
    done = pool.do(jobs)
    assert [each for number, each in enumerate(done) if number != 3] == [Done()] * 11
    assert done[3].examined == FINE
    assert isinstance(done[3].error, TransientError)
    assert (
        "3.jpg: the process that decodes it died twice (Aborted): give the job more memory"
        in str(done[3].error)
    )
    assert [job.path.exists() for job in jobs] == [number != 3 for number in range(12)]


@pytest.mark.parametrize(
    "start",
    ["raise SystemExit(3)", "sys.path = []", "import os; os.kill(os.getpid(), 9)"],
    ids=["exits", "no path", "killed"],
)
def test_workers_that_can_not_start_end_the_run(
    pool: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: str
) -> None:
    """No image is decoded in this process: the error says how they ended, and blames no image."""
    start_instead(monkeypatch, tmp_path, early=start)
    jobs = jobs_for(pool.directory, [picture(number) for number in range(12)])
    for _ in range(2):
        with pytest.raises(TransientError, match="no process that decodes images can start") as at:
            pool.do(jobs)
        assert ".jpg" not in str(at.value)


def test_a_pillow_that_cannot_be_loaded_is_no_matter_of_limits(
    directory: CacheDirectory, tmp_path: Path
) -> None:
    """A restart doesn't bring its shared libraries: the import error itself is raised."""
    broken = tmp_path / "path" / "PIL"
    broken.mkdir(parents=True)
    missing = "libjpeg.so.62: cannot open shared object file"
    (broken / "__init__.py").write_text(f"raise ImportError({missing!r})")
    script = f"""
import sys
sys.path[:] = {[str(broken.parent), *sys.path]!r}
from pathlib import Path
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.jobs import Job
from step37_flickr8k.download.workers import Workers
root = Path({str(directory.root)!r})
try:
    Workers(CacheDirectory(root, "train")).do([Job(root / "gone", "a.jpg", b"text")])
except ImportError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.stdout == f"{missing}\n", ended.stderr


def test_one_worker_that_can_start_is_enough(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a limit allows fewer processes than wanted, those that there are do the work."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    real, started = process.start, itertools.count()

    def limited(*args: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
        if next(started) != 1:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*args, **kwargs)

    monkeypatch.setattr(worker_process, "start", limited)
    with contextlib.closing(Workers(directory)) as pool:
        for _ in range(4):
            jobs = jobs_for(directory, [picture(number) for number in range(3)])
            assert pool.do(jobs) == [Done()] * 3
    assert "can't start" in caplog.text


def test_workers_find_what_their_parent_finds(directory: CacheDirectory, tmp_path: Path) -> None:
    """They import from where this process does, however its path came to be, and whatever lies in the current directory."""
    (tmp_path / "types.py").write_text("raise SystemExit('another types')")
    script = f"""
import sys
sys.path[:] = {sys.path!r}
import logging
from pathlib import Path
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.jobs import Job
from step37_flickr8k.download.workers import Workers
logging.basicConfig()
pool = Workers(CacheDirectory(Path({str(directory.root)!r}), "train"))
print([done.examined.decode_error for done in pool.do([Job(Path({str(directory.root)!r}) / "gone", "a.jpg", b"text")] * 5)])
pool.close()
"""
    # Which finds none of a virtual environment's packages by itself
    bare = os.path.realpath(sys.executable)
    told = subprocess.run(
        [bare, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "can't start" not in told.stderr
    assert told.stdout.count("cannot identify") == 5, told.stderr


def test_what_others_print_in_a_worker_is_no_answer(
    pool: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sitecustomize, or a library, that speaks on stdout, at the start or later, changes nothing."""
    late = where_a_picture("print('late', flush=True)")
    start_instead(monkeypatch, tmp_path, early="print('early', flush=True)", late=late)
    for _ in range(3):
        done = pool.do(jobs_for(pool.directory, [picture(number) for number in range(12)]))
        assert done == [Done()] * 12


def test_too_little_memory_is_no_flaw(
    pool: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A good picture for which this machine has no room is an error that says so, and nothing unfinished stays."""
    limit = """
import resource
room = resource.getpagesize() * int(open("/proc/self/statm").read().split()[0]) + (50 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
"""
    start_instead(monkeypatch, tmp_path, late=limit)
    large = io.BytesIO()
    Image.new("L", (9000, 9000)).save(large, "PNG")
    contents = [*(picture(number) for number in range(6)), large.getvalue()]
    jobs = [
        Job(job.path, "6.png" if job.name == "6.jpg" else job.name, job.content)
        for job in jobs_for(pool.directory, contents)
    ]
    done = pool.do(jobs)
    assert done[:6] == [Done()] * 6
    assert done[6].examined == FINE
    assert isinstance(done[6].error, TransientError)
    assert str(done[6].error).startswith("6.png: not enough memory to decode it, ")
    assert str(done[6].error).endswith("for one image: give the job more memory")
    assert not jobs[6].path.exists()


def test_workers_end_with_whom_they_serve(tmp_path: Path) -> None:
    """SIGKILL of the warming process leaves no worker behind."""
    script = (
        "import time; from pathlib import Path; from step37_flickr8k.cache.directory import CacheDirectory; "
        "from step37_flickr8k.download.workers import Workers; "
        "Workers(CacheDirectory(Path(), 'train')).start(); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = (
            Path(f"/proc/{process.pid}/task/{process.pid}/children")
            .read_text(encoding="utf-8")
            .split()
        )
        assert pids
        process.kill()
    deadline = time.monotonic() + 120
    while (
        any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]


_DIES = """
import json, os, signal, sys
from pathlib import Path
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.worker_process import WorkerProcess
from step37_flickr8k.limited.budget import Budget
directory = CacheDirectory(Path(sys.argv[1]), "train")
worker = WorkerProcess(directory, 10**6, Budget(1 << 26, 1 << 28), os.memfd_create('x')).start()
os.kill(worker.pid, signal.SIGSTOP)
jobs = [[str(directory.temporary()), f"{number}.jpg", 3, ""] for number in range(6)]
worker.stdin.write(json.dumps(jobs).encode() + b"\\n" + b"abc" * 6)
worker.stdin.flush()
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_writes_nothing_for_a_dead_one(directory: CacheDirectory) -> None:
    """A batch that a killed process still sent is not written: the run after it may have swept the directory already."""
    served = subprocess.run(
        [sys.executable, "-c", _DIES, directory.root],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert served.returncode == -signal.SIGKILL, served.stderr
    worker = int(served.stdout)
    os.kill(worker, signal.SIGCONT)
    deadline = time.monotonic() + 120
    while (command := Path(f"/proc/{worker}/cmdline")).exists() and command.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not list(directory.files.iterdir())
