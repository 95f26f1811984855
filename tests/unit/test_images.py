"""What is wrong with an image is found before training does, and what is done with such rows."""

import json
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from step37_flickr8k import cli, errors, prepare_flickr8k_samples
from step37_flickr8k.download import downloader
from step37_flickr8k.images import why_undecodable
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, picture
from tests.helpers.faulty_worker import start_instead, where_a_picture

# --- what is found --------------------------------------------------------------------------------


def written(path: Path, kind: str, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Path:
    Image.new(mode, size).save(path, kind)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_usual_kinds_are_good_under_their_names(tmp_path: Path, kind: str) -> None:
    """Each kind is decoded under its own name, whatever its case, and under a name that promises nothing."""
    path = written(tmp_path / "image", kind)
    for name in (f"a.{kind.lower()}", f"A.{kind}", "a", "a.img"):
        assert why_undecodable(path, name) is None


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "a.jpg"), ("JPEG", "a.png"), ("GIF", "a.jpeg"), ("WEBP", "a.JPG")]
)
def test_an_image_of_another_kind_than_its_name_says_is_found(
    tmp_path: Path, kind: str, name: str
) -> None:
    """Training code that goes by the name would fail on it, hours later."""
    assert (why_undecodable(written(tmp_path / "image", kind), name) or "").startswith(
        f"it is {kind}, not "
    )


def test_a_picture_of_several_is_a_jpeg(tmp_path: Path) -> None:
    """Phones write JPEGs that hold more than one picture."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16)).save(
        path, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))]
    )
    assert why_undecodable(path, "a.jpg") is None


def test_programs_are_no_images(tmp_path: Path) -> None:
    """PostScript isn't handed to an interpreter, whatever it is called."""
    path = tmp_path / "a.jpg"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    for name in ("a.jpg", "a.eps", "a"):
        assert "cannot identify" in (why_undecodable(path, name) or "")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_bomb_is_not_decoded(tmp_path: Path, side: int) -> None:
    """A few kilobytes that hold a hundred million pixels or more are refused by their header, in milliseconds."""
    path = written(tmp_path / "a.png", "PNG", (side, side), mode="1")
    assert path.stat().st_size < 100_000
    start = time.process_time()
    assert "pixels" in (why_undecodable(path, "a.png") or "")
    assert time.process_time() - start < 0.5


# --- what is done with them -----------------------------------------------------------------------


@pytest.fixture
def with_bad_ones(draw: Draw, hub: LocalHub) -> LocalHub:
    """Serve a dataset whose second picture is truncated and whose tenth is a PNG."""
    directory = draw() / "train"
    (directory / "0001.jpg").write_bytes(picture(1)[:-200])
    written(directory / "0009.jpg", "PNG")
    hub.refresh()
    return hub


def names(cache: Path, count: int | None, **how: str) -> list[str]:
    samples = prepare_flickr8k_samples(sample_count=count, cache_dir=str(cache), **how)  # type: ignore[arg-type]
    return [Path(sample.image_path).name for sample in samples]


def test_skipped_rows_are_not_refilled(with_bad_ones: LocalHub, cache: Path) -> None:
    """sample_count counts rows: a row that is left out makes the list shorter, cold and warm, and stays in the record."""
    expected = [f"{number:04}.jpg" for number in range(5) if number != 1]
    assert names(cache, 5) == expected
    with_bad_ones.clear_requests()
    assert names(cache, 5) == expected
    assert not with_bad_ones.requests
    skipped = json.loads((cache / ".step37-flickr8k" / "train.json").read_text(encoding="utf-8"))[
        "skipped"
    ]
    assert list(skipped) == ["0001.jpg"]
    assert "truncated" in skipped["0001.jpg"].lower()


def test_bad_images_can_be_an_error(with_bad_ones: LocalHub, cache: Path) -> None:
    """With bad_images=error the rows are named and the call fails, cold and warm; what came stays, and narrower calls succeed."""
    for _ in range(2):
        with pytest.raises(
            errors.BadImages,
            match=r"2 of the 12 rows.*0001\.jpg \(.*[Tt]runcated.*0009\.jpg \(it is PNG",
        ) as caught:
            names(cache, None, bad_images="error")
        assert errors.exit_code_of(caught.value) == 2
        assert "set bad_images=skip" in str(caught.value)
    assert len(with_bad_ones.file_requests()) == 13
    with_bad_ones.clear_requests()
    assert names(cache, 1, bad_images="error") == ["0000.jpg"]
    assert len(names(cache, None)) == 10
    assert not with_bad_ones.requests


def test_the_report_names_the_bad_rows_of_the_selection(
    with_bad_ones: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command's report has each with its reason, cold and warm, and none that wasn't asked for."""
    assert with_bad_ones.commit
    for count, expected in (
        ("all", ["0001.jpg", "0009.jpg"]),
        ("all", ["0001.jpg", "0009.jpg"]),
        ("5", ["0001.jpg"]),
    ):
        assert cli.run(["warmup", "--cache-dir", str(cache), "--sample-count", count]) == 0
        captured = capsys.readouterr()
        assert sorted(json.loads(captured.out)["skipped"]) == expected
        assert "left out, because they can't be decoded: 0001.jpg" in captured.err
        assert f"rows, {len(expected)} left out at commit" in captured.err
    assert cli.run(["warmup", "--cache-dir", str(cache), "--bad-images", "error"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "BadImages"


def test_what_is_adopted_is_decoded_too(with_bad_ones: LocalHub, cache: Path) -> None:
    """Files that another tool brought are looked at like those that we fetch."""
    shutil.copytree(with_bad_ones.directory / "train", cache / "train")
    assert len(names(cache, None)) == 10
    assert not with_bad_ones.file_requests()


def test_a_decoder_that_died_is_forgotten(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the decoder dies the call fails and may be tried again; on a machine where it lives no image is missing."""
    assert hub.commit
    with monkeypatch.context() as here:
        here.setattr(downloader, "MANY", 0)  # so that workers decode these few, too
        start_instead(here, tmp_path, late=where_a_picture("os.abort()", "0003.jpg"))
        with pytest.raises(
            errors.TransientError,
            match=r"0003\.jpg: the process that decodes it died twice \(Aborted\)",
        ):
            names(cache, None)
    assert len(names(cache, None)) == 12
