"""Names that a file system takes for one are refused; `tests/sharedfs` mounts such a one."""

import os
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.cache import folding
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.tree import Tree
from step37_flickr8k.errors import FolderNotUsable
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, picture


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    made = CacheDirectory(cache, "train")
    made.make()
    return made


def fold(monkeypatch: pytest.MonkeyPatch, *pairs: str) -> None:
    """Take the endings of these pairs for one, as a file system may do."""

    def distinguishes(_: CacheDirectory, one: str, other: str) -> bool:
        return one + other not in pairs

    monkeypatch.setattr(folding, "distinguishes", distinguishes)


CASE, FORMS = "aA", "\u00e9e\u0301"
CLASHES = {
    "case": ((CASE,), ["a.jpg", "b.jpg", "A.jpg"], "'a.jpg' and 'A.jpg'"),
    "case of a directory": ((CASE,), ["x/1.jpg", "X/2.jpg"], "'x' and 'X'|'X' and 'x'"),
    "sharp s": ((CASE,), ["stra\u00dfe.jpg", "STRASSE.jpg"], "STRASSE.jpg"),
    "forms": ((FORMS,), ["\u00e9.jpg", "e\u0301.jpg"], r"'\\xe9.jpg' and 'e\\u0301.jpg'"),
    "both": ((CASE, FORMS), ["\u00e9.jpg", "E\u0301.JPG"], r"'E\\u0301.JPG'"),
}


@pytest.mark.parametrize(("pairs", "names", "said"), CLASHES.values(), ids=CLASHES.keys())
def test_two_names_that_are_one_are_both_named(
    directory: CacheDirectory,
    monkeypatch: pytest.MonkeyPatch,
    pairs: tuple[str, ...],
    names: list[str],
    said: str,
) -> None:
    """Only where the file system takes them for one; elsewhere they are two files."""
    folding.check_names(directory, names, [])
    fold(monkeypatch, *pairs)
    with pytest.raises(FolderNotUsable, match=said):
        folding.check_names(directory, names, [])


def test_names_that_differ_otherwise_are_no_clash(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that folds case alone tells Unicode forms apart, and the other way round."""
    fold(monkeypatch, CASE)
    folding.check_names(directory, ["\u00e9.jpg", "e\u0301.jpg", "a/1.jpg", "a/2.jpg"], [])
    fold(monkeypatch, FORMS)
    folding.check_names(directory, ["a.jpg", "A.jpg", "a.jpg"], [])


def test_a_file_of_an_older_commit_makes_way(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name in another case would stay, and no listing would show the new one."""
    for name in ("A.jpg", "b.jpg", "mine.txt"):
        (directory.files / name).write_bytes(b"x")
    fold(monkeypatch, CASE)
    folding.check_names(directory, ["a.jpg", "b.jpg"], directory.scan())
    assert sorted(os.listdir(directory.files)) == ["b.jpg", "mine.txt"]


def test_what_is_tried_leaves_nothing(directory: CacheDirectory) -> None:
    """The two probes are deleted."""
    folding.check_names(directory, ["a.jpg", "A.jpg"], [])
    assert os.listdir(directory.files) == []


def test_a_run_refuses_before_the_first_image(
    hub: LocalHub,
    draw: Draw,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is 2, both names are said, and no image is fetched."""
    (draw() / "train" / "0000.JPG").write_bytes(picture(99))
    table = hub.directory / "train" / "metadata.csv"
    table.write_text(table.read_text(encoding="utf-8") + "0000.JPG,another,\n", encoding="utf-8")
    hub.refresh()
    monkeypatch.setattr(Tree, "exists", lambda *_: True)
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 2
    said = capsys.readouterr().err
    assert "'0000.JPG'" in said
    assert "'0000.jpg'" in said
    assert not [request for request in hub.file_requests() if "jpg" in request.path.lower()]
