"""What these tests share: the seed, named at the top of the run."""

from tests.hostile.seeds import SEED


def pytest_report_header() -> str:
    """Name the seed, with which a run is made again."""
    return f"hostile data made with HOSTILE_SEED={SEED}"
