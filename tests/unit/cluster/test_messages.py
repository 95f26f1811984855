"""Messages: each is read back from its JSON as the value that was written."""

import pytest

from step37_flickr8k.cluster.codec import read, text_of
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.cluster.protocol.messages import (
    Answer,
    Arrival,
    Finished,
    Heartbeat,
    Lost,
    Message,
    Moved,
    Outcome,
    RankReport,
    Verdict,
)
from step37_flickr8k.cluster.verdict import decide_verdict
from step37_flickr8k.errors import CallMismatch, ErrorReport, FolderFull, NotVisible

FULL = ErrorReport.of(FolderFull("the disk is full"))
BLIND = ErrorReport.of(NotVisible("no ready record here"))
MISMATCH = ErrorReport.of(CallMismatch("split is 'train' here and 'test' on rank 0"))


@pytest.mark.parametrize(
    "message",
    [
        Heartbeat(Progress(State.FETCHING, files=1, of_files=2, retries={"503": 1})),
        Outcome(arguments={"rows": None}, result={"commit": "c", "skipped": {}}),
        Outcome(arguments={}, failure=FULL),
        Verdict(),
        Verdict(failure=BLIND, host="n1", waited=0.5, lag=1.5),
        Lost("rank 0 was killed"),
        Moved("nonce"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    """Reading a message's JSON returns an equal message."""
    assert read(text_of(message), Message) == message


@pytest.mark.parametrize(
    "report",
    [
        RankReport(ok=True, host="n1"),
        RankReport(ok=True, host="n1", found={"listed": True}, waited=0.0, lag=0.5),
        RankReport(ok=False, host="n1", failure=BLIND, waited=0.1, lag=0.2),
    ],
    ids=["no result", "success", "failure"],
)
def test_a_report_is_read_as_it_was_written(report: RankReport) -> None:
    """Reading a report's JSON returns an equal report; without traceback it is the run report's."""
    assert read(text_of(report), RankReport) == report
    assert "traceback" not in report.as_json(traceback=False)


@pytest.mark.parametrize(
    "value",
    [
        Answer("nonce", 7),
        Arrival(3, "n3"),
        Finished(Outcome(arguments={"rows": 1}, result={"commit": "c"}), Verdict()),
        Finished(Outcome(arguments={}, failure=FULL), Verdict(failure=FULL)),
    ],
    ids=["answer", "arrival", "finished", "finished in vain"],
)
def test_other_values_are_read_as_they_were_written(value: Answer | Arrival | Finished) -> None:
    """Arrivals, answers and the end of a call come back from their JSON as equal values."""
    assert read(text_of(value), type(value)) == value


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"kind": "rumor"}', '{"kind": "outcome", "ok": false, "arguments": {}}'],
)
def test_what_is_no_message_is_refused(text: str) -> None:
    """A text without JSON, an unknown kind, and a failure without its error are a ValueError."""
    with pytest.raises(ValueError, match=r"Expecting value|validation error"):
        read(text, Message)


@pytest.mark.parametrize(
    ("error", "failures", "expected"),
    [
        (None, {1: None}, None),
        (FolderFull("the disk is full"), {1: None}, "the disk is full"),
        (None, {1: BLIND, 3: BLIND}, f"rank 1 on n1, rank 3 on n3: {BLIND.message}"),
        (FolderFull("the disk is full"), {1: MISMATCH}, f"rank 1 on n1: {MISMATCH.message}"),
        (None, {1: BLIND, 2: MISMATCH}, f"rank 2 on n2: {MISMATCH.message}"),
    ],
    ids=["success", "work failed", "ranks failed", "mismatch and work", "mismatch and rank"],
)
def test_how_a_call_ends(
    error: Exception | None, failures: dict[int, ErrorReport | None], expected: str | None
) -> None:
    """Different arguments come first, then the work's error, then failed reports."""
    reports = {
        rank: RankReport(ok=failure is None, host=f"n{rank}", failure=failure)
        for rank, failure in failures.items()
    }
    verdict = decide_verdict(ErrorReport.of(error) if error else None, reports, range(4))
    assert (verdict.failure and verdict.failure.message) == expected
