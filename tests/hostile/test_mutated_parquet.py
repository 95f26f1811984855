"""Mutated Parquet files: rows, images or an error of ours, whatever becomes of the reader."""

import contextlib
import io
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.download.chunks import NotReadable, ParquetTail
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.download.parquet_jobs import Found, ParquetRequest
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import ConfigurationError
from tests.conftest import picture
from tests.hostile.seeds import chance

FILES = 150  # of images; each that ends its worker costs the start of another
TABLES = 25  # each is a process
SELECTION = Selection(
    repo_id="intro/flickr8k", split="train", caption_key="caption_0", sample_count=None
)


def written(columns: dict[str, object], **how: object) -> bytes:
    pq.write_table(pa.table(columns), out := io.BytesIO(), **how)
    return out.getvalue()


def mutated(content: bytes, chances: random.Random) -> bytes:
    """Return the file after a few changes, most of them in its footer."""
    changed = bytearray(content)
    footer = int.from_bytes(content[-8:-4], "little") + 8
    for _ in range(chances.choice((1, 1, 2, 4, 16))):
        first = len(changed) - footer if chances.random() < 0.7 else 4
        at = chances.randrange(max(4, first), len(changed) - 8)
        match chances.randrange(3):
            case 0:
                changed[at] ^= 1 << chances.randrange(8)
            case 1:
                changed[at] = chances.choice((0, 1, 0x7F, 0x80, 0xFF))
            case _:
                length = chances.choice((1, 2, 4))
                start = chances.randrange(4, len(changed) - 12)
                changed[at : at + length] = changed[start : start + length]
    return bytes(changed)


def files_of_images() -> list[bytes]:
    rows = [{"bytes": picture(number), "path": "a.jpg"} for number in range(12)]
    return [
        written({"image": rows}, row_group_size=4, compression=compression, use_dictionary=encoded)
        for compression in ("none", "zstd")
        for encoded in (False, True)
    ]


def take_all(
    directory: CacheDirectory, taken: list[int], found: Sequence[Found]
) -> list[tuple[int, Job]]:
    taken += [image.size for image in found]
    return [(number, Job(directory.temporary(), f"{number}.jpg")) for number in range(len(found))]


def test_no_mutated_conversion_ends_a_run(cache: Path) -> None:
    """Each is read, or not readable; afterwards the workers do their work as before."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    contents, chances, read = files_of_images(), chance("conversions"), 0
    with contextlib.closing(Workers(directory)) as workers:
        for number in range(FILES):
            content = mutated(contents[number % len(contents)], chances)
            tail, taken = ParquetTail(len(content), content), list[int]()
            try:
                for chunk in workers.open_parquet(tail):
                    part = content[chunk.start : chunk.end]
                    request = ParquetRequest(tail, chunk, part, ["sha256:"])
                    done = workers.read_parquet(request, partial(take_all, directory, taken))
                    assert len(done) <= len(taken)
                    read += len(done)
            except NotReadable:
                continue
        sound = Job(directory.temporary(), "a.jpg", picture(1))
        assert workers.do([sound]) == [Done()]
    assert read > FILES, "most changes leave some images"


def test_no_mutated_table_ends_a_run(tmp_path: Path) -> None:
    """Each has rows, or an error of the dataset's that names it."""
    names = [f"{number}.jpg" for number in range(50)]
    content = written({"file_name": names, "caption_0": names})
    chances, read, said = chance("tables"), 0, list[str]()
    for _ in range(TABLES):
        path = tmp_path / "metadata.parquet"
        path.write_bytes(mutated(content, chances))
        try:
            with path.open("rb") as stream:
                read += len([*read_rows(stream, SELECTION, path.name)])
        except ConfigurationError as error:
            said.append(str(error))
    assert all("metadata.parquet" in each for each in said)
    assert read, "some changes leave rows"
