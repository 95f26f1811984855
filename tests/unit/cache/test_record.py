"""The ready record and the manifest: read, verified, complete, and visible on a node."""

import errno
import io
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from step37_flickr8k.cache import manifest as manifests
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import (
    ManifestEntry,
    read_lines,
    read_manifest,
    unchanged,
    write_manifest,
)
from step37_flickr8k.cache.record import Coverage, Record, read_record, write_record
from step37_flickr8k.cache.verify import is_complete, verify_files
from step37_flickr8k.cache.visible import rows_when_visible
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.dataset.names import METADATA
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.errors import CommitChanged, NotVisible, TransientError
from step37_flickr8k.images.examined import Examined
from tests.conftest import picture
from tests.helpers.digests import digest_of_file


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    made = CacheDirectory(cache, "train")
    made.make()
    return made


def selection(
    count: int | None = 3, revision: str | None = None, key: str = "caption_0"
) -> Selection:
    return Selection(
        repo_id="intro/flickr8k",
        split="train",
        caption_key=key,
        sample_count=count,
        revision=revision,
    )


def ready(directory: CacheDirectory, commit: str = "c1", rows: int = 3) -> Record:
    """Publish a small cache and its record."""
    (directory.files / METADATA).write_text("file_name,caption_0\na.jpg,x\n")
    (directory.files / "a.jpg").write_bytes(picture(1))
    digest = digest_of_file(directory.files / METADATA, "git-sha1:")
    manifest = {
        n: ManifestEntry(e.size, "sha256:x", e.mtime_ns) for n, e in directory.scan().items()
    }
    record = Record(repo_id="intro/flickr8k", commit=commit, metadata=digest, captions={})
    record = record.grown("caption_0", Coverage(rows, everything=False), manifest)
    write_manifest(directory, manifest)
    write_record(directory, record)
    return record


def test_digests_are_the_hubs_own(tmp_path: Path) -> None:
    """A plain file's digest is git's blob sha1, an LFS file's its sha256."""
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    git = subprocess.run(
        ["git", "hash-object", path], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert digest_of_file(path, "git-sha1:") == f"git-sha1:{git}"
    sha256 = subprocess.run(
        ["sha256sum", path], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert digest_of_file(path, "sha256:") == f"sha256:{sha256}"


def test_a_record_survives_writing_and_reading(directory: CacheDirectory) -> None:
    """A record and a manifest are read as they were written."""
    record = ready(directory)
    assert read_record(directory) == record
    assert unchanged(read_manifest(directory), directory.scan()) == read_manifest(directory)
    (directory.files / "a.jpg").write_bytes(b"changed")
    assert set(unchanged(read_manifest(directory), directory.scan())) == {METADATA}


def test_what_a_record_fits() -> None:
    """A record fits a selection that it covers if its commit is wanted.

    It is if no other commit is asked for, or if this run has confirmed the record.
    """
    record = Record(
        repo_id="intro/flickr8k",
        commit="c1",
        metadata="m",
        captions={"caption_0": Coverage(3, everything=False)},
    )
    assert record.fits(selection(3), None)
    assert record.fits(selection(3, "c1"), None)
    assert not record.fits(selection(4), None)
    assert not record.fits(selection(None), None)
    assert not record.fits(selection(3, key="caption_1"), None)
    assert not record.fits(selection(3, "main"), "run-1")
    assert record.confirmed_by("run-1").fits(selection(3, "main"), "run-1")
    assert record.grown("caption_0", Coverage(5, everything=True), {}).fits(selection(None), None)
    assert record.grown("caption_0", Coverage(2, everything=False), {}).fits(selection(3), None)


def test_a_record_remembers_the_last_sixteen_runs() -> None:
    """Runs are remembered once each, the oldest forgotten first."""
    record = Record(repo_id="r", commit="c", metadata="m", captions={})
    for number in [*range(20), 19]:
        record = record.confirmed_by(f"run-{number}")
    assert record.runs == tuple(f"run-{number}" for number in range(4, 20))
    assert record.confirmed_by(None) is record


def test_visible_is_when_record_metadata_and_probes_are_there(directory: CacheDirectory) -> None:
    """A node sees the cache once its metadata and probes open with the right size.

    Until then the error names what is missing.
    """
    with pytest.raises(NotVisible, match="doesn't see a ready record"):
        rows_when_visible(directory, selection(), "c1", 0.05)
    ready(directory)
    assert rows_when_visible(directory, selection(), "c1", 1) == [Row("a.jpg", "x")]
    with pytest.raises(NotVisible, match="older ready record"):
        rows_when_visible(directory, selection(99), "c1", 0.05)
    with pytest.raises(CommitChanged, match="holds commit c1, not c2"):
        rows_when_visible(directory, selection(), "c2", 0.05)
    good = (directory.files / "a.jpg").read_bytes()
    (directory.files / "a.jpg").write_bytes(b"short")
    with pytest.raises(NotVisible, match=r"a\.jpg doesn't have"):
        rows_when_visible(directory, selection(), "c1", 0.05)
    (directory.files / "a.jpg").unlink()
    with pytest.raises(NotVisible, match="No such file"):
        rows_when_visible(directory, selection(), "c1", 0.05)
    threading.Timer(0.2, lambda: (directory.files / "a.jpg").write_bytes(good)).start()
    assert rows_when_visible(directory, selection(), "c1", 5) == [Row("a.jpg", "x")]
    (directory.files / METADATA).write_text("other")
    with pytest.raises(NotVisible, match="other bytes"):
        rows_when_visible(directory, selection(), "c1", 0.05)


def test_a_failed_attempt_is_followed_by_another(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the file system ends the wait only when its time is over."""
    ready(directory)

    def fail(path: Path) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("os.listdir", fail)
    with pytest.raises(TransientError, match=r"after 0\.05 s, .*Input/output error"):
        rows_when_visible(directory, selection(), "c1", 0.05)
    threading.Timer(0.2, monkeypatch.undo).start()
    assert rows_when_visible(directory, selection(), "c1", 5) == [Row("a.jpg", "x")]


def test_a_manifest_line_has_seven_values_in_order(directory: CacheDirectory) -> None:
    """Name, size, digest, mtime, decode error, kind and pixels, by name: other versions read it."""
    manifest = {
        "b\u00e4 1.jpg": ManifestEntry(1, "sha256:x", 2**62, Examined("too large", "", 90)),
        "a.jpg": ManifestEntry(0, "git-sha1:y", 7),
        "b.jpg": ManifestEntry(3, "sha256:z", 8, Examined(misnamed="PNG")),
    }
    write_manifest(directory, manifest)
    assert (directory.home / "train.manifest").read_bytes() == (
        b'["a.jpg", 0, "git-sha1:y", 7, "", "", 0]\n'
        b'["b.jpg", 3, "sha256:z", 8, "", "PNG", 0]\n'
        b'["b\\u00e4 1.jpg", 1, "sha256:x", 4611686018427387904, "too large", "", 90]\n'
    )
    assert read_manifest(directory) == manifest


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"5",
        b'["x", 1, "d", 7]',
        b'["x", 1, "d", 7, ""]',
        b'["x", 1.0, "d", 7, "", "", 0]',
        b'["x", true, "d", 7, "", "", 0]',
        b"\xff",
    ],
    ids=repr,
)
def test_a_malformed_manifest_is_empty_and_names_the_line(
    directory: CacheDirectory, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """No part of a malformed manifest is trusted: every file is hashed again."""
    good = b'["a.jpg", 1, "sha256:x", 7, "", "", 0]\n'
    (directory.home / "train.manifest").write_bytes(good + line + b"\n" + good)
    assert read_manifest(directory) == {}
    assert "line 2 is malformed" in caplog.text


def test_a_record_that_cannot_be_read_says_where(
    directory: CacheDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the field and its problem, in one line."""
    ready(directory)
    path = directory.home / "train.json"
    value = json.loads(path.read_text())
    value["captions"]["caption_0"]["rows"] = "many"
    path.write_text(json.dumps(value))
    assert read_record(directory) is None
    (record,) = caplog.records
    assert "captions: caption_0: rows: Input should be a valid integer" in record.message
    assert "\n" not in record.message


def test_completeness_is_checked_by_name_or_by_size_and_mtime(directory: CacheDirectory) -> None:
    """Both checks find a missing file; a changed one that no rank opens is found by "all"."""
    record = ready(directory)
    (directory.files / "b.jpg").write_bytes(b"more")
    scan = directory.scan()
    manifest = {name: ManifestEntry(e.size, "sha256:x", e.mtime_ns) for name, e in scan.items()}
    assert not is_complete(CacheDirectory(directory.root, "other"), record, check="names")
    write_manifest(directory, manifest)
    assert is_complete(directory, record, check="all")
    assert is_complete(directory, record, check="names")
    (directory.files / "b.jpg").write_bytes(b"changed")
    assert not is_complete(directory, record, check="all")
    assert is_complete(directory, record, check="names")
    (directory.files / "a.jpg").write_bytes(b"a probe that changed")
    assert not is_complete(directory, record, check="names")
    write_manifest(directory, manifest | {"c.jpg": ManifestEntry(1, "sha256:x", 1)})
    assert not is_complete(directory, record, check="names")


def test_files_are_verified_by_their_digest(
    directory: CacheDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """Files with other bytes, or that can't be read, aren't verified; images are decoded, too."""
    for name in (METADATA, "a.jpg", "b.jpg", "c.jpg"):
        (directory.files / name).write_bytes(name.encode())
    digests = {name: digest_of_file(directory.files / name, "sha256:") for name in directory.scan()}
    (directory.files / "b.jpg").write_bytes(b"other")
    scan = directory.scan()
    (directory.files / "c.jpg").unlink()
    checked: list[tuple[Path, str]] = []

    def examine(images: Sequence[tuple[Path, str]]) -> list[Examined]:
        checked.extend(images)
        return [Examined("no image") for _ in images]

    verified = verify_files(directory, scan, digests, examine)
    assert verified == {
        METADATA: ManifestEntry(scan[METADATA].size, digests[METADATA], scan[METADATA].mtime_ns),
        "a.jpg": ManifestEntry(5, digests["a.jpg"], scan["a.jpg"].mtime_ns, Examined("no image")),
    }
    assert checked == [(directory.files / "a.jpg", "a.jpg")]
    assert "c.jpg can't be read" in caplog.text


def test_verifying_reports_its_progress(directory: CacheDirectory) -> None:
    """Progress is counted in files, and ends with all of them."""
    for number in range(40):
        (directory.files / f"{number}.jpg").write_bytes(b"x")
    scan, reports = directory.scan(), list[Progress]()
    verify_files(directory, scan, dict.fromkeys(scan, "sha256:x"), progress=reports.append)
    assert reports[-1] == Progress(State.VERIFYING, files=40, of_files=40)
    assert len(reports) == 3


# --- the manifest, read by blocks -----------------------------------------------------------------


def one_by_one(content: bytes) -> dict[str, object]:
    """Return the lines of a manifest, each parsed by itself; nothing if one is malformed."""
    found: dict[str, object] = {}
    try:
        for line in io.BytesIO(content):
            values = manifests._LINE.validate_json(line[: manifests._LONGEST_LINE])
            manifests._check(values[0], len(found))
            found[values[0]] = values
    except ValueError:
        return {}
    return found


LINES = st.one_of(
    st.integers(0, 99).map(lambda number: f'["{number}.jpg", 5, "sha256:aa", 1, "", "", 0]'),
    st.tuples(
        st.sampled_from(
            ["a]", "[b", "a],[b", "a]\n[b", "\u00e9", 'q"', "..", ".h", "/a", "metadata.csv", "d/e"]
        ),
        st.sampled_from([5, -1, 1 << 63, 1.5, True, None, "5"]),
        st.sampled_from(["", "broken ]", "x" * 17_000]),
    ).map(lambda odd: json.dumps([odd[0], odd[1], "sha256:aa", 1, odd[2], "", 0])),
    st.sampled_from(
        [
            *('["a", 1', '"sha256:aa", 2, "", "", 0],["b", 2, "d", 3, "", "", 0]', "", "[]", "x"),
            *('["a]', '[b", 2, "d", 3, "", "", 0],["c", 4, "d", 5, "", "", 0]'),
            ' ["a", 2, "d", 3, "", "", 0] \r',
            '["a", 2, "d", 3, "", "", 0], ["b", 2, "d", 3, "", "", 0]',
        ]
    ),
)


@given(st.lists(LINES, max_size=6), st.sampled_from([0, 0, 0, 70, 130]), st.booleans())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(['["a", 1', '"d", 2, "", "", 0],["b", 2, "d", 3, "", "", 0]'], 0, True)
@example(['["a"', '2, "d", 3, "", "", 0]'], 0, True)
@example(['["a]', '[b", 2, "d", 3, "", "", 0],["c", 4, "d", 5, "", "", 0]'], 0, True)
def test_a_manifest_read_by_blocks_is_as_one_read_line_by_line(
    directory: CacheDirectory, lines: list[str], usual: int, ended: bool
) -> None:
    """For any lines, whatever brackets and line ends are in them, and wherever blocks end."""
    before = [f'["{number:0100}.jpg", 5, "sha256:aa", 1, "", "", 0]' for number in range(usual)]
    content = ("\n".join([*before, *lines]) + "\n" * ended).encode()
    (directory.home / "train.manifest").write_bytes(content)
    assert read_lines(directory) == one_by_one(content)


def test_usual_lines_are_parsed_together(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest of a usual dataset costs no call for a line, but in the block with the table."""
    manifest = {f"{number:05}.jpg": ManifestEntry(5, "sha256:aa", 1) for number in range(2000)}
    write_manifest(directory, {**manifest, METADATA: ManifestEntry(5, "git-sha1:aa", 1)})
    checked: list[str] = []
    monkeypatch.setattr(manifests, "_check", lambda name, _: checked.append(name))
    assert read_manifest(directory).keys() == {*manifest, METADATA}
    assert METADATA in checked
    assert len(checked) < 500
