"""What others install: one version everywhere, a changelog that is ready for it, and checks that find what doesn't belong."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from step37_flickr8k import __version__

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from dist import LINK, OF_A_WHEEL, OF_AN_SDIST, check_contents, try_with_each

ROOT = Path(__file__).parents[2]
MODULES = ["src/step37_flickr8k/__init__.py", "src/step37_flickr8k/py.typed"]


def test_the_changelog_begins_with_this_version() -> None:
    """Its topmost entry is the version that comes out next: with a day, once the version is final."""
    heading = re.search(
        r"^## (\S+) - (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert heading is not None
    version, _, development = __version__.partition(".dev")
    assert heading[1] == version
    assert re.fullmatch(r"unreleased" if development else r"\d{4}-\d\d-\d\d", heading[2])


def test_images_bear_the_version_of_the_code() -> None:
    """Wherever manifests and documents name an image with its version, it is the one that the code has."""
    documents = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("k8s/**/*.yaml")]
    named = {
        file.name: re.findall(r"step37-flickr8k:(\d+\.[\w.]*)", file.read_text(encoding="utf-8"))
        for file in documents
    }
    assert {version for versions in named.values() for version in versions} == {__version__}, named


def built(directory: Path, *more: str, modules: list[str]) -> Path:
    """Make a wheel and an sdist that hold these files and no bytes."""
    directory.mkdir()
    with zipfile.ZipFile(directory / "a-1.whl", "w") as wheel:
        for name in [
            *(name.removeprefix("src/") for name in modules),
            *(f"a-1.dist-info/{name}" for name in OF_A_WHEEL),
            *more,
        ]:
            wheel.writestr(name, "")
    with tarfile.open(directory / "a-1.tar.gz", "w:gz") as sdist:
        for name in [*modules, *OF_AN_SDIST]:
            sdist.addfile(tarfile.TarInfo(f"a-1/{name}"))
    return directory


def test_a_wheel_with_a_test_or_without_its_marker_is_refused(tmp_path: Path) -> None:
    """What is too much, and what is missing, is named."""
    check_contents(built(tmp_path / "right", modules=MODULES), MODULES)
    with pytest.raises(SystemExit, match=r"wheel holds too much: \['tests/test_x.py'\]"):
        check_contents(built(tmp_path / "test", "tests/test_x.py", modules=MODULES), MODULES)
    with pytest.raises(SystemExit, match=r"too little: \['step37_flickr8k/py.typed'\]"):
        check_contents(built(tmp_path / "missing", modules=MODULES[:1]), MODULES)
    with pytest.raises(SystemExit, match=r"no py.typed"):
        check_contents(built(tmp_path / "untyped", modules=MODULES[:1]), MODULES[:1])


def test_a_wheel_that_no_python_here_suits_is_refused(tmp_path: Path) -> None:
    """Where none of the claimed versions can be tried, they are named, and nothing is released."""
    with pytest.raises(SystemExit, match=r"is here: install one of 3\.98, 3\.99"):
        try_with_each(["3.98", "3.99"], "a-1.whl", tmp_path, ROOT)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib: run it with Python 3.11")
def test_the_description_links_to_nothing_that_an_index_lacks() -> None:
    """The README's links and pictures within the repository are words in what a package index shows; the others stay."""
    import tomllib

    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"][
        "metadata"
    ]["hooks"]
    text = (ROOT / "README.md").read_text(encoding="utf-8") + "\n[elsewhere](https://example.org)\n"
    assert LINK.search(text)
    for change in hooks["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert not LINK.search(text)
    assert "Comparison has all faults" in text
    assert "(https://example.org)" in text
