"""Images are decoded by processes of their own, which may die without an image being lost or wronged."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from step37_flickr8k import images
from step37_flickr8k.images import Decoders

from .conftest import picture


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(12)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return paths


def children() -> set[int]:
    told = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(encoding="utf-8")
    return {int(pid) for pid in told.split()}


def test_flaws_are_told_in_order(pictures: list[Path]) -> None:
    """A truncated image, text and an empty file are told apart from good ones, whoever decodes them."""
    pictures[2].write_bytes(pictures[2].read_bytes()[:-200])
    pictures[5].write_text("not an image", encoding="utf-8")
    pictures[7].write_bytes(b"")
    with contextlib.closing(Decoders()) as decoders:
        flaws = decoders.check([(path, path.name) for path in pictures])
        few = decoders.check([(path, path.name) for path in pictures[2:4]])
    assert [number for number, flaw in enumerate(flaws) if flaw] == [2, 5, 7]
    assert few == flaws[2:4]
    assert "truncated" in str(flaws[2]).lower()
    assert "cannot identify image file '5.jpg'" in str(flaws[5])


def test_a_killed_decoder_is_replaced(pictures: list[Path]) -> None:
    """A decoder that the kernel kills for memory costs no image its good name."""
    with contextlib.closing(Decoders()) as decoders:
        before = children()
        decoders.start()
        for pid in children() - before:
            os.kill(pid, signal.SIGKILL)
        assert decoders.check([(path, path.name) for path in pictures]) == [None] * len(pictures)


def test_a_picture_that_kills_its_decoder_twice_is_broken(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that crashes the decoder is named, and the others are decoded all the same."""
    crashing = tmp_path / "decoder.py"
    crashing.write_text(
        f"import os, runpy, sys\nmodule = runpy.run_path({images.__file__!r})\nwhy = module['why_undecodable']\n"
        "def crash(path, name):\n    return os.abort() if path.name == '3.jpg' else why(path, name)\n"
        "module['_decode_for_others'].__globals__['why_undecodable'] = crash\nmodule['_decode_for_others']()\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(images, "__file__", str(crashing))
    with contextlib.closing(Decoders()) as decoders:
        flaws = decoders.check([(path, path.name) for path in pictures])
    assert flaws == [None, None, None, "its decoder died, twice", *[None] * 8]


def test_decoders_end_with_whom_they_serve(tmp_path: Path) -> None:
    """SIGKILL of the warming process leaves no decoder behind."""
    script = "import time; from step37_flickr8k.images import Decoders; Decoders().start(); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        decoders = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        assert decoders
        process.kill()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in decoders) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in decoders if Path(f"/proc/{pid}/cmdline").exists()]
