"""Hostile input: names, tables, listings, redirects, links. Each has its clear error; nothing is written outside of the cache."""

import asyncio
import csv
import gzip
import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from step37_flickr8k import cli, errors, get_flickr8k_dataset_file, prepare_flickr8k_samples
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, take
from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.names import METADATA, is_table, why_not_plain
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.download.conversion import MANY
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import Draw, captioned, picture, write_rows
from tests.helpers.servers import listening

SELECTION = Selection(
    repo_id="intro/flickr8k", split="train", caption_key="caption_0", sample_count=None
)


def files_below(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }


# --- names ----------------------------------------------------------------------------------------

NAMES = {
    "../escaped.jpg": "it has a component '..'",
    "..": "it has a component '..'",
    "/tmp/escaped.jpg": "it is a path of its own",
    "sub/.escaped.jpg": "it is hidden",
    ".sub/escaped.jpg": "it is hidden",
    "sub/../../escaped.jpg": "it has a component '..'",
    "sub//escaped.jpg": "it has a component ''",
    "./escaped.jpg": "it has a component '.'",
    "escaped/": "it has a component ''",
    "sub\\escaped.jpg": "it has a backslash: separate directories by /",
    "escaped\x01.jpg": "control characters",
    "escaped\n.jpg": "control characters",
    "C:\\escaped.jpg": "it begins with C:, which is a drive",
    "C:escaped.jpg": "it begins with C:, which is a drive",
    "..\\escaped.jpg": "it has a backslash",
    "x/" * 600 + "escaped.jpg": "longer than 1,024 bytes",
    "x" * 300 + ".jpg": "longer than 255 bytes",
    "é" * 128 + ".jpg": "longer than 255 bytes",
    ".step37-train-0123abcd-1.tmp": "it is hidden",
    "metadata.csv": "it is metadata.csv itself",
    "metadata.parquet": "it is metadata.parquet itself",
}


@pytest.mark.parametrize(("name", "why"), NAMES.items(), ids=lambda value: ascii(value)[:24])
def test_a_name_that_is_none_is_refused_with_its_line(
    draw: Draw, hub: LocalHub, cache: Path, tmp_path: Path, name: str, why: str
) -> None:
    """A file_name that leads elsewhere, or that a file system can't hold, ends the run before anything is fetched for it."""
    write_rows(draw() / "train", [captioned(0), captioned(1) | {"file_name": name}])
    hub.refresh()
    before = files_below(tmp_path / "dataset")
    with pytest.raises(
        errors.InvalidMetadata, match=r"line \d+: file_name .* is not the name of an image"
    ) as caught:
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert why in str(caught.value)
    assert len(str(caught.value)) < 600
    assert files_below(tmp_path / "dataset") == before
    assert not list(tmp_path.rglob("*escaped*"))
    assert not list(cache.rglob("*.jpg"))


@given(st.text(st.characters(), max_size=300))
def test_a_plain_name_stays_in_its_directory(name: str) -> None:
    """Whatever is plain lies below the directory, can be stored, and is nobody else's."""
    if why_not_plain(name) is not None:
        return
    directory = Path("/cache/train")
    assert os.path.normpath(directory / name) == f"/cache/train/{name}"
    assert directory in (directory / name).parents
    assert all(0 < len(part.encode()) <= 255 for part in name.split("/"))
    assert not any(part.startswith(".") for part in name.split("/"))
    assert not is_table(name)
    assert "\0" not in name
    assert "\n" not in name


@given(st.text(st.sampled_from("./\\\0\nCa:"), max_size=8))
def test_publishing_writes_into_the_split_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """The last door: whatever name the directory is given, nothing appears outside of the split."""
    root = tmp_path_factory.mktemp("root")
    directory = CacheDirectory(root / "cache", "train")
    directory.make()
    temporary = directory.temporary()
    temporary.write_bytes(b"x")
    try:
        if why_not_plain(name) is None:
            directory.make_parents([name])
        directory.publish(temporary, name)
    except errors.InvalidMetadata:
        assert list(files_below(root)) == [f"cache/train/{temporary.name}"]
    else:
        assert list(files_below(root)) == [f"cache/train/{name}"]


@pytest.mark.parametrize(
    "filename",
    ["../escaped.txt", "train/../../escaped.txt", "/tmp/escaped.txt", "elsewhere/a.txt", ""],
)
def test_a_single_file_stays_in_its_directory(
    hub: LocalHub, cache: Path, tmp_path: Path, filename: str
) -> None:
    """The single-file function, too, refuses a name that leads out of ``cache_dir``, by itself or through a link."""
    cache.mkdir()
    (tmp_path / "outside").mkdir()
    (cache / "elsewhere").symlink_to(tmp_path / "outside")
    assert hub.commit
    with pytest.raises(errors.FolderNotUsable, match="outside of"):
        get_flickr8k_dataset_file(repo_id="intro/flickr8k", filename=filename, cache_dir=cache)
    assert not hub.requests


# --- tables ---------------------------------------------------------------------------------------

TABLE = "file_name,caption_0\n0000.jpg,a dog\n"
TABLES: dict[str, tuple[bytes, type[Exception], str]] = {
    "html": (
        b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n",
        errors.InvalidMetadata,
        "it is a web page",
    ),
    "gzip": (
        gzip.compress(TABLE.encode()),
        errors.InvalidMetadata,
        "it is gzip, not text in UTF-8",
    ),
    "utf-16": (
        TABLE.encode("utf-16"),
        errors.InvalidMetadata,
        "it is UTF-16, not text in UTF-8: store it as UTF-8",
    ),
    "latin-1": (
        "file_name,caption_0\n0000.jpg,café\n".encode("latin-1"),
        errors.InvalidMetadata,
        "no text in UTF-8",
    ),
    "no header": (
        b"0000.jpg,a dog\n0001.jpg,a cat\n",
        errors.InvalidMetadata,
        "no column file_name in its first line",
    ),
    "no lines": (b"", errors.InvalidMetadata, "its columns are none"),
    "two names": (
        b"file_name,file_name,caption_0\na,b,c\n",
        errors.InvalidMetadata,
        "column file_name 2 times",
    ),
    "two captions": (
        b"file_name,caption_0,caption_0\na,b,c\n",
        errors.InvalidMetadata,
        "column caption_0 2 times",
    ),
    "an endless cell": (
        b'file_name,caption_0\n0000.jpg,"' + b"x\n" * 100_000,
        errors.InvalidMetadata,
        "field larger than",
    ),
    "an endless line": (
        b"file_name,caption_0\n" + b"," * (3 << 20),
        errors.InvalidMetadata,
        "line of more than",
    ),
    "nothing but NULs": (bytes(1000), errors.InvalidMetadata, r"no column file_name|NUL"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        errors.InvalidMetadata,
        "git-lfs",
    ),
}


@pytest.mark.parametrize(("content", "error", "said"), TABLES.values(), ids=TABLES.keys())
def test_what_is_no_table_says_what_it_is(
    draw: Draw, hub: LocalHub, cache: Path, content: bytes, error: type[Exception], said: str
) -> None:
    """A metadata.csv that is something else is refused in words that say what, briefly, and nothing else is fetched."""
    (draw() / "train" / METADATA).write_bytes(content)
    hub.refresh()
    with pytest.raises(error, match=said) as caught:
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert errors.exit_code_of(caught.value) == 2
    assert len(str(caught.value)) < 600
    assert not list(cache.rglob("*.jpg"))


def test_a_byte_order_mark_is_no_part_of_the_header(draw: Draw, hub: LocalHub, cache: Path) -> None:
    """Spreadsheets write one; the first column is found all the same."""
    (draw() / "train" / METADATA).write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    hub.refresh()
    assert [sample.caption for sample in prepare_flickr8k_samples(cache_dir=str(cache))] == [
        "a dog"
    ]


def test_an_image_of_several_rows_is_one_file(draw: Draw, hub: LocalHub, cache: Path) -> None:
    """Rows may share an image: each is a sample, and the image comes once."""
    write_rows(
        draw() / "train", [captioned(0), captioned(1), captioned(0) | {"caption_0": "again"}]
    )
    hub.refresh()
    samples = prepare_flickr8k_samples(sample_count=None, cache_dir=str(cache))
    assert [Path(sample.image_path).name for sample in samples] == [
        "0000.jpg",
        "0001.jpg",
        "0000.jpg",
    ]
    assert len(hub.file_requests()) == 3


def read_all(path: Path) -> list[str]:
    with path.open("rb") as stream:
        return [row.file_name for row in read_rows(stream, SELECTION)]


@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Whatever metadata.csv holds, reading it gives plain names or an error of ours, never another one."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for head in (b"", b"file_name,caption_0\n"):
        path.write_bytes(head + content)
        try:
            names = read_all(path)
        except errors.ConfigurationError:
            continue
        assert names
        assert all(why_not_plain(name) is None for name in names)


@given(
    st.lists(
        st.tuples(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20)), max_size=10
    ),
    st.randoms(),
)
def test_any_table_gives_plain_names_in_file_order(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str, str]], chance: Any
) -> None:
    """For any cells, under columns in any order, the rows are those with both cells and a plain name, or the name is refused."""
    columns = ["file_name", "caption_0", "other"]
    chance.shuffle(columns)
    table = [dict(zip(("file_name", "caption_0", "other"), row, strict=True)) for row in cells]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns)
    writer.writeheader()
    writer.writerows(table)
    path = tmp_path_factory.getbasetemp() / "table.csv"
    try:
        path.write_bytes(out.getvalue().encode())
    except UnicodeEncodeError:  # half of a character: no file can hold it
        return
    counted = [
        name for row in table if (name := row["file_name"].strip()) and row["caption_0"].strip()
    ]
    odd = [name for name in counted if why_not_plain(name)]
    try:
        assert read_all(path) == counted
    except errors.InvalidMetadata:
        assert odd or "\0" in out.getvalue()
    except errors.EmptySelection:
        assert not counted
    else:
        assert not odd


# --- listings -------------------------------------------------------------------------------------


def lying_hub(
    tree: list[dict[str, Any]], content: bytes = b"", parquet: Any = ()
) -> Callable[..., Any]:
    """Answer as a Hub whose commit has this listing, and this content in every file; ``parquet`` lists its conversion."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = urlsplit((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
        body = json.dumps(
            tree if "/tree/" in url.path else {"id": "intro/flickr8k", "sha": "a" * 40}
        ).encode()
        body = json.dumps(parquet).encode() if "/tree/refs%2Fconvert" in url.path else body
        body = content if "/resolve/" in url.path else body
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return serve


def entry(name: str, size: Any, oid: Any = "0" * 40) -> dict[str, Any]:
    return {"type": "file", "path": f"train/{name}", "size": size, "oid": oid}


LISTINGS = {
    "2 GB of metadata": (
        [entry(METADATA, 2 << 30)],
        errors.InvalidMetadata,
        "has 2.1 GB by the listing, at most 1.1 GB",
    ),
    "a size below nothing": ([entry(METADATA, -1)], errors.InvalidMetadata, "is malformed"),
    "a size beyond all": ([entry(METADATA, 1 << 70)], errors.InvalidMetadata, "is malformed"),
    "a size that is a word": ([entry(METADATA, "big")], errors.InvalidMetadata, "is malformed"),
    "a hash that is none": ([entry(METADATA, 1, "zz")], errors.InvalidMetadata, "is malformed"),
    "no hash": (
        [entry(METADATA, 1, None)],
        errors.InvalidMetadata,
        "is malformed.*report it to whoever runs that address",
    ),
    "one name twice": (
        [entry(METADATA, 1), entry(METADATA, 2)],
        errors.InvalidMetadata,
        "is there twice",
    ),
    "no metadata": ([entry("a.jpg", 1)], errors.SplitNotFound, "no train/metadata.csv"),
}


@pytest.mark.parametrize(("tree", "error", "said"), LISTINGS.values(), ids=LISTINGS.keys())
def test_a_listing_that_lies_is_refused(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tree: list[dict[str, Any]],
    error: type[Exception],
    said: str,
) -> None:
    """Sizes and hashes that can't be end the run before the first byte."""
    with listening(lying_hub(tree)) as port:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(error, match=said):
            prepare_flickr8k_samples(cache_dir=str(cache))


@pytest.mark.parametrize(
    "body",
    [b"<html>Sign in</html>", b"{}", b"[]", b'{"sha": null}', b'{"sha": "main"}', b"\xff"],
    ids=str,
)
def test_a_page_in_the_place_of_an_answer_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """A login page, or another server's answer, is named as such: transient when it is no JSON, else a wrong endpoint."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    with listening(serve) as port:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(
            (errors.HubUnavailable, errors.InvalidMetadata),
            match=r"is no JSON .text/html.|names no commit",
        ) as caught:
            prepare_flickr8k_samples(cache_dir=str(cache))
    assert isinstance(caught.value, errors.InvalidMetadata) == body.startswith((b"{", b"["))


UNSOUND = {
    b"SSH-2.0-OpenSSH_9.6\r\n": "Bad status line",
    b"HTTP/1.1 200 OK\r\nfoo bar\r\n\r\n": "Invalid header",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}": "gzip",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}": "Not enough data",
}


@pytest.mark.parametrize(("answer", "why"), UNSOUND.items(), ids=lambda value: str(value)[:40])
def test_what_speaks_no_http_is_said(
    cache: Path, capsys: pytest.CaptureFixture[str], answer: bytes, why: str
) -> None:
    """The reason is on one line, and no status is reported that no server has sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    with listening(serve) as port:
        options = ["--endpoint", f"http://127.0.0.1:{port}", "--attempts", "1"]
        assert cli.run(["warmup", "--cache-dir", str(cache), *options]) == 75
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"its answer isn't sound HTTP: .*{why}", said)
    assert "400, message" not in said


@pytest.mark.parametrize(
    "parquet", [{}, [1], [{"type": "file"}], [entry("x", "big") | {"path": 1}]], ids=str
)
def test_a_conversion_whose_listing_makes_no_sense_is_passed_over(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, parquet: Any
) -> None:
    """In auto mode a strange listing of the Parquet conversion is a warning: the run goes on to the files."""
    names = [f"{number:04}.jpg" for number in range(MANY)]
    table = ("file_name,caption_0\n" + "".join(f"{name},a dog\n" for name in names)).encode()
    blob = hashlib.sha1(b"blob %d\0%b" % (len(table), table)).hexdigest()
    tree = [entry(METADATA, len(table), blob), *(entry(name, (1 << 63) - 1) for name in names)]
    with listening(lying_hub(tree, table, parquet)) as port:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(errors.FolderFull):  # what comes next: whether the files fit
            prepare_flickr8k_samples(cache_dir=str(cache), sample_count=None)
    assert "can't be listed" in caplog.text


def test_an_image_of_an_absurd_size_does_not_fit(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size that no file system holds is refused with what is needed and what is there, before the first image."""
    table = TABLE.encode()
    blob = hashlib.sha1(b"blob %d\0%b" % (len(table), table)).hexdigest()
    tree = [entry(METADATA, len(table), blob), entry("0000.jpg", (1 << 63) - 1)]
    with listening(lying_hub(tree, table)) as port:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(
            errors.FolderFull,
            match=r"GB free, the plan needs 9,223,372,036\.9 GB: free space or lower",
        ):
            prepare_flickr8k_samples(cache_dir=str(cache))


def test_a_metadata_that_goes_on_is_cut_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than the listing says are not taken, however many come."""
    monkeypatch.setenv("STEP37_ATTEMPTS", "2")
    with listening(lying_hub([entry(METADATA, 10)], bytes(10 << 20))) as port:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(errors.FetchFailed, match=r"metadata\.csv \(more than 10 bytes"):
            prepare_flickr8k_samples(cache_dir=str(cache))
    assert not list((cache / "train").iterdir())


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "gopher://127.0.0.1/"])
@pytest.mark.parametrize("kind", ["api", "tree", "resolve"])
def test_a_hub_that_redirects_astray_is_not_followed(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, location: str
) -> None:
    """To itself for ever, to a file of this machine, or elsewhere: a clear end, from every kind of request."""
    monkeypatch.setenv("STEP37_ATTEMPTS", "2")
    hub.faults.add(Fault.redirect(location, kind=kind))
    with pytest.raises(errors.TransientError) as caught:
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert "root:" not in str(caught.value)
    assert len(hub.requests) < 100


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", ["train", ".step37-flickr8k"])
@pytest.mark.parametrize("dangling", [False, True], ids=["", "dangling"])
def test_a_linked_directory_is_refused(
    hub: LocalHub, cache: Path, tmp_path: Path, planted: str, dangling: bool
) -> None:
    """A link in the place of one of our directories would have us write elsewhere; the error names it and the way out."""
    assert hub.commit
    outside = tmp_path / "outside"
    if not dangling:
        outside.mkdir()
    cache.mkdir()
    (cache / planted).symlink_to(outside)
    with pytest.raises(
        errors.FolderNotUsable, match=f"{planted} is a symbolic link: make the cache_dir itself one"
    ):
        prepare_flickr8k_samples(cache_dir=str(cache))
    assert not outside.exists() or not list(outside.iterdir())


def test_a_run_is_not_confirmed_through_a_link(
    hub: LocalHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache whose own directory was replaced by a link is refused, and nothing is written there."""
    prepare_flickr8k_samples(cache_dir=str(cache))
    outside = tmp_path / "outside"
    (cache / ".step37-flickr8k").rename(outside)
    (cache / ".step37-flickr8k").symlink_to(outside)
    before = files_below(outside)
    monkeypatch.setenv("STEP37_RUN_ID", "x")
    with pytest.raises(errors.FolderNotUsable, match="is a symbolic link"):
        prepare_flickr8k_samples(cache_dir=str(cache), revision=hub.commit)
    assert files_below(outside) == before


def test_a_linked_cache_dir_is_as_good_as_any(hub: LocalHub, cache: Path, tmp_path: Path) -> None:
    """Homes often hold a link to scratch: the cache directory itself may be one."""
    assert hub.commit
    (tmp_path / "scratch").mkdir()
    cache.symlink_to(tmp_path / "scratch")
    assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8


def test_linked_files_are_replaced_and_not_written_through(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """Links under the names of images, of metadata.csv and of our own files: what they lead to stays as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for place in ("train", ".step37-flickr8k"):
        (cache / place).mkdir(parents=True)
    # Even with the right bytes
    (outside / "0000.jpg").write_bytes((hub.directory / "train" / "0000.jpg").read_bytes())
    names = ["train/0000.jpg", "train/0001.jpg", "train/metadata.csv"]
    names += [f".step37-flickr8k/train.{kind}" for kind in ("json", "manifest")]
    for name in names:
        target = outside / Path(name).name
        if not target.exists():
            target.write_bytes(b"precious")
        (cache / name).symlink_to(target)
    before = files_below(outside)
    assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8
    assert files_below(outside) == before
    assert not [path for path in cache.rglob("*") if path.is_symlink()]


def test_a_linked_lease_is_not_written_through(cache: Path, tmp_path: Path) -> None:
    """A beat never follows a link that has taken the lease's place."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    lease = take(directory, Claim(run=None, rank=0, host="n", pid=1), 5.0, lambda _: False)
    assert lease is not None
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (directory.home / "train.lease.1").unlink()
    (directory.home / "train.lease.1").symlink_to(precious)
    with lease:
        pass
    assert precious.read_bytes() == b"precious"


def test_a_file_that_is_there_twice_comes_once(draw: Draw, hub: LocalHub, cache: Path) -> None:
    """Two names with the same bytes are two files."""
    (draw() / "train" / "0001.jpg").write_bytes(picture(0))
    hub.refresh()
    assert len(prepare_flickr8k_samples(sample_count=2, cache_dir=str(cache))) == 2
    assert (cache / "train" / "0000.jpg").read_bytes() == (
        cache / "train" / "0001.jpg"
    ).read_bytes()
