"""Faults of real ranks: killed, frozen, signalled, late, lost and replaced; nobody but the one downloader ever downloads."""

import ctypes
import json
import os
import pickle
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import errors, prepare_flickr8k_samples
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import Draw, MakeTmpfs, needs_sys_admin
from tests.helpers.mounts import bind, enter_namespace, mount_tmpfs
from tests.helpers.programs import COMMAND, FETCHING, PROGRAMS, Program
from tests.helpers.ranks import PATIENCE, Ranks, torchrun

pytestmark = pytest.mark.slow

BRISK = {
    "STEP37_HEARTBEAT_TIMEOUT": "10",
    "STEP37_VISIBILITY_TIMEOUT": "5",
    "STEP37_ARRIVAL_TIMEOUT": "1000",
}
MakeRanks = Callable[..., Ranks]
# What both programs survive
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


def rounds(*, of_command: int, of_fetching: int) -> pytest.MarkDecorator:
    """Run a test with random moments so often with each program."""
    return pytest.mark.parametrize(
        ("program", "round_"),
        [(COMMAND, number) for number in range(of_command)]
        + [(FETCHING, number) for number in range(of_fetching)],
        ids=lambda value: getattr(value, "name", str(value)),
    )


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[MakeRanks]:
    """Make jobs with short timeouts, whose processes end with the test."""
    made: list[Ranks] = []

    def make(size: int, **environment: str) -> Ranks:
        made.append(Ranks(size, tmp_path / f"job-{len(made)}", BRISK | environment))
        return made[-1]

    yield make
    for job in made:
        job.end()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.02)


def served(hub: LocalHub) -> Counter[str]:
    """Count how often each image was sent whole."""
    return Counter(r.repo_path for r in hub.file_requests() if r.repo_path.endswith(".jpg"))


def came_again(hub: LocalHub) -> int:
    """Count how many images were sent more often than once."""
    return sum(times - 1 for times in served(hub).values())


def assert_right(hub: LocalHub, cache: Path, count: int = 12) -> None:
    """Every image of the cache has the dataset's bytes, and nothing is torn."""
    files = sorted(path.name for path in (cache / "train").iterdir() if path.suffix == ".jpg")
    assert len(files) == count
    assert all(
        (cache / "train" / name).read_bytes() == (hub.directory / "train" / name).read_bytes()
        for name in files
    )


def call_program(_: int, arguments: tuple[str, str]) -> int:
    """Call a program's function in a rank of a group; give the number of images."""
    name, cache = arguments
    (program,) = (each for each in PROGRAMS if each.name == name)
    return program.call(cache)


# --- rank 0 ends ----------------------------------------------------------------------------------


@rounds(of_command=14, of_fetching=6)
def test_rank_zero_ends_at_a_random_moment(
    hub: LocalHub, cache: Path, ranks: MakeRanks, program: Program, round_: int
) -> None:
    """Rank 0 killed, frozen or signalled: the others know it in seconds, download nothing, and the next run completes."""
    chance = random.Random(round_)
    hub.faults.add(Fault.delay(0.15))
    number = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)[round_ % 3]
    job = ranks(3, STEP37_RUN_ID=f"run-{round_}", STEP37_CONCURRENCY="2")
    program.start_all(job, cache)
    for rank in (1, 2):
        # Before that a rank waits for another rank 0, as long as for the first
        job.until_logged(rank, "rank 0 answers")
    time.sleep(chance.uniform(0, 2.2))
    job.signal(0, number)
    waiters = {rank: job.processes.pop(rank) for rank in (1, 2)}
    for process in waiters.values():
        process.join(PATIENCE)  # of heartbeat_timeout, not of arrival_timeout
        assert process.exitcode in {0, 76}, job.log(1) + job.log(2)
    assert len({process.exitcode for process in waiters.values()}) == 1
    job.signal(0, signal.SIGCONT)  # the frozen one thaws late: it adopts what stands
    codes = {signal.SIGKILL: -9, signal.SIGTERM: program.terminated, signal.SIGSTOP: 76}
    assert job.wait()[0] in {0, codes[number]}, job.log(0)
    assert all(times == 1 for times in served(hub).values()), "somebody else downloaded"
    again = program.start_all(ranks(3, STEP37_RUN_ID=f"run-{round_}"), cache)
    assert set(again.wait().values()) == {0}
    assert_right(hub, cache)


@rounds(of_command=6, of_fetching=3)
def test_a_waiter_ends_at_a_random_moment(
    hub: LocalHub, cache: Path, ranks: MakeRanks, program: Program, round_: int
) -> None:
    """A waiter killed, frozen or signalled never fails the others."""
    chance = random.Random(round_)
    hub.faults.add(Fault.delay(program.delay))
    number = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)[round_ % 3]
    job = ranks(3, STEP37_CONCURRENCY="2", STEP37_VISIBILITY_TIMEOUT="0.1")
    program.start_all(job, cache)
    job.until_logged(2, "global rank 2")
    time.sleep(chance.uniform(0, 1.5))
    job.signal(2, number)
    ended = job.processes.pop(2)
    if number is signal.SIGTERM:
        ended.join(PATIENCE)
        assert ended.exitcode in {program.terminated, 0}
    # Rank 0 waits 30 s for a rank that says nothing, and then says who it is
    deadline = time.monotonic() + PATIENCE
    while number is signal.SIGSTOP and job.processes[0].is_alive() and time.monotonic() < deadline:
        time.sleep(0.2)
        if "publishing" in job.log(0):
            with suppress(ProcessLookupError):
                os.kill(ended.pid, signal.SIGCONT)
    job.processes[2] = ended
    if number is not signal.SIGSTOP:
        program.start(job, 2, cache)  # as a scheduler would
    codes = job.wait()
    assert codes == {0: 0, 1: 0, 2: 0}, job.log(2)
    assert max(served(hub).values()) == 1
    assert_right(hub, cache)


@each_program
def test_waiters_frozen_past_the_heartbeat_timeout_go_on(
    hub: LocalHub, cache: Path, ranks: MakeRanks, program: Program
) -> None:
    """Thawed while rank 0 still works, a waiter hears what was said meanwhile, and takes nobody for dead."""
    # Rank 0 still works when they thaw
    hub.faults.add(Fault.status(503, retry_after=3, path="train/0011.jpg"))
    job = ranks(6, STEP37_HEARTBEAT_TIMEOUT="4", STEP37_ATTEMPTS="100")
    program.start_all(job, cache)
    for rank in range(1, 6):
        job.until_logged(rank, "rank 0 answers")
        job.signal(rank, signal.SIGSTOP)
    time.sleep(9)
    assert job.processes[0].is_alive()
    assert "publishing" not in job.log(0)
    for rank in range(1, 6):
        job.signal(rank, signal.SIGCONT)
    hub.faults.clear()
    assert set(job.wait().values()) == {0}, job.log(1)


@each_program
@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_rank_zero_fails_before_during_and_after_the_download(
    hub: LocalHub, cache: Path, ranks: MakeRanks, program: Program, moment: str
) -> None:
    """Wherever rank 0 fails, every rank ends with its message and exit code."""
    failure = program.failures[moment]
    if program is COMMAND and moment == "during":
        hub.faults.add(Fault.corrupt(path="train/0005.jpg"))
    if program is COMMAND and moment == "after":
        # The ready record can't be written
        (cache / ".step37-flickr8k" / "train.json").mkdir(parents=True)
    job = program.start_all(ranks(4), cache, *failure.options)
    assert set(job.wait().values()) == {failure.code}, job.log(0) + job.log(1)
    lines = {
        next(line.partition("ERROR ")[2] for line in job.log(r).splitlines() if "ERROR" in line)
        for r in range(4)
    }
    assert len(lines) == 1
    assert failure.words in lines.pop()


# --- late, lost and replaced ----------------------------------------------------------------------


@each_program
def test_a_download_three_times_longer_than_the_groups_timeout(
    hub: LocalHub, cache: Path, ranks: MakeRanks, program: Program
) -> None:
    """Work has no time limit: neither the heartbeat's nor the process group's."""
    hub.faults.add(Fault.delay(5.0, path="train/*.jpg"))
    job = ranks(2, STEP37_CONCURRENCY="3", GROUP_TIMEOUT="6")
    job.start_group(call_program, (program.name, str(cache)))
    start = time.monotonic()
    assert job.outcomes() == [12, 12]
    assert time.monotonic() - start > 18
    assert max(served(hub).values()) == 1


@each_program
def test_ranks_that_come_late_or_never(
    draw: Draw, tmp_path: Path, ranks: MakeRanks, program: Program
) -> None:
    """A rank 0 that is 20 s late is waited for, a waiter that late is served, one that never comes is a warning with its name.

    Three jobs side by side, each with a Hub of its own, since each takes its time.
    """
    jobs = [ranks(2, STEP37_VISIBILITY_TIMEOUT="20") for _ in range(2)] + [
        ranks(3, STEP37_VISIBILITY_TIMEOUT="0.1")
    ]
    directory = draw()
    with LocalHub(directory) as one, LocalHub(directory) as two, LocalHub(directory) as three:
        hubs = (one, two, three)

        def start(number: int, rank: int) -> None:
            cache = tmp_path / f"cache-{number}"
            program.start(jobs[number], rank, cache, HF_ENDPOINT=hubs[number].endpoint)

        for number, rank in ((0, 1), (1, 0), (2, 0), (2, 1)):
            start(number, rank)
        time.sleep(20)
        start(0, 0)
        start(1, 1)
        for number, job in enumerate(jobs):
            assert job.wait() == {0: 0, 1: 0}, job.log(0) + job.log(1)
            assert max(served(hubs[number]).values()) == 1
    assert "rank 2 never reported" in jobs[2].log(0)


def test_a_waiter_started_anew_after_rank_zero_has_gone(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """A replaced rank of a finished job finds the record that names its run, and doesn't wait for rank 0."""
    job = ranks(2, STEP37_RUN_ID="job-uid-1").start_all("warmup", "--cache-dir", str(cache))
    assert job.wait() == {0: 0, 1: 0}
    hub.clear_requests()
    job.start_command(1, "warmup", "--cache-dir", str(cache))
    assert job.wait()[1] == 0
    assert "names this run" in job.log(1)
    assert not hub.requests


@each_program
def test_rank_zero_started_anew_is_joined_by_the_same_waiters(
    hub: LocalHub, cache: Path, ranks: MakeRanks, program: Program
) -> None:
    """Rank 0 killed and started again within the heartbeat timeout: the waiters mend the connection and go on."""
    hub.faults.add(Fault.delay(0.2))
    job = ranks(3, STEP37_HEARTBEAT_TIMEOUT="60", STEP37_CONCURRENCY="2", STEP37_RUN_ID="r")
    program.start_all(job, cache)
    for rank in (1, 2):
        job.until_logged(rank, "rank 0 answers")
    job.signal(0, signal.SIGKILL)
    job.processes[0].join()
    program.start(job, 0, cache)
    assert job.wait() == {0: 0, 1: 0, 2: 0}, job.log(1)
    assert came_again(hub) <= 3, "only what was in flight when it was killed comes again"
    assert_right(hub, cache)


@each_program
def test_torchrun_restarts_a_job_whose_rank_zero_was_killed(
    hub: LocalHub, cache: Path, tmp_path: Path, program: Program
) -> None:
    """With --max-restarts=1 the second attempt succeeds, and what the first one left in the agent's store isn't believed."""
    hub.faults.add(Fault.delay(max(0.2, program.delay)))
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, sys, threading\n"
        "if os.environ['RANK'] == '0':\n"
        "    open(sys.argv[1] + '.starts', 'a').write('x')\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and os.environ['RANK'] == '0':\n"
        "    threading.Timer(5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        f"{program.script}"
    )
    launch = [*torchrun(3), "--max-restarts=1"]
    done = subprocess.run(
        [*launch, str(script), str(cache)],
        env=os.environ | BRISK | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert Path(f"{cache}.starts").read_text() == "xx"
    assert came_again(hub) <= 2, "only what was in flight when it was killed comes again"
    assert_right(hub, cache)


# --- several at once ------------------------------------------------------------------------------


def load_alone(arguments: dict[str, Any], result: str) -> None:
    """Call the loader without a process group and keep what came out."""
    try:
        outcome: Any = len(prepare_flickr8k_samples(**arguments))
    except Exception as error:  # noqa: BLE001 - an outcome like any other
        outcome = error
    Path(result).write_bytes(pickle.dumps(outcome))


def test_two_jobs_on_one_directory_download_once(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """The lease lets one job download while the other waits, and both end well."""
    hub.faults.add(Fault.delay(0.1))
    jobs = [
        ranks(2, STEP37_RUN_ID=f"job-{n}").start_all("warmup", "--cache-dir", str(cache))
        for n in range(2)
    ]
    for job in jobs:
        assert set(job.wait().values()) == {0}, job.log(0)
    assert max(served(hub).values()) == 1
    assert_right(hub, cache)


def test_a_narrower_job_meanwhile_does_not_shrink_the_record(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """Another job that wants less, at the same time, leaves what the first one promised."""
    hub.faults.add(Fault.delay(0.1))
    wide = ranks(2).start_all("warmup", "--cache-dir", str(cache))
    narrow = ranks(2).start_all("warmup", "--cache-dir", str(cache), "--sample-count", "3")
    assert set(wide.wait().values()) | set(narrow.wait().values()) == {0}
    record = json.loads((cache / ".step37-flickr8k" / "train.json").read_text())
    assert record["captions"]["caption_0"] == {"rows": 12, "everything": True}
    assert max(served(hub).values()) == 1


def test_another_commit_meanwhile_is_said(
    draw: Draw, hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """A job pinned to a commit whose directory was refilled with another ends as CommitChanged, never on mixed commits."""
    old = hub.commit
    waiting = ranks(2, STEP37_VISIBILITY_TIMEOUT="10")
    waiting.start_command(0, "warmup", "--cache-dir", str(cache), "--revision", old)
    waiting.until_logged(0, "publishing")
    (draw() / "train" / "0001.jpg").write_bytes((hub.directory / "train" / "0002.jpg").read_bytes())
    hub.refresh(keep_old=True)
    other = ranks(1).start_all("warmup", "--cache-dir", str(cache))
    assert other.wait() == {0: 0}
    waiting.start_command(1, "warmup", "--cache-dir", str(cache), "--revision", old)
    assert set(waiting.wait().values()) == {75}
    assert " ERROR rank 1 on" in waiting.log(0)
    assert " ERROR rank 1 on" in waiting.log(1)


def test_a_frozen_lease_holder_stops_before_its_next_rename(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """A downloader frozen for so long that another one took over renames nothing more when it thaws."""
    # It isn't done before it is frozen
    hub.faults.add(Fault.status(503, retry_after=3, path="train/0011.jpg"))
    first = ranks(1, STEP37_HEARTBEAT_TIMEOUT="1", STEP37_ATTEMPTS="100")
    first.start_all("warmup", "--cache-dir", str(cache))
    until(lambda: len([*(cache / "train").glob("*.jpg")]) == 11, "all but the last image")
    first.signal(0, signal.SIGSTOP)
    hub.faults.clear()
    second = ranks(1, STEP37_HEARTBEAT_TIMEOUT="1").start_all("warmup", "--cache-dir", str(cache))
    assert second.wait() == {0: 0}
    stamps = {path.name: path.stat().st_mtime_ns for path in (cache / "train").iterdir()}
    first.signal(0, signal.SIGCONT)
    assert first.wait() == {0: 75}
    assert "LeaseLost" in first.log(0)
    assert {path.name: path.stat().st_mtime_ns for path in (cache / "train").iterdir()} == stamps


def test_a_full_disk_without_a_store_is_one_try_and_eight_errors(
    hub: LocalHub, tmpfs: MakeTmpfs, ranks: MakeRanks
) -> None:
    """On a full file system one process tries, and its error is that of all eight."""
    small = tmpfs("size=40k").path
    # A failure is everybody's who comes within this time of it, however late a process starts here
    job = ranks(
        8, STEP37_HEARTBEAT_TIMEOUT="200", STEP37_RUN_ID="one-run", RANK="0", WORLD_SIZE="1"
    )
    for rank in range(8):
        place = {"RANK": str(rank), "WORLD_SIZE": "8"}
        arguments = {"cache_dir": str(small / "cache"), "sample_count": None}
        job._start(
            rank,
            load_alone,
            job.environment | place,
            (arguments, str(job.directory / f"result-{rank}")),
        )
    outcomes = job.outcomes()
    assert {type(outcome) for outcome in outcomes} == {errors.FolderFull}, outcomes
    assert (
        len(
            [r for r in hub.requests if r.repo_path == "train/metadata.csv" and r.kind == "resolve"]
        )
        == 1
    )


def test_a_warm_cache_on_a_read_only_mount_is_read(
    hub: LocalHub, tmpfs: MakeTmpfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training mounts the cache read-only: a warm one is read, one that would have to be filled says what is wrong."""
    mounted = tmpfs()
    cache = str(mounted.path)
    assert len(prepare_flickr8k_samples(cache_dir=cache)) == 8
    hub.clear_requests()
    monkeypatch.setenv("STEP37_RUN_ID", "a-run-that-would-confirm-the-record")
    mounted.make_read_only()
    assert len(prepare_flickr8k_samples(cache_dir=cache)) == 8
    assert not hub.requests
    with pytest.raises(errors.FolderNotUsable, match="Read-only file system"):
        prepare_flickr8k_samples(cache_dir=cache, sample_count=None)


# --- directories that are not shared --------------------------------------------------------------


@needs_sys_admin
def test_a_directory_that_is_not_shared_is_said_with_the_ranks(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """Each rank with a directory of its own: every rank ends as NotVisible, which names those that don't see it, and the remedy."""
    cache.mkdir()
    job = ranks(3, STEP37_VISIBILITY_TIMEOUT="1", STEP37_NODE_NAME="n7")
    outcomes = job.start_group(call_in_namespace, {"bind": str(cache)}).outcomes()
    assert {type(outcome) for outcome in outcomes} == {errors.NotVisible}, outcomes
    assert all(
        "rank 1 on n7/" in str(o) and "rank 2 on n7/" in str(o) and "all nodes share" in str(o)
        for o in outcomes
    )
    assert max(served(hub).values()) == 1


@needs_sys_admin
def test_a_warm_rank_zero_waits_for_a_node_that_sees_nothing_yet(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """Rank 0 finds the cache warm at once; a rank whose node shows it 1.5 s later is waited for, and downloads nothing."""
    cache.mkdir()
    assert len(prepare_flickr8k_samples(cache_dir=f"{cache}/shared")) == 8
    hub.clear_requests()
    outcomes = ranks(3).start_group(call_on_a_node_that_lags, {"bind": str(cache)}).outcomes()
    assert outcomes == [8] * 3
    assert not hub.requests


def call_on_a_node_that_lags(rank: int, arguments: dict[str, Any]) -> int:
    """Call the loader where ranks other than 0 see an empty directory for a while."""
    directory = arguments["bind"]
    if rank:
        enter_namespace()
        mount_tmpfs(directory)
        threading.Timer(1.5, lambda: ctypes.CDLL(None).umount2(directory.encode(), 2)).start()
    return len(prepare_flickr8k_samples(cache_dir=f"{directory}/shared"))


def call_in_namespace(_: int, arguments: dict[str, Any]) -> int:
    """Call the loader where the cache directory is this rank's own: a mount namespace with a file system of its own on it."""
    enter_namespace()
    mount_tmpfs(arguments["bind"])
    return len(
        prepare_flickr8k_samples(
            cache_dir=f"{arguments['bind']}/shared", **arguments.get("call", {})
        )
    )


@needs_sys_admin
@pytest.mark.parametrize("late", [{}, {3: 1.5}])
def test_node_local_directories_have_one_downloader_each(
    hub: LocalHub, cache: Path, ranks: MakeRanks, late: dict[int, float]
) -> None:
    """With cache_scope=node two nodes of two ranks download each file twice, once per node, all at one commit."""
    hub.faults.add(Fault.delay(0.05))
    for name in ("shared", "node-0", "node-1"):
        (cache / name).mkdir(parents=True)
    arguments = {"bind": str(cache), "late": late}
    outcomes = ranks(4, STEP37_CACHE_SCOPE="node").start_group(call_on_node, arguments).outcomes()
    assert outcomes == [8] * 4
    assert set(served(hub).values()) == {2}
    records = [
        json.loads((cache / f"node-{n}" / ".step37-flickr8k" / "train.json").read_text())
        for n in range(2)
    ]
    assert {record["commit"] for record in records} == {hub.commit}


def test_a_late_rank_of_a_node_needs_rank_0_for_the_commit_alone(
    hub: LocalHub, cache: Path, ranks: MakeRanks
) -> None:
    """With a pinned commit it fills its directory when all others are gone; otherwise this run's record there will do."""
    job = ranks(
        2,
        STEP37_CACHE_SCOPE="node",
        STEP37_RUN_ID="uid-1",
        STEP37_HEARTBEAT_TIMEOUT="1",
        STEP37_ARRIVAL_TIMEOUT="60",
    )
    job.start_command(1, "warmup", "--cache-dir", str(cache), "--revision", hub.commit)
    assert job.wait() == {1: 0}
    assert len(hub.file_requests()) == 13
    hub.clear_requests()
    job.start_command(1, "warmup", "--cache-dir", str(cache))
    assert job.wait() == {1: 0}
    assert not hub.requests


def call_on_node(rank: int, arguments: dict[str, Any]) -> int:
    """Call the loader where the cache directory is this rank's node's: ranks 0 and 1 share one, 2 and 3 another."""
    time.sleep(arguments["late"].get(rank, 0))
    enter_namespace()
    bind(f"{arguments['bind']}/node-{rank // 2}", f"{arguments['bind']}/shared")
    return len(prepare_flickr8k_samples(cache_dir=f"{arguments['bind']}/shared"))
