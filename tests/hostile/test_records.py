"""Mutated records, manifests and leases: each is read, or is as good as none, and no more."""

import contextlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, holder, take
from step37_flickr8k.cache.manifest import ManifestEntry, read_manifest, write_manifest
from step37_flickr8k.cache.record import Coverage, Misnamed, Record, read_record, write_record
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.diagnostics.status import as_json, status
from step37_flickr8k.diagnostics.status_text import status_as_text
from step37_flickr8k.errors import ConfigurationError, TransientError
from step37_flickr8k.images.examined import Examined
from tests.hostile.seeds import SEED, chance

SECONDS = 10.0  # for each kind of file, and at least so many of them:
LEAST = 200
SELECTION = Selection(repo_id="r", split="train", caption_key="caption_0", sample_count=3)

VALUES: tuple[object, ...] = (
    *(None, True, 0, -1, 1 << 62, 1 << 64, 10**400, 1.5, 1e308, float("inf"), float("nan")),
    *("", "\0", "../" * 9 + "etc/passwd", "/", "\x1b]0;x\x07", "\ud800", "x" * 70_000, "\u202e"),
    *([], {}, [[]], {"": {"": []}}),
)


def ready(root: Path) -> CacheDirectory:
    """Write one of each, with every field that they have."""
    directory = CacheDirectory(root, "train")
    directory.make()
    digest = f"sha256:{'0' * 64}"
    (directory.files / "a.jpg").write_bytes(b"x")
    (directory.files / "metadata.csv").write_text("file_name,caption_0\na.jpg,x\n")
    manifest = {
        "a.jpg": ManifestEntry(1, digest, 1, Examined("broken", "PNG", 7)),
        "metadata.csv": ManifestEntry(30, digest, 1),
    }
    record = Record(
        repo_id="r",
        commit="c" * 40,
        metadata=digest,
        captions={"caption_0": Coverage(1, everything=True)},
        skipped={"a.jpg": "broken"},
        too_large={"a.jpg": 10**9},
        misnamed={"PNG": Misnamed(1, "a.jpg")},
        probes={"a.jpg": 1},
        unstripped=("a.jpg",),
        runs=("run-1",),
    )
    write_manifest(directory, manifest)
    write_record(directory, record)
    tracker = ProgressTracker()
    tracker.report(
        Progress(State.FETCHING, files=1, of_files=2, bytes=3, of_bytes=4, retries={"x": 1})
    )
    claim = Claim.of_this_process(run="run-1", rank=1, host="n1")
    lease = take(directory, claim, 60, lambda _: False, tracker)
    assert lease is not None
    lease.__enter__()
    lease.__exit__(None, ValueError("no"), None)
    return directory


def mutated(content: bytes, by: random.Random) -> bytes:
    """Change bytes, cut or repeat parts, or put another value somewhere into the JSON."""
    kind = by.randrange(6)
    if kind == 0:
        at = by.randrange(len(content))
        return content[:at] + by.randbytes(by.randrange(1, 9)) + content[at + 1 :]
    if kind == 1:
        return content[: by.randrange(len(content))]
    if kind == 2:
        start, end = sorted(by.randrange(len(content)) for _ in range(2))
        return content[:end] + content[start:end] * by.randrange(1, 50) + content[end:]
    if kind == 3:
        depth = by.choice((10, 1000, 200_000))
        at = by.randrange(len(content))
        return content[:at] + b"[" * depth + b"]" * depth + content[at:]
    lines = content.splitlines(keepends=True)
    try:
        value = json.loads(content)
    except ValueError:
        number = by.randrange(len(lines))
        changed = (json.dumps(_replaced(json.loads(lines[number]), by)) + "\n").encode()
        return b"".join((*lines[:number], changed, *lines[number + 1 :]))
    return json.dumps(_replaced(value, by)).encode()


def _replaced(value: object, by: random.Random) -> object:
    """Return a value in which one part, or all of it, is another one."""
    if isinstance(value, dict) and value and by.random() < 0.9:
        name = by.choice([*value])
        if by.random() < 0.1:
            return {**value, str(by.choice(VALUES)): value[name]}
        return {**value, name: _replaced(value[name], by)}
    if isinstance(value, list) and value and by.random() < 0.9:
        at = by.randrange(len(value))
        return [*value[:at], _replaced(value[at], by), *value[at + 1 :]]
    return by.choice(VALUES)


def feed(directory: CacheDirectory, name: str, read: Callable[[], object]) -> None:
    """Read mutations of a file for a while; an internal error fails, and names its bytes."""
    path, by = directory.home / name, chance(name)
    content, begun, number = path.read_bytes(), time.monotonic(), 0
    while number < LEAST or time.monotonic() - begun < SECONDS:
        number += 1
        changed = mutated(content, by)
        path.write_bytes(changed)
        try:
            with contextlib.suppress(ConfigurationError, TransientError):
                read()
            splits = status(directory.root)
            json.dumps(as_json(directory.root, splits))
            status_as_text(directory.root, splits)
        except Exception as error:
            raise AssertionError(f"{name} {number} of seed {SEED}: {changed[:2000]!r}") from error


def test_no_mutated_record_is_an_internal_error(tmp_path: Path) -> None:
    """A record that can be read is one; whatever it says, it can be asked and shown."""
    directory = ready(tmp_path)

    def read() -> None:
        record = read_record(directory)
        if record is not None:
            record.fits(SELECTION, "run-1")

    feed(directory, "train.json", read)


def test_no_mutated_manifest_is_an_internal_error(tmp_path: Path) -> None:
    """Its entries have sizes that a file can have, and names that stay in the directory."""
    directory = ready(tmp_path)

    def read() -> None:
        for name, entry in read_manifest(directory).items():
            assert not name.startswith("../../")
            assert -(1 << 63) <= entry.size < 1 << 63

    feed(directory, "train.manifest", read)


def test_no_mutated_lease_is_an_internal_error(tmp_path: Path) -> None:
    """It is somebody's or nobody's; who asks waits, takes it, or gets what its holder left."""
    directory = ready(tmp_path)
    claim = Claim.of_this_process(run="run-2", rank=0, host="n2")

    def read() -> None:
        holder(directory)
        lease = take(directory, claim, 60, lambda _: False)
        if lease is not None:
            for path in directory.home.glob("train.lease.[!1]*"):
                path.unlink()

    feed(directory, "train.lease.1", read)
