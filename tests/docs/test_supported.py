"""The page of what is supported says of each row how that is known."""

import csv
import re
from pathlib import Path

import pytest

from step37_flickr8k.cache import lease_content, manifest, record, rows
from step37_flickr8k.dataset import csv_table, parquet_rows, parquet_table, tables
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.download import chunks
from step37_flickr8k.hub import api_client, bounds
from step37_flickr8k.hub.retry import LONGEST_PAUSE
from step37_flickr8k.images.jpeg import LONGEST_SIDE
from step37_flickr8k.limited import budget

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/supported.md").read_text()
ROWS = [row for row in re.findall(r"^\| (.+) \|$", PAGE, re.MULTILINE) if " | " in row]


@pytest.mark.parametrize("row", [row for row in ROWS if row[-1] != "|" and "---" not in row])
def test_each_row_is_tested_should_work_or_is_refused(row: str) -> None:
    """A row names a test that is there, or says that it should work, or why it is refused."""
    what, _, how = row.partition(" | ")
    assert what
    tests = re.findall(r"`(tests/[\w/.]+)`", how)
    if how.startswith(("tested", "left out")):
        assert tests
    else:
        assert how.startswith(("should work", "refused, because"))
    for test in tests:
        assert (ROOT / test).is_file(), test


def mib(size: int) -> str:
    """Return a size as the page says it."""
    assert size % (1 << 20) == 0
    return f"{size >> 20:,} MiB"


LIMITS = {
    "an image:": (
        f"{MAX_PIXELS:,} pixels",
        f"sides of {LONGEST_SIDE:,} pixels",
        f"{budget.image_memory(MAX_PIXELS) / 1e6:.0f} MB of memory",
        f"{budget._BYTES_PER_PIXEL} bytes for each pixel of `max_pixels`, and {mib(budget._REST)}",
        f"{budget.image_seconds(MAX_PIXELS)} s of processor time",
        f"above {budget._USUAL_PIXELS:,} pixels",
    ),
    "a Parquet conversion": (
        f"{mib(chunks.LARGEST)} for a footer, {mib(chunks.LARGEST)} for the images",
    ),
    "a table:": (
        mib(rows.LARGEST_TABLE),
        f"{tables._LONGEST_LINE:,} characters in a line",
        f"{csv.field_size_limit():,} characters in a cell",
        f"{csv_table._LONGEST_ROW:,} characters in a row",
    ),
    "`metadata.parquet`": (
        f"{mib(parquet_table._LARGEST_FOOTER)} for its footer",
        f"{mib(parquet_table._LARGEST_GROUP)} for both columns",
        f"{parquet_table._MOST_TEXT:,} characters in all",
        f"{mib(budget.TABLE_MEMORY)} of memory, {parquet_rows._SECONDS} s of processor time",
    ),
    "an answer of the API": (
        f"the API: {mib(bounds._LARGEST_ANSWER)};",
        f"{api_client._MOST_ENTRIES:,} entries, {api_client._MOST_PAGES:,} pages",
        f"{mib(api_client._LARGEST_LISTING)}, {api_client._LONGEST_LISTING:,.0f} s",
    ),
    "a pause": (f"{LONGEST_PAUSE:,.0f} s",),
    "what is read from a cache": (
        f"{mib(record._LARGEST)} of a record",
        f"{mib(manifest._LARGEST)} of a manifest",
        f"{lease_content.LARGEST >> 10} KiB of a lease",
    ),
}


@pytest.mark.parametrize("what", LIMITS)
def test_the_limits_are_those_of_the_code(what: str) -> None:
    """Each number of the page is the one that holds."""
    (row,) = [row for row in ROWS if row.startswith(what)]
    missing = [limit for limit in LIMITS[what] if limit not in row]
    assert not missing, row


def test_what_takes_memory_is_told_beside_the_speed() -> None:
    """The page about performance has the same numbers."""
    page = (ROOT / "docs/performance.md").read_text()
    for said in (
        f"up to {mib(budget._SMALL)} for one input",
        f"up to {budget.image_memory(MAX_PIXELS) / 1e6:.0f} MB for a large image",
        f"up to {mib(budget.TABLE_MEMORY)}",
    ):
        assert said in page
