"""A metadata.parquet is read in two columns and in bounds, or refused in words."""

import io
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from step37_flickr8k.dataset import metadata, parquet_rows, parquet_table
from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import (
    CaptionKeyNotFound,
    EmptySelection,
    InvalidMetadata,
    TransientError,
)

SELECTION = Selection(
    repo_id="intro/flickr8k", split="train", caption_key="caption_0", sample_count=None
)
NAMES = ["a.jpg", "b.jpg", "c.jpg"]


def written(columns: dict[str, Any], **how: Any) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out, **how)
    return out.getvalue()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in this process what is no file: another one for each example would take too long."""
    monkeypatch.setattr(metadata, "read_apart", parquet_table.read_parquet)


def rows_of(content: bytes) -> list[Row]:
    return [*read_rows(io.BytesIO(content), SELECTION, "metadata.parquet")]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.usefixtures("here")
def test_every_kind_of_text_is_read(kind: pa.DataType, size: int) -> None:
    """Plain, large and dictionary-encoded texts, in any number of row groups; null is no value."""
    captions = pa.array(["one", None, "two"]).cast(kind)
    content = written(
        {"id": [1, 2, 3], "caption_0": captions, "file_name": NAMES}, row_group_size=size
    )
    assert rows_of(content) == [Row("a.jpg", "one"), Row("c.jpg", "two")]


@pytest.mark.usefixtures("here")
def test_columns_of_other_kinds_beside_them_are_not_read() -> None:
    """Structs, lists and columns whose names begin as ours change nothing."""
    content = written(
        {
            "file_name": NAMES,
            "caption_0": ["one", "two", "three"],
            "caption_0.x": [1, 2, 3],
            "image": [{"bytes": b"x", "path": "y"}] * 3,
            "boxes": [[1], [2, 3], []],
        }
    )
    assert [row.caption for row in rows_of(content)] == ["one", "two", "three"]


REFUSED = {
    "lists": ([["one"], ["two"], []], "the column caption_0 is list.*: write one text in each row"),
    "structs": ([{"en": "x"}] * 3, "the column caption_0 is struct"),
    "numbers": ([1, 2, 3], "the column caption_0 is int64"),
    "bytes": ([b"one", b"two", b"three"], "the column caption_0 is binary"),
}


@pytest.mark.parametrize(("captions", "said"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.usefixtures("here")
def test_captions_that_are_no_texts_are_refused(captions: list[Any], said: str) -> None:
    """The error names the column and its type."""
    with pytest.raises(InvalidMetadata, match=said):
        rows_of(written({"file_name": NAMES, "caption_0": captions}))


@pytest.mark.usefixtures("here")
def test_what_is_no_parquet_file_is_said() -> None:
    """Other bytes, a cut file and an absurd footer have their words."""
    good = written({"file_name": NAMES, "caption_0": NAMES})
    for content, said in (
        (b"", "doesn't end as a Parquet file does"),
        (b"file_name,caption_0\n", "doesn't end as a Parquet file does"),
        (good[:-100], "doesn't end as a Parquet file does"),
        (good[:-8] + b"\xff\xff\xff\x7fPAR1", "has a footer of 2,147,483,647 bytes"),
        (b"PAR1" * 4, "footer of|can't be read as Parquet"),
    ):
        with pytest.raises(InvalidMetadata, match=said):
            rows_of(content)
    with pytest.raises(CaptionKeyNotFound, match="choose one of text"):
        rows_of(written({"file_name": NAMES, "text": NAMES}))
    with pytest.raises(
        InvalidMetadata, match="no column file_name: its columns are image, caption_0"
    ):
        rows_of(written({"image": NAMES, "caption_0": NAMES}))


@pytest.mark.usefixtures("here")
def test_a_row_is_named_by_its_number() -> None:
    """Parquet has no lines."""
    with pytest.raises(
        InvalidMetadata, match=r"metadata\.parquet of intro/flickr8k, row 2: file_n"
    ):
        rows_of(written({"file_name": ["a.jpg", "../b.jpg", "c"], "caption_0": NAMES}))


@pytest.mark.usefixtures("here")
def test_a_text_that_many_rows_share_takes_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file of one long text, 10,000 times, is read in bounds; a longer text is refused."""
    count, text = 10_000, "x" * 1_000_000
    captions = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [text])
    content = written({"file_name": [f"{at}.jpg" for at in range(count)], "caption_0": captions})
    assert len(content) < 1 << 20
    monkeypatch.setattr(parquet_table, "_MOST_TEXT", 1 << 40)
    before = pa.total_allocated_bytes()
    for row in read_rows(io.BytesIO(content), SELECTION, "metadata.parquet"):
        assert len(row.caption) == 1_000_000
        assert pa.total_allocated_bytes() - before < 64 << 20
        if row.file_name == "1500.jpg":
            break
    with pytest.raises(InvalidMetadata, match="row 1 has a text of more than 1,048,576 characters"):
        rows_of(written({"file_name": NAMES, "caption_0": ["x" * (2 << 20)] * 3}))


@pytest.mark.usefixtures("here")
def test_row_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group that would take too much memory is refused with its number."""
    monkeypatch.setattr(parquet_table, "_LARGEST_GROUP", 50)
    with pytest.raises(InvalidMetadata, match=r"row group 0 has .* write smaller row groups"):
        rows_of(written({"file_name": NAMES, "caption_0": NAMES}))


@pytest.mark.usefixtures("here")
def test_names_and_captions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of Parquet may be any number of captions: the whole of them has a limit."""
    monkeypatch.setattr(parquet_table, "_MOST_TEXT", 20)
    with pytest.raises(InvalidMetadata, match="more than 20 characters of names and captions"):
        rows_of(written({"file_name": NAMES, "caption_0": NAMES}))


@pytest.mark.usefixtures("here")
def test_empty_rows_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Billions of rows without a value take a few bytes, and would take hours."""
    monkeypatch.setattr(parquet_table, "_MOST_TEXT", 400)
    empty = pa.array([None] * 30, pa.string())
    with pytest.raises(InvalidMetadata, match="rows without end"):
        rows_of(written({"file_name": empty, "caption_0": empty}))


def read_apart(path: Path, content: bytes) -> list[Row]:
    path.write_bytes(content)
    with path.open("rb") as stream:
        return [*read_rows(stream, SELECTION, "metadata.parquet")]


def test_a_table_is_read_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Rows and errors come back as they are, and this process loads no pyarrow for that."""
    good = written({"file_name": NAMES, "caption_0": ["one", None, "\u00e9"]})
    assert read_apart(tmp_path / "a", good) == [Row("a.jpg", "one"), Row("c.jpg", "\u00e9")]
    with pytest.raises(CaptionKeyNotFound, match="choose one of text"):
        read_apart(tmp_path / "b", written({"file_name": NAMES, "text": NAMES}))
    with pytest.raises(InvalidMetadata, match="doesn't end as a Parquet file does"):
        read_apart(tmp_path / "c", b"text")


@pytest.mark.parametrize(
    ("does", "kind", "said"),
    [
        ("os.abort()", InvalidMetadata, r"it ends the process that reads it \(Aborted\)"),
        ("os.kill(os.getpid(), 9)", TransientError, r"has ended \(Killed\): give the job more"),
        ("raise MemoryError", InvalidMetadata, "takes more than 537 MB of memory to be read"),
    ],
)
def test_what_ends_the_reading_process_is_the_tables_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, kind: type[Exception], said: str
) -> None:
    """A table that makes pyarrow abort, or fills the memory, is named; a kill is the machine's."""
    (tmp_path / "faulty_reader.py").write_text(
        "import os, sys\n"
        "from step37_flickr8k.dataset import parquet_process\n"
        f"def read(*_):\n    {does}\n    yield\n"
        "parquet_process.read_parquet = read\n"
        "parquet_process.main(sys.argv[1:])\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(parquet_rows, "_MODULE", "faulty_reader")
    with pytest.raises(kind, match=said) as at:
        read_apart(tmp_path / "a", b"")
    assert "metadata.parquet of intro/flickr8k" in str(at.value)


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the optional library isn't installed the error says how to install it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InvalidMetadata, match=r"pip install pyarrow"):
        rows_of(b"")


def test_other_tables_do_not_load_pyarrow(tmp_path: Path) -> None:
    """A loader that reads a metadata.csv needs no pyarrow, and doesn't wait for its import."""
    import subprocess

    (tmp_path / "t.csv").write_text("file_name,caption_0\na.jpg,x\n", encoding="utf-8")
    program = (
        "import sys; from step37_flickr8k.dataset.metadata import read_rows;"
        "from step37_flickr8k.dataset.selection import Selection;"
        f"rows = [*read_rows(open({str(tmp_path / 't.csv')!r}, 'rb'), Selection(repo_id='r',"
        "split='s', caption_key='caption_0', sample_count=1))];"
        "assert rows and 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


CELLS = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8))


@pytest.mark.usefixtures("here")
@given(st.lists(CELLS, max_size=8), st.booleans(), st.integers(1, 9))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_that_pyarrow_wrote_comes_back_whole(
    cells: list[str | None], encoded: bool, size: int
) -> None:
    """Every row is there, or was left out with its number."""
    captions = pa.array(cells, pa.string())
    names = [f"{at}.jpg" for at in range(len(cells))]
    content = written(
        {"file_name": names, "caption_0": captions},
        use_dictionary=encoded,
        row_group_size=size,
    )
    left_out: list[int] = []
    stripped = [(cell or "").strip() for cell in cells]
    rows: list[Row] = []
    try:
        rows += read_rows(
            io.BytesIO(content),
            SELECTION,
            "metadata.parquet",
            left_out=lambda at, _: left_out.append(at),
        )
    except EmptySelection:
        assert not any(stripped)
    assert rows == [Row(f"{at}.jpg", text) for at, text in enumerate(stripped) if text]
    assert left_out == [at for at, text in enumerate(stripped, 1) if not text]
