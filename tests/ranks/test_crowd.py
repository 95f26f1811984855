"""A thousand followers on connections of their own, over torch's real store."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLLOWERS = 1000
CROWD = Path(__file__).parents[2] / "benchmarks" / "crowd.py"


@pytest.mark.slow
def test_a_thousand_followers_learn_the_outcome() -> None:
    """All succeed; each asks the store some twenty times in all, whatever their number."""
    command = [sys.executable, str(CROWD), str(FOLLOWERS), "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["succeeded"] == FOLLOWERS
    assert 10 <= found["in_all"] <= 40, found
