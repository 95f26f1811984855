"""What the image is made of is what is tested: the lists of versions can't drift apart."""

import re
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker

ROOT = Path(__file__).parents[2]


Pin = tuple[str, str]


def pins(file: str) -> dict[str, list[Pin]]:
    """Return the versions of each distribution, each with the marker that says where it is taken."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found: dict[str, list[Pin]] = {}
    for name, version, marker in re.findall(
        r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)(?: ; ([^\\\n]+))?", text, re.MULTILINE
    ):
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append((version, marker.strip()))
    return found


@pytest.mark.parametrize(
    "file", ["requirements/image.txt", "requirements/torch.txt", "requirements/compare.txt"]
)
def test_the_image_and_the_comparison_hold_the_versions_that_are_tested(file: str) -> None:
    """Whatever stands in both lists has the same versions; after a change `make requirements` renews the other."""
    tested = {
        name: {version for version, _ in found} for name, found in pins("constraints.txt").items()
    }
    held = {name: {version for version, _ in found} for name, found in pins(file).items()}
    assert held
    assert not {
        name: (versions, tested[name])
        for name, versions in held.items()
        if not versions <= tested.get(name, versions)
    }
    assert ("torch" in held) == file.endswith("/torch.txt")


@pytest.mark.parametrize("python", ["3.11.2", "3.11.14", "3.12.3", "3.13.5", "3.14.0"])
def test_the_constraints_hold_for_each_python(python: str) -> None:
    """No distribution has two versions on the same Python, and each that the project names has one on Linux."""
    machine = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
    }
    machine |= {"platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}
    held = {
        name: [
            version for version, marker in found if not marker or Marker(marker).evaluate(machine)
        ]
        for name, found in pins("constraints.txt").items()
    }
    assert not {name: versions for name, versions in held.items() if len(versions) > 1}
    assert {
        "torch",
        "pytest",
        "mypy",
        "transformers",
        "pyarrow",
        "aiohttp",
        "pymdown-extensions",
    } <= {name for name, versions in held.items() if versions}


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


@pytest.mark.parametrize("name", ["build", "dist", "image", "lint"])
def test_what_is_installed_for_the_image_and_its_checks_is_known_by_hash(name: str) -> None:
    """Each version has its hashes, and is installed with ``--require-hashes``."""
    text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")
    pinned = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
    assert pinned
    assert all(line.endswith("\\") for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)
    users = [
        line
        for file in ("Makefile", "Dockerfile")
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines()
        if f"/{name}.txt" in line and " install " in line
    ]
    assert users
    assert all("--require-hashes" in line for line in users)
