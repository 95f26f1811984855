"""A metadata.jsonl is read as its owner meant it, or refused with the line."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import (
    CaptionKeyNotFound,
    ConfigurationError,
    EmptySelection,
    InvalidMetadata,
)

SELECTION = Selection(
    repo_id="intro/flickr8k", split="train", caption_key="caption_0", sample_count=None
)
GOOD = '{"file_name": "a.jpg", "caption_0": "one"}\n'


def rows_of(content: str | bytes) -> list[Row]:
    content = content if isinstance(content, bytes) else content.encode()
    return [*read_rows(io.BytesIO(content), SELECTION, "metadata.jsonl")]


REFUSED = {
    "a list of texts": (
        GOOD + '{"file_name": "b.jpg", "caption_0": ["two", "three"]}\n',
        "line 2: caption_0 is a list: write one text",
    ),
    "a list of names": (
        '{"file_name": ["b.jpg"], "caption_0": "two"}\n',
        "line 1: file_name is a list: write one text",
    ),
    "a number": (GOOD + '{"file_name": "b.jpg", "caption_0": 7}', "line 2: caption_0 is a number"),
    "a truth": (
        GOOD + '{"file_name": "b.jpg", "caption_0": false}',
        "line 2: caption_0 is true or false",
    ),
    "conversations, datasets 7337": (
        '{"file_name": "b.jpg", "caption_0": [{"from": "human", "value": "<image>"}]}',
        "line 1: caption_0 is a list: write one text",
    ),
    "names under another key, datasets 6777": (
        '{"caption_0": "a drawing", "image": "images/212734.png"}',
        "has no column file_name: its columns are caption_0, image",
    ),
    "an object": (
        GOOD + '{"file_name": "b.jpg", "caption_0": {"en": "two"}}',
        "line 2: caption_0 is an object",
    ),
    "a key twice": (
        '{"file_name": "b.jpg", "caption_0": "two", "caption_0": "three"}',
        "line 1 has the key caption_0 2 times",
    ),
    "NaN": ('{"file_name": "b.jpg", "caption_0": NaN}', r"line 1 is no JSON \(NaN is no number\)"),
    "NaN elsewhere": ('{"file_name": "b.jpg", "caption_0": "x", "y": NaN}', "line 1 is no JSON"),
    "a list of objects": ("[" + GOOD.strip() + "]\n", "line 1 is a list, and no object"),
    "JSON on many lines": (
        '[\n{"file_name": "b.jpg",\n "caption_0": "two"}\n]',
        r"line 1 is no JSON \(Expecting value\): write one object on each line",
    ),
    "a table of CSV": ("file_name,caption_0\na.jpg,one\n", "line 1 is no JSON"),
    "an object that is cut": (GOOD + '{"file_name": "b.jpg", "capt', "line 2 is no JSON"),
    "two objects on a line": (GOOD.strip() + GOOD, r"line 1 is no JSON \(Extra data\)"),
    "a number of 5,000 digits": (f'{{"x": {"9" * 5000}}}', "line 1 is no JSON"),
    "nested without end": ("[" * 100_000, "line 1 is no JSON"),
    "half a character": (
        '{"file_name": "b.jpg", "caption_0": "\\ud800"}',
        "line 1: caption_0 has half a character",
    ),
    "UTF-16": (GOOD.encode("utf-16"), "it is UTF-16, not text in UTF-8"),
    "no names": (
        '{"image": "b.jpg", "caption_0": "x"}',
        "has no column file_name: its columns are",
    ),
    "nothing": (b"", "has no column file_name: its columns are none"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_meant_is_refused_with_its_line(content: str | bytes, said: str) -> None:
    """The error names the line and what should stand there."""
    with pytest.raises(InvalidMetadata, match=said):
        rows_of(content)


READ = {
    "a byte order mark": "\ufeff" + GOOD,
    "empty lines": "\n" + GOOD + "\n  \n",
    "CRLF": GOOD.replace("\n", "\r\n"),
    "no newline at the end": GOOD.strip(),
    "null": '{"file_name": null, "caption_0": "x"}\n' + GOOD,
    "a row without the key": '{"file_name": "b.jpg"}\n' + GOOD,
    "other columns": '{"id": 1, "box": [1, 2], "file_name": "a.jpg", "caption_0": "one"}',
    "other keys twice": '{"id": 1, "id": 2, "file_name": "a.jpg", "caption_0": "one"}',
}


@pytest.mark.parametrize("content", READ.values(), ids=READ.keys())
def test_what_libraries_write_is_read(content: str) -> None:
    """Marks, empty lines and other columns change nothing; null is no value."""
    assert rows_of(content) == [Row("a.jpg", "one")]


def test_a_caption_column_that_no_row_has_names_the_others() -> None:
    """Nobody knows before the end; then the error names the keys that there are."""
    with pytest.raises(CaptionKeyNotFound, match="choose one of text, caption_1"):
        rows_of('{"file_name": "a.jpg", "text": "x"}\n{"file_name": "b.jpg", "caption_1": "y"}\n')


CELLS = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8))


@given(st.lists(CELLS, max_size=8), st.booleans())
@settings(max_examples=200)
def test_a_table_that_python_wrote_comes_back_whole(cells: list[str | None], ascii_: bool) -> None:
    """Every row is there, or was left out with its line."""
    table = [{"file_name": f"{at}.jpg", "caption_0": cell} for at, cell in enumerate(cells)]
    content = "".join(json.dumps(row, ensure_ascii=ascii_) + "\n" for row in table)
    left_out: list[int] = []
    stream = io.BytesIO(content.encode())
    try:
        rows = [
            *read_rows(
                stream, SELECTION, "metadata.jsonl", left_out=lambda at, _: left_out.append(at)
            )
        ]
    except (EmptySelection, InvalidMetadata):
        assert not any(cell and cell.strip() for cell in cells)
        return
    stripped = [(cell or "").strip() for cell in cells]
    assert rows == [Row(f"{at}.jpg", text) for at, text in enumerate(stripped) if text]
    assert left_out == [at for at, text in enumerate(stripped, 1) if not text]


@given(st.lists(CELLS, min_size=1, max_size=5), st.data())
@settings(max_examples=200)
def test_a_damaged_table_gives_an_error_with_a_line_or_accounts_for_each_row(
    cells: list[str | None], data: st.DataObject
) -> None:
    """After any change of a byte an error names the place, or each line is accounted for."""
    table = [{"file_name": f"{at}.jpg", "caption_0": cell} for at, cell in enumerate(cells)]
    content = bytearray("".join(json.dumps(row) + "\n" for row in table).encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    counted: list[int] = []
    said = ""
    try:
        for _ in read_rows(
            io.BytesIO(content),
            SELECTION,
            "metadata.jsonl",
            left_out=lambda at, _: counted.append(at),
        ):
            counted.append(0)
    except EmptySelection:
        pass
    except ConfigurationError as error:
        said = str(error)
    if said:
        assert "line" in said or "column" in said
        return
    lines = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert len(counted) == sum(bool(line.strip()) for line in lines)
