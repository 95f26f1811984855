"""Queries: plan, status, doctor, preview and verify change nothing in the cache directory."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import Draw, picture
from tests.helpers.ranks import PATIENCE, Ranks

QUERIES = {
    "plan": ["plan"],
    "plan as JSON": ["plan", "--json"],
    "plan of a larger selection": ["plan", "--sample-count", "all"],
    "plan of another caption": ["plan", "--caption-key", "caption_1"],
    "status": ["status"],
    "doctor": ["doctor"],
    "doctor as JSON": ["doctor", "--json"],
    "preview": ["preview", "--output", "{elsewhere}/preview.html"],
    "preview as an image": ["preview", "--output", "{elsewhere}/preview.png"],
    "verify": ["verify"],
    "verify as JSON": ["verify", "--json"],
}


def state_of(directory: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Return inode, mode, size, mtime and bytes of a directory and of everything in it."""
    state = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        state[str(path)] = (
            status.st_ino,
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            content,
        )
    return state


@pytest.fixture
def warm(hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache that a run filled with ten rows; queries belong to another run."""
    assert hub.commit
    monkeypatch.setenv("STEP37_RUN_ID", "the run that filled it")
    assert cli.run(["warmup", "--cache-dir", str(cache), "--sample-count", "10"]) == 0
    monkeypatch.setenv("STEP37_RUN_ID", "the run that asks")
    return cache


def run(cache: Path, elsewhere: Path, name: str, *more: str) -> int:
    """Run a query and return its exit code."""
    command, *arguments = [part.format(elsewhere=elsewhere) for part in QUERIES[name]]
    return cli.run([command, "--cache-dir", str(cache), *more, *arguments])


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_changes_nothing_in_a_warm_cache(warm: Path, tmp_path: Path, name: str) -> None:
    """With another run's id, every inode, byte, mode and mtime of the cache stays as it was."""
    takes_selection = QUERIES[name][0] in {"plan", "doctor"}
    more = ["--sample-count", "10"] if takes_selection else []
    before = state_of(warm)
    assert run(warm, tmp_path, name, *more) == 0
    assert state_of(warm) == before


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_changes_nothing_when_there_is_work(
    warm: Path, hub: LocalHub, draw: Draw, tmp_path: Path, name: str
) -> None:
    """A missing file, a wrong one, a foreign one and a newer commit are found, not acted on.

    Only doctor leaves a trace: it writes and deletes a small file to learn whether that works, so
    the two directories have new mtimes.
    """
    (warm / "train" / "0001.jpg").unlink()
    (warm / "train" / "0002.jpg").write_bytes(b"x")
    (warm / "train" / "mine.txt").write_text("")
    (draw() / "train" / "0009.jpg").write_bytes(picture(99))
    hub.refresh(keep_old=True)
    before = state_of(warm)
    assert run(warm, tmp_path, name) == (3 if name.startswith("verify") else 0)
    after = state_of(warm)
    if name.startswith("doctor"):
        for directory in (warm / "train", warm / ".step37-flickr8k"):
            del before[str(directory)], after[str(directory)]
    assert after == before


# What each query ends with where there is nothing to read
COLD = {"plan": 0, "status": 0, "doctor": 0, "preview": 2, "verify": 2}


@pytest.mark.parametrize("run_id", [None, "the run that asks"])
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_makes_no_cache_directory(
    hub: LocalHub,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    run_id: str | None,
) -> None:
    """A cache directory that isn't there isn't made, and nothing is left beside it."""
    assert hub.commit
    if run_id is not None:
        monkeypatch.setenv("STEP37_RUN_ID", run_id)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    beside = {*cache.parent.iterdir()}
    assert run(cache, elsewhere, name) == COLD[QUERIES[name][0]]
    assert {*cache.parent.iterdir()} == beside


def all_but_one(hub: LocalHub, cache: Path, job: Ranks) -> None:
    """Let a warmup download all images but one, for which it waits."""
    hub.faults.add(Fault.stall(600, path="train/0003.jpg"))
    job.start_all("warmup", "--cache-dir", str(cache))
    deadline = time.monotonic() + PATIENCE
    while len([*cache.glob("train/*.jpg")]) < 11:
        assert time.monotonic() < deadline, job.log(0)
        time.sleep(0.05)


def test_queries_change_nothing_in_a_half_full_cache(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """A killed run's lease and unfinished files stay for the next run."""
    killed = Ranks(1, tmp_path / "killed")
    all_but_one(hub, cache, killed)
    killed.signal(0, signal.SIGKILL)
    killed.wait()
    hub.faults.clear()
    (cache / "train" / ".step37-train-0123abcd-1.tmp").write_bytes(b"half")
    for name in QUERIES:
        before = state_of(cache)
        assert run(cache, tmp_path, name) == COLD[QUERIES[name][0]], name
        after = state_of(cache)
        if name.startswith("doctor"):
            for directory in (cache / "train", cache / ".step37-flickr8k"):
                del before[str(directory)], after[str(directory)]
        assert after == before, name


def test_queries_change_nothing_beside_a_living_download(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """The lease is left to whoever holds it, and the download goes on."""
    living = Ranks(1, tmp_path / "living")
    all_but_one(hub, cache, living)
    names = {path.name for path in cache.rglob("*")}
    for name in QUERIES:
        assert run(cache, tmp_path, name) == COLD[QUERIES[name][0]], name
        assert {path.name for path in cache.rglob("*")} == names, name
    assert living.processes[0].is_alive()
    living.end()


READ_ONLY = """
import sys, tempfile
import signal
import subprocess
import sys
import time
from pathlib import Path
from step37_flickr8k import cli
from tests.helpers.mounts import enter_read_only_root
try:
    enter_read_only_root(Path(sys.argv[1]))
except OSError as error:
    sys.exit(f"skip: {error}")
try:
    sys.exit(f"skip: {tempfile.gettempdir()} can be written")
except FileNotFoundError:
    codes = [cli.run([command, *sys.argv[2:]]) for command in ("plan", "status", "doctor")]
    sys.exit(0 if codes == [0, 0, 2] else str(codes))
"""


def test_a_plan_needs_nothing_that_can_be_written(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """On a read-only root without /tmp, as in our own Job, a cold cache is planned all the same."""
    assert hub.commit
    (tmp_path / "root").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, tmp_path / "root", "--cache-dir", cache],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.stderr.startswith("skip: "):
        pytest.skip(f"no read-only root can be made here ({done.stderr[6:].strip()})")
    assert done.returncode == 0, done.stderr
    assert "to fetch  12 images" in done.stdout
    assert "Read-only file system" in done.stdout
