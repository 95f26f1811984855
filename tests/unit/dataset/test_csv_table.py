"""A metadata.csv is read as its owner meant it, or refused with the line."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import ConfigurationError, EmptySelection, InvalidMetadata

HEADER = "file_name,caption_0\n"


def selection(caption_key: str = "caption_0", count: int | None = None) -> Selection:
    return Selection(
        repo_id="intro/flickr8k", split="train", caption_key=caption_key, sample_count=count
    )


def rows_of(content: str | bytes, caption_key: str = "caption_0") -> list[Row]:
    content = content if isinstance(content, bytes) else content.encode()
    return [*read_rows(io.BytesIO(content), selection(caption_key))]


REFUSED = {
    "a stray quote": (
        HEADER + '0000.jpg,a dog\n0001.jpg,"a 6 inch ruler\n0002.jpg,a cat\n0003.jpg,a boat\n',
        r"lines 3 to 5: unexpected end of data: the quote on line 3 is never closed",
    ),
    "two stray quotes": (
        HEADER + '0000.jpg,"a 6 inch ruler\n0001.jpg,a cat\n0002.jpg,"a 7 inch ruler\n',
        r"lines 2 to 4: ',' expected after '\"'",
    ),
    "a comma without quotes": (
        "file_name,caption_0,caption_1\n0000.jpg,a dog,one\n0001.jpg,a man, a woman,two\n",
        r"line 3 has 4 cells, and the header 3: put a text that holds a comma into double quotes",
    ),
    "a comma behind a backslash": (
        HEADER + "0000.jpg,a man\\, a woman\n",
        r"line 2 has 3 cells.*a backslash before it doesn't count",
    ),
    "a quote behind a backslash": (
        HEADER + '0000.jpg,"a \\"big\\" dog"\n',
        r"line 2: ',' expected after '\"': write a quote within a quoted text twice",
    ),
    "a quote behind a blank": (
        HEADER + '0000.jpg, "a man"\n',
        "line 2: a blank stands between a comma and a quote",
    ),
    "a quoted comma behind a blank": (
        HEADER + '0000.jpg, "a man, a woman"\n',
        "line 2: a blank stands between a comma and a quote",
    ),
    "a quoted name behind a blank": (
        HEADER + ' "0000.jpg",a man\n',
        "line 2: a blank stands between a comma and a quote",
    ),
    "a text beyond the limit of Python's reader, cldf/csvw 69": (
        HEADER + f'0000.jpg,"{"a chapter " * 14_000}"\n',
        r"line 2: field larger than field limit \(131072\): is a quote missing\? Longer texts are",
    ),
    "a trailing comma in every row": (
        HEADER + "0000.jpg,a dog,\n",
        "line 2 has 3 cells, and the header 2",
    ),
    "a carriage return without quotes": (
        HEADER + "0000.jpg,a dog\rand a cat\n",
        r"line 2 ends with '\\r', and the header with '\\n': put a text that holds a line end",
    ),
    "a caption of ICDAR, datumaro 374": (
        HEADER + 'word_136.png, "(412\\")"\n',
        "line 2: a blank stands between a comma and a quote",
    ),
    "a row of two captions, covid-chestxray 39": (
        HEADER + "0000.jpg,Patient 3, second day\n",
        "line 2 has 3 cells, and the header 2",
    ),
    "semicolons": (
        "file_name;caption_0\n0000.jpg;a dog\n",
        "separated by semicolons: save it with commas",
    ),
    "tabs": ("file_name\tcaption_0\n0000.jpg\ta dog\n", "separated by tabs: save it with commas"),
    "quoted tabs": ('"file_name"\t"caption_0"\n', "separated by tabs: save it with commas"),
    "a NUL": (HEADER + "0000.jpg,a dog\n0001.jpg,a\0cat\n", "line 3 has a NUL"),
    "UTF-16 without a mark": (HEADER.encode("utf-16-le"), "line 1 has a NUL.*UTF-8"),
    "Latin-1 on the third line": (
        (HEADER + "a.jpg,a dog\nb.jpg,un café\n").encode("latin-1"),
        "line 3: it is no text in UTF-8",
    ),
    "Latin-1 far down": (
        (HEADER + "a.jpg,a dog\r\n" * 5000 + "b.jpg,un café\r\n").encode("latin-1"),
        "line 5002: it is no text in UTF-8",
    ),
    "nothing": ("", "no column file_name in its first line, because it is empty"),
    "a blank line above the header": ("\n" + HEADER, "in its first line, which is blank"),
    "a web page": ("<!DOCTYPE html>\n<html>", "in its first line, it is a web page"),
    "a pointer": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "in its first line, it is a pointer of Git LFS, not the table",
    ),
    "UTF-16": (HEADER.encode("utf-16"), "it is UTF-16, not text in UTF-8"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_meant_is_refused_with_its_line(content: str | bytes, said: str) -> None:
    """Where rows would be lost or captions cut, the error names line and remedy."""
    with pytest.raises(InvalidMetadata, match=said):
        rows_of(content)


READ = {
    "CRLF": (HEADER + "a.jpg,one\r\nb.jpg,two\r\n", ["one", "two"]),
    "CR alone": ((HEADER + "a.jpg,one\nb.jpg,two\n").replace("\n", "\r"), ["one", "two"]),
    "no newline at the end": (HEADER + "a.jpg,one", ["one"]),
    "blank lines": (HEADER + "\n\na.jpg,one\n\n  \nb.jpg,two\n\n", ["one", "two"]),
    "a quoted newline": (
        HEADER + 'a.jpg,"one\nand more"\nb.jpg,two\n',
        ["one\nand more", "two"],
    ),
    "a quote within a text": (HEADER + 'a.jpg,a 6" ruler\n', ['a 6" ruler']),
    "doubled quotes": (HEADER + 'a.jpg,"a ""big"" dog"\n', ['a "big" dog']),
    "a quoted text that begins with blank and quote": (HEADER + 'a.jpg," ""x"" y"\n', ['"x" y']),
    "blanks in the header": (" file_name , caption_0\na.jpg, one\n", ["one"]),
    "a byte order mark": ("\ufeff" + HEADER + "a.jpg,one\n", ["one"]),
    "two byte order marks": ("\ufeff\ufeff" + HEADER + "a.jpg,one\n", ["one"]),
    "another column twice": ("file_name,x,x,caption_0\na.jpg,1,2,one\n", ["one"]),
    "columns without a name": (",file_name,caption_0,\n0,a.jpg,one,\n", ["one"]),
    "a row that lacks the last column": ("file_name,caption_0,x\na.jpg,one\n", ["one"]),
}


@pytest.mark.parametrize(("content", "captions"), READ.values(), ids=READ.keys())
def test_what_spreadsheets_and_libraries_write_is_read(content: str, captions: list[str]) -> None:
    """Line ends, marks, blanks and quotes that are legal change nothing."""
    assert [row.caption for row in rows_of(content)] == captions


def test_a_header_with_blanks_names_its_columns_without_them() -> None:
    """The columns to choose from have no blanks; what can't be seen in one is shown."""
    header = "file_name, caption_1 ,cap\u200btion\na.jpg,x,y\n"
    with pytest.raises(ConfigurationError, match=r"choose one of caption_1, 'cap\\u200btion'$"):
        rows_of(header)
    assert rows_of(header, " caption_1") == [Row("a.jpg", "x")]


def test_a_name_is_not_stripped_where_the_commit_has_it_unstripped() -> None:
    """Names lose edge blanks, but for the images whose names have some."""
    content = (HEADER + " a.jpg,one\n b.jpg,two\n").encode()
    rows = read_rows(io.BytesIO(content), selection(), unstripped={" a.jpg", "c.jpg "})
    assert [row.file_name for row in rows] == [" a.jpg", "b.jpg"]


@pytest.mark.parametrize("content", [HEADER, HEADER + "\n \n"])
def test_a_header_alone_has_no_rows(content: str) -> None:
    """No other column is recommended where no row has any cell."""
    with pytest.raises(EmptySelection, match="flickr8k has no rows: choose another split"):
        rows_of(content)


@pytest.mark.parametrize("name", ["stray-quote.csv", "unquoted-comma.csv"])
def test_the_cases_that_users_met_are_refused(name: str) -> None:
    """The two tables lost captions and rows in silence once."""
    said = {
        "stray-quote.csv": "lines 3 to 7: unexpected end of data",
        "unquoted-comma.csv": "line 3 has 4",
    }
    content = (Path(__file__).parent / "tables" / name).read_bytes()
    with pytest.raises(InvalidMetadata, match=said[name]):
        rows_of(content)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
TABLES = st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8)


@given(TABLES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
@settings(max_examples=300)
def test_a_table_that_python_wrote_comes_back_whole(
    table: list[tuple[str, str, str]], end: str, all_quoted: bool
) -> None:
    """Every row is there, stripped and else unchanged, or was left out by name."""
    out = io.StringIO(newline="")
    # Some versions of Python don't quote a line end that isn't the table's own.
    if all_quoted or end != "\r\n":
        writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    else:
        writer = csv.writer(out)
    writer.writerow(["file_name", "other", "caption_0"])
    writer.writerows((f"{at}.jpg", other, caption) for at, (_, other, caption) in enumerate(table))
    left_out: list[int] = []
    stream = io.BytesIO(out.getvalue().encode())
    try:
        rows = [*read_rows(stream, selection(), left_out=lambda at, _: left_out.append(at))]
    except EmptySelection:
        rows = []
    captions = [caption.strip() for _, _, caption in table]
    assert rows == [Row(f"{at}.jpg", text) for at, text in enumerate(captions) if text]
    assert len(rows) + len(left_out) == len(table)


@given(TABLES, st.data())
@settings(max_examples=300)
def test_a_damaged_table_gives_an_error_with_a_line_or_accounts_for_each_row(
    table: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    """After any change of a byte an error names the place, or each row is accounted for."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["file_name", "caption_0"])
    writer.writerows((f"{at}.jpg", caption) for at, (caption, _, _) in enumerate(table))
    content = bytearray(out.getvalue().encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 1))] = data.draw(
        st.sampled_from([b'"', b",", b"\n", b"\r", b"\\", b"\0", b" ", b"\xff", b""])
    )
    left_out: list[int] = []
    try:
        rows = [
            *read_rows(io.BytesIO(content), selection(), left_out=lambda at, _: left_out.append(at))
        ]
    except EmptySelection:
        return
    except ConfigurationError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "line" in said or "column" in said
        return
    strict = [*csv.reader(io.StringIO(content.decode(), newline=""), strict=True)][1:]
    assert len(rows) + len(left_out) == sum(
        len(row) > 1 or bool("".join(row).strip()) for row in strict
    )
