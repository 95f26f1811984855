"""The rooms: imports point one way, each outside world has one user, and the package imports cheaply."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import step37_flickr8k
from step37_flickr8k import errors

SOURCE = Path(step37_flickr8k.__file__).parent
PACKAGE = "step37_flickr8k"

# A package imports only from the layers above it in this list; `localhub` stands apart.
LAYERS = (
    {"errors"},
    {"dataset", "images", "signals"},
    {"settings", "cluster"},
    {"cache", "hub", "report"},
    {"download"},
    {"job"},
    {"diagnostics", "flickr8k_loader"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
ONLY = {
    "torch": {"cluster"},
    "huggingface_hub": {"hub"},
    "hf_xet": {"localhub"},
    "PIL": {"images"},
    "pydantic": {"cache", "cluster", "hub", "job", "report", "settings"},
    "aiohttp": {"hub", "localhub"},
    "pyarrow": {"download"},
    "rich": {"diagnostics", "report"},
    "jinja2": {"report"},
}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(SOURCE)) for file in FILES])
def test_a_package_imports_only_from_lower_layers(file: Path) -> None:
    """Imports point one way; the version alone may be read by anybody."""
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    package = room_of(file)
    own = level.get(package, len(LAYERS))
    for name in imports_of(file):
        if name.split(".")[0] != PACKAGE or name == f"{PACKAGE}.__version__":
            continue
        other = name.split(".")[1]
        if other == package:
            continue
        if other == "localhub":
            assert package == "cli", f"{package} imports localhub"
        else:
            below = level.get(other, level["__init__"])
            assert package != "localhub", f"localhub imports {other}"
            assert below < own, f"{package} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(SOURCE)) for file in FILES])
def test_each_outside_world_has_one_user(file: Path) -> None:
    """torch, huggingface_hub, Pillow and the like are imported in their own room alone."""
    for name in imports_of(file):
        users = ONLY.get(name.split(".")[0])
        assert users is None or room_of(file) in users, f"{room_of(file)} imports {name}"


def test_only_the_directory_renames_changes_modes_or_deletes() -> None:
    """No other room calls what changes the cache directory's tree."""
    forbidden = {"rename", "replace", "unlink", "remove", "rmtree", "chmod", "rmdir", "removedirs"}
    for file in FILES:
        if room_of(file) == "cache":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in forbidden
            ):
                text_method = node.func.attr == "replace" and len(node.args) == 2  # str.replace
                assert text_method, f"{room_of(file)} calls {ast.unparse(node.func)}"


def test_only_settings_world_and_command_see_the_environment() -> None:
    """Nobody else mentions os.environ; the loader and the command hand it on, and so does who starts workers.

    `hub.certificates` checks the variable that Python's ssl reads by itself.
    """
    for file in FILES:
        if room_of(file) not in {"cli", "flickr8k_loader"} and file.name not in {
            "certificates.py",
            "worker_process.py",
        }:
            assert "os.environ" not in file.read_text(encoding="utf-8"), file
            assert "getenv" not in file.read_text(encoding="utf-8"), file


def test_importing_the_package_is_cheap() -> None:
    """``import step37_flickr8k`` loads none of torch, huggingface_hub, Pillow, aiohttp and pydantic."""
    heavy = ("torch", "huggingface_hub", "PIL", "aiohttp", "pydantic")
    code = f"import sys, step37_flickr8k; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_these() -> None:
    """The public surface is small and every name of it exists."""
    assert sorted(step37_flickr8k.__all__) == [
        "ConfigurationError",
        "Flickr8kSample",
        "MultimodalSFTSample",
        "RankZeroLost",
        "Step37Error",
        "Step37Flickr8kDataset",
        "Template",
        "TransientError",
        "get_flickr8k_dataset_file",
        "prepare_flickr8k_samples",
    ]
    assert all(hasattr(step37_flickr8k, name) for name in step37_flickr8k.__all__)


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    """Every error class stands in the docstring of ``errors.py``, and nothing else does."""
    drawn = {
        word
        for line in (errors.__doc__ or "").splitlines()
        for word in line.replace("│", " ").split()[:2]
        if word[0].isupper()
    }
    real = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert {name for name in drawn if name in real} == real
    parents = {errors.ConfigurationError: 2, errors.TransientError: 75, errors.RankZeroLost: 76}
    for name in real - {"Step37Error", "Terminated"}:
        (code,) = {
            code for parent, code in parents.items() if issubclass(getattr(errors, name), parent)
        }
        assert getattr(errors, name).exit_code == code
