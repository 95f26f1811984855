"""Verify, and its repair: what is missing, wrong and foreign, by hashes alone; just that is fetched again."""

import json
import os
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import Draw, picture


def damage(cache: Path) -> None:
    """Take a file away, change one that looks untouched, and bring one that is nobody's."""
    (cache / "train" / "0001.jpg").unlink()
    target = cache / "train" / "0002.jpg"
    status = target.stat()
    target.write_bytes(b"x" * status.st_size)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    (cache / "train" / "mine.txt").write_text("")


@pytest.fixture
def warm(hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Fill the cache; give the arguments that name it."""
    arguments = ["--cache-dir", str(cache)]
    assert cli.run(["warmup", *arguments]) == 0
    hub.clear_requests()
    capsys.readouterr()
    return arguments


def test_verify_names_what_is_missing_and_wrong(
    warm: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file is hashed, also one that looks untouched; 3, with the remedy, and nothing is changed."""
    assert cli.run(["verify", *warm]) == 0
    assert "13 files, all verified" in capsys.readouterr().out
    damage(cache)
    assert cli.run(["verify", *warm]) == 3
    said = capsys.readouterr().err
    assert "1 of 13 files are missing and 1 wrong" in said
    assert (
        "0001.jpg is missing, 0002.jpg has wrong bytes: verify --repair fetches just these" in said
    )
    assert not (cache / "train" / "0001.jpg").exists()


def test_damage_is_told_as_json_too(
    warm: list[str], hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json all that was found is printed, also when verify fails, or its repair; the error names some of each."""
    for number in range(10):
        (cache / "train" / f"{number:04}.jpg").unlink()
    (cache / "train" / "0010.jpg").write_bytes(b"x")
    (cache / "train" / "mine.txt").write_text("")
    hub.faults.add(Fault.status(404, path="*.jpg"))
    for repair in ([], ["--repair"]):
        assert cli.run(["verify", *warm, "--json", *repair]) == (75 if repair else 3)
        captured = capsys.readouterr()
        told = json.loads(captured.out)
        assert (len(told["missing"]), told["wrong"], told["foreign"], told["repaired"]) == (
            10,
            ["0010.jpg"],
            ["mine.txt"],
            0,
        )
        assert "foreign: mine.txt" in captured.err
        assert (
            "0007.jpg is missing and 2 more (--json names all), 0010.jpg has wrong bytes"
            in captured.err
        )


def test_repair_fetches_just_that(
    warm: list[str], hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repair brings the right bytes by one request each, leaves foreign files alone, and says all of it."""
    damage(cache)
    assert cli.run(["verify", *warm, "--repair", "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["missing"], told["wrong"], told["foreign"], told["repaired"]) == (
        ["0001.jpg"],
        ["0002.jpg"],
        ["mine.txt"],
        2,
    )
    assert "foreign: mine.txt" in captured.err
    assert sorted(Path(request.repo_path).name for request in hub.file_requests()) == [
        "0001.jpg",
        "0002.jpg",
    ]
    hub.clear_requests()
    assert cli.run(["verify", *warm, "--repair"]) == 0
    assert "13 files, all verified\n" in capsys.readouterr().out
    assert cli.run(["warmup", *warm, "--revision", hub.commit]) == 0
    assert not hub.requests, "the manifest knows what was repaired"


def test_repair_brings_metadata_too(warm: list[str], hub: LocalHub, cache: Path) -> None:
    """metadata.csv is a file like the others."""
    (cache / "train" / "metadata.csv").write_text("file_name,caption_0\n")
    assert cli.run(["verify", *warm, "--repair"]) == 0
    assert (cache / "train" / "metadata.csv").read_bytes() == (
        hub.directory / "train" / "metadata.csv"
    ).read_bytes()
    assert len(hub.file_requests()) == 1


def test_repair_is_of_the_records_commit(
    draw: Draw, warm: list[str], hub: LocalHub, cache: Path
) -> None:
    """Main may have moved on: the files that come are those of the commit that the cache holds, or none."""
    old = hub.commit
    good = (cache / "train" / "0001.jpg").read_bytes()
    damage(cache)
    (draw() / "train" / "0009.jpg").write_bytes(picture(99))
    assert hub.refresh(keep_old=True) != old
    assert cli.run(["verify", *warm, "--repair"]) == 0
    assert (cache / "train" / "0001.jpg").read_bytes() == good
    assert len(hub.file_requests()) == 2
    assert all(
        old in request.path for request in hub.requests if request.kind in {"tree", "resolve"}
    )


def test_a_repair_that_fails_leaves_what_was_there(
    warm: list[str], hub: LocalHub, cache: Path
) -> None:
    """A Hub that sends wrong bytes costs time, never a file: 75, nothing torn, and the next repair goes on."""
    damage(cache)
    hub.faults.add(Fault.corrupt(path="train/0002.jpg"))
    assert cli.run(["verify", *warm, "--repair", "--attempts", "2"]) == 75
    assert (cache / "train" / "0001.jpg").exists()
    assert not list((cache / "train").glob(".*"))
    hub.faults.clear()
    assert cli.run(["verify", *warm, "--repair"]) == 0


def test_without_a_record_there_is_nothing_to_repair(
    warm: list[str], cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No manifest, no record, or another repository's: each is said, with what to do."""
    assert cli.run(["verify", "--cache-dir", str(tmp_path / "none")]) == 2
    assert "run warmup first" in capsys.readouterr().err
    damage(cache)
    assert cli.run(["verify", *warm, "--repair", "--repo-id", "other/one"]) == 2
    assert (
        "has a record of intro/flickr8k, so other/one can't be repaired" in capsys.readouterr().err
    )
    (cache / ".step37-flickr8k" / "train.json").write_text("{")
    for more in ([], ["--repair"]):
        assert cli.run(["verify", *warm, *more]) == 2
        assert (
            "has no ready record of train that can be read: run warmup first"
            in capsys.readouterr().err
        )


def test_what_an_older_commit_left_is_foreign(
    draw: Draw, warm: list[str], hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest speaks of one commit: files of another beyond the selection are nobody's promise."""
    (draw() / "train" / "0011.jpg").write_bytes(picture(99))
    hub.refresh()
    assert cli.run(["warmup", *warm, "--sample-count", "3"]) == 0
    capsys.readouterr()
    assert cli.run(["verify", *warm, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["foreign"] == ["0011.jpg"]
    assert told["files"] == 12
    assert cli.run(["warmup", *warm]) == 0
    assert (cache / "train" / "0011.jpg").read_bytes() == picture(99)


def test_a_directory_in_a_files_place_is_said(
    warm: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no rename can replace is named, by verify and by its repair."""
    (cache / "train" / "0003.jpg").unlink()
    (cache / "train" / "0003.jpg").mkdir()
    assert cli.run(["verify", *warm]) == 3
    assert "0003.jpg is missing" in capsys.readouterr().err
    assert cli.run(["verify", *warm, "--repair"]) == 2
    assert "Is a directory" in capsys.readouterr().err
