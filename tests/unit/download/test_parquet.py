"""The images of a Parquet file, read from its footer and the bytes of one row group."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from step37_flickr8k.download import parquet
from step37_flickr8k.download.chunks import NotReadable, ParquetTail, footer_size
from step37_flickr8k.download.parquet import Images
from tests.conftest import Draw, picture
from tests.helpers.conversion import convert

# Bytes at the end of a file that pyarrow reads first
TAIL = 64 << 10
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def large(number: int) -> bytes:
    """Return bytes that don't compress, so many that four of them are more than a tail."""
    return random.Random(number).randbytes(40_000)


def written(path: Path, images: list[bytes | None], **options: Any) -> bytes:
    """Return a Parquet file with a column of images, three in each row group."""
    column = [image and {"bytes": image, "path": "x.jpg"} for image in images]
    table = pa.table({"image": column}, schema=pa.schema([("image", IMAGE)]))
    pq.write_table(table, path, row_group_size=3, **options)
    return path.read_bytes()


def opened(content: bytes) -> Images:
    """Return the images of a file of which only the last bytes are known."""
    return Images(ParquetTail(len(content), content[-TAIL:]))


def read_all(content: bytes) -> list[list[bytes]]:
    """Return the images of each row group, read from the bytes of its chunk alone."""
    images = opened(content)
    return [
        [
            bytes(image)
            for part in images.read(chunk, content[chunk.start : chunk.end])
            for image in part
        ]
        for chunk in images.chunks
    ]


def test_images_are_read_from_their_row_group_alone(draw: Draw, tmp_path: Path) -> None:
    """The footer and a chunk's bytes give that row group's images, byte for byte and in order."""
    converted = convert(draw(8), tmp_path / "parquet", rows=3, files=1)
    content = (converted / "default" / "train" / "0000.parquet").read_bytes()
    drawn = [picture(number) for number in range(8)]
    assert read_all(content) == [drawn[0:3], drawn[3:6], drawn[6:8]]
    numbers = [chunk.row_group for chunk in opened(content).chunks]
    assert numbers == [0, 1, 2]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("use_dictionary", [False, True], ids=["plain", "dictionary"])
def test_images_are_read_however_they_are_stored(
    tmp_path: Path, compression: str, use_dictionary: bool
) -> None:
    """Compressed pages, and a dictionary page before them, are part of a chunk."""
    images: list[bytes | None] = [large(1), large(1), large(2), large(3)]
    content = written(
        tmp_path / "x.parquet", images, compression=compression, use_dictionary=use_dictionary
    )
    assert read_all(content) == [images[:3], images[3:]]


def test_a_chunk_knows_its_size_when_decompressed(tmp_path: Path) -> None:
    """The size of a chunk is that of its images, however few bytes it takes in the file."""
    content = written(
        tmp_path / "x.parquet", [bytes(50_000)], compression="zstd", use_dictionary=False
    )
    (chunk,) = opened(content).chunks
    assert chunk.end - chunk.start < 5_000
    assert 50_000 < chunk.size < 51_000


def test_a_row_without_an_image_is_left_out(tmp_path: Path) -> None:
    """A row group gives the images that it holds, and nothing for a row that has none."""
    content = written(tmp_path / "x.parquet", [picture(1), None, picture(2), None])
    assert read_all(content) == [[picture(1), picture(2)], []]


@pytest.mark.parametrize("damage", ["no bytes", "too few", "zeros"])
def test_a_damaged_row_group_is_not_readable(tmp_path: Path, damage: str) -> None:
    """Bytes that pyarrow can't decode are NotReadable; the other row groups stay readable."""
    content = written(tmp_path / "x.parquet", [picture(number) for number in range(6)])
    images = opened(content)
    first, second = images.chunks
    good = content[first.start : first.end]
    damaged = {"no bytes": b"", "too few": good[:-40], "zeros": bytes(len(good))}[damage]
    with pytest.raises(NotReadable):
        [*images.read(first, damaged)]
    (three,) = images.read(second, content[second.start : second.end])
    assert len(three) == 3


def test_a_row_group_outside_of_the_file_is_not_readable(tmp_path: Path) -> None:
    """A footer whose row groups don't fit before the file's end is refused."""
    content = written(tmp_path / "x.parquet", [large(1)])
    footer = content[-footer_size(content[-8:]) :]
    with pytest.raises(NotReadable, match="row group 0 is outside of the file"):
        Images(ParquetTail(len(footer), footer))


def test_what_is_no_table_of_images_is_not_readable(tmp_path: Path) -> None:
    """A table without images, and a footer that lies or isn't there, are NotReadable."""
    with pytest.raises(NotReadable, match="doesn't end"):
        footer_size(b"12345678")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    content = (tmp_path / "x.parquet").read_bytes()
    with pytest.raises(NotReadable, match="no column of images"):
        Images(ParquetTail(len(content), content))
    with pytest.raises(NotReadable):
        Images(ParquetTail(len(content), content[:-20] + bytes(20)))


@pytest.mark.parametrize(("limit", "said"), [("_MOST_ROWS", "4 rows"), ("_MOST_GROUPS", "2 row g")])
def test_rows_without_end_are_not_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, said: str
) -> None:
    """A few bytes may stand for billions of empty rows: a file has a limit of them."""
    content = written(tmp_path / "x.parquet", [picture(1), picture(2), None, None])
    monkeypatch.setattr(parquet, limit, 1)
    with pytest.raises(NotReadable, match=f"it has {said}.* at most 1 are read"):
        opened(content)


def test_a_dictionary_of_arrows_is_read(tmp_path: Path) -> None:
    """A column that Arrow itself calls a dictionary has images as any other."""
    values = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int32()), [b"one", b"two"])
    images = pa.StructArray.from_arrays([values], ["bytes"])
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet")
    assert read_all((tmp_path / "x.parquet").read_bytes()) == [[b"two", b"one", b"two"]]
