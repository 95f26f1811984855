"""A repair without the listing: files of the record's own commit, by the manifest's hashes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import cli
from step37_flickr8k.cache.known import known_files
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import read_record
from step37_flickr8k.errors import FetchFailed
from step37_flickr8k.job.plan import make_plan
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import Draw, picture
from tests.unit.job import test_warmup
from tests.unit.job.test_warmup import run_of, warm

ONE_FILE = ["api", "resolve"]  # the commit of main, and the file
LISTED = ["api", "tree", "resolve"]


def requests(hub: LocalHub) -> list[str]:
    """Return the kinds of the requests so far, without those that a redirect led to."""
    return [kind for kind in test_warmup.requests(hub) if kind != "cdn"]


@pytest.fixture
def warmed(hub: LocalHub, cache: Path) -> Path:
    """Fill the cache, forget the requests, and take an image away; return its path."""
    warm(hub, cache)
    requests(hub)
    missing = cache / "train" / "0007.jpg"
    missing.unlink()
    return missing


def test_a_missing_file_costs_no_listing(hub: LocalHub, cache: Path, warmed: Path) -> None:
    """A warmup asks for the commit and for the one file, which has the Hub's own bytes."""
    plan = make_plan(run_of(hub, cache))
    assert (plan.fetch, plan.files, plan.rows, plan.unnamed) == (1, 12, 12, None)
    assert requests(hub) == ["api"]
    result = warm(hub, cache).result
    assert requests(hub) == ONE_FILE
    assert (result.warm, result.rows, result.files) == (False, 12, 1)
    assert warmed.read_bytes() == picture(7)
    assert warm(hub, cache).result.warm


def test_a_pinned_commit_costs_the_file_alone(hub: LocalHub, cache: Path, warmed: Path) -> None:
    """With its SHA no commit is asked for either."""
    assert warm(hub, cache, revision=hub.commit).result.files == 1
    assert requests(hub) == ["resolve"]
    assert warmed.exists()


def test_the_table_is_a_file_like_the_images(hub: LocalHub, cache: Path, warmed: Path) -> None:
    """A table that is missing, too, is fetched by its hash; and a file that only looks right."""
    (cache / "train" / "metadata.csv").unlink()
    (cache / "train" / "0003.jpg").write_bytes(picture(4))
    assert len(warm(hub, cache).rows) == 12
    assert sorted(requests(hub)) == ["api", "resolve", "resolve", "resolve"]
    assert (cache / "train" / "0003.jpg").read_bytes() == picture(3)
    assert warmed.exists()


def test_files_that_the_record_covers_beyond_the_selection_come_back(
    hub: LocalHub, cache: Path, warmed: Path
) -> None:
    """What the record promises to other selections is fetched without a listing, too."""
    assert len(warm(hub, cache, sample_count=3).rows) == 3
    assert requests(hub) == ONE_FILE
    assert warmed.read_bytes() == picture(7)


def test_verify_repairs_without_a_listing(hub: LocalHub, cache: Path, warmed: Path) -> None:
    """A file that is missing and one with other bytes cost a request each, and no other."""
    (cache / "train" / "0002.jpg").write_bytes(b"x")
    assert cli.run(["verify", "--cache-dir", str(cache), "--repair"]) == 0
    assert requests(hub) == ["resolve", "resolve"]
    assert [warmed.read_bytes(), (cache / "train" / "0002.jpg").read_bytes()] == [
        picture(7),
        picture(2),
    ]


def forget_the_manifest(cache: Path) -> None:
    (cache / ".step37-flickr8k" / "train.manifest").unlink()


def give_it_another_table(cache: Path) -> None:
    change(cache, "metadata.csv", digest=f"git-sha1:{'0' * 40}")


def forget_the_image(cache: Path) -> None:
    (cache / "train" / "0001.jpg").unlink()
    path = cache / ".step37-flickr8k" / "train.manifest"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "0007.jpg" not in line))


def give_it_another_digest(cache: Path) -> None:
    change(cache, "0007.jpg", digest=f"sha256:{'0' * 64}")


def give_it_too_large_a_size(cache: Path) -> None:
    change(cache, "0007.jpg", size=1 << 62)


def give_it_no_size(cache: Path) -> None:
    change(cache, "0007.jpg", size=-1)


def give_it_no_digest(cache: Path) -> None:
    change(cache, "0007.jpg", digest="md5:00")


def have_it_cover_less(cache: Path) -> None:
    path = cache / ".step37-flickr8k" / "train.json"
    record = json.loads(path.read_text())
    record["captions"]["caption_0"] = {"rows": 3, "everything": False}
    path.write_text(json.dumps(record))


def change(cache: Path, name: str, **values: Any) -> None:
    """Write another line for a file into the manifest."""
    path = cache / ".step37-flickr8k" / "train.manifest"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line[0] == name:
            line[1], line[2] = values.get("size", line[1]), values.get("digest", line[2])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "spoil",
    [
        forget_the_manifest,
        give_it_another_table,
        forget_the_image,
        give_it_another_digest,
        give_it_too_large_a_size,
        give_it_no_size,
        give_it_no_digest,
        have_it_cover_less,
    ],
)
def test_a_manifest_that_does_not_suffice_is_not_used(
    hub: LocalHub, cache: Path, warmed: Path, spoil: Callable[[Path], None]
) -> None:
    """Missing, of other files, changed by somebody, or a narrower record's: the Hub is asked."""
    spoil(cache)
    assert len(warm(hub, cache, attempts=2).rows) == 12
    assert "tree" in requests(hub)
    assert warmed.read_bytes() == picture(7)
    assert warm(hub, cache).result.warm


def test_another_commit_is_listed(draw: Draw, hub: LocalHub, cache: Path, warmed: Path) -> None:
    """The manifest says nothing of a commit that main has moved on to."""
    (draw() / "train" / "0009.jpg").write_bytes(picture(99))
    hub.refresh()
    assert warm(hub, cache).result.files == 2
    assert requests(hub) == [*LISTED, "resolve"]
    assert warmed.exists()


def test_bytes_that_do_not_match_the_manifest_are_not_taken(
    hub: LocalHub, cache: Path, warmed: Path
) -> None:
    """What comes is checked as ever, and not once more when the Hub's listing says the same."""
    hub.faults.add(Fault.corrupt(path="train/0007.jpg"))
    with pytest.raises(FetchFailed, match="wrong bytes"):
        warm(hub, cache, attempts=2)
    assert requests(hub) == ["api", "resolve", "resolve", "tree"]
    assert not warmed.exists()


def test_a_manifest_of_another_record_is_not_used(hub: LocalHub, cache: Path) -> None:
    """If another commit is published while it is read, nothing is known of the first one."""
    warm(hub, cache)
    directory = run_of(hub, cache).directory
    before = read_record(directory)
    assert before is not None
    known = known_files(directory, before)
    assert known is not None
    assert not known.is_whole
    assert known.keys() == read_manifest(directory).keys()
    (hub.directory / "train" / "0009.jpg").write_bytes(picture(99))
    hub.refresh()
    warm(hub, cache)
    assert known_files(directory, before) is None
