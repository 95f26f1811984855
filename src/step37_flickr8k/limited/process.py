"""Start a process with limits: with little of this one's environment, and its modules."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["start"]

_SOURCE = Path(__file__).parents[2]  # the directory that holds this package
# What Python, the loader of libraries and the texts of the system need. Everything else may be, or
# hold, a secret of the job: tokens, headers, the addresses of proxies with their passwords.
_PASSED = {
    *("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONUTF8", "PYTHONPYCACHEPREFIX", "TZ"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "LANG", "LC_ALL", "LC_CTYPE"),
}
# Libraries that start threads, or reserve memory that they may never use, count against the limit
_FEW_THREADS = {
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def start(
    module: str,
    arguments: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.PIPE,
    shared: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Return a process that runs a module of this package, with a pipe from its standard output.

    Besides its standard input and output it has the descriptors that it shares with this process.
    Raises OSError where none can be started: a limit allows no further process, or the path of
    Python isn't known.
    """
    return subprocess.Popen(  # noqa: S603 - this interpreter, our module
        # What a decoder warns of says nothing about an image, whatever PYTHONWARNINGS.
        [sys.executable or "", "-Wignore", "-m", module, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=shared,
        # -m searches the current directory first, where any file may be json.py.
        cwd=_SOURCE,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """Return what such a process may see, with the path on which this one finds modules."""
    passed = {name: os.environ[name] for name in _PASSED & os.environ.keys()}
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted, and holds no modules
        here = _SOURCE
    search = os.pathsep.join(str(here / each) for each in sys.path)
    return {**passed, **_FEW_THREADS, "PYTHONPATH": search}
