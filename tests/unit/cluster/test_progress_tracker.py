"""Progress: a value with one JSON form, and the tracker that decides what moved."""

import logging
from typing import Any

import pytest

from step37_flickr8k.cluster.codec import read_progress
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.errors import Stalled
from step37_flickr8k.flickr8k_loader import _Watch

FULL = Progress(
    State.WAITING_FOR_RATE_LIMIT,
    "43 s",
    files=1,
    of_files=2,
    bytes=30,
    of_bytes=40,
    retries={"503": 2},
)


@pytest.mark.parametrize(
    ("progress", "value"),
    [
        (Progress(), {"state": "starting"}),
        (
            Progress(State.WAITING_FOR_LEASE, "which is held on n0 (rank 0, run a, b)"),
            {"state": "waiting for the lease, which is held on n0 (rank 0, run a, b)"},
        ),
        (
            FULL,
            {
                "state": "waiting for quota, 43 s",
                "files": 1,
                "of_files": 2,
                "bytes": 30,
                "of_bytes": 40,
                "retries": {"503": 2},
            },
        ),
    ],
)
def test_progress_and_its_json(progress: Progress, value: dict[str, Any]) -> None:
    """The JSON form is read back as the same value; other keys are ignored."""
    assert progress.as_json() == value
    assert read_progress({**value, "kind": "beat"}) == progress


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"state": 5},
        {"state": "dancing"},
        {"state": "fetching", "of_files": 3},
        {"state": "fetching", "bytes": "many"},
        {"state": "fetching", "retries": {"503": "x"}},
    ],
    ids=str,
)
def test_what_is_no_progress_is_refused(value: object) -> None:
    """A value of another shape, an unknown state and a total without its count are a ValueError."""
    with pytest.raises(ValueError, match="validation error"):
        read_progress(value)


def test_only_changes_are_shown() -> None:
    """The same progress again is shown once; a retry is shown, and a wait every time."""
    shown: list[Progress] = []
    tracker = ProgressTracker(shown.append)
    tried = Progress(State.FETCHING, files=1, retries={"503": 1})
    for progress in (Progress(State.FETCHING, files=1), tried, tried, FULL, FULL):
        tracker.report(progress)
    assert shown == [Progress(State.FETCHING, files=1), tried, FULL, FULL]
    assert tracker.snapshot() == FULL


def test_stopped_work_ends_at_its_next_report() -> None:
    """Work that nobody waits for any more gets the reason as an exception."""
    tracker = ProgressTracker()
    tracker.stop(Stalled("too slow"))
    with pytest.raises(Stalled, match="too slow"):
        tracker.report(Progress(State.FETCHING))


def test_the_loader_logs_progress_with_retries(caplog: pytest.LogCaptureFixture) -> None:
    """Retries are part of what a library call logs."""
    with caplog.at_level(logging.DEBUG, logger="step37_flickr8k"):
        _Watch(is_rank_zero=False)(FULL)
    assert "waiting for quota, 43 s: 1 of 2 files" in caplog.text
