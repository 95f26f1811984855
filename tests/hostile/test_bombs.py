"""What takes little to be sent and much to be parsed: it is named or left out, within 1 GB."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import read_record
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, picture, write_rows
from tests.helpers.conversion import convert
from tests.hostile import bombs

GIGABYTE = 1 << 30
_PAUSE = 0.05  # s between two looks at the memory
SECONDS = 400  # for a run that hangs: each takes a few


class Watched:
    """A run of the command; ``peak`` is the most memory that its whole tree had at once."""

    def __init__(self, *arguments: str, endpoint: str) -> None:
        self.peak = 0
        self._ended = threading.Event()
        environment = {**os.environ, "HF_ENDPOINT": endpoint}
        with subprocess.Popen(
            [sys.executable, "-m", "step37_flickr8k", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as process:
            watching = threading.Thread(target=self._watch, args=[process.pid])
            watching.start()
            try:
                out, said = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
                self._ended.set()
                watching.join()
        self.code, self.out, self.said = process.returncode, out.decode(), said.decode()

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(_PAUSE):
            self.peak = max(self.peak, sum(map(_memory, _tree(pid))))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text(encoding="ascii").split():
                yield from _tree(int(child))


def _memory(pid: int) -> int:
    """Return a process's own memory, with its share of what others have, too."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def check(run: Watched, *codes: int) -> None:
    """Refuse a run that ended otherwise, or took too much."""
    assert run.code in codes, (run.code, run.said)
    assert "bug" not in run.said
    assert run.peak < GIGABYTE, f"{run.peak / 1e6:,.0f} MB"


def test_images_that_are_bombs_are_left_out(tmp_path: Path, cache: Path) -> None:
    """Of 27 kinds each is decoded, or left out with its reason; then the preview shows that."""
    files = bombs.images()
    assert len(files) >= 20
    split = tmp_path / "dataset" / "train"
    split.mkdir(parents=True)
    sound = {f"{number:04}.jpg": picture(number) for number in range(3)}
    for name, content in (files | sound).items():
        (split / name).write_bytes(content)
    write_rows(split, [{"file_name": name, "caption_0": "x"} for name in files | sound])
    with LocalHub(tmp_path / "dataset") as hub:
        run = Watched("warmup", "--cache-dir", str(cache), endpoint=hub.endpoint)
        check(run, 0)
        record = read_record(CacheDirectory(cache, "train"))
        assert record is not None
        assert not record.skipped.keys() & sound.keys()
        assert record.skipped.keys() >= {"wide.png", "lossless.webp", "offset.tiff", "text.tiff"}
        assert all(reason.isprintable() for reason in record.skipped.values())
        page = str(tmp_path / "preview.html")
        check(
            Watched("preview", "--cache-dir", str(cache), "--output", page, endpoint=hub.endpoint),
            0,
        )


@pytest.mark.parametrize("name", bombs.conversions())
def test_a_conversion_that_is_a_bomb_is_done_without(
    draw: Draw, tmp_path: Path, cache: Path, name: str
) -> None:
    """Beside a good Parquet file and a bad one, all images are fetched."""
    directory = draw(130)
    parquet = convert(directory, tmp_path / "parquet", files=2)
    bad = parquet / "default" / "train" / "0001.parquet"
    bad.write_bytes(bombs.conversions()[name]())
    with LocalHub(directory, parquet=parquet) as hub:
        run = Watched(
            *("warmup", "--cache-dir", str(cache), "--fetch-mode", "parquet"),
            endpoint=hub.endpoint,
        )
    check(run, 0)
    assert json.loads(run.out)["files"] == 130
    assert len([*(cache / "train").glob("*.jpg")]) == 130


@pytest.mark.parametrize("name", bombs.tables())
def test_a_table_that_is_a_bomb_is_refused(
    draw: Draw, tmp_path: Path, cache: Path, name: str
) -> None:
    """The error names the table, whatever reading it would take."""
    split = draw(3) / "train"
    (split / "metadata.csv").unlink()
    (split / "metadata.parquet").write_bytes(bombs.tables()[name]())
    with LocalHub(tmp_path / "dataset") as hub:
        run = Watched("warmup", "--cache-dir", str(cache), endpoint=hub.endpoint)
    check(run, 2)
    assert "metadata.parquet" in run.said
