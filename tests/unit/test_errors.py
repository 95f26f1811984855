"""Errors travel between processes as values."""

import sys

import pytest

from step37_flickr8k import errors
from step37_flickr8k.errors import ErrorReport, FolderFull, RankZeroLost, Step37Error, Terminated

REPAIR = (
    f"repair the installation of the Python {sys.executable}, or of the library that can't be"
    " loaded"
)


@pytest.mark.parametrize("error", [FolderFull("no space"), ValueError("no number")], ids=repr)
def test_an_error_comes_back_as_its_class(error: Exception) -> None:
    """Errors of the project and Python's own come back with their class and message."""
    again = ErrorReport.of(error).exception()
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_an_error_that_takes_more_than_a_message_is_named() -> None:
    """An error whose class can't be built from a message alone is named, with its message."""
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    again = ErrorReport.of(error).exception()
    assert type(again) is Step37Error
    assert str(again) == f"UnicodeDecodeError: {error}"


@pytest.mark.parametrize("name", ["ErrorReport", "SystemExit", "print", "OtherVersionsError", ""])
def test_a_name_that_is_no_errors_builds_nothing(name: str) -> None:
    """A report can't make this process build anything but an error."""
    assert type(ErrorReport(name, "why").exception()) is Step37Error


def test_a_signal_to_rank_0_is_its_loss_to_the_other_ranks() -> None:
    """The other ranks learn that rank 0 is lost, and by which signal."""
    report = ErrorReport.of(Terminated())
    assert (report.error, report.message) == ("RankZeroLost", "rank 0 was ended by SIGTERM")
    assert type(report.exception()) is RankZeroLost


def test_a_report_in_json_has_three_texts() -> None:
    """Class name, message and traceback, in this order: ranks of another version read it."""
    with pytest.raises(FolderFull) as caught:
        raise FolderFull("no space")
    json = ErrorReport.of(caught.value).as_json()
    assert [*json] == ["error", "message", "traceback"]
    assert ErrorReport.from_json(json) == ErrorReport.of(caught.value)
    assert json["traceback"].endswith("FolderFull: no space\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FolderFull("no space"), 75, "no space"),
        (ValueError("no number"), 1, "no number"),
        (
            ImportError("_ssl.so: undefined symbol"),
            2,
            f"_ssl.so: undefined symbol: {REPAIR}",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "ended by SIGTERM"),
    ],
    ids=repr,
)
def test_every_end_has_a_code_a_message_and_advice(
    error: BaseException, code: int, message: str
) -> None:
    """Signals have them, too, though they bring no message."""
    assert errors.exit_code_of(error) == code
    assert errors.message_of(error) == message
    assert errors.what_to_do(error)
