"""What the image is made of is what is tested: the lists of versions can't drift apart."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins(file: str) -> dict[str, str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize(
    "file", ["requirements/image.txt", "requirements/torch.txt", "requirements/compare.txt"]
)
def test_the_image_and_the_comparison_hold_the_versions_that_are_tested(file: str) -> None:
    """Whatever stands in both lists has one version; after a change of constraints.txt `make requirements` renews the other."""
    tested, held = pins("constraints.txt"), pins(file)
    assert held
    assert not {
        name: (version, tested[name])
        for name, version in held.items()
        if tested.get(name, version) != version
    }
    assert ("torch" in held) == file.endswith("/torch.txt")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib: run it with Python 3.11")
def test_the_image_holds_all_that_the_project_needs() -> None:
    """Each dependency of pyproject.toml and of its extra for Parquet is there, and nothing that none of them needs any more."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [line for line in project["dependencies"] if "python_version < '3.11'" not in line]
    names = {
        re.sub(r"[-_.]+", "-", re.split(r"[<>=;\[ ]", line)[0]).lower()
        for line in wanted + project["optional-dependencies"]["parquet"]
    }
    held = pins("requirements/image.txt")
    assert names <= held.keys()
    assert not {"pytest", "ruff", "mypy", "pydantic-settings"} & held.keys()


def test_every_file_of_the_image_but_torch_is_pinned_by_hash() -> None:
    """Pip refuses what has another hash, for what the image holds and for what builds it and a release."""
    for file in ("requirements/image.txt", "requirements/build.txt", "requirements/dist.txt"):
        text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert lines
        assert all("--hash=sha256:" in line for line in lines), file
