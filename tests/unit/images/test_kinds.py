"""Which kinds of image count, and that names don't decide."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from step37_flickr8k import cli, errors, prepare_flickr8k_samples
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.download import downloader
from step37_flickr8k.images.decoding import examine
from step37_flickr8k.images.examined import FINE, Examined
from step37_flickr8k.images.kinds import KINDS
from step37_flickr8k.images.opening import with_image
from step37_flickr8k.localhub import LocalHub
from tests.conftest import captioned, write_rows
from tests.helpers.faulty_worker import start_instead
from tests.helpers.pictures import pictures


def kind_of(name: str) -> str:
    return name.partition(".")[0]


def written(path: Path, kind: str, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Path:
    Image.new(mode, size).save(path, kind)
    return path


def test_every_kind_that_counts_is_tried() -> None:
    """The images that these tests draw are of all kinds, as Pillow itself calls them."""
    Image.init()
    contents = pictures()
    found = {
        with_image(each, "a", lambda image, _: str(image.format)) for each in contents.values()
    }
    assert found <= {*KINDS, "MPO", "XVThumb"}
    here = {kind for kind in KINDS if kind in Image.OPEN} - {"PCD"}
    # Pillow has had AVIF since 11.3, and a build may lack others.
    assert here - {kind_of(name) for name in contents} <= {"AVIF", "JPEG2000", "WEBP", "ICNS"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_the_usual_kinds_are_good_under_their_names(tmp_path: Path, kind: str) -> None:
    """Each kind counts under every name that promises it, or that promises nothing."""
    path = written(tmp_path / "image", kind)
    promising = [suffix for suffix, its in Image.registered_extensions().items() if its == kind]
    for suffix in (*promising, *map(str.upper, promising), "", ".img", ".large", ".jpg.part"):
        assert examine(path, f"a{suffix}", MAX_PIXELS) == FINE


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PNG", "a.jpg"), ("JPEG", "a.png"), ("GIF", "a.jpeg"), ("WEBP", "a.JPG"), ("BMP", "a.eps")],
)
def test_a_name_that_lies_about_the_kind_is_told_and_forgiven(
    tmp_path: Path, kind: str, name: str
) -> None:
    """The image counts, since trainers open it by its content, and the found kind is told."""
    assert examine(written(tmp_path / "image", kind), name, MAX_PIXELS) == Examined(misnamed=kind)


def test_a_picture_of_several_is_a_jpeg() -> None:
    """Phones write JPEGs that hold more than one picture."""
    assert examine(pictures()["JPEG.mpo"], "a.jpg", MAX_PIXELS) == FINE


def mislabelled(hub: LocalHub, *numbers: int) -> None:
    """Have some images of a dataset be WebP under the name of a JPEG."""
    for number in numbers:
        written(hub.directory / "train" / f"{number:04}.jpg", "WEBP", (16, number + 1))
    hub.refresh()


@pytest.mark.parametrize("numbers", [(3, 5), range(12)], ids=["some", "all"])
def test_misnamed_images_are_a_warning_and_in_the_report(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str], numbers: list[int]
) -> None:
    """Every row counts; the kind is told with the first name, on warm runs, too, at no cost."""
    mislabelled(hub, *numbers)
    first = f"{numbers[0]:04}.jpg"
    for told in ("cold", "warm"):
        assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0, told
        captured = capsys.readouterr()
        report = json.loads(captured.out)
        assert (report["ready_rows"], report["skipped"]) == (12, {})
        assert report["misnamed"] == {"WEBP": {"images": len(numbers), "first": first}}
        assert f"{len(numbers)} images of kind WEBP, though the name says another" in captured.err
        assert f"the first is {first}" in captured.err
    file = cache.with_name("report.json")
    file.write_text(json.dumps(report), encoding="utf-8")
    assert cli.run(["report", str(file), "--html", str(cache.with_name("report.html"))]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["WEBP", str(len(numbers)), first] in lines
    assert f'<td class="mono">{first}</td>' in cache.with_name("report.html").read_text()


def test_the_library_warns_of_misnamed_images_and_returns_them(
    hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A call returns every row, with one warning; bad_images=error is no matter."""
    mislabelled(hub, 3)
    samples = prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache), bad_images="error")
    assert len(samples) == 12
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "1 image of kind WEBP" in warnings[0]


OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
    "PSD": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\2\0\0\0\2\0\x08\0\3" + bytes(14) + bytes(12),
    "FITS": b"".join(
        text.ljust(80).encode()
        for text in (
            "SIMPLE  = T",
            "BITPIX  = 8",
            "NAXIS   = 2",
            "NAXIS1  = 2",
            "NAXIS2  = 2",
            "END",
        )
    ).ljust(2880)
    + bytes(2880),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_kinds_that_run_or_leave_their_memory_are_not_opened(tmp_path: Path, kind: str) -> None:
    """PostScript isn't handed to an interpreter, nor a kind opened that Pillow has warned of."""
    path = tmp_path / "image"
    path.write_bytes(OTHERS[kind])
    with Image.open(path) as image:
        assert image.format == kind
    for name in ("a.jpg", f"a.{kind.lower()}", "a"):
        found = examine(path, name, MAX_PIXELS).decode_error
        assert found == f"cannot identify image file {name}"


INSTEAD = {
    b"": "it is empty",
    b"\n<!DOCTYPE html><title>Sign in</title>": "it is a web page",
    b"<html>": "it is a web page",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": "it is SVG",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:": "it is a pointer of Git LFS",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "it is HEIC",
    b"\xff\x0a" + bytes(20): "it is JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "it is JPEG XL",
}


@pytest.mark.parametrize("content", INSTEAD, ids=lambda content: INSTEAD[content])
def test_what_is_met_under_the_name_of_an_image_is_named(tmp_path: Path, content: bytes) -> None:
    """A pointer, a page or a kind that Pillow lacks each has another remedy."""
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    found = examine(path, "a.jpg", MAX_PIXELS).decode_error
    assert found.startswith(f"cannot identify image file a.jpg: {INSTEAD[content]}")


@pytest.fixture
def avif(hub: LocalHub) -> LocalHub:
    """Serve a dataset of AVIF images alone."""
    directory = hub.directory / "train"
    content = pictures().get("AVIF.RGB", b"\0\0\0 ftypavif")
    rows = [captioned(number) | {"file_name": f"{number:04}.avif"} for number in range(12)]
    for row in rows:
        (directory / row["file_name"]).write_bytes(content + row["file_name"].encode())
    write_rows(directory, rows)
    hub.refresh()
    return hub


@pytest.mark.parametrize("count", ["3", "all"])
def test_a_dataset_of_avif_is_warmed(
    avif: LocalHub, cache: Path, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row counts where this Pillow decodes AVIF, in the process itself and in workers."""
    assert avif.commit
    if "AVIF.RGB" not in pictures():
        pytest.skip("this Pillow can't decode AVIF: it is older than 11.3, or built without it")
    assert cli.run(["warmup", "--cache-dir", str(cache), "--sample-count", count]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready_rows"] == report["rows"]
    assert not report["skipped"]


_NO_AVIF = "sys.modules['PIL._avif'] = None"


def test_a_pillow_without_avif_is_told_by_workers(
    avif: LocalHub,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where Pillow can't decode AVIF, that is the error, with the remedy; no image is blamed."""
    monkeypatch.setattr(downloader, "MANY", 0)
    with monkeypatch.context() as here:
        start_instead(here, tmp_path, early=_NO_AVIF)
        assert cli.run(["warmup", "--cache-dir", str(cache)]) == errors.DecoderMissing.exit_code
    message = json.loads(capsys.readouterr().out)["message"]
    assert ".avif is AVIF, which Pillow " in message
    assert "install pillow 11.3 or newer" in message
    assert not list(cache.glob(".step37-flickr8k/train.json"))
    assert avif.commit


@pytest.mark.parametrize(
    ("name", "content", "module"),
    [
        ("a.avif", b"\0\0\0 ftypavif", "PIL._avif"),
        ("a.jpg", b"\0\0\0 ftypavis", "PIL._avif"),
        ("a.webp", b"RIFF\x24\0\0\0WEBPVP8 ", "PIL._webp"),
    ],
)
def test_a_missing_decoder_is_no_decode_error(name: str, content: bytes, module: str) -> None:
    """An image that a complete Pillow might decode is an error of this machine's Pillow."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from step37_flickr8k.images.decoding import examine\n"
        f"examine({content!r}, {name!r}, 10**6)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "DecoderMissing: " in told.stderr
    assert f"{name} is {'WEBP' if 'webp' in module else 'AVIF'}, which Pillow " in told.stderr


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_bomb_is_not_decoded(tmp_path: Path, side: int) -> None:
    """A few kilobytes of a hundred million pixels or more are refused by their header."""
    path = written(tmp_path / "a.png", "PNG", (side, side), mode="1")
    assert path.stat().st_size < 100_000
    start = time.process_time()
    found = examine(path, "a.png", MAX_PIXELS).decode_error
    assert f"it has {side} x {side} pixels, more than max_pixels allows (89,478,485)" in found
    assert time.process_time() - start < 0.5
