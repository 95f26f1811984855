"""The comparison with the usual ways: its documents show what its script says, and the script runs."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compare

from step37_flickr8k.localhub import LocalHub

ROOT = Path(__file__).parents[2]


def shown(document: str) -> list[list[str]]:
    """Give the cells of the table between the marks, the heading first."""
    text = (
        (ROOT / document)
        .read_text(encoding="utf-8")
        .partition("<!-- comparison -->\n")[2]
        .partition("<!-- /comparison -->")[0]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [rows[0], *rows[2:]]


def test_the_page_has_a_row_for_each_fault_and_a_column_for_each_way() -> None:
    """What the script would run is what the page shows, each way with a version."""
    heading, *rows = shown("docs/comparison.md")
    assert [cell.partition(" (")[0] for cell in heading[1:]] == [
        way.name.partition(" (")[0] for way in compare.WAYS
    ]
    assert all(
        f"({way.distribution} " in cell for way, cell in zip(compare.WAYS, heading[1:], strict=True)
    )
    assert [row[0] for row in rows] == [trouble.name for trouble in compare.TROUBLES]
    assert all(len(row) == len(heading) and all(row) for row in rows)


def test_the_versions_shown_are_those_that_would_run() -> None:
    """Each peer stands in the heading with the version that the next run would install."""
    lines = [
        line
        for file in ("constraints.txt", "requirements/compare.txt")
        for line in (ROOT / file).read_text().splitlines()
    ]
    pinned = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", "\n".join(lines).replace("_", "-"), re.MULTILINE)
    )
    peers = [
        f"({way.distribution} {pinned[way.distribution.replace('_', '-')]})"
        for way in compare.WAYS[:-1]
    ]
    told = [cell[cell.rindex("(") :] for cell in shown("docs/comparison.md")[0][1:-1]]
    assert told == peers, "run make compare"


def test_the_readme_shows_the_pages_rows() -> None:
    """The README's table is made of four rows of the page's."""
    heading, *rows = shown("docs/comparison.md")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    short = compare.in_short(heading, rows)
    assert f"<!-- comparison -->\n{short}<!-- /comparison -->" in text
    assert len(shown("README.md")) == 1 + 4


@pytest.mark.parametrize(
    ("cell", "mark"),
    [
        ("4 of 4 end well, after 130 s", "✓"),
        ("4 of 4 end well; files downloaded up to 4 times", "✓ with 4 downloads"),
        ("4 of 4 end well; **a wrong file stays**", "✗ a wrong file stays"),
        ("3 of 4 end well; 1 of 4 fail: `A`; files downloaded up to 4 times", "✗ fails"),
        ("4 of 4 hang (> 150 s)", "✗ hangs"),
    ],
)
def test_a_tick_is_for_every_rank_and_every_byte(cell: str, mark: str) -> None:
    """One rank that fails, or one wrong file, is no tick."""
    assert compare.mark(cell) == mark


def test_each_fault_is_explained() -> None:
    """The page has a paragraph for each, under the words of the table."""
    page = (ROOT / "docs/comparison.md").read_text(encoding="utf-8").lower()
    assert [t.name for t in compare.TROUBLES[1:] if f"**{t.name.lower()}.**" not in page] == []


@pytest.mark.parametrize(
    "narrow", [("--write", "--fault", "503"), ("--write", "--way", "warmup"), ("--way", "nobody")]
)
def test_a_part_of_the_table_is_never_written(
    narrow: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A filter together with --write is refused before anything runs, and so is one that nothing matches."""
    with pytest.raises(SystemExit) as refused:
        compare.parse(narrow)
    assert refused.value.code == 2
    assert narrow[-2] in capsys.readouterr().err


def test_a_filter_chooses_and_none_takes_all() -> None:
    """Without --write a part may run; with it everything does."""
    assert [len(chosen) for chosen in compare.parse(["--fault", "503", "--way", "warmup"])[1:]] == [
        1,
        1,
    ]
    assert compare.parse(["--write"])[1:] == (list(compare.WAYS), list(compare.TROUBLES))


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    """The text around the table stays, and a document without marks is left as it is."""
    document = tmp_path / "page.md"
    document.write_text("a\n<!-- comparison -->\nold\n<!-- /comparison -->\nb\n", encoding="utf-8")
    compare.write(document, "new\n")
    assert (
        document.read_text(encoding="utf-8")
        == "a\n<!-- comparison -->\nnew\n<!-- /comparison -->\nb\n"
    )
    document.write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="no table to replace"):
        compare.write(document, "new\n")
    assert document.read_text(encoding="utf-8") == "a\nb\n"


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (("", "", "", ""), "4 of 4 end well"),
        (
            ("killed", None, None, "RuntimeError"),
            "2 of 3 hang (> 60 s); 1 of 3 fail: `RuntimeError`",
        ),
        (("A", "B", "B", "B"), "1 of 4 fail: `A`; 3 of 4 fail: `B`"),
    ],
)
def test_a_cell_tells_how_the_ranks_ended(cell: tuple[Any, ...], told: str) -> None:
    """Killed ranks aren't counted, equal endings are told together; wrong files count where a rank ended well."""
    assert compare.Cell(list(cell), 1.0, 60.0, wrong=0, missing=0).words() == told
    wrong = compare.Cell(list(cell), 1.0, 60.0, wrong=1, missing=2).words()
    assert ("a wrong file stays" in wrong and "files are missing" in wrong) == ("" in cell)


def test_ranks_get_nothing_of_a_login_a_launcher_or_a_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What would turn a peer away from the local Hub or its own group stays behind; what finds programs stays."""
    foreign = (
        "HTTP_PROXY",
        "all_proxy",
        "RANK",
        "MASTER_ADDR",
        "NODE_RANK",
        "LT_DEVICES",
        "ACCELERATE_USE_CPU",
        "HF_TOKEN",
    )
    for name in foreign:
        monkeypatch.setenv(name, "1")
    given = compare.environment(tmp_path / "shim.so", tmp_path)
    assert not given.keys() & set(foreign)
    assert given["PATH"] == os.environ["PATH"]


def test_ranks_end_even_if_the_middle_never_comes(hub: LocalHub, tmp_path: Path) -> None:
    """Where nobody asks for the file in the middle, what should have happened before is an error that leaves no rank."""
    killed = compare.Trouble(name="", first="killed", bound=0.0)
    with pytest.raises(TimeoutError, match="in the middle"):
        # Print: a script that ends well
        compare.prepare(compare.Way("", "", print), hub, tmp_path / "shared", killed)
    assert multiprocessing.active_children() == []


def test_a_directory_that_could_not_be_filled_is_no_beginning(
    hub: LocalHub, tmp_path: Path
) -> None:
    """Where the ranks fail before the fault, how they ended is told instead of a cell."""
    filled = compare.Trouble(name="", first="filled")
    with pytest.raises(RuntimeError, match="'AttributeError'"):
        compare.prepare(
            compare.Way("", "", attrgetter("nothing")), hub, tmp_path / "shared", filled
        )
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("barrier", "1 of 4 fail: `HfHubHTTPError`; 3 of 4 fail: `RuntimeError`"),
        ("warmup", "4 of 4 end well"),
    ],
)
def test_one_503_is_really_met(way: str, told: str) -> None:
    """A real fault meets the real peer, and ours: the script prints what came of it."""
    assert shutil.which("gcc"), "gcc compiles what stands before flock"
    command = [
        sys.executable,
        str(ROOT / "benchmarks/compare.py"),
        "--fault",
        "one 503",
        "--way",
        way,
    ]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "demo")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    # How long it took is told where a busy machine made it long
    row = rf"\| one 503 \| {re.escape(told)}(, after \d+ s)? \|"
    assert re.search(row, done.stdout), done.stdout + done.stderr


def test_the_table_of_any_work_names_the_versions_that_it_was_read_from() -> None:
    """A newer version of a peer must be read again: its cells are claims about its source."""
    page = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    heading, _, *rows = page.partition("<!-- any work -->\n")[2].partition("<!--")[0].splitlines()
    pinned = dict(
        line.split("==")
        for file in ("constraints.txt", "requirements/compare.txt")
        for line in (ROOT / file).read_text().replace("_", "-").splitlines()
        if re.fullmatch(r"[\w-]+==[\w.]+", line)
    )
    shown = dict(re.findall(r"\(([\w-]+) ([\w.]+)\)", heading))
    for name in ("accelerate", "transformers", "lightning-fabric", "torch"):
        assert shown[name] == pinned[name], name
    # Fabric and Lightning are released together
    assert shown["pytorch-lightning"] == pinned["lightning-fabric"]
    assert len(rows) > 8
    assert {row.count("|") for row in [heading, *rows]} == {heading.count("|")}
