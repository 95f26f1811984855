"""Takeover at once where the process of a holder is gone, and never from a living one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, take
from step37_flickr8k.cache.process import Process, exists, this_process

LONG = 1e6  # s: nobody here waits for a timeout

SLEEPER = """
import sys, time
from step37_flickr8k.cache.process import this_process
print(this_process().started, flush=True)
time.sleep(600)
"""


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    made = CacheDirectory(cache, "train")
    made.make()
    return made


@pytest.fixture
def other() -> Iterator[tuple["subprocess.Popen[str]", Process]]:
    """Run another process of this machine, and say which one it is."""
    sleeper = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    own = this_process()
    assert own is not None
    assert sleeper.stdout is not None
    try:
        yield sleeper, replace(own, started=int(sleeper.stdout.readline()))
    finally:
        sleeper.kill()
        sleeper.communicate()


def held_by(
    directory: CacheDirectory,
    pid: int,
    process: Process | None,
    edited: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Leave a lease that this process holds."""
    lease = take(
        directory,
        Claim(run="a", rank=0, host="n1", pid=pid, process=process),
        LONG,
        lambda _: False,
    )
    assert lease is not None
    path = directory.home / "train.lease.1"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(edited)))


def is_free(directory: CacheDirectory, run: str | None = None, host: str = "n1") -> bool:
    claim = Claim.of_this_process(run=run, rank=0, host=host)
    return take(directory, claim, LONG, lambda _: False) is not None


def test_a_killed_holder_is_replaced_at_once(
    directory: CacheDirectory, other: tuple["subprocess.Popen[str]", Process]
) -> None:
    """After kill -9 nobody waits for the timeout, not even while the dead process is a zombie."""
    sleeper, process = other
    held_by(directory, sleeper.pid, process)
    assert not is_free(directory)
    sleeper.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert is_free(directory)


def test_a_stopped_holder_is_a_living_one(
    directory: CacheDirectory, other: tuple["subprocess.Popen[str]", Process]
) -> None:
    """SIGSTOP is a pause, for which there is the timeout."""
    sleeper, process = other
    held_by(directory, sleeper.pid, process)
    sleeper.send_signal(signal.SIGSTOP)
    assert not is_free(directory)


def test_a_recycled_process_id_is_not_the_holder(
    directory: CacheDirectory, other: tuple["subprocess.Popen[str]", Process]
) -> None:
    """Another process with the id of a dead holder began at another time."""
    sleeper, process = other
    held_by(directory, sleeper.pid, replace(process, started=process.started - 1))
    assert is_free(directory)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"process": {"machine": "another boot", "started": 5}},
        {"process": None},
        {"process": "edited"},
        {"host": "a clone of this machine"},
    ],
    ids=["another boot or namespace", "unknown", "edited", "another host"],
)
def test_a_holder_elsewhere_is_never_gone(
    directory: CacheDirectory,
    other: tuple["subprocess.Popen[str]", Process],
    elsewhere: dict[str, object],
) -> None:
    """Pid 1 of another container says nothing about pid 1 here: the timeout holds, as ever."""
    sleeper, process = other
    held_by(directory, sleeper.pid, process, elsewhere)
    sleeper.kill()
    sleeper.wait()
    assert not is_free(directory)


def test_the_same_rank_of_the_same_run_waits_for_a_living_one(
    directory: CacheDirectory, other: tuple["subprocess.Popen[str]", Process]
) -> None:
    """Two processes that both take themselves for rank 0 of a run don't download both."""
    sleeper, process = other
    held_by(directory, sleeper.pid, process)
    assert not is_free(directory, run="a")
    sleeper.kill()
    sleeper.wait()
    assert is_free(directory, run="a")


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**80])
def test_a_process_id_that_cannot_be_is_none_that_lives(pid: int) -> None:
    """An edited lease signals no process group and raises nothing."""
    assert not exists(pid, this_process())


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a chroot without /proc, or with that of another pid namespace, only the timeout counts."""
    own = this_process()
    monkeypatch.setattr("step37_flickr8k.cache.process._PROC", tmp_path)
    assert this_process() is None
    assert exists(os.getpid(), own) is None
    (tmp_path / "self").symlink_to("1")
    assert this_process() is None


def test_a_new_pid_namespace_is_another_machine() -> None:
    """Process 1 of a container is told apart from process 1 of another one."""
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    code = "from step37_flickr8k.cache.process import *; print(this_process().machine)"
    try:
        inside = subprocess.run(
            [*command, sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no pid namespace can be made here: allow user namespaces")
    own = this_process()
    assert own is not None
    boot, *_ = own.machine.split()
    assert inside.stdout.split()[0] == boot
    assert inside.stdout.strip() != own.machine
