"""The command under real launchers of MPI on one machine; ``make test-slurm`` has two nodes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from step37_flickr8k.localhub import LocalHub
from tests.helpers.ranks import AS_ROOT, PATIENCE, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5 * PATIENCE)]

LAUNCHERS = {
    "mpirun.openmpi": ["--oversubscribe", "-np", "2"],
    "mpiexec.hydra": ["-n", "2"],  # MPICH's
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_its_variables_and_an_address_are_enough(
    hub: LocalHub, cache: Path, tmp_path: Path, launcher: str
) -> None:
    """Each rank has its own rank, one process downloads, and a second run asks for no file."""
    if shutil.which(launcher) is None:
        pytest.skip(f"no {launcher}: run `make test-slow` as root on Debian, which installs it")
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "step37_flickr8k", "warmup", "--cache-dir", str(cache)]
    for is_warm in (False, True):
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        done = subprocess.run(
            [launcher, *LAUNCHERS[launcher], *command, "--report", str(report)],
            env=os.environ | AS_ROOT | meeting,
            capture_output=True,
            check=False,
            text=True,
            timeout=2 * PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(report.read_text(encoding="utf-8"))
        assert (said["world_size"], said["warm"], list(said["ranks"])) == (2, is_warm, ["0", "1"])
        for rank in range(2):
            assert f"local rank {rank} of 2, node - of -, global rank {rank} of 2" in done.stderr
        assert len(hub.file_requests()) == 13
