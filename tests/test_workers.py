"""Processes write and decode what has come; they may die without an image being lost or wronged."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k import workers
from step37_flickr8k.errors import FolderFull, Step37Error
from step37_flickr8k.folder import CacheFolder, digest_of_bytes
from step37_flickr8k.workers import Done, Job, Workers

from .conftest import picture


@pytest.fixture
def folder(cache: Path) -> CacheFolder:
    folder = CacheFolder(cache, "train")
    folder.make()
    return folder


@pytest.fixture
def pool(folder: CacheFolder) -> Iterator[Workers]:
    with contextlib.closing(Workers(folder)) as pool:
        yield pool


def jobs_for(folder: CacheFolder, contents: list[bytes]) -> list[Job]:
    return [
        Job(folder.temporary(), f"{number}.jpg", content, digest_of_bytes(content, "sha256:"))
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
    jobs = jobs_for(pool.folder, contents)
    done = pool.do(jobs)
    assert [number for number, each in enumerate(done) if each.flaw] == [0, 2]
    assert "truncated" in str(done[0].flaw).lower()
    assert done[2].flaw == "cannot identify image file 2.jpg"
    assert [job.path.read_bytes() for job in jobs] == contents


@pytest.mark.parametrize("count", [3, 12])
def test_wrong_bytes_are_not_written(pool: Workers, count: int) -> None:
    """A file that came with other bytes than its digest says leaves nothing on disk, and doesn't harm the others."""
    jobs = jobs_for(pool.folder, [picture(number) for number in range(count)])
    jobs[1] = Job(jobs[1].path, "1.jpg", picture(20), jobs[1].digest)
    assert pool.do(jobs) == [Done(), Done(wrong=True), *[Done()] * (count - 2)]
    assert [job.path.exists() for job in jobs] == [number != 1 for number in range(count)]


@pytest.mark.parametrize("count", [3, 12])
def test_what_the_file_system_says_comes_back_as_it_is(pool: Workers, count: int) -> None:
    """An error of writing is that of the folder, by its class, and the half-written file is gone."""
    jobs = jobs_for(pool.folder, [picture(number) for number in range(count)])
    jobs[2] = Job(pool.folder.files / "nowhere" / "a.tmp", "2.jpg", jobs[2].content, jobs[2].digest)
    errors = [done.error for done in pool.do(jobs)]
    assert isinstance(errors[2], Step37Error)
    assert "nowhere/a.tmp: No such file" in str(errors[2])
    assert errors.count(None) == count - 1


def test_a_full_disk_is_said_as_such(tmp_path: Path) -> None:
    """What a worker's file system has no room for is FolderFull here; /dev/full is such a place."""
    folder = CacheFolder(tmp_path, "train")
    folder.make()
    with contextlib.closing(Workers(folder)) as pool:
        pool.start()
        full = tmp_path / "full"
        full.mkdir()
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "full", full], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs to mount a tmpfs: run it as root ({error})")
        try:
            done = pool.do([Job(full / "a.tmp", "a.jpg", bytes(100_000))])
            assert isinstance(done[0].error, FolderFull)
            assert not list(full.iterdir())
        finally:
            subprocess.run(["umount", full], check=True)


def test_images_in_place_are_only_decoded(pool: Workers) -> None:
    """What another tool has left is looked at where it lies, and not touched."""
    paths = [pool.folder.files / f"{number}.jpg" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number) if number != 4 else b"text")
    before = [path.stat().st_mtime_ns for path in paths]
    flaws = pool.check([(path, path.name) for path in paths])
    assert [number for number, flaw in enumerate(flaws) if flaw] == [4]
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_slow_folder_has_many_writers(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each write takes long a worker's writes go side by side, from the second batch on."""
    at_once, most = [0], [0]
    lock = threading.Lock()
    put = CacheFolder.put

    def slowly(self: CacheFolder, path: Path, content: bytes) -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        put(self, path, content)
        with lock:
            at_once[0] -= 1

    monkeypatch.setattr(CacheFolder, "put", slowly)
    hands = workers._Hands(folder)
    for expected in (1, 4):
        assert [*hands.do(jobs_for(folder, [picture(number) for number in range(8)]))] == [Done()] * 8
        assert most[0] >= expected
    assert most[0] > 1


def test_a_killed_worker_is_replaced(pool: Workers) -> None:
    """A worker that the kernel kills for memory costs no file and no image its good name."""
    jobs = jobs_for(pool.folder, [picture(number) for number in range(12)])
    before = children()
    pool.start()
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    assert pool.do(jobs) == [Done()] * 12
    assert all(job.path.read_bytes() == job.content for job in jobs)


def test_a_picture_that_kills_its_worker_twice_is_broken(pool: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that crashes the decoder is named and written, since its bytes are right; the others are decoded all the same."""
    monkeypatch.setattr(workers, "_START", _with_crash())
    jobs = jobs_for(pool.folder, [picture(number) for number in range(12)])
    assert [done.flaw for done in pool.do(jobs)] == [None, None, None, "its decoder died, twice", *[None] * 8]
    assert all(job.path.read_bytes() == job.content for job in jobs)


def test_workers_end_with_whom_they_serve(tmp_path: Path) -> None:
    """SIGKILL of the warming process leaves no worker behind."""
    script = (
        "import time; from pathlib import Path; from step37_flickr8k.folder import CacheFolder; "
        "from step37_flickr8k.workers import Workers; "
        "Workers(CacheFolder(Path(), 'train')).start(); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        assert pids
        process.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]


_DIES = """
import json, os, signal, sys
from pathlib import Path
from step37_flickr8k.folder import CacheFolder
from step37_flickr8k.workers import Workers
folder = CacheFolder(Path(sys.argv[1]), "train")
worker = Workers(folder)._launch()
os.kill(worker.pid, signal.SIGSTOP)
jobs = [[str(folder.temporary()), f"{number}.jpg", 3, ""] for number in range(6)]
worker.stdin.write(json.dumps(jobs).encode() + b"\\n" + b"abc" * 6)
worker.stdin.flush()
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_writes_nothing_for_a_dead_one(folder: CacheFolder) -> None:
    """A batch that a killed process still sent is not written: the run after it may have swept the folder already."""
    served = subprocess.run([sys.executable, "-c", _DIES, folder.root], capture_output=True, text=True, timeout=60, check=False)
    assert served.returncode == -signal.SIGKILL, served.stderr
    worker = int(served.stdout)
    os.kill(worker, signal.SIGCONT)
    deadline = time.monotonic() + 30
    while (command := Path(f"/proc/{worker}/cmdline")).exists() and command.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not list(folder.files.iterdir())


def _with_crash() -> str:
    """Give the start of a worker that aborts at one picture."""
    before, _, after = workers._START.rpartition("serve(")
    return f"""{before}
import os
from step37_flickr8k import workers
why = workers.why_undecodable
workers.why_undecodable = lambda source, name: os.abort() if name == "3.jpg" else why(source, name)
serve({after}"""
