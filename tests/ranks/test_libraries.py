"""accelerate and lightning-fabric themselves, with each of their launchers: every idiom works.

The script that they start is ``trainings.py``; `test_idioms` has more idioms, in plain torch.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from step37_flickr8k.localhub import LocalHub
from tests.helpers.ranks import AS_ROOT, PATIENCE, free_port, torchrun
from tests.ranks.test_idioms import AT_ONCE
from tests.ranks.trainings import RANKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5 * PATIENCE)]

SCRIPT = str(Path(__file__).with_name("trainings.py"))
# All that it would warn of as not chosen
CHOSEN = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch"),
    *(f"--num_processes={RANKS}", *CHOSEN),
]
RENDEZVOUS = ["--rdzv_backend=c10d", "--main_process_port=0"]


def with_mpirun(directory: Path) -> list[str]:
    """Return accelerate's launcher for processors: it starts the system's mpirun."""
    hosts = directory / "hosts"
    hosts.write_text(f"localhost slots={RANKS}\n", encoding="utf-8")
    meeting = ["--main_process_ip=127.0.0.1", f"--main_process_port={free_port()}"]
    return [*LAUNCH, "--cpu", f"--mpirun_hostfile={hosts}", *meeting, SCRIPT, "accelerated"]


WAYS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "torchrun": ("accelerate", lambda _: [*torchrun(RANKS), SCRIPT, "accelerated"]),
    "accelerate launch": (
        "accelerate",
        lambda _: [*LAUNCH, "--multi_gpu", *RENDEZVOUS, SCRIPT, "accelerated"],
    ),
    "accelerate launch with mpirun": ("accelerate", with_mpirun),
    "notebook_launcher": ("accelerate", lambda _: [sys.executable, SCRIPT, "notebook"]),
    "Fabric": ("lightning_fabric", lambda _: [sys.executable, SCRIPT, "fabric"]),
    "Fabric, forked": ("lightning_fabric", lambda _: [sys.executable, SCRIPT, "forked_fabric"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_idiom_of_a_library_works_cold_and_warm(
    hub: LocalHub, tmp_path: Path, way: str
) -> None:
    """No rank waits for one that doesn't call; each file is fetched once, and every rank has it."""
    library, command = WAYS[way]
    if find_spec(library) is None:
        pytest.skip(f"{library} isn't installed: `make test-slow` does that, with the extra dev")
    if way.endswith("mpirun") and shutil.which("mpirun.openmpi") is None:
        pytest.skip("no Open MPI: run `make test-slow` as root on Debian, which installs it")
    (directory := tmp_path / "job").mkdir()
    done = subprocess.run(
        [*command(tmp_path), str(directory)],
        env=os.environ | AS_ROOT,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(RANKS):
        said = json.loads((directory / f"{rank} of {RANKS}.json").read_text(encoding="utf-8"))
        assert len(said) == 3
        for idiom, calls in said.items():
            assert [found for found, _ in calls] == [8, 8], idiom
            assert max(seconds for _, seconds in calls) < AT_ONCE, idiom
    assert len(hub.file_requests()) == 3 * 9
