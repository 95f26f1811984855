"""The checks of what is installed: versions, torch, pyarrow. None of it is imported for that."""

import platform
import re
from importlib import metadata

from step37_flickr8k import __version__
from step37_flickr8k.diagnostics.finding import Finding

__all__ = ["check_versions", "version_of"]

_LIBRARIES = ("aiohttp", "huggingface_hub", "pillow", "pydantic")
_OLDEST_TORCH = (2, 4)


def check_versions(ranks: int) -> list[Finding]:
    """Return findings of three checks: versions, torch, pyarrow; ``ranks`` are those of the job."""
    libraries = ", ".join(f"{name} {version_of(name) or 'unknown'}" for name in _LIBRARIES)
    python = f"Python {platform.python_version()} on {platform.platform()}"
    own = f"step37-flickr8k {__version__}, {python}; {libraries}"
    return [Finding.ok("versions", own), _check_torch(ranks), _check_pyarrow()]


def version_of(name: str) -> str:
    """Return the version of an installed distribution; empty if it isn't installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _check_torch(ranks: int) -> Finding:
    version = version_of("torch")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if not version and ranks > 1:
        return Finding.problem("torch", "not installed", "pip install torch: several ranks need it")
    if not version:
        return Finding.ok("torch", "not installed: a single process needs none, several ranks do")
    if numbers < _OLDEST_TORCH:
        remedy = "install torch 2.4 or newer"
        return Finding.warning("torch", f"{version} is older than what was tested", remedy)
    return Finding.ok("torch", version)


def _check_pyarrow() -> Finding:
    if version := version_of("pyarrow"):
        return Finding.ok("pyarrow", version)
    without = "images are fetched one by one; pip install pyarrow fetches many at once"
    return Finding.ok("pyarrow", f"not installed: {without}")
