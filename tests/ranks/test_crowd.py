"""A thousand followers on connections of their own, over torch's real store."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import crowd

FOLLOWERS = 1000


@pytest.mark.slow
def test_a_thousand_followers_learn_the_outcome() -> None:
    """All succeed; each asks the store some twenty times in all, whatever their number."""
    found = crowd.crowd(FOLLOWERS, seconds=5)
    assert found.succeeded == FOLLOWERS
    assert 10 <= found.in_all <= 40, found
