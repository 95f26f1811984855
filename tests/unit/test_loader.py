"""The loader API in one process, against a local Hub."""

import csv
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import step37_flickr8k
from step37_flickr8k import (
    Flickr8kSample,
    Step37Flickr8kDataset,
    errors,
    flickr8k_loader,
    prepare_flickr8k_samples,
)
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.flickr8k_loader import get_flickr8k_dataset_file
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.warmup import Warmup
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.settings import WarmupSettings
from tests.conftest import Draw, captioned, write_rows


def expected(
    directory: Path, cache: Path, count: int | None = None, key: str = "caption_0"
) -> list[Flickr8kSample]:
    with (directory / "train" / "metadata.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row[key].strip()]
    return [
        Flickr8kSample(str(cache / "train" / row["file_name"]), row[key].strip())
        for row in rows[:count]
    ]


def template(dialog: dict[str, Any]) -> step37_flickr8k.MultimodalSFTSample:
    return {"tokens": dialog, "loss_mask": None, "image_paths": [(dialog["images"][0], 0)]}


def test_the_first_eight_by_default(hub: LocalHub, cache: Path) -> None:
    """The default is the first 8 rows; only their images are downloaded, whole and at their places."""
    samples = prepare_flickr8k_samples(cache_dir=str(cache))
    assert samples == expected(hub.directory, cache, 8)
    for sample in samples:
        assert (
            Path(sample.image_path).read_bytes()
            == (hub.directory / "train" / Path(sample.image_path).name).read_bytes()
        )
    assert len(hub.file_requests()) == 9


def test_growing_fetches_the_difference(hub: LocalHub, cache: Path) -> None:
    """First 3, then all, then another caption: only what is missing is fetched."""
    assert len(prepare_flickr8k_samples(sample_count=3, cache_dir=str(cache))) == 3
    hub.clear_requests()
    assert prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache)) == expected(
        hub.directory, cache
    )
    assert len(hub.file_requests()) == 9
    hub.clear_requests()
    other = prepare_flickr8k_samples(
        sample_count=None, caption_key="caption_1", cache_dir=str(cache)
    )
    assert other == expected(hub.directory, cache, key="caption_1")
    assert len(hub.file_requests()) == 0
    hub.clear_requests()
    assert len(prepare_flickr8k_samples(sample_count=8, cache_dir=str(cache))) == 8
    assert len(hub.requests) == 0


def test_a_warm_cache_needs_no_network(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once warm, no request is made: a Hub that is gone isn't missed."""
    every = prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert len(hub.file_requests()) == 13
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache)) == every


def test_a_cache_is_complete_for_other_readers(hub: LocalHub, cache: Path, tmp_path: Path) -> None:
    """huggingface_hub's own snapshot of the repository has the same files at the same places."""
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    theirs = tmp_path / "theirs"
    huggingface_hub.snapshot_download(
        "intro/flickr8k", repo_type="dataset", local_dir=theirs, endpoint=hub.endpoint
    )
    ours = {path.name: path.read_bytes() for path in (cache / "train").iterdir()}
    assert ours == {path.name: path.read_bytes() for path in (theirs / "train").iterdir()}
    for name, content in ours.items():
        found = huggingface_hub.hf_hub_download(
            "intro/flickr8k",
            f"train/{name}",
            repo_type="dataset",
            local_dir=cache,
            endpoint=hub.endpoint,
        )
        assert Path(found).read_bytes() == content


def test_nothing_but_the_files_and_our_own_directory_is_added(hub: LocalHub, cache: Path) -> None:
    """The split holds the dataset's files and nothing else; all that is ours lies in one directory."""
    assert hub.commit
    prepare_flickr8k_samples(cache_dir=str(cache))
    assert sorted(os.listdir(cache)) == [".step37-flickr8k", "train"]
    assert len(os.listdir(cache / "train")) == 9
    assert not [name for name in os.listdir(cache / ".step37-flickr8k") if name.endswith(".tmp")]


def test_other_users_can_read_it(hub: LocalHub, cache: Path) -> None:
    """Modes follow the umask: what mkdtemp and NamedTemporaryFile would have made private is not."""
    assert hub.commit
    before = os.umask(0o022)
    try:
        prepare_flickr8k_samples(cache_dir=str(cache))
    finally:
        os.umask(before)
    for path in (cache, *cache.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"caption_key": "caption_9"}, errors.CaptionKeyNotFound),
        ({"split": "validation"}, errors.SplitNotFound),
        ({"repo_id": "intro/flickr9k"}, errors.RepositoryNotFound),
        ({"revision": "v2"}, errors.RevisionNotFound),
        ({"revision": "0" * 40}, errors.ConfigurationError),
        ({"sample_count": 0}, errors.InvalidSettings),
        ({"split": "../train"}, errors.InvalidSettings),
        ({"repo_id": "a b"}, errors.InvalidSettings),
        ({"caption_key": ""}, errors.InvalidSettings),
    ],
)
def test_each_mistake_has_its_own_error(
    hub: LocalHub, cache: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """What is wrong with a call is told by the class, with exit code 2, and nothing is left behind."""
    assert hub.commit
    with pytest.raises(error) as caught:
        prepare_flickr8k_samples(**{"cache_dir": str(cache)} | arguments)
    assert errors.exit_code_of(caught.value) == 2
    assert not list(cache.rglob("*.jpg"))


def test_an_empty_selection_is_a_runtime_error(draw: Draw, hub: LocalHub, cache: Path) -> None:
    """A split whose captions are all blank is EmptySelection, a RuntimeError."""
    write_rows(draw() / "train", [captioned(number) | {"caption_0": " "} for number in range(12)])
    hub.refresh()
    with pytest.raises(RuntimeError) as caught:
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert isinstance(caught.value, errors.EmptySelection)


def test_a_missing_image_is_named_before_anything_is_fetched(
    draw: Draw, hub: LocalHub, cache: Path
) -> None:
    """A row without its image is ImageNotFound."""
    (draw() / "train" / "0003.jpg").unlink()
    hub.refresh()
    with pytest.raises(errors.ImageNotFound, match=r"0003\.jpg"):
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert not list((cache / "train").glob("*.jpg"))


def test_a_broken_image_is_left_out_with_a_warning(
    draw: Draw, hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A picture that is broken in the commit itself has the right hash; its row is left out, now and from the warm cache."""
    (draw() / "train" / "0002.jpg").write_bytes(b"\xff\xd8 not a picture")
    hub.refresh()
    with caplog.at_level(logging.WARNING):
        samples = prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert len(samples) == 11
    assert "0002.jpg" in caplog.text
    assert prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache)) == samples


def test_nothing_but_broken_images_is_an_empty_selection(
    draw: Draw, hub: LocalHub, cache: Path
) -> None:
    """When every row is left out there is nothing to train on, and that is said."""
    for path in (draw() / "train").glob("*.jpg"):
        path.write_bytes(b"\xff\xd8" + path.name.encode())
    hub.refresh()
    with pytest.raises(errors.EmptySelection, match="can be decoded"):
        prepare_flickr8k_samples(cache_dir=str(cache))


@pytest.mark.parametrize(
    ("token", "error"), [(None, errors.RepositoryNotFound), ("hf_wrong", errors.AccessDenied)]
)
def test_a_private_repository_wants_the_right_token(
    draw: Draw,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    error: type[Exception],
) -> None:
    """Without a token a private repository hides, a wrong one is refused, the right one works and never reaches the CDN."""
    with LocalHub(draw(), token="hf_right") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(error) as caught:
            prepare_flickr8k_samples(cache_dir=str(cache))
        assert "hf_wrong" not in str(caught.value)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8
        assert not any(request.authorization for request in hub.requests if request.origin == "cdn")


def test_a_gated_repository_says_so(
    draw: Draw, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gated is AccessDenied, with what to do."""
    with LocalHub(draw(), gated=True) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        with pytest.raises(errors.AccessDenied):
            prepare_flickr8k_samples(cache_dir=str(cache))


def test_a_hub_that_does_not_answer_is_transient(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody at the address: HubUnavailable, which a scheduler may try again."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("STEP37_ATTEMPTS", "1")
    with pytest.raises(errors.HubUnavailable):
        prepare_flickr8k_samples(cache_dir=str(cache))


def test_a_new_commit_replaces_the_old_one_only_when_asked(
    draw: Draw, hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a revision a warm cache stays as it is; with one the new commit is fetched, and a warning names both."""
    old = hub.commit
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    (draw() / "train" / "0001.jpg").write_bytes((hub.directory / "train" / "0002.jpg").read_bytes())
    new = hub.refresh()
    hub.clear_requests()
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert len(hub.requests) == 0
    with caplog.at_level(logging.WARNING):
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache), revision="main")
    assert old in caplog.text
    assert new in caplog.text
    assert len(hub.file_requests()) == 1
    assert (cache / "train" / "0001.jpg").read_bytes() == (
        cache / "train" / "0002.jpg"
    ).read_bytes()


def test_what_a_purge_took_is_fetched_again(hub: LocalHub, cache: Path) -> None:
    """Scratch purges take single files: the next call fetches just those, also beyond its own selection."""
    prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    for name in ("0001.jpg", "0011.jpg"):
        (cache / "train" / name).unlink()
    hub.clear_requests()
    prepare_flickr8k_samples(sample_count=2, cache_dir=str(cache))
    assert len(hub.file_requests()) == 2
    assert (cache / "train" / "0011.jpg").exists()


def test_a_truncated_file_is_not_believed(hub: LocalHub, cache: Path) -> None:
    """A file that changed after it was proven is hashed again and replaced."""
    prepare_flickr8k_samples(cache_dir=str(cache))
    broken = cache / "train" / "0004.jpg"
    good = broken.read_bytes()
    broken.write_bytes(good[:10])
    (cache / "train" / "0005.jpg").write_bytes(b"x" * (cache / "train" / "0005.jpg").stat().st_size)
    hub.clear_requests()
    prepare_flickr8k_samples(cache_dir=str(cache))
    assert broken.read_bytes() == good
    assert len(hub.file_requests()) == 2


def test_files_that_another_tool_brought_are_adopted(hub: LocalHub, cache: Path) -> None:
    """Files in place without a ready record are hashed, not downloaded again."""
    shutil.copytree(hub.directory / "train", cache / "train")
    (cache / "train" / ".step37-train-0123abcd-1.tmp").write_bytes(b"orphan")
    assert len(prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))) == 12
    assert len(hub.file_requests()) == 0
    assert not (cache / "train" / ".step37-train-0123abcd-1.tmp").exists()


@pytest.mark.parametrize("ours", ["train.json", "train.manifest"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]\n", b'{"format": 99}'])
def test_a_record_or_manifest_that_cannot_be_read_is_as_good_as_none(
    hub: LocalHub, cache: Path, ours: str, content: bytes
) -> None:
    """Whatever stands in our own files, the next run proves the directory anew and downloads nothing that is right."""
    prepare_flickr8k_samples(cache_dir=str(cache))
    (cache / ".step37-flickr8k" / ours).write_bytes(content)
    hub.clear_requests()
    assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8
    assert len(hub.file_requests()) == 0


def test_one_file_by_hf_hub_download(hub: LocalHub, cache: Path) -> None:
    """The single-file function puts the file where the loader expects it, and names what isn't there."""
    path = get_flickr8k_dataset_file(
        repo_id="intro/flickr8k", filename="train/0001.jpg", cache_dir=cache
    )
    assert path == cache / "train" / "0001.jpg"
    assert path.read_bytes() == (hub.directory / "train" / "0001.jpg").read_bytes()
    with pytest.raises(errors.ConfigurationError, match=r"train/none\.jpg"):
        get_flickr8k_dataset_file(
            repo_id="intro/flickr8k", filename="train/none.jpg", cache_dir=cache
        )


def test_a_passing_fault_of_the_api_is_tried_again(hub: LocalHub, cache: Path) -> None:
    """One 503 on the revision or the tree costs a second, not the job."""
    hub.faults.add(Fault.status(503, path="api", times=1))
    assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8


def test_the_dataset_gives_the_dialog_to_the_template() -> None:
    """An item is what the template makes of the image, the prompt and the caption."""
    dataset = Step37Flickr8kDataset(
        [Flickr8kSample("/c/train/a.jpg", "A dog.")], template, "Describe it."
    )
    assert len(dataset) == 1
    assert dataset[0]["tokens"] == {
        "images": ["/c/train/a.jpg"],
        "conversations": [
            {"role": "user", "content": "<image>\nDescribe it."},
            {"role": "assistant", "content": "A dog."},
        ],
    }
    assert pickle.loads(pickle.dumps(dataset))[0] == dataset[0]


def test_the_dataset_keeps_its_arguments_as_attributes() -> None:
    """Code written for the loader that this one replaces reads ``samples``, ``template`` and ``prompt``."""
    samples = [Flickr8kSample("/c/train/a.jpg", "A dog.")]
    dataset = Step37Flickr8kDataset(samples, template, "Describe it.")
    assert dataset.samples is samples
    assert dataset.template is template
    assert dataset.prompt == "Describe it."


def test_a_dataset_needs_samples() -> None:
    """No samples is a ValueError."""
    with pytest.raises(ValueError, match="empty"):
        Step37Flickr8kDataset([], template, "x")


def test_samples_are_frozen() -> None:
    """A sample is a value."""
    with pytest.raises(AttributeError):
        Flickr8kSample("a", "b").caption = "c"  # type: ignore[misc]


def test_without_a_group_this_is_rank_zero_and_the_barrier_is_a_no_op() -> None:
    """The two helpers behave as documented when nothing is initialised."""
    assert flickr8k_loader._is_global_rank_0() is True
    flickr8k_loader._maybe_barrier()


def test_a_call_before_fabric_has_initialized_its_group_works(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that Fabric started runs the script from its top, with LOCAL_RANK and no RANK."""
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert prepare_flickr8k_samples(cache_dir=str(cache)) == expected(hub.directory, cache, 8)


def test_an_old_error_of_the_file_system_is_not_this_runs(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another run couldn't write is told once, by the first syncfs after it; what this run can't fails it."""
    told = [-1, 0]
    monkeypatch.setattr("step37_flickr8k.cache.linux._SYNCFS", lambda _: told.pop(0))
    assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8
    told += [0, -1]
    with pytest.raises(errors.TransientError):
        prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert not told
    assert hub.file_requests()


def test_a_record_that_cannot_be_read_is_no_earlier_success(cache: Path) -> None:
    """A rank that waits or has lost rank 0 reads the record once: an error there is no result."""
    cache.symlink_to(cache)  # ELOOP: an error that has no class of its own, as EIO
    warmup = Warmup(Run(Task.from_settings(WarmupSettings(cache_dir=cache)), World()))
    assert warmup._finished_earlier(False) is None


def warnings_of(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.message for record in caplog.records if text in record.message]


def test_the_default_count_of_a_larger_cache_is_a_warning(
    hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks for nothing gets 8 rows of 12, and hears it once; whoever asks for 8 doesn't."""
    assert hub.commit
    with caplog.at_level(logging.WARNING):
        prepare_flickr8k_samples(cache_dir=str(cache))
        prepare_flickr8k_samples(cache_dir=str(cache), sample_count=None)
        prepare_flickr8k_samples(cache_dir=str(cache), sample_count=8)
        assert not warnings_of(caplog, "sample_count")
        for _ in range(2):
            assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8
    (message,) = warnings_of(caplog, "sample_count")
    assert message == (
        f"8 of the 12 rows in {cache / 'train'} are returned, which is sample_count's default:"
        " pass sample_count=None for all"
    )


def test_settings_that_a_call_does_not_take_are_a_warning(
    hub: LocalHub,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """STEP37_CACHE_DIR and its like are the command's: a call that says otherwise warns, once."""
    assert hub.commit
    (tmp_path / "alias").symlink_to(cache)
    (tmp_path / "x.yaml").write_text("caption_key: caption_1\nconcurrency: 3\n")
    with caplog.at_level(logging.WARNING):
        monkeypatch.setenv("STEP37_CACHE_DIR", str(tmp_path / "alias"))
        monkeypatch.setenv("STEP37_SAMPLE_COUNT", "5")
        prepare_flickr8k_samples(cache_dir=str(cache), sample_count=5)
        assert not warnings_of(caplog, "the call's")
        monkeypatch.setenv("STEP37_CACHE_DIR", str(tmp_path / "other"))
        monkeypatch.setenv("STEP37_SETTINGS", str(tmp_path / "x.yaml"))
        for _ in range(2):
            prepare_flickr8k_samples(cache_dir=str(cache), sample_count=None)
    (message,) = warnings_of(caplog, "the call's")
    assert message == (
        "a library call takes its selection from its arguments alone:"
        f" STEP37_CACHE_DIR is {tmp_path / 'other'}, the call's cache_dir {cache};"
        f" caption_key in {tmp_path / 'x.yaml'} is caption_1, the call's caption_key caption_0;"
        " STEP37_SAMPLE_COUNT is 5, the call's sample_count all"
    )
    assert not (tmp_path / "other").exists()
