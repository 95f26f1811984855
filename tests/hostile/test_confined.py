"""Whatever parses strangers' data has limits, and nothing of the job's to give away."""

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset import parquet_rows
from step37_flickr8k.dataset.tables import Wanted
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.images.examined import FINE
from step37_flickr8k.limited import budget
from tests.conftest import picture
from tests.helpers.faulty_worker import start_instead, where_a_picture

SECRETS = {
    "HF_TOKEN": "hf_secret",
    "STEP37_HEADERS": '{"X-Key": "secret"}',
    "HTTPS_PROXY": "http://user:secret@proxy.invalid:1",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "LD_PRELOAD_OF_SOMEBODY": "secret",
}


@pytest.fixture
def workers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """Start two workers for a directory, whatever the machine has."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    directory = CacheDirectory(cache, "train")
    directory.make()
    with contextlib.closing(Workers(directory)) as workers:
        yield workers


def job(workers: Workers, name: str, content: bytes) -> Job:
    return Job(workers.directory.temporary(), name, content)


def drawn(side: int) -> bytes:
    Image.new("RGB", (side, side)).save(out := io.BytesIO(), "PNG", compress_level=1)
    return out.getvalue()


def started(workers: Workers) -> list[Path]:
    return [
        Path(f"/proc/{worker._process.pid}")
        for worker in workers._usable
        if worker._process is not None
    ]


def check_confined(process: Path) -> None:
    environment = (process / "environ").read_bytes()
    assert b"secret" not in environment
    assert b"PATH=" in environment
    assert "NoNewPrivs:\t1" in (process / "status").read_text(encoding="utf-8")
    limits = (process / "limits").read_text(encoding="utf-8")
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert soft["Max core file size"] == "0"
    assert int(soft["Max cpu time"]) <= budget.image_seconds(1) + 60
    assert int(soft["Max address space"]) < 1 << 30


def test_workers_have_limits_and_no_secrets(workers: Workers) -> None:
    """Their environment is a list of names; they gain no privileges and leave no memory behind."""
    assert workers.do([job(workers, "a.jpg", picture(1))]) == [Done()]
    (process,) = started(workers)
    check_confined(process)


@pytest.mark.usefixtures("workers")
def test_the_reader_of_a_table_has_limits_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So has the process that reads a metadata.parquet, while it does."""
    report = tmp_path / "report"
    (tmp_path / "strange_reader.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from step37_flickr8k.dataset import parquet_process\n"
        "def read(*_):\n"
        "    yield from ()\n"
        "    for name in ('environ', 'status', 'limits'):\n"
        f"        Path({str(report)!r}, name).write_bytes(Path('/proc/self', name).read_bytes())\n"
        "parquet_process.read_parquet = read\n"
        "parquet_process.main(sys.argv[1:])\n",
        encoding="utf-8",
    )
    report.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(parquet_rows, "_MODULE", "strange_reader")
    monkeypatch.setattr(parquet_rows, "_SECONDS", 30)
    with (tmp_path / "strange_reader.py").open("rb") as stream:
        assert not [*parquet_rows.read_apart(stream, Wanted("metadata.parquet", "caption_0"))]
    check_confined(report)


def test_an_image_that_takes_too_long_is_left_out(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of time is for each image; the file is kept, and a higher limit tries it again."""
    late = "worker.image_seconds = lambda _: 1\n" + where_a_picture("while True: pass", "2.jpg")
    start_instead(monkeypatch, tmp_path, late=late)
    jobs = [job(workers, f"{number}.jpg", picture(number)) for number in range(4)]
    done = workers.do(jobs)
    assert [each for number, each in enumerate(done) if number != 2] == [Done()] * 3
    assert "more than 60 s of processor time: see max_pixels" in done[2].examined.decode_error
    assert done[2].examined.too_large
    assert all(each.path.read_bytes() == each.content for each in jobs)


def test_a_worker_that_keeps_memory_is_replaced(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is for each image: what decoders leak would add up."""
    late = where_a_picture("job_runner.kept = b'x' * (300 << 20)", "1.jpg")
    start_instead(monkeypatch, tmp_path, late=late)
    for name, alive in (("0.jpg", 1), ("1.jpg", 0), ("2.jpg", 1)):
        assert workers.do([job(workers, name, picture(1))]) == [Done()]
        workers._idle.put(workers._idle.get())  # the same worker again
        assert len(started(workers)) == alive


_ALONE = """
import os, time
examine = job_runner.examine
def strange(source, name, max_pixels, memory):
    if memory < 100 << 20:
        return examine(source, name, max_pixels, memory)
    os.close(os.open({busy!r}, os.O_CREAT | os.O_EXCL))
    time.sleep(0.2)
    os.unlink({busy!r})
    return examine(source, name, max_pixels, memory)
job_runner.examine = strange
"""


def test_one_large_image_is_decoded_at_a_time(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that have a large image each decode one after the other."""
    from concurrent.futures import ThreadPoolExecutor

    start_instead(monkeypatch, tmp_path, late=_ALONE.format(busy=str(tmp_path / "busy")))
    content = drawn(4_200)
    jobs = [job(workers, f"{number}.png", content) for number in range(4)]
    with ThreadPoolExecutor(2) as pool:
        done = [*pool.map(lambda each: workers.do([each]), jobs)]
    assert done == [[Done()]] * 4
    assert len(started(workers)) == 2


def test_a_machine_with_less_memory_records_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too large for this machine alone is an error that says so, and fine on another."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    content = drawn(4_200)
    shown = []
    for memory in (100 << 20, 4 << 30):
        monkeypatch.setattr(budget, "memory_limit", lambda limit=memory: (limit, "this node has"))
        with contextlib.closing(Workers(directory)) as workers:
            shown += workers.do([job(workers, "a.png", content)])
    small, large = shown
    assert small.examined == FINE
    assert "a.png: not enough memory to decode it, 71 MB" in str(small.error)
    assert large == Done()


def webp(width: int, height: int) -> bytes:
    lossless = bytes((0x2F,)) + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(20)
    body = b"WEBPVP8L" + struct.pack("<I", len(lossless)) + lossless
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(("size", "weighed"), [((16_383, 5_461), True), ((16_383, 100), False)])
def test_a_webp_is_weighed_before_it_is_opened(
    workers: Workers, size: tuple[int, int], weighed: bool
) -> None:
    """Pillow takes its memory when it opens one; raising max_pixels as far as said lets it in."""
    (done,) = workers.do([job(workers, "a.webp", webp(*size))])
    assert ("max_pixels" in done.examined.decode_error) is weighed
    if weighed:
        needed = size[0] * size[1] * 18
        assert budget.image_memory(done.examined.too_large) >= needed
        assert budget.image_memory(done.examined.too_large - 1) < needed + len(webp(*size))
