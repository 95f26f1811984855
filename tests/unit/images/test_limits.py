"""The limit of pixels is a setting, and what it left out isn't left out for ever."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from step37_flickr8k import cli, errors, prepare_flickr8k_samples
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.download import downloader
from step37_flickr8k.images.decoding import examine
from step37_flickr8k.images.thumbnails import thumbnail
from step37_flickr8k.job import Run, Task
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings import WarmupSettings
from tests.conftest import captioned, picture, write_rows
from tests.helpers.faulty_worker import start_instead

# An image of 102 megapixels: 12 KB as PNG of one bit a pixel
LARGE = (12_000, 8_500)
# What the ordinary pictures of these tests have
SMALL = "256"


@pytest.fixture
def photograph(hub: LocalHub) -> LocalHub:
    """Serve a dataset whose third image has 102 megapixels."""
    Image.new("1", LARGE).save(out := io.BytesIO(), "PNG")
    (hub.directory / "train" / "0002.png").write_bytes(out.getvalue())
    rows = [captioned(number) for number in range(12)]
    rows[2]["file_name"] = "0002.png"
    write_rows(hub.directory / "train", rows)
    hub.refresh()
    return hub


@pytest.fixture
def larger(hub: LocalHub) -> LocalHub:
    """Serve a dataset whose eleventh image has 1,600 pixels, the others 256."""
    (hub.directory / "train" / "0010.jpg").write_bytes(picture(10, size=40))
    hub.refresh()
    return hub


def record_of(cache: Path) -> Record:
    record = read_record(CacheDirectory(cache, "train"))
    assert record is not None
    return record


def warm(cache: Path, *flags: str) -> int:
    return cli.run(["warmup", "--cache-dir", str(cache), *flags])


def rows_and_files(capsys: pytest.CaptureFixture[str]) -> tuple[int, int]:
    report = json.loads(capsys.readouterr().out)
    return report["ready_rows"], report["files"]


@pytest.mark.parametrize("many", [0, 100], ids=["worker", "here"])
def test_a_large_photograph_counts_under_a_higher_limit(
    photograph: LocalHub,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    many: int,
) -> None:
    """It is left out with the setting's name; once that is raised it counts, without a download."""
    monkeypatch.setattr(downloader, "MANY", many)
    assert warm(cache) == 0
    assert rows_and_files(capsys) == (11, 12)
    assert record_of(cache).skipped == {
        "0002.png": "it has 12000 x 8500 pixels, more than max_pixels allows (89,478,485)"
    }
    photograph.clear_requests()
    assert warm(cache, "--max-pixels", "102000000") == 0
    assert rows_and_files(capsys) == (12, 0)
    assert not photograph.file_requests()
    assert (record_of(cache).skipped, record_of(cache).too_large) == ({}, {})


def test_only_a_limit_that_lets_an_image_in_is_work(
    larger: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that is still too low is warm; one below what is in the record takes nothing out."""
    assert warm(cache, "--max-pixels", SMALL) == 0
    assert rows_and_files(capsys) == (11, 12)
    larger.clear_requests()
    assert warm(cache, "--max-pixels", "1_599") == 0
    assert rows_and_files(capsys) == (11, 0)
    assert len(larger.requests) == 1, "main was resolved"
    assert warm(cache, "--max-pixels", "1_600") == 0
    assert rows_and_files(capsys) == (12, 0)
    larger.clear_requests()
    for limit in ("1", SMALL, "1_000_000_000_000"):
        assert warm(cache, "--max-pixels", limit) == 0
        assert rows_and_files(capsys) == (12, 0)
    assert not larger.file_requests()


def test_an_image_beyond_the_selection_is_judged_again_too(
    larger: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A call for the first rows under a higher limit lets it in, without a download."""
    assert warm(cache, "--max-pixels", SMALL) == 0
    larger.clear_requests()
    assert warm(cache, "--sample-count", "3") == 0
    assert not larger.file_requests()
    capsys.readouterr()
    assert warm(cache) == 0
    assert rows_and_files(capsys) == (12, 0)


def test_a_new_limit_needs_the_hub_and_says_so_offline(
    larger: LocalHub,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Offline a record that left images out for a lower limit isn't passed off as complete."""
    assert larger.commit
    assert warm(cache, "--max-pixels", SMALL) == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert warm(cache, "--max-pixels", SMALL) == 0
    capsys.readouterr()
    assert warm(cache) == errors.InvalidSettings.exit_code
    assert "left images out for a lower max_pixels than now" in capsys.readouterr().err


def test_the_environment_and_a_settings_file_set_the_limit(
    larger: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """STEP37_MAX_PIXELS holds for the command and for the library, as a settings file does."""
    assert larger.commit
    monkeypatch.setenv("STEP37_MAX_PIXELS", SMALL)
    for _ in range(2):
        assert len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))) == 11
    monkeypatch.delenv("STEP37_MAX_PIXELS")
    file = tmp_path / "settings.yaml"
    file.write_text("max_pixels: 2_000\n", encoding="utf-8")
    monkeypatch.setenv("STEP37_SETTINGS", str(file))
    assert len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))) == 12


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "yes"])
def test_an_impossible_limit_is_refused(
    cache: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The setting is named."""
    assert warm(cache, "--max-pixels", value) == errors.InvalidSettings.exit_code
    assert f"max_pixels='{value}' (--max-pixels) is wrong" in capsys.readouterr().err


def test_no_image_below_the_limit_says_why(
    larger: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where every image is left out, the error has the first reason."""
    assert larger.commit
    assert warm(cache, "--max-pixels", "99") == errors.EmptySelection.exit_code
    told = capsys.readouterr().err
    assert "can be decoded (0000.jpg: it has 16 x 16 pixels, more than max_pixels allows" in told
    assert "): raise max_pixels, or choose another split" in told
    assert warm(cache) == 0


def test_what_verify_repairs_is_held_against_the_limit(larger: LocalHub, cache: Path) -> None:
    """A repaired image is decoded under the limit of the command, and never lost by a lower one."""
    assert warm(cache) == 0
    (cache / "train" / "0010.jpg").unlink()
    told = ["verify", "--repair", "--cache-dir", str(cache), "--max-pixels", SMALL]
    assert cli.run(told) == 0
    assert warm(cache) == 0
    assert larger.commit
    assert record_of(cache).skipped == {}


def test_plan_counts_what_a_higher_limit_lets_in(
    larger: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is to be fetched for it, and plan changes nothing."""
    assert larger.commit
    assert warm(cache, "--max-pixels", SMALL) == 0
    before = record_of(cache)
    capsys.readouterr()
    assert cli.run(["plan", "--cache-dir", str(cache), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fetch"] == 0
    assert record_of(cache) == before


def test_ranks_with_different_limits_are_told() -> None:
    """The limit decides which rows there are, so it is one of the arguments that must agree."""
    one, other = (
        Run(Task.from_settings(WarmupSettings(max_pixels=pixels)), World.from_environment({}))
        for pixels in (1, 2)
    )
    assert one.arguments() != other.arguments()


_WEBP_LIMIT = """
from PIL import Image
Image.MAX_IMAGE_PIXELS = 100
"""


def test_a_limit_inside_of_a_decoder_is_lifted_in_workers(
    larger: LocalHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's WebP decoder has a limit of its own, which workers set to that of the setting."""
    with monkeypatch.context() as here:
        # As an image of more than 179 megapixels would be held against Pillow's default
        here.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        Image.new("RGB", (40, 40)).save(out := io.BytesIO(), "WEBP")
        shown = examine(out.getvalue(), "a.webp", 1000)
    assert shown.too_large == 1001
    assert shown.decode_error.endswith("see max_pixels")
    (larger.directory / "train" / "0010.jpg").write_bytes(out.getvalue())
    larger.refresh()
    start_instead(monkeypatch, tmp_path, late=_WEBP_LIMIT)
    # A limit above Pillow's default is kept in workers, even for a few images.
    assert warm(cache, "--max-pixels", "90_000_000") == 0
    assert record_of(cache).skipped == {}


def test_a_large_image_has_a_thumbnail(tmp_path: Path) -> None:
    """The preview shows what the record accepts, without a warning of Pillow's."""
    path = tmp_path / "a.png"
    Image.new("1", LARGE).save(path)
    assert thumbnail(path, path.name, 2900)[1] == LARGE
