"""Messages: each is read back from its JSON as the value that was written."""

from typing import Any

import pytest

from step37_flickr8k.cluster.codec import read, read_count, text_of
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.cluster.protocol.messages import (
    Answer,
    Arrival,
    Finished,
    Heartbeat,
    Lost,
    Message,
    Moved,
    Nonce,
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
    ("kind", "text"),
    [
        (Message, None),
        (Message, ""),
        (Message, "{}"),
        (Message, "[]"),
        (Message, "[" * 200_000),
        (Message, '{"kind": "rumor"}'),
        (Message, '{"kind": "outcome", "ok": false, "arguments": {}}'),
        (Message, '{"kind": "outcome", "arguments": {}, "result": {}}'),
        (Message, '{"kind": "verdict"}'),
        (Message, '{"kind": "verdict", "ok": true, "waited": NaN}'),
        (Message, '{"kind": "verdict", "ok": true, "host": "' + "n" * (8 << 20) + '"}'),
        (Message, '{"kind": "beat", "state": "starting", "files": -1}'),
        (Message, '{"kind": "beat", "state": "starting", "bytes": 1' + "0" * 4000 + "}"),
        (Message, '{"kind": "moved", "to": "a/b"}'),
        (Message, f'{{"kind": "outcome", "ok": true, "arguments": {"[" * 200 + "]" * 200}}}'),
        (Answer, '{"nonce": "n"}'),
        (Answer, '{"nonce": "n", "word": -1}'),
        (Answer, '{"nonce": "../n", "word": 1}'),
        (Arrival, '{"rank": 0, "host": "n0"}'),
        (Arrival, '{"rank": 1}'),
        (RankReport, '{"host": "n1"}'),
        (RankReport, '{"ok": null}'),
        (RankReport, '{"ok": "yes"}'),
        (Finished, '{"outcome": {"kind": "verdict", "ok": true}, "verdict": []}'),
        (Nonce, "n/o"),
        (str, "r" * 2000),
    ],
)
def test_what_is_no_message_is_nothing(kind: Any, text: str | None) -> None:
    """What a rank would never have written is as good as no text, and no error."""
    assert read(text, kind) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [(None, 0), ("7", 7), ("", None), ("-7", None), ("abc", None), ("²", None), ("9" * 19, None)],
)
def test_a_counter_that_is_no_number_is_none(text: str | None, count: int | None) -> None:
    """What can't have been counted hasn't been."""
    assert read_count(text) == count


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
