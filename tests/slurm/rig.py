"""The cluster as the tests see it: machines, and jobs that a user who isn't root submits."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "slurm"
RIG = Path(os.environ.get("RIG", "/nowhere"))  # set by tests/slurm/run
CONTROLLER = "10.99.0.254"
USER = 1  # daemon: every Debian has it in its passwd, without which SLURM runs no job
PATIENCE = 300.0  # s for whatever must come: starved processors make everything late
_CLUSTER = str(Path(__file__).with_name("cluster"))
_GOING = {
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
}


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition, however long a busy machine takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} didn't come within {seconds:g} s"
        time.sleep(0.3)


def on(machine: str, *command: str, check: bool = True) -> str:
    """Run a command as root on a machine, and give what it says."""
    done = subprocess.run(
        [_CLUSTER, "run", "-h", machine, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def listening(machine: str, port: int) -> Iterator[None]:
    """Let a program of somebody else hold a port of a machine."""
    program = (
        "import socket, sys, time\n"
        "held = socket.create_server(('', int(sys.argv[1])))\n"
        "print(flush=True)\n"
        "time.sleep(900)"
    )
    python = os.environ["PYTHON"]
    command = [_CLUSTER, "run", "-h", machine, python, "-c", program, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield
        finally:
            process.kill()


def power_off(node: str) -> None:
    """Let a node lose power: its link is gone first, so that only missing beats reveal it."""
    subprocess.run([_CLUSTER, "kill", node], cwd=ROOT, check=True)


def power_on(node: str) -> None:
    """Switch a node on again, and wait until SLURM may use it."""
    subprocess.run([_CLUSTER, "start", node], cwd=ROOT, check=True)
    until(
        lambda: "idle" in on("ctl", "sinfo", "--noheader", f"--nodes={node}", "--format=%T"),
        f"{node}, back and idle,",
    )


@dataclass(frozen=True)
class Desk:
    """A directory that all machines share, from which the user submits with these variables."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The directory behind all mounts."""
        return RIG / "backing" / self.name

    @property
    def shared(self) -> Path:
        """The directory as every machine sees it."""
        return RIG / "shared" / self.name

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller, as the user, in the directory, with no other variables than these."""
        given = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.shared),
            "SLURM_CONF": str(RIG / "etc" / "slurm.conf"),
        }
        given |= {
            "VENV": str(Path(os.environ["PYTHON"]).absolute().parents[1]),
            **self.variables,
            **variables,
        }
        user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        environment = (
            "env",
            "--ignore-environment",
            f"--chdir={self.shared}",
            *(f"{name}={text}" for name, text in given.items()),
        )
        there = [_CLUSTER, "run", *user, *environment, *map(str, command)]
        return subprocess.run(there, capture_output=True, text=True, cwd=ROOT, check=False)

    def submit(
        self, *command: str | Path, options: str = "--nodes=2 --ntasks-per-node=2", **variables: str
    ) -> "Job":
        """Submit a script with its arguments to nodes that no other job shares."""
        done = self.run(
            "sbatch", "--parsable", "--exclusive", *options.split(), *command, **variables
        )
        assert done.returncode == 0, done.stderr
        return Job(done.stdout.strip(), self)

    def warmup(
        self, *arguments: str, options: str = "--nodes=2 --ntasks-per-node=2", **variables: str
    ) -> "Job":
        """Submit the warmup as it is."""
        return self.submit(SCRIPTS / "warmup.sbatch", *arguments, options=options, **variables)

    @contextmanager
    def gate(self) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
        """Give the variables that stop a batch script before its first line, and what waits for it.

        The script goes on when the block ends.
        """
        arrived, gate, stop = (self.directory / name for name in ("arrived", "gate", "stop.sh"))
        gate.touch()
        here = self.shared
        stop.write_text(
            f"touch {here}/arrived; while ls {here} | grep -qx gate; do sleep 0.2; done\n",
            encoding="utf-8",
        )
        try:
            yield (
                {"BASH_ENV": str(here / "stop.sh")},
                lambda: until(arrived.exists, "the batch script"),
            )
        finally:
            gate.unlink()

    def kept(self, split: str = "train") -> set[str]:
        """Give the names of the images that lie in the cache."""
        return {path.name for path in (self.directory / "cache" / split).glob("*.jpg")}


@dataclass(frozen=True)
class Job:
    """A job, or a task of an array (``12_1``)."""

    id: str
    desk: Desk

    def shown(self) -> dict[str, str]:
        """Give what scontrol shows of it."""
        lines = on("ctl", "scontrol", "--oneliner", "show", "job", self.id, check=False)
        return dict(re.findall(r"(\S+?)=(\S*)", lines.splitlines()[0] if lines else ""))

    @property
    def state(self) -> str:
        """RUNNING and the like."""
        return self.shown().get("JobState", "UNKNOWN")

    @property
    def restarts(self) -> int:
        """How often it was queued again."""
        return int(self.shown()["Restarts"])

    @property
    def nodes(self) -> list[str]:
        """Its nodes, rank 0's first."""
        return on("ctl", "scontrol", "show", "hostnames", self.shown()["NodeList"]).split()

    def wait(self, seconds: float = PATIENCE) -> "Job":
        """Wait for its end."""
        until(lambda: self.state not in {*_GOING, "UNKNOWN"}, f"the end of job {self.id}", seconds)
        return self

    def completed(self, seconds: float = PATIENCE) -> "Job":
        """Wait for its good end."""
        assert self.wait(seconds).state == "COMPLETED", self.everything
        return self

    def _file(self, ending: str) -> Path:
        log = Path(self.shown()["StdOut"])
        return self.desk.directory / f"{log.stem}{ending}"

    @property
    def log(self) -> str:
        """What the batch script said, over all restarts."""
        file = self._file(".log")
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def said(self, rank: int | None = None, restart: int = 0) -> str:
        """Give what a rank said, or all of them."""
        file = self._file(f"-ranks-r{restart}.log")
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        return "".join(
            line for line in lines if rank is None or line.lstrip().startswith(f"{rank}: ")
        )

    def words(self, restart: int = 0) -> dict[int, int]:
        """Give the exit code that each rank told itself."""
        return {
            int(rank): int(code)
            for rank, code in re.findall(
                r"^ *(\d+): ended with (\d+) [0-9a-f]{64}$", self.said(None, restart), re.MULTILINE
            )
        }

    @property
    def report(self) -> dict[str, object]:
        """Rank 0's report."""
        report: dict[str, object] = json.loads(self._file(".json").read_text(encoding="utf-8"))
        return report

    @property
    def everything(self) -> str:
        """What is known of it, for a failed assertion."""
        ranks = "".join(
            f"--- ranks, restart {restart}\n{self.said(None, restart)}"
            for restart in range(4)
            if self.said(None, restart)
        )
        return f"{self.shown()}\n--- log\n{self.log}\n{ranks}"

    def kill(self, rank: int) -> None:
        """Send SIGKILL to a rank's own processes, as the kernel does when memory is short."""
        its_own = f"grep -qz ^SLURM_PROCID={rank}$ /proc/$p/environ"
        script = f"for p in $(pgrep -x step37-flickr8k); do {its_own} && kill -KILL $p; done; true"
        ranks_a_node = int(self.shown()["NtasksPerN:B:S:C"].partition(":")[0])
        on(self.nodes[rank // ranks_a_node], "bash", "-c", script)
