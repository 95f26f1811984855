"""Errors travel between processes as values."""

from step37_flickr8k.errors import FolderFull, Step37Error, as_value, from_value


def test_an_error_comes_back_as_its_class() -> None:
    """Ours and Python's own, with their messages."""
    for error in (FolderFull("no space"), ValueError("no number")):
        again = from_value(as_value(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_an_error_that_takes_more_than_a_message_is_named() -> None:
    """Where the class can't be built from a message alone its name and message come all the same."""
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    again = from_value(as_value(error))
    assert type(again) is Step37Error
    assert str(again) == f"UnicodeDecodeError: {error}"
