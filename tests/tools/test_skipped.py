"""What a run of the tests says of those that it could not run."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_one(number):
    pytest.skip("no mount: run it as root")

@pytest.mark.skipif(True, reason="no kubectl: install it")
def test_two():
    pass

def test_three():
    pass
"""


def test_the_last_lines_list_the_reasons(tmp_path: Path) -> None:
    """Skipped tests are listed at the end, a line for each reason with their number, the most frequent first."""
    cases = tmp_path / "test_cases.py"
    cases.write_text(CASES)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *options, str(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    *_, title, first, second, total = filter(None, done.stdout.splitlines())
    assert "= skipped =" in title
    assert first == "3 skipped: no mount: run it as root"
    assert second == "1 skipped: no kubectl: install it"
    assert "1 passed, 4 skipped" in total
