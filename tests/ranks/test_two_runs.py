"""Two runs that were given one address and port: one ends well, the other one hears why it can't.

The rank 0 that comes first, A's, serves the store. The orders in which B's comes first are the same
with the names exchanged.
"""

import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.ranks import PATIENCE, Ranks

ORDERS = [
    order
    for order in itertools.permutations(("A0", "A1", "B0", "B1"))
    if order.index("A0") < order.index("B0")
]
# In these the followers of both runs find A's store, or nothing and then A's store.
FEW = [("A0", "B1", "B0", "A1"), ("B1", "A1", "A0", "B0")]
TWO_RUNS = [
    pytest.param(order, id="-".join(order), marks=[] if order in FEW else [pytest.mark.slow])
    for order in ORDERS
]

Start = Callable[[str], None]


class Runs:
    """Two jobs of two ranks at one port, each with a cache directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.jobs = {
            name: Ranks(2, directory / name, {"STEP37_RUN_ID": name.lower()}) for name in "AB"
        }
        self.caches = {name: directory / f"cache-{name}" for name in "AB"}
        self.jobs["B"].port = self.jobs["A"].port

    def start(self, who: str) -> None:
        """Start one rank, and return when it has come: serves, searches, or has ended."""
        job, rank = self.jobs[who[0]], int(who[1])
        cache, report = self.caches[who[0]], self.report(who[0])
        job.start_command(rank, "warmup", "--cache-dir", str(cache), "--report", str(report))
        deadline = time.monotonic() + PATIENCE
        while not self._has_come(job, rank):
            assert time.monotonic() < deadline, job.log(rank)
            time.sleep(0.02)

    def report(self, name: str) -> Path:
        """Return where rank 0 of a run writes its report."""
        return self.jobs[name].directory / "report.json"

    def _has_come(self, job: Ranks, rank: int) -> bool:
        if not job.processes[rank].is_alive():
            return True
        if f"global rank {rank} of 2" not in job.log(rank):
            return False
        if rank > 0:
            return True
        with suppress(OSError), socket.create_connection(("127.0.0.1", job.port), timeout=5):
            return job is self.jobs["A"]
        return False

    def end_of(self, who: str) -> tuple[int, str]:
        """Return exit code and log of a rank that ends by itself."""
        job, rank = self.jobs[who[0]], int(who[1])
        process = job.processes.pop(rank)
        process.join(PATIENCE)
        assert process.exitcode is not None, job.log(rank)
        return process.exitcode, job.log(rank)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    """Make two runs, whose processes end with the test."""
    made = Runs(tmp_path)
    yield made
    for job in made.jobs.values():
        job.end()


@pytest.mark.parametrize("order", TWO_RUNS)
def test_one_of_two_runs_at_one_port_ends_well(
    hub: LocalHub, runs: Runs, order: tuple[str, ...]
) -> None:
    """While A works, B's ranks end with the reason and a code that restarts; A ends as if alone."""
    # A is at work until B has ended.
    hub.faults.add(Fault.status(503, retry_after=1, path="train/0011.jpg"))
    for who in order:
        runs.start(who)
    code, log = runs.end_of("B0")
    assert code == 75, log
    assert f"can't serve the store on port {runs.jobs['B'].port}" in log
    assert "Set MASTER_PORT to a free port" in log
    code, log = runs.end_of("B1")
    assert code == 76, log
    assert "this store serves run a of 2 ranks" in log
    assert "set MASTER_PORT to a free port" in log
    assert all(process.is_alive() for process in runs.jobs["A"].processes.values())
    hub.faults.clear()
    assert runs.jobs["A"].wait() == {0: 0, 1: 0}, runs.jobs["A"].log(0)
    assert "run b" not in runs.jobs["A"].log(0)
    report = json.loads(runs.report("A").read_text())
    assert [report["ranks"][rank]["ok"] for rank in "01"] == [True, True]
    assert not (runs.caches["B"] / "train").exists()


def test_a_run_that_begins_when_the_other_has_ended_takes_the_port_over(
    hub: LocalHub, runs: Runs
) -> None:
    """A rank that found A's store is there when its own rank 0 comes, or is started again."""
    assert hub.commit
    for who in ("B1", "A0", "A1"):
        runs.start(who)
    assert runs.jobs["A"].wait() == {0: 0, 1: 0}
    runs.start("B0")
    code, log = runs.end_of("B1")
    if code:
        # It had waited for its own rank 0 for 5 s while A was at work.
        assert code == 76, log
        assert "this store serves run a of 2 ranks" in log
        runs.start("B1")
    assert set(runs.jobs["B"].wait().values()) == {0}, runs.jobs["B"].log(0)
