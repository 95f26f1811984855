"""Whatever a decoder raises is that image's decode error; a small image is as good as any."""

import errno
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from step37_flickr8k import cli, prepare_flickr8k_samples
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.images.decoding import examine
from step37_flickr8k.images.examined import FINE
from step37_flickr8k.images.opening import Undecodable, with_image
from step37_flickr8k.images.thumbnails import thumbnail
from step37_flickr8k.localhub import LocalHub
from tests.conftest import picture, write_rows
from tests.helpers.pictures import pictures


def saved(size: tuple[int, int], kind: str = "JPEG", mode: str = "RGB", **how: object) -> bytes:
    Image.new(mode, size).save(out := io.BytesIO(), kind, **how)
    return out.getvalue()


def error_of(content: bytes, name: str = "a") -> str:
    return examine(content, name, MAX_PIXELS).decode_error


# --- small sides ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize(
    "size", [(1, 1), (7, 7), (600, 6), (6, 600), (8, 8), (15, 1), (16383, 1), (1, 16383)]
)
def test_an_image_with_a_small_side_can_be_decoded(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    """A side below 8 pixels, the eighth that a JPEG is decoded at, counts, and has a thumbnail."""
    path = tmp_path / "a"
    path.write_bytes(saved(size, kind))
    assert examine(path, "a", MAX_PIXELS) == FINE
    assert examine(path.read_bytes(), "a", MAX_PIXELS) == FINE
    assert thumbnail(path, path.name, 2900)[1] == size


def test_the_longest_jpeg_can_be_decoded() -> None:
    """The longest side that a JPEG may have, 65,500 pixels, counts."""
    assert examine(saved((65500, 1)), "a.jpg", MAX_PIXELS) == FINE


@pytest.mark.parametrize("count", [3, 300])
def test_a_dataset_with_tiny_images_is_warmed(hub: LocalHub, cache: Path, count: int) -> None:
    """Images of 1 x 1 and 600 x 6 pixels count, decoded in the process itself or by a worker."""
    directory = hub.directory / "train"
    for number in range(count):
        (directory / f"{number:04}.jpg").write_bytes(picture(number))
    (directory / "0000.jpg").write_bytes(saved((1, 1)))
    (directory / "0001.jpg").write_bytes(saved((600, 6)))
    rows = [{"file_name": f"{number:04}.jpg", "caption_0": "x"} for number in range(count)]
    write_rows(directory, rows)
    hub.refresh()
    assert len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))) == count


# --- what decoders raise --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ArithmeticError("x"),
        AssertionError(),
        AttributeError("x"),
        IndexError("x"),
        KeyError(5),
        NotImplementedError("x"),
        OSError(22, "Invalid argument"),
        OverflowError("x"),
        RecursionError("x"),
        RuntimeError("x"),
        StopIteration(),
        SyntaxError("x"),
        TypeError("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        ZeroDivisionError("x"),
        struct.error("x"),
        zlib.error("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_of_a_decoder_is_the_images_error(error: Exception) -> None:
    """Whatever is raised while an image is decoded becomes one error with a text."""

    def decode(*_: object) -> None:
        raise error

    with pytest.raises(Undecodable, match=r"\w"):
        with_image(picture(1), "a.jpg", decode)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_says_nothing_about_the_image_goes_through(error: BaseException) -> None:
    """A lack of memory may be the machine's, and an interrupt is the user's."""

    def decode(*_: object) -> None:
        raise error

    with pytest.raises(type(error)):
        with_image(picture(1), "a.jpg", decode)


def test_the_text_is_one_printable_line_of_bounded_length() -> None:
    """What an image puts into its decoder's message can't forge a line of the log, or flood it."""

    def decode(*_: object) -> None:
        raise ValueError("a\r\nERROR rank 0 \x1b[31m\u202e\ud800" + "b" * 10_000)

    with pytest.raises(Undecodable) as caught:
        with_image(picture(1), "a.jpg", decode)
    text = str(caught.value)
    assert text.startswith("a ERROR rank 0 [31m b")
    assert text.isprintable()
    assert len(text) == 200


def test_a_file_system_that_fails_is_not_the_image(tmp_path: Path) -> None:
    """What the file system says is raised; a decoder that says the same speaks of the image."""

    def decode(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.bmp").write_bytes(saved((400, 400), "BMP"))
    with pytest.raises(Undecodable, match="Input/output error"):
        with_image(tmp_path / "a.bmp", "a.bmp", decode)
    with pytest.raises(IsADirectoryError):
        with_image(tmp_path, "a.bmp", decode)


def text_chunk(length: int) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * length, zip=True)
    return saved((4, 4), "PNG", pnginfo=text)


MALFORMED = {
    "empty": b"",
    "one byte": b"\xff",
    "PPM, greatest value 0": b"P3\n1 1\n0\n0 0 0\n",
    "PNG, text too large": text_chunk(2_000_000),
    "PNG, no pixels": saved((4, 4), "PNG")[:33],
    "GIF, no pixels": saved((4, 4), "GIF")[:13],
    "TIFF, directory far outside": b"II+\0\x08\0\0\0" + (1 << 62).to_bytes(8, "little"),
    "TIFF, text where a number belongs": b"II*\0\x08\0\0\0\1\0\0\1\2\0\2\0\0\0ab\0\0\0\0\0\0",
    "JPEG, header alone": picture(1)[:20],
    "JPEG 2000, length of 90 GB": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\1jp2h\0\0\0\x16\0\0\0\0",
    "ICO, image outside": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\xff\xff\xff\xff\xff\xff\xff\xff",
    "WebP, no frame": b"RIFF\x10\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0\3\0\0\3\0\0",
    "DDS, unknown pixels": b"DDS " + struct.pack("<31I", 124, 7, 4, 4, *[0] * 27),
    "web page": b"<!doctype html><html><body>404 Not Found</body></html>",
    "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_image_has_a_decode_error(tmp_path: Path, name: str) -> None:
    """It is found in memory and on disk alike, whatever Pillow raises for it."""
    path = tmp_path / "a"
    path.write_bytes(MALFORMED[name])
    assert error_of(MALFORMED[name])
    assert examine(path, "a", MAX_PIXELS).decode_error


def test_what_is_fine_for_every_trainer_is_fine() -> None:
    """Progressive, interlaced, CMYK, 16-bit, transparent, animated: the first image counts."""
    contents = pictures()
    assert len(contents) > 70
    bad = {name: error for name, each in contents.items() if (error := error_of(each))}
    assert not bad


def test_a_truncated_second_frame_is_no_error() -> None:
    """Trainers take the first frame of an animation."""
    frames = [Image.effect_noise((64, 64), 90) for _ in range(2)]
    frames[0].save(out := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    content = out.getvalue()
    assert examine(content[: len(content) * 3 // 4], "a.gif", MAX_PIXELS) == FINE
    assert error_of(content[: len(content) // 4])


def animated_badly() -> bytes:
    """Return a PNG for which Pillow warns, and which it decodes."""
    content = saved((4, 4), "PNG")
    chunk = b"acTL" + struct.pack(">II", 0, 0)
    chunk = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + chunk + content[33:]


def test_a_warning_is_no_decode_error() -> None:
    """Where Python makes errors of warnings, as here, what Pillow warns of still counts."""
    with pytest.raises(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(animated_badly()))
    assert examine(animated_badly(), "a.png", MAX_PIXELS) == FINE


def test_a_warning_is_no_decode_error_of_a_worker(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONWARNINGS=error in the job's environment costs no image."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    for number in range(12):
        (hub.directory / "train" / f"{number:04}.jpg").write_bytes(
            animated_badly() + b"%d" % number
        )
    hub.refresh()
    assert len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))) == 12


@pytest.mark.parametrize("count", [3, 12])
def test_malformed_images_cost_their_rows_alone(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str], count: int, tmp_path: Path
) -> None:
    """The run ends with 0 and names them, and the preview shows the reason for each."""
    directory = hub.directory / "train"
    bad = ("PPM, greatest value 0", "DDS, unknown pixels")
    for number, name in enumerate(bad):
        (directory / f"{number:04}.jpg").write_bytes(MALFORMED[name])
    hub.refresh()
    told = ["--cache-dir", str(cache), "--sample-count", str(count)]
    assert cli.run(["warmup", *told]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ready_rows"], [*report["skipped"]]) == (count - 2, ["0000.jpg", "0001.jpg"])
    # Since then on this disk: the preview decodes what is there now
    (cache / "train" / "0002.jpg").write_bytes(MALFORMED["TIFF, directory far outside"])
    page = tmp_path / "page.html"
    assert cli.run(["preview", *told, "--output", str(page)]) == 0
    assert f"{count} rows with caption_0, {count - 3} images here" in page.read_text()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 40,
    ],
    ids=["blank", "outside", "too many"],
)
def test_broken_metadata_costs_no_thumbnail(tmp_path: Path, exif: bytes) -> None:
    """An image whose EXIF data are malformed is shown as it lies: training takes it, too."""
    path = tmp_path / "a.jpg"
    path.write_bytes(saved((300, 200), exif=exif))
    assert examine(path, "a.jpg", MAX_PIXELS) == FINE
    assert thumbnail(path, path.name, 2900)[1] == (300, 200)


def test_broken_xmp_costs_no_thumbnail(tmp_path: Path) -> None:
    """Metadata that aren't UTF-8, as in huggingface/datasets #7668, cost nothing."""
    path = tmp_path / "a.jpg"
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6' \xa8>"
    content = saved((300, 200))
    app1 = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    path.write_bytes(content[:2] + app1 + content[2:])
    assert examine(path, "a.jpg", MAX_PIXELS) == FINE
    assert thumbnail(path, path.name, 2900)[1] == (300, 200)


def test_a_decoder_may_close_its_file() -> None:
    """One kind's decoder closes the file that it was given; an image of it counts all the same."""
    assert examine(pictures()["FTEX.RGB"], "a.ftc", MAX_PIXELS) == FINE


def test_memory_for_what_a_header_claims_is_not_needed(tmp_path: Path) -> None:
    """A malformed image that claims 90 GB is that image's error where memory is limited."""
    path = tmp_path / "a.jp2"
    path.write_bytes(MALFORMED["JPEG 2000, length of 90 GB"])
    script = (
        "import resource; from pathlib import Path;"
        "from step37_flickr8k.images.decoding import examine;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        f"print(examine(Path({str(path)!r}), 'a.jp2', 10**8).decode_error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip()
