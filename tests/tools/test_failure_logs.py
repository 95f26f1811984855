"""What stays of a test that has failed: its report, its ranks' output, what its Hub was asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = """
import urllib.request
import pytest
from step37_flickr8k.localhub import LocalHub
from tests.helpers.failure_logs import on_failure

@pytest.fixture
def hub(request, tmp_path):
    (tmp_path / "data").mkdir()
    on_failure(request, lambda directory: (directory / "node.log").write_text("its node was up"))
    with LocalHub(tmp_path / "data") as serving:
        yield serving

def test_passes(hub, tmp_path):
    (tmp_path / "rank-0.log").write_text("all is well")

@pytest.mark.parametrize("path", ["a/b"])
def test_fails(hub, tmp_path, path):
    print("captured words")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "rank-0.log").write_text("rank 0 was lost")
    (tmp_path / "job" / "0000.jpg").write_bytes(b"a picture")
    urllib.request.urlopen(f"{hub.endpoint}/api/datasets/intro/flickr8k").close()
    assert path == "c"

@pytest.fixture
def breaks(tmp_path):
    yield
    (tmp_path / "end.log").write_text("told at its end")
    raise RuntimeError("no end")

def test_ends_badly(breaks):
    pass
"""


@pytest.mark.parametrize(
    "side_by_side", [("--numprocesses=1",), ("--numprocesses=0",)], ids=["workers", "alone"]
)
def test_a_failed_case_leaves_its_logs_where_the_last_lines_say(
    tmp_path: Path, side_by_side: tuple[str, ...]
) -> None:
    """Report, output, the Hub's requests, ranks' logs and a fixture's own words are kept; nothing of a case that passed."""
    (tmp_path / "tests" / "rig").mkdir(parents=True)
    (tmp_path / "tests" / "rig" / "test_cases.py").write_text(CASES, encoding="utf-8")
    options = (
        "-p",
        "tests.helpers.failure_logs",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        "-c",
        os.devnull,
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        *side_by_side,
        f"--basetemp={tmp_path / 'base'}",
        str(tmp_path / "tests"),
    ]
    logs = tmp_path / "logs"
    environment = os.environ | {"TEST_LOGS": str(logs), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr

    last = done.stdout.splitlines()[-3:-1]
    fails, ends = "rig/test_cases/test_fails-a-b", "rig/test_cases/test_ends_badly"
    assert set(last) == {f"logs of the failed case: logs/{case}/" for case in (fails, ends)}, (
        done.stdout
    )
    kept = {str(path.relative_to(logs)) for path in logs.rglob("*") if path.is_file()}
    assert kept == {
        *(
            f"{fails}/{name}"
            for name in ("report.txt", "hub.requests.log", "node.log", "job/rank-0.log")
        ),
        *(f"{ends}/{name}" for name in ("report.txt", "end.log")),
    }
    report = (logs / fails / "report.txt").read_text(encoding="utf-8")
    assert "AssertionError: assert 'a/b' == 'c'" in report
    assert "captured words" in report
    assert "GET /api/datasets/intro/flickr8k 200" in (logs / fails / "hub.requests.log").read_text(
        encoding="utf-8"
    )
    assert (logs / fails / "job" / "rank-0.log").read_text(encoding="utf-8") == "rank 0 was lost"
    assert (logs / fails / "node.log").read_text(encoding="utf-8") == "its node was up"
    assert "RuntimeError: no end" in (logs / ends / "report.txt").read_text(encoding="utf-8")
    assert (logs / ends / "end.log").read_text(encoding="utf-8") == "told at its end"
