"""The page of what is supported says of each row how that is known."""

import re
from pathlib import Path

import pytest

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
