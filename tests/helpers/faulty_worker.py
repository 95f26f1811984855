"""Worker processes in which something goes wrong, as real modules that the downloader starts in the worker's place."""

import itertools
from pathlib import Path

import pytest

from step37_flickr8k.download import worker_process

_NUMBERS = itertools.count()
_MODULE = """
import sys
{early}
from step37_flickr8k.download import job_runner, worker
{late}
worker.main(sys.argv[1:])
"""


def start_instead(
    patch: pytest.MonkeyPatch, tmp_path: Path, *, early: str = "", late: str = ""
) -> None:
    """Have workers run ``early`` before they import anything, and ``late`` before they serve."""
    name = f"faulty_worker_{next(_NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(_MODULE.format(early=early, late=late), encoding="utf-8")
    patch.syspath_prepend(str(tmp_path))
    patch.setattr(worker_process, "_MODULE", name)


def where_a_picture(does: str, name: str = "3.jpg") -> str:
    """Give what makes one picture do something while it is decoded."""
    return f"""
import os, time
examine = job_runner.examine
def strange(source, name, *limits):
    if name == {name!r}:
        {does}
    return examine(source, name, *limits)
job_runner.examine = strange
"""
