"""What to fetch, decided from the rows, the listing and what is verified."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from step37_flickr8k.dataset.decide import decide
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import (
    CaptionKeyNotFound,
    EmptySelection,
    ImageNotFound,
    InvalidMetadata,
)


def selection(sample_count: int | None = None, caption_key: str = "caption_0") -> Selection:
    return Selection(
        repo_id="intro/flickr8k", split="train", caption_key=caption_key, sample_count=sample_count
    )


def rows_of(text: str, count: int | None = None, caption_key: str = "caption_0") -> list[Row]:
    return list(read_rows(io.BytesIO(text.encode()), selection(count, caption_key)))


def test_rows_count_when_name_and_caption_are_there() -> None:
    """A row counts if both cells are non-empty after stripping.

    ``sample_count`` counts such rows, in file order.
    """
    text = "file_name,caption_0\na.jpg, one \n,two\nb.jpg,  \n c.jpg ,three\nd.jpg,four\n"
    assert rows_of(text, 2) == [Row("a.jpg", "one"), Row("c.jpg", "three")]
    assert len(rows_of(text)) == 3


def test_nothing_is_read_beyond_the_selection() -> None:
    """Reading one row of a million reads no further."""

    class Watched(io.BytesIO):
        received = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.received += len(content)
            return content

    table = Watched(b"file_name,caption_0\na.jpg,one\n" + b"b.jpg,two\n" * (1 << 20))
    assert list(read_rows(table, selection(1))) == [Row("a.jpg", "one")]
    assert 0 < table.received < 1 << 17


def test_short_rows_do_not_count() -> None:
    """A row that ends before the caption has no caption."""
    assert rows_of("file_name,caption_0\na.jpg\nb.jpg,two\n") == [Row("b.jpg", "two")]


def test_a_caption_column_that_is_not_there_names_those_that_are() -> None:
    """The error names the column asked for and those to choose from."""
    with pytest.raises(
        CaptionKeyNotFound, match=r"'caption_9'.*choose one of caption_0, caption_1"
    ):
        rows_of("file_name,caption_0,caption_1\na.jpg,x,y\n", caption_key="caption_9")


def test_no_row_is_a_runtime_error() -> None:
    """A selection without rows is EmptySelection, which stays a RuntimeError."""
    with pytest.raises(RuntimeError) as caught:
        rows_of("file_name,caption_0\n,\n")
    assert isinstance(caught.value, EmptySelection)


@pytest.mark.parametrize("text", ["", "name,caption_0\na.jpg,x\n"])
def test_what_is_no_table_is_said(text: str) -> None:
    """A metadata.csv without the column of names is InvalidMetadata."""
    with pytest.raises(InvalidMetadata, match="no column file_name"):
        rows_of(text)


def test_an_endless_cell_is_invalid() -> None:
    """What the CSV parser refuses is InvalidMetadata with the line."""
    with pytest.raises(InvalidMetadata, match="line"):
        rows_of("file_name,caption_0\na.jpg," + "x" * (csv.field_size_limit() + 1) + "\n")


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/passwd", "sub/.a.jpg", "..", "metadata.csv", "a\\b.jpg", "a//b"]
)
def test_names_cannot_lead_out_of_the_split(name: str) -> None:
    """A file_name that leads elsewhere, or is hidden, is refused with its line."""
    with pytest.raises(InvalidMetadata, match="line 2"):
        rows_of(f"file_name,caption_0\n{name},x\n")


def test_the_plan_is_wanted_less_verified() -> None:
    """A verified file isn't fetched, unless its digest differs; an image is fetched once."""
    listing = Listing(RemoteFile(name, 10, f"sha256:{name * 64}") for name in "abc")
    rows = [Row("a", "1"), Row("b", "2"), Row("c", "3"), Row("c", "4")]
    plan = decide(rows, listing, {"a": f"sha256:{'a' * 64}", "b": f"sha256:{'0' * 64}"})
    assert (plan.rows, plan.files, [f.name for f in plan.fetch], plan.bytes) == (
        4,
        3,
        ["b", "c"],
        20,
    )


def test_an_image_that_the_commit_does_not_hold_is_named() -> None:
    """A row whose image isn't in the listing is ImageNotFound, before anything is fetched."""
    with pytest.raises(ImageNotFound, match=r"row 2 names gone\.jpg"):
        decide(
            [Row("a", "1"), Row("gone.jpg", "2")],
            Listing([RemoteFile("a", 1, f"git-sha1:{'a' * 40}")]),
            {},
        )


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=3),
        ),
        max_size=20,
    ),
    st.integers(1, 30),
)
def test_a_narrow_selection_is_the_head_of_a_wide_one(
    cells: list[tuple[str, str]], count: int
) -> None:
    """For any table the first n rows are the first n of all rows, whatever the captions hold."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("file_name", "caption_0"), *cells, ("z", "last")])
    every = rows_of(out.getvalue())
    assert rows_of(out.getvalue(), count) == every[:count]


def test_a_list_in_a_message_names_a_few_and_counts_the_rest() -> None:
    """Up to the limit all names are written; of a longer list the first ones and a count."""
    assert listed([]) == ""
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(iter("abcde"), 2) == "a, b and 3 more"
    assert listed(map(str, range(2008)), more="more (see the report)").endswith(
        "6, 7 and 2,000 more (see the report)"
    )


MEANT = {
    "UPPER.JPG": ("upper.jpg", "'upper.jpg', which the commit doesn't hold; it holds 'UPPER.JPG'"),
    "cafe\u0301.jpg": ("caf\u00e9.jpg", r"it holds 'cafe\u0301.jpg'"),
    "caf\u00e9.jpg": ("cafe\u0301.jpg", r"it holds 'caf\xe9.jpg'"),
    " blank.jpg": ("blank.jpg", "it holds ' blank.jpg'"),
    "images/0001.jpg": ("0001.jpg", "it holds 'images/0001.jpg'"),
    "0002.jpg": ("train/0002.jpg", "it holds '0002.jpg'"),
    "0003.jpeg": ("0003.jpg", "it holds '0003.jpeg'"),
    "0004.png": ("0004", "it holds '0004.png'"),
}


@pytest.mark.parametrize(("held", "asked", "said"), [(a, *b) for a, b in MEANT.items()])
def test_the_image_that_is_meant_is_named(held: str, asked: str, said: str) -> None:
    """The error names the image that differs by case, Unicode form, blanks or directory."""
    digest = f"git-sha1:{'a' * 40}"
    listing = Listing(RemoteFile(name, 1, digest) for name in ("metadata.csv", "x.jpg", held))
    with pytest.raises(ImageNotFound) as caught:
        decide([Row("x.jpg", "1"), Row(asked, "2")], listing, {})
    assert said in str(caught.value)
    assert "row 2 names" in str(caught.value)


def test_images_that_no_row_names_are_counted() -> None:
    """Tables and texts are no images, whatever case an image's ending has."""
    digest = f"git-sha1:{'a' * 40}"
    names = ["a.jpg", "b.JPG", "c.webp", "metadata.csv", "README.md", "d.txt"]
    listing = Listing(RemoteFile(name, 1, digest) for name in names)
    assert decide([Row("a.jpg", "1")], listing, {}).unnamed == 2
