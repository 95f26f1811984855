"""Most tables are read in a fraction of the time, to the same rows and errors."""

import csv
import io
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from step37_flickr8k.dataset import csv_table, metadata, tables
from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.names import TABLES, are_usual, why_not_plain
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import ConfigurationError, InvalidMetadata

HEAD = b"file_name,caption_0\n"
Found = tuple[list[Row], list[tuple[int, str]], str]


def read(
    content: bytes,
    *,
    count: int | None = None,
    unstripped: frozenset[str] = frozenset(),
    table: str = "metadata.csv",
) -> Found:
    """Return the rows, what was left out, and the error."""
    selection = Selection(repo_id="r", split="train", caption_key="caption_0", sample_count=count)
    rows: list[Row] = []
    left_out: list[tuple[int, str]] = []
    try:
        rows.extend(
            read_rows(
                io.BytesIO(content),
                selection,
                table,
                unstripped=unstripped,
                left_out=lambda *row: left_out.append(row),
            )
        )
    except ConfigurationError as error:
        return rows, left_out, str(error)
    return rows, left_out, ""


def written(rows: Sequence[Sequence[str]], end: str = "\n", *, all_quoted: bool = False) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(
        out, lineterminator=end, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    ).writerows(rows)
    return out.getvalue().encode()


USUAL = st.sampled_from(["a dog", "two, dogs", 'a "big" dog', "un caf\u00e9", "x " * 40])
ODD = st.one_of(
    USUAL,
    st.sampled_from(
        ["", " ", "one\ntwo", "one\rtwo", "\r\n", ' "x" y', '"', "\u2028", "\x0b", "\t"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=4),
)
NAMES = st.sampled_from(
    [
        *("a.jpg", "b c.jpg", "d/e.jpg", "\u00e9.jpg", " f.jpg", "", "../g", "/h", ".i", "j\\k"),
        *("l\nm", "C:n", "o:p", "d//e", "d/./e", "metadata.csv", "d/metadata.csv", "x" * 300),
        "train/q.jpg",
    ]
)
HEADERS = st.sampled_from(
    [("file_name", "caption_0"), ("x", "caption_0", "file_name"), ("file_name", "caption_0", "x")]
)
DAMAGE = st.sampled_from(
    [b'"', b",", b"\n", b"\r", b"\r\n", b"\\", b"\0", b" ", b"\t", b' "', b"\xff", b"\xc3", b""]
)


@st.composite
def contents(draw: st.DrawFn, names: st.SearchStrategy[str] = NAMES) -> bytes:
    """Draw a table: tidy but for a few cells, lines and bytes."""
    header = draw(HEADERS)
    table = [list(header)]
    for number in range(draw(st.integers(0, 8))):
        odd = draw(st.integers(0, 4)) == 0
        cells = {"file_name": draw(names) if odd else f"train/{number}.jpg", "x": draw(USUAL)}
        cells["caption_0"] = draw(ODD if odd else USUAL)
        row = [cells[column] for column in header]
        table.append(row[: draw(st.integers(0, 3))] if draw(st.integers(0, 19)) == 0 else row)
    content = bytearray(
        written(
            table,
            draw(st.sampled_from(["\n", "\n", "\r\n", "\r"])),
            all_quoted=draw(st.booleans()),
        )
    )
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 2))] = draw(DAMAGE)
    return bytes(content) if draw(st.booleans()) else bytes(content).rstrip(b"\r\n")


@given(
    contents(),
    st.sampled_from([1, 10, 100, 1 << 16]),
    st.sampled_from([None, None, 1, 3]),
    st.sampled_from([frozenset(), frozenset([" f.jpg"])]),
    st.sampled_from(["metadata.csv", "../metadata.csv"]),
)
@settings(max_examples=150)
# Lone CRs, a text of two lines, also at the end of a block, a quote behind a blank, an empty cell,
# a header that ends as no row does, and a name that keeps its blank
@example(HEAD + b"a.jpg,x\rb.jpg,y\n", 1 << 16, None, frozenset(), "metadata.csv")
@example(HEAD + b"a.jpg,x\ry\nb.jpg,y\n", 1 << 16, None, frozenset(), "metadata.csv")
@example(HEAD + b'a.jpg,"x\ny"\nb.jpg,z\n', 30, None, frozenset(), "metadata.csv")
@example(HEAD + b'a.jpg,"x\ny"\nb.jpg,z\n', 1 << 16, None, frozenset(), "metadata.csv")
@example(HEAD + b'a.jpg,"x\n', 1 << 16, None, frozenset(), "metadata.csv")
@example(HEAD + b'a.jpg, "x"\nb.jpg,y\n', 1 << 16, None, frozenset(), "metadata.csv")
@example(HEAD + b"a.jpg,x\r\nb.jpg,\r\n", 1 << 16, None, frozenset(), "metadata.csv")
@example(b"file_name,caption_0\ra.jpg,x\nb.jpg,y\n", 1 << 16, None, frozenset(), "metadata.csv")
@example(HEAD + b" f.jpg,x\nb.jpg,y\n", 1 << 16, None, frozenset([" f.jpg"]), "metadata.csv")
def test_a_table_read_by_blocks_is_as_one_read_row_by_row(
    content: bytes, block: int, count: int | None, unstripped: frozenset[str], table: str
) -> None:
    """For any table: the same rows, left out by the same lines, and the same error after them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_BLOCK", block)
        by_blocks = read(content, count=count, unstripped=unstripped, table=table)
        patch.setattr(csv_table, "_usual_rows", lambda *_: None)
        patch.setattr(metadata._Reading, "usual_rows", lambda *_: ())
        by_rows = read(content, count=count, unstripped=unstripped, table=table)
    assert by_blocks == by_rows


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("all_quoted", [False, True])
def test_a_usual_table_is_read_by_blocks_alone(
    end: str, all_quoted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commas, quotes and letters of any language are usual: no row is looked at by itself."""

    def never(*_: object) -> None:
        raise AssertionError("a row was looked at by itself")

    captions = ["a dog", 'a "big", brown dog', "un caf\u00e9", "\u72ac"]
    expected = [Row(f"images/dog {number}_a.jpg", captions[number % 4]) for number in range(5000)]
    table = [("file_name", "caption_0"), *((row.file_name, row.caption) for row in expected)]
    monkeypatch.setattr(csv_table, "_check", never)
    monkeypatch.setattr(metadata, "why_not_plain", never)
    content = written(table, end, all_quoted=all_quoted)
    assert read(content) == (expected, [], "")


@pytest.mark.parametrize("odd", ["", " a", "a\\", "a:", "caf\u00e9", ".a", "a//b", "metadata.csv"])
def test_an_odd_row_changes_nothing_in_those_around_it(odd: str) -> None:
    """Rows before and after a name that has to be looked at are there, in order."""
    rows = [(f"{number}.jpg", "a dog") for number in range(1000)]
    rows[500] = (odd, "a dog")
    found, left_out, error = read(written([("file_name", "caption_0"), *rows]))
    names = [row.file_name for row in found]
    if error:
        assert "line 502: file_name " + repr(odd) in error
        assert names == [name for name, _ in rows[:500]]
    else:
        assert names == [name.strip() for name, _ in rows if name]
        assert [line for line, _ in left_out] == ([] if odd else [502])


def test_lines_without_a_cell_are_no_rows_of_a_table_of_one_column() -> None:
    """The names are the captions there, and an empty line has none of either."""
    selection = Selection(repo_id="r", split="train", caption_key="file_name", sample_count=None)
    left_out: list[int] = []
    content = io.BytesIO(b"file_name\na.jpg\n\n \nb.jpg\n")
    rows = [*read_rows(content, selection, left_out=lambda at, _: left_out.append(at))]
    assert (rows, left_out) == ([Row("a.jpg", "a.jpg"), Row("b.jpg", "b.jpg")], [])


def test_rows_before_bytes_that_are_no_text_are_read() -> None:
    """A selection that ends before them is whole, however near they are; else the line is named."""
    content = written([("file_name", "caption_0"), *((f"{at}.jpg", "x") for at in range(9))])
    content += "9.jpg,un caf\u00e9\n".encode("latin-1")
    assert read(content, count=9)[2] == ""
    found, _, error = read(content)
    assert [row.file_name for row in found] == [f"{at}.jpg" for at in range(9)]
    assert "line 11: it is no text in UTF-8" in error


@given(st.lists(st.one_of(NAMES, st.text(max_size=4)), max_size=4))
@settings(max_examples=150)
def test_names_that_are_usual_are_plain(names: list[str]) -> None:
    """No name that leads elsewhere, is a table's or can't be written passes among others."""
    if are_usual(names):
        assert [why_not_plain(name) for name in names] == [None] * len(names)


def test_usual_names() -> None:
    """Most names are; tables, and what is no more than allowed, aren't."""
    assert are_usual(["a.jpg", "1 (2).JPG", "a b/c_d/e-f/g.h.png", "x" * 200, "x" * 200 + "/y"])
    for name in (*TABLES, "x" * 256, "a/" * 520 + "b", "a\nb", "", "/a", "a/", "a/../b", "C:a"):
        assert not are_usual(["a.jpg", name]), name


def test_a_longer_line_than_a_tables_is_refused_after_the_rows_before_it() -> None:
    """With or without an end, and whatever is usual."""
    head = written([("file_name", "caption_0"), ("a.jpg", "one")])
    for tail in (b"x" * (2 << 20), b"x" * (2 << 20) + b"\n", b"b.jpg," + b"x" * (1 << 20) + b"\n"):
        rows, _, error = read(head + tail)
        assert rows == [Row("a.jpg", "one")]
        assert "has a line of more than 1,048,576 characters" in error
    with pytest.raises(InvalidMetadata, match="field larger than field limit"):
        [
            *csv_table.read_csv(
                io.BytesIO(head + b"b.jpg," + b"x" * 140_000), tables.Wanted("t", "caption_0")
            )
        ]
