"""What is done with the rows whose images can't be decoded."""

import json
import shutil
from pathlib import Path

import pytest

from step37_flickr8k import cli, errors, prepare_flickr8k_samples
from step37_flickr8k.download import downloader
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, picture
from tests.helpers.faulty_worker import start_instead, where_a_picture


@pytest.fixture
def with_bad_ones(draw: Draw, hub: LocalHub) -> LocalHub:
    """Serve a dataset whose second picture is truncated and whose tenth is a web page."""
    directory = draw() / "train"
    (directory / "0001.jpg").write_bytes(picture(1)[:-200])
    (directory / "0009.jpg").write_bytes(b"<!doctype html><p>404 Not Found</p>")
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
            match=r"2 of the 12 rows.*0001\.jpg \(.*[Tt]runcated.*0009\.jpg \(cannot identify",
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
        assert "left out, because they can't be decoded: 0001.jpg (" in captured.err
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
