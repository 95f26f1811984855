"""An image is weighed by its header, before a decoder takes the memory; what is too heavy is left out, or named."""

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.errors import TransientError
from step37_flickr8k.images.decoding import examine
from step37_flickr8k.images.examined import FINE
from step37_flickr8k.images.weight import TooHeavy
from step37_flickr8k.limited.budget import image_memory
from tests.helpers.allowances import here

SIDE = 100


def saved(kind: str, mode: str = "RGB", **how: object) -> bytes:
    Image.new(mode, (SIDE, SIDE)).save(out := io.BytesIO(), kind, **how)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "per_pixel"),
    [
        (saved("PNG"), 4),
        (saved("PNG", "L"), 1),
        (saved("JPEG"), 1),
        (saved("JPEG", progressive=True, subsampling=0), 7),
        (saved("JPEG", progressive=True, subsampling=2), 4),
        (saved("WEBP"), 18),
        (saved("WEBP", lossless=True), 18),
        (saved("WEBP", save_all=True, append_images=[Image.new("L", (SIDE, SIDE), 9)]), 18),
        (saved("TIFF"), 5),
        (saved("TIFF", compression="tiff_lzw", strip_size=1 << 20), 8),
        (saved("TIFF", compression="tiff_lzw", strip_size=3 * SIDE), 5),
    ],
)
def test_a_kind_has_its_weight(content: bytes, per_pixel: int) -> None:
    """Bytes per pixel that its decoder takes, and the file's own."""
    weight = len(content) + per_pixel * SIDE * SIDE
    assert examine(content, "a", MAX_PIXELS, weight) == FINE
    with pytest.raises(TooHeavy) as caught:
        examine(content, "a", MAX_PIXELS, weight - 1)
    assert caught.value.weight == weight


def test_a_file_is_weighed_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file of any size costs nothing."""
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(TooHeavy):
        examine(tmp_path / "a.png", "a.png", MAX_PIXELS, image_memory(MAX_PIXELS))


def test_what_no_machine_decodes_is_left_out(cache: Path) -> None:
    """34 bytes that Pillow opens as 1.4 GB: the reason names the setting, and the file is kept."""
    body = b"WEBPVP8L" + struct.pack("<IBI", 14, 0x2F, 16_382 | 5_460 << 14) + bytes(9)
    content = b"RIFF" + struct.pack("<I", len(body)) + body
    directory = CacheDirectory(cache, "train")
    directory.make()
    job = Job(directory.temporary(), "a.webp", content)
    (done,) = here(directory).do(MAX_PIXELS, [job])
    assert "1,610 MB or more to decode, max_pixels" in done.examined.decode_error
    assert done.examined.too_large > MAX_PIXELS
    assert job.path.read_bytes() == content


def test_what_this_machine_does_not_decode_is_named(cache: Path) -> None:
    """An image that another machine may decode is an error, and nothing of it stays."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    jobs = [Job(directory.temporary(), name, saved("PNG")) for name in ("a.png", "b.png")]
    heavy, fine = (
        next(here(directory, small=100, large=large).do(MAX_PIXELS, [job]))
        for job, large in zip(jobs, (1_000, 1_000_000), strict=True)
    )
    assert isinstance(heavy.error, TransientError)
    assert "a.png: not enough memory to decode it" in str(heavy.error)
    assert fine == Done()
    assert [job.path.exists() for job in jobs] == [False, True]


def test_memory_that_runs_out_all_the_same_is_the_images_limit(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that takes more than it is known for is held to the same limit."""

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("step37_flickr8k.download.job_runner.examine", full)
    directory = CacheDirectory(cache, "train")
    directory.make()
    first, second = (Job(directory.temporary(), "a.png", saved("PNG")) for _ in range(2))
    (done,) = here(directory).do(MAX_PIXELS, [first])
    assert done.examined.too_large == MAX_PIXELS + 1
    (done,) = here(directory, large=1000).do(MAX_PIXELS, [second])
    assert "give the job more memory" in str(done.error)
