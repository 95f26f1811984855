"""imagefolder as the Hub's users know it: tables, their directories, images in subdirectories."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from step37_flickr8k import cli, prepare_flickr8k_samples
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import read_record
from step37_flickr8k.errors import (
    EmptySelection,
    FolderNotUsable,
    InvalidMetadata,
    SplitNotFound,
)
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import picture

Rows = list[tuple[str, str]]


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("file_name", "caption_0"), *rows])


def write_jsonl(path: Path, rows: Rows) -> None:
    lines = (json.dumps({"file_name": name, "caption_0": caption}) + "\n" for name, caption in rows)
    path.write_text("".join(lines), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    names, captions = map(list, zip(*rows, strict=True))
    parquet.write_table(pa.table({"file_name": names, "caption_0": captions}), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "metadata.csv": write_csv,
    "metadata.jsonl": write_jsonl,
    "metadata.parquet": write_parquet,
}
TRAIN = ["0000.jpg", "images/0001.jpg", "images/deep/0002.jpg", "other/ä b.jpg", "0004.jpg"]
TEST = ["0000.jpg", "images/0001.jpg"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Draw the images of two splits, some in subdirectories; no table yet."""
    directory = tmp_path / "folder"
    for split, names in (("train", TRAIN), ("test", TEST)):
        for number, name in enumerate(names):
            path = directory / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number + 10 * len(split)))
    return directory


@pytest.fixture
def serve(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], LocalHub]]:
    """Return what serves the directory as it is then."""
    serving: list[LocalHub] = []

    def served() -> LocalHub:
        serving.append(LocalHub(root))
        serving[-1].__enter__()
        monkeypatch.setenv("HF_ENDPOINT", serving[-1].endpoint)
        return serving[-1]

    yield served
    for hub in serving:
        hub.__exit__(None, None, None)


Serve = Callable[[], LocalHub]


def rows(names: list[str], prefix: str = "") -> Rows:
    return [(prefix + name, f"caption of {name}") for name in names]


def write_table(root: Path, name: str, *, at_root: bool) -> None:
    """Write one table for both splits at the root, or one in each split."""
    if at_root:
        both = [*rows(TEST, "test/"), *rows(TRAIN, "train/")]
        # Rows of one split need not follow each other
        WRITERS[name](root / name, both[::2] + both[1::2])
    else:
        WRITERS[name](root / "train" / name, rows(TRAIN))
        WRITERS[name](root / "test" / name, rows(TEST))


def listings(hub: LocalHub) -> int:
    """Count the pages of listings, without the Parquet conversion's."""
    trees = [request.path for request in hub.requests if request.kind == "tree"]
    return sum("refs%2Fconvert" not in path for path in trees)


EACH = pytest.mark.parametrize(
    ("table", "at_root"), [(name, place) for name in WRITERS for place in (False, True)]
)


@EACH
def test_every_table_is_read_wherever_it_is(
    root: Path, serve: Serve, cache: Path, table: str, at_root: bool
) -> None:
    """The rows are the split's, images are where the names say, a warm start asks nothing."""
    write_table(root, table, at_root=at_root)
    hub = serve()
    samples = prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    held = {os.path.relpath(sample.image_path, cache / "train"): sample for sample in samples}
    assert set(held) == set(TRAIN)
    for name, sample in held.items():
        assert sample.caption == f"caption of {name}"
        assert Path(sample.image_path).read_bytes() == (root / "train" / name).read_bytes()
    kept = cache / table if at_root else cache / "train" / table
    assert kept.read_bytes() == (root / kept.relative_to(cache)).read_bytes()
    record = read_record(CacheDirectory(cache, "train"))
    assert record is not None
    assert record.table == ("../" if at_root else "") + table
    asked = len(hub.requests)
    again = prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache), revision=hub.commit)
    assert again == samples
    assert len(hub.requests) == asked
    assert listings(hub) == (2 if at_root else 1), "one listing more, if the split has no table"


@EACH
def test_every_command_works_on_every_layout(
    root: Path,
    serve: Serve,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    table: str,
    at_root: bool,
) -> None:
    """Every command finds the table and the subdirectories."""
    write_table(root, table, at_root=at_root)
    serve()

    def run(*command: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.run([*command, "--cache-dir", str(cache)]) == code, capsys.readouterr().err
        return capsys.readouterr().out

    assert "5 with 5 images" in run("plan")
    assert "endpoint" in run("doctor")
    run("warmup")
    run("warmup", "--split", "test")
    assert "nothing to do" in run("plan")
    for split, count in (("train", 5), ("test", 2)):
        found = json.loads(run("verify", "--json", "--split", split))
        assert (found["files"], found["missing"], found["wrong"]) == (count + 1, [], [])
        assert found["foreign"] == []
    shown = json.loads(run("status", "--json"))["splits"]
    assert [(each["split"], each["files"], each["missing"]) for each in shown] == [
        ("test", 2, 0),
        ("train", 5, 0),
    ]
    run("preview", "--output", str(tmp_path / "preview.html"))
    assert "images/deep/0002.jpg" in (tmp_path / "preview.html").read_text(encoding="utf-8")

    kept = cache / table if at_root else cache / "train" / table
    good = kept.read_bytes()
    kept.write_bytes(b"x")
    (cache / "train" / "images" / "deep" / "0002.jpg").unlink()
    (cache / "train" / "images" / "deep").rmdir()
    found = json.loads(run("verify", "--json", code=3))
    assert found["missing"] == ["images/deep/0002.jpg"]
    assert found["wrong"] == [("../" if at_root else "") + table]
    run("verify", "--repair")
    assert kept.read_bytes() == good
    run("verify")


def test_a_listing_of_a_flat_split_costs_one_page(root: Path, serve: Serve, cache: Path) -> None:
    """Where the split has its table, nothing more is listed than before."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    write_csv(root / "metadata.csv", rows(["wrong.jpg"], "train/"))
    hub = serve()
    samples = prepare_flickr8k_samples(sample_count=2, cache_dir=str(cache))
    assert len(samples) == 2, "the table of the split is nearer than that of the root"
    assert listings(hub) == 1
    assert not (cache / "metadata.csv").exists()


@pytest.mark.parametrize("at_root", [False, True])
def test_two_tables_in_one_directory_are_refused(
    root: Path, serve: Serve, cache: Path, at_root: bool
) -> None:
    """Both are named, before anything is fetched; one in the split and two above are one."""
    place = root if at_root else root / "train"
    prefix = "" if at_root else "train/"
    write_csv(place / "metadata.csv", rows(TRAIN, "train/" if at_root else ""))
    write_jsonl(place / "metadata.jsonl", rows(TRAIN, "train/" if at_root else ""))
    hub = serve()
    with pytest.raises(
        InvalidMetadata, match=f"holds {prefix}metadata.csv and {prefix}metadata.jsonl"
    ):
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert not hub.file_requests()
    if at_root:
        write_parquet(root / "train" / "metadata.parquet", rows(TRAIN))
        hub.refresh()
        assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 5


def test_no_table_at_all_names_all_that_would_do(root: Path, serve: Serve, cache: Path) -> None:
    """The error names the tables that are read and where they are looked for."""
    assert root.exists()
    serve()
    with pytest.raises(
        SplitNotFound,
        match=r"\(no train/metadata\.csv, \.jsonl or \.parquet, nor one at the root\)",
    ):
        prepare_flickr8k_samples(cache_dir=str(cache))


ELSEWHERE = {
    "./train/0000.jpg": "it has a component '.'",
    "/train/0000.jpg": "it is a path of its own",
    "../train/0000.jpg": "it has a component '..'",
    "train\\0000.jpg": "it has a backslash",
    "train/../test/0000.jpg": "it has a component '..'",
    "train/.hidden/0000.jpg": "it is hidden",
}


@pytest.mark.parametrize(("name", "why"), ELSEWHERE.items())
def test_names_of_a_root_table_cannot_lead_elsewhere(
    root: Path, serve: Serve, cache: Path, name: str, why: str
) -> None:
    """A path that isn't plain is refused with its line; it isn't taken for another split's."""
    write_csv(root / "metadata.csv", [("train/0000.jpg", "x"), (name, "y")])
    serve()
    with pytest.raises(InvalidMetadata) as caught:
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert "metadata.csv of intro/flickr8k, line 3: file_name" in str(caught.value)
    assert why in str(caught.value)


def test_a_root_table_without_rows_of_the_split_says_so(
    root: Path, serve: Serve, cache: Path
) -> None:
    """Rows of other splits don't count, and aren't errors."""
    write_csv(root / "metadata.csv", rows(TEST, "test/"))
    serve()
    with pytest.raises(EmptySelection, match="no row with both a file_name below train/ and a cap"):
        prepare_flickr8k_samples(cache_dir=str(cache))


def test_a_new_commit_with_another_table_replaces_the_old_one(
    root: Path, serve: Serve, cache: Path
) -> None:
    """The old table of the split is gone, so that other loaders don't go on reading it."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    hub = serve()

    def warm() -> int:
        hub.refresh()
        samples = prepare_flickr8k_samples(
            sample_count=None, cache_dir=str(cache), revision=hub.commit
        )
        return len(samples)

    assert warm() == 5
    (root / "train" / "metadata.csv").unlink()
    write_jsonl(root / "train" / "metadata.jsonl", rows(TRAIN[:3]))
    assert warm() == 3
    assert not (cache / "train" / "metadata.csv").exists()
    (root / "train" / "metadata.jsonl").unlink()
    write_csv(root / "metadata.csv", rows(TRAIN, "train/"))
    assert warm() == 5
    assert not (cache / "train" / "metadata.jsonl").exists()
    assert (cache / "metadata.csv").exists()


def test_splits_that_share_a_root_table_stay_warm(root: Path, serve: Serve, cache: Path) -> None:
    """Warming one split leaves the table as it is for the other."""
    write_table(root, "metadata.csv", at_root=True)
    hub = serve()
    for split in ("train", "test"):
        prepare_flickr8k_samples(split=split, sample_count=None, cache_dir=str(cache))
    asked = len(hub.requests)
    for split in ("train", "test"):
        prepare_flickr8k_samples(
            split=split, sample_count=None, cache_dir=str(cache), revision=hub.commit
        )
    assert len(hub.requests) == asked


def test_a_subdirectory_that_is_a_link_is_refused(
    root: Path, serve: Serve, cache: Path, tmp_path: Path
) -> None:
    """Images would be written outside of the cache."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    serve()
    (cache / "train").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (cache / "train" / "images").symlink_to(tmp_path / "outside")
    with pytest.raises(FolderNotUsable, match="images is a symbolic link"):
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert not [*(tmp_path / "outside").iterdir()]


def test_a_file_where_a_subdirectory_belongs_is_named(
    root: Path, serve: Serve, cache: Path
) -> None:
    """It may be the user's own, so it isn't replaced."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    serve()
    (cache / "train").mkdir(parents=True)
    (cache / "train" / "images").write_text("mine")
    with pytest.raises(FolderNotUsable, match=r"images.* is a file: choose another cache_dir"):
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert (cache / "train" / "images").read_text() == "mine"


def test_unfinished_files_of_subdirectories_and_root_are_swept(
    root: Path, serve: Serve, cache: Path
) -> None:
    """What a killed run left is gone after the next one, and what is others' stays."""
    write_table(root, "metadata.csv", at_root=True)
    serve()
    left = [
        cache / ".step37-train-0123abcd-1.tmp",
        cache / "train" / "images" / "deep" / ".step37-train-0123abcd-2.tmp",
        cache / "train" / ".step37-train-0123abcd-3.tmp",
    ]
    kept = [
        cache / ".step37-test-0123abcd-1.tmp",
        cache / "train" / "images" / ".step37-train-b-0123abcd-2.tmp",
    ]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_a_download_that_fails_leaves_nothing_unfinished_in_subdirectories(
    root: Path, serve: Serve, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong bytes that never end fail the run; the next one fetches only what is missing."""
    write_table(root, "metadata.jsonl", at_root=True)
    hub = serve()
    hub.faults.add(Fault("corrupt", path="train/images/deep/*", times=None))
    command = ["warmup", "--cache-dir", str(cache), "--attempts", "2"]
    assert cli.run(command) == 75
    assert "images/deep/0002.jpg" in capsys.readouterr().err
    assert not [*cache.rglob("*.tmp")]
    hub.faults.clear()
    assert cli.run(command) == 0
    images = [request.repo_path for request in hub.file_requests() if "images" in request.repo_path]
    assert images.count("train/images/0001.jpg") == 1


def test_subdirectories_have_the_modes_of_the_umask(root: Path, serve: Serve, cache: Path) -> None:
    """Other users' jobs can read images in subdirectories, as they can the others."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    serve()
    before = os.umask(0o027)
    try:
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    finally:
        os.umask(before)
    assert (cache / "train" / "images" / "deep").stat().st_mode & 0o777 == 0o750
    assert (cache / "train" / "images" / "deep" / "0002.jpg").stat().st_mode & 0o777 == 0o640


def test_names_that_differ_by_case_alone_are_two_files(
    root: Path, serve: Serve, cache: Path
) -> None:
    """Where the file system tells them apart, so do we."""
    names = ["a.jpg", "A.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg", " b.jpg", "b.jpg"]
    for number, name in enumerate(names):
        (root / "train" / name).write_bytes(picture(60 + number))
    table = "".join(f"{name},caption of {name}\n" for name in names)
    (root / "train" / "metadata.csv").write_text(f"file_name,caption_0\n{table}", encoding="utf-8")
    hub = serve()
    samples = prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert [Path(sample.image_path).name for sample in samples] == names
    assert len({Path(sample.image_path).read_bytes() for sample in samples}) == 6
    asked = len(hub.requests)
    assert samples == prepare_flickr8k_samples(
        sample_count=None, cache_dir=str(cache), revision=hub.commit
    )
    assert len(hub.requests) == asked


@pytest.mark.parametrize("table", WRITERS)
def test_a_plan_reads_a_table_of_megabytes(
    root: Path, serve: Serve, cache: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    """A table that is written as it arrives is planned with as a small one is."""
    long = [("0000.jpg", f"{number} {number * 7919**30}") for number in range(20_000)]
    WRITERS[table](root / table, [(f"train/{name}", caption) for name, caption in long])
    assert (root / table).stat().st_size > 1 << 20
    serve()
    assert cli.run(["plan", "--cache-dir", str(cache)]) == 0
    assert "rows      20,000 with 1 images" in capsys.readouterr().out
    assert not cache.exists()


def test_a_table_at_the_root_of_a_repository_without_splits_is_named(
    root: Path, serve: Serve, cache: Path
) -> None:
    """Images at the root belong to no split: the error says where the table is."""
    write_jsonl(root / "metadata.jsonl", rows(["0001.jpg"]))
    serve()
    with pytest.raises(
        SplitNotFound,
        match=r"\(metadata.jsonl is at the root, but there is no directory validation\);"
        " available: test, train",
    ):
        prepare_flickr8k_samples(split="validation", cache_dir=str(cache))


def test_a_record_without_the_new_keys_means_the_table_of_before(
    root: Path, serve: Serve, cache: Path
) -> None:
    """A cache that an older version filled stays warm: its table is metadata.csv in the split."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    hub = serve()
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    record = cache / ".step37-flickr8k" / "train.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    assert content.pop("table") == "metadata.csv"
    assert content.pop("unstripped") == []
    record.write_text(json.dumps(content), encoding="utf-8")
    asked = len(hub.requests)
    assert len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))) == 5
    assert len(hub.requests) == asked


@pytest.mark.parametrize("table", ["../../metadata.csv", "metadata.txt", "/etc/metadata.csv", ""])
def test_a_record_that_names_no_table_is_none(
    root: Path, serve: Serve, cache: Path, table: str
) -> None:
    """Whoever may write the record can't have another file read in the table's place."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    serve()
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    record = cache / ".step37-flickr8k" / "train.json"
    content = json.loads(record.read_text(encoding="utf-8")) | {"table": table}
    record.write_text(json.dumps(content), encoding="utf-8")
    assert read_record(CacheDirectory(cache, "train")) is None


def test_the_parquet_conversion_fills_subdirectories_too(
    root: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of the conversion are known by their hash, so it doesn't matter where they are."""
    write_csv(root / "metadata.csv", rows(TRAIN, "train/"))
    images = [{"bytes": (root / "train" / name).read_bytes(), "path": name} for name in TRAIN]
    shard = tmp_path / "parquet" / "default" / "train" / "0000.parquet"
    shard.parent.mkdir(parents=True)
    parquet.write_table(pa.table({"image": images}), shard, use_dictionary=False)
    with LocalHub(root, parquet=tmp_path / "parquet") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert cli.run(["warmup", "--cache-dir", str(cache), "--fetch-mode", "parquet"]) == 0
        assert not [each for each in hub.file_requests() if each.repo_path.endswith(".jpg")]
    for name in TRAIN:
        assert (cache / "train" / name).read_bytes() == (root / "train" / name).read_bytes()


def test_a_manifest_cannot_lead_a_repair_out_of_the_cache(
    root: Path, serve: Serve, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that leads elsewhere makes the manifest unreadable, so nothing is written by it."""
    write_csv(root / "train" / "metadata.csv", rows(TRAIN))
    serve()
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    manifest = cache / ".step37-flickr8k" / "train.manifest"
    good = manifest.read_text(encoding="utf-8")
    beside = sorted(cache.parent.rglob("*"))
    for name in ("../../out/x.jpg", "images/../../x.jpg", "/tmp/x.jpg", "../metadata.txt"):
        manifest.write_text(good.replace("images/0001.jpg", name), encoding="utf-8")
        assert cli.run(["verify", "--repair", "--cache-dir", str(cache)]) == 2
        assert "no manifest of train that can be read" in capsys.readouterr().err
    assert sorted(cache.parent.rglob("*")) == beside
