"""A cache that grows, has several captions and changes its commit fetches only the difference."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import cli, prepare_flickr8k_samples
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.job import Run, Task, make_plan
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings import WarmupSettings
from tests.conftest import Draw, captioned, picture, write_rows

COUNT = 1040


@pytest.fixture
def large(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve a dataset of 1,040 images; the last forty have one caption only."""
    directory = draw(COUNT)
    write_rows(
        directory / "train",
        [captioned(n) | ({"caption_1": ""} if n >= COUNT - 40 else {}) for n in range(COUNT)],
    )
    with LocalHub(directory) as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.endpoint)
        yield serving


def record(cache: Path) -> dict[str, Any]:
    return json.loads((cache / ".step37-flickr8k" / "train.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def fetched(hub: LocalHub, cache: Path, count: int | None, **how: Any) -> tuple[int, int]:
    """Return how many samples a call returns, and how many files it fetches."""
    hub.clear_requests()
    samples = prepare_flickr8k_samples(sample_count=count, cache_dir=str(cache), **how)
    return len(samples), len(hub.file_requests())


def planned(hub: LocalHub, cache: Path, count: int) -> int:
    """Return how many files `plan` says that such a call fetches."""
    settings = WarmupSettings(sample_count=count, cache_dir=cache, endpoint=hub.endpoint)
    return make_plan(Run(Task.from_settings(settings), World())).fetch


def test_eight_then_a_thousand_then_all(large: LocalHub, cache: Path) -> None:
    """Each call fetches what it adds; a narrower one fetches and removes nothing."""
    assert fetched(large, cache, 8) == (8, 9)
    assert fetched(large, cache, 1000) == (1000, 992)
    assert fetched(large, cache, None) == (COUNT, 40)
    for narrow in (8, 1000, None):
        assert fetched(large, cache, narrow)[1] == 0
    assert record(cache)["captions"] == {"caption_0": {"rows": COUNT, "everything": True}}


def test_captions_share_their_images(large: LocalHub, cache: Path) -> None:
    """Another caption of the same rows fetches no image.

    The record holds for each caption how many rows are complete.
    """
    assert fetched(large, cache, None) == (COUNT, COUNT + 1)
    assert fetched(large, cache, 8, caption_key="caption_1") == (8, 0)
    assert fetched(large, cache, None, caption_key="caption_1") == (COUNT - 40, 0)
    assert record(cache)["captions"] == {
        "caption_0": {"rows": COUNT, "everything": True},
        "caption_1": {"rows": COUNT - 40, "everything": True},
    }


def test_a_repair_by_a_narrower_call_does_not_shrink_the_record(hub: LocalHub, cache: Path) -> None:
    """A narrower call that has to fetch keeps the wider coverage true, and plan counts that."""
    assert fetched(hub, cache, None) == (12, 13)
    (cache / "train" / "0001.jpg").unlink()
    (cache / "train" / "0011.jpg").unlink()
    assert planned(hub, cache, 2) == 2
    assert fetched(hub, cache, 2) == (2, 2)
    assert record(cache)["captions"]["caption_0"] == {"rows": 12, "everything": True}
    assert fetched(hub, cache, None) == (12, 0)


def test_a_wide_record_whose_manifest_is_gone_begins_anew(hub: LocalHub, cache: Path) -> None:
    """Without the manifest, coverage shrinks to what is verified now."""
    assert fetched(hub, cache, None) == (12, 13)
    (cache / ".step37-flickr8k" / "train.manifest").unlink()
    (cache / "train" / "0011.jpg").unlink()
    assert fetched(hub, cache, 2) == (2, 0)
    assert record(cache)["captions"]["caption_0"] == {"rows": 2, "everything": False}
    assert fetched(hub, cache, None) == (12, 1)


def test_a_new_commit_fetches_what_changed_and_names_both(
    hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a new commit only changed images are fetched, and a warning names both commits.

    The record covers the new commit alone, with the rows of this call.
    """
    old = hub.commit
    assert fetched(hub, cache, None) == (12, 13)
    (hub.directory / "train" / "0000.jpg").write_bytes(picture(50))
    (hub.directory / "train" / "0011.jpg").write_bytes(picture(51))
    new = hub.refresh()
    with caplog.at_level(logging.WARNING):
        assert fetched(hub, cache, 8, revision="main") == (8, 1)
    assert old in caplog.text
    assert new in caplog.text
    assert (record(cache)["commit"], record(cache)["captions"]["caption_0"]["rows"]) == (new, 8)
    assert (cache / "train" / "0000.jpg").read_bytes() == picture(50)
    assert fetched(hub, cache, None, revision=new) == (12, 1)
    assert (cache / "train" / "0011.jpg").read_bytes() == picture(51)


def test_a_pinned_commit_is_asked_for_by_name(hub: LocalHub, cache: Path) -> None:
    """With a pinned commit nothing is requested or changed, wherever main is now."""
    old = hub.commit
    assert fetched(hub, cache, None, revision=old) == (12, 13)
    (hub.directory / "train" / "0000.jpg").write_bytes(picture(50))
    hub.refresh(keep_old=True)
    assert fetched(hub, cache, None, revision=old) == (12, 0)
    assert not hub.requests


def test_a_commit_without_some_images_leaves_them_there(hub: LocalHub, cache: Path) -> None:
    """A commit with fewer images deletes nothing: the other files stay, but aren't covered."""
    assert fetched(hub, cache, None) == (12, 13)
    directory = hub.directory / "train"
    (directory / "0011.jpg").unlink()
    write_rows(directory, [captioned(number) for number in range(11)])
    hub.refresh()
    assert fetched(hub, cache, None, revision="main") == (11, 1)
    assert (cache / "train" / "0011.jpg").exists()
    assert fetched(hub, cache, None, revision="main") == (11, 0)


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("train.json", '"rows": 12', '"rows": "many"'),
        ("train.json", '"everything": true', '"everything": 1'),
        ("train.json", '"rows": 12', '"rows": 12, "new": 1'),
        ("train.json", '"format": 1', '"format": 2'),
        ("train.json", '"skipped": {}', '"skipped": {"0001.jpg": 5}'),
        ("train.json", '"skipped": {}', '"skipped": []'),
        ("train.json", '"runs": []', '"runs": [1]'),
        ("train.json", '"commit": "', '"commit": 1, "was": "'),
        ("train.manifest", '["0001.jpg", ', '["x", 1, 5, 7, ""]\n["0001.jpg", '),
        ("train.manifest", '["0001.jpg", ', '5\n["0001.jpg", '),
    ],
)
def test_an_edited_record_or_manifest_counts_as_missing(
    hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture, name: str, was: str, becomes: str
) -> None:
    """A malformed record or manifest is rebuilt from the files, with a warning."""
    assert fetched(hub, cache, None)[0] == 12
    file = cache / ".step37-flickr8k" / name
    content, before = file.read_text(), record(cache)
    assert was in content
    file.write_text(content.replace(was, becomes))
    assert fetched(hub, cache, None) == (12, 0)
    assert f"{name} can't be read" in caplog.text
    assert record(cache) == before
    assert cli.run(["verify", "--cache-dir", str(cache)]) == 0
