"""A Linux NFS server and two Linux NFS clients in a small machine of their own, and what runs there: `on_nfs.py`."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sharedfs.nodes import LEASHED

HERE = Path(__file__).parent
NEEDED = {
    "linux.uml": "user-mode-linux",
    "rpc.nfsd": "nfs-kernel-server",
    "mount.nfs": "nfs-common",
    "rpcbind": "rpcbind",
}
NEEDED |= {"busybox": "busybox-static", "ip": "iproute2", "gcc": "gcc and libc6-dev"}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@pytest.fixture
def _needs_machine() -> None:
    """Skip where the machine can't be started, and say what would help."""
    if os.geteuid() != 0:
        pytest.skip(
            "it starts an NFS server in user-mode Linux: run `make test-sharedfs` as root, in a container for example"
        )
    if missing := {
        package for command, package in NEEDED.items() if shutil.which(command, path=PATH) is None
    }:
        pytest.skip(f"no {', '.join(sorted(missing))} here: apt-get install them")


@pytest.mark.timeout(1600)
@pytest.mark.usefixtures("_needs_machine")
def test_two_nodes_on_a_linux_nfs_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every case of `on_nfs.py` holds inside of the machine, by NFS 3 and by NFS 4.2."""
    root = HERE.parent.parent
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "--verbose",
        "--basetemp=/dev/shm/tests",
        "-p",
        "no:cacheprovider",
    ]
    tests += [
        "--durations=0",
        f"--rootdir={root}",
        "-c",
        str(root / "pyproject.toml"),
        str(HERE / "on_nfs.py"),
    ]
    inside = [
        "env",
        f"TEST_LOGS={tmp_path / 'logs'}",
        f"PYTHONPATH={root}:{os.environ.get('PYTHONPATH', '')}",
        *tests,
    ]
    with capfd.disabled():
        print(flush=True)  # noqa: T201 - the lines of the tests inside follow
        machine = subprocess.Popen(
            [*LEASHED, "TERM", HERE / "nfs" / "run", "-w", tmp_path, "-t", "1500", *inside]
        )
        try:
            code = machine.wait(1520)
        finally:
            machine.send_signal(signal.SIGTERM)
            machine.wait(60)
    assert code == 0, "the tests inside have failed: see above"
