"""The local Hub against huggingface_hub's own client, over loopback."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from step37_flickr8k.localhub import LocalHub, run

REPO = "intro/flickr8k"
NAMES = [f"{number:03}.jpg" for number in range(8)]
MISSING = "train/none.jpg"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Draw a dataset: eight images of random bytes in one split, one in another, and a README."""
    source = random.Random(8)
    root = tmp_path / "dataset"
    for split, names in {"train": NAMES, "test": ["a b.jpg"]}.items():
        (root / split).mkdir(parents=True)
        for name in names:
            (root / split / name).write_bytes(source.randbytes(5000))
        rows = "".join(f"{name},a dog\n" for name in names)
        (root / split / "metadata.csv").write_text("file_name,caption_0\n" + rows)
    (root / "README.md").write_text("# Flickr8k\n")
    (root / ".gitattributes").write_text("*.jpg filter=lfs\n")
    (root / ".cache").mkdir()
    (root / ".cache" / "hidden.jpg").write_bytes(b"hidden")
    return root


@pytest.fixture
def hub(directory: Path) -> Iterator[LocalHub]:
    """Serve the dataset to everybody."""
    with LocalHub(
        directory, repo_id=REPO, revisions=["refs/convert/parquet"], control=True
    ) as serving:
        yield serving


def api_of(hub: LocalHub, token: str | bool = False) -> HfApi:
    """Make a client that sends this token, and none by default."""
    return HfApi(endpoint=hub.endpoint, token=token)


def fetch(
    url: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, Message, bytes]:
    """Ask for a URL; give status, headers and body, whatever the status."""
    asked = urllib.request.Request(url, method=method, headers=headers or {}, data=body)
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def resolve_url(hub: LocalHub, repo_path: str, revision: str = "main") -> str:
    """Name a file on the Hub."""
    return f"{hub.endpoint}/datasets/{REPO}/resolve/{revision}/{repo_path}"


def test_snapshot_download_copies_the_directory(
    hub: LocalHub, directory: Path, tmp_path: Path
) -> None:
    """snapshot_download into a directory gives every file that isn't hidden, byte for byte, and nothing else."""
    target = tmp_path / "copy"
    snapshot_download(
        REPO, repo_type="dataset", endpoint=hub.endpoint, local_dir=target, token=False
    )
    copied = {
        path.relative_to(target)
        for path in target.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }
    served = {
        path.relative_to(directory)
        for path in directory.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }
    assert copied == served
    assert all((target / name).read_bytes() == (directory / name).read_bytes() for name in served)
    assert len(hub.file_requests()) == len(served)


@pytest.mark.parametrize("name", ["train/000.jpg", "train/metadata.csv", "test/a b.jpg"])
@pytest.mark.parametrize("redirect_lfs", [True, False])
def test_hf_hub_download_gives_the_bytes(
    directory: Path, tmp_path: Path, name: str, redirect_lfs: bool
) -> None:
    """hf_hub_download finds LFS and plain files, into its cache as into a directory, with and without a CDN."""
    with LocalHub(directory, repo_id=REPO, redirect_lfs=redirect_lfs) as hub:
        places: list[dict[str, Any]] = [
            {"cache_dir": tmp_path / "cache"},
            {"local_dir": tmp_path / "local"},
        ]
        for where in places:
            got = hf_hub_download(
                REPO, name, repo_type="dataset", endpoint=hub.endpoint, token=False, **where
            )
            assert Path(got).read_bytes() == (directory / name).read_bytes()
        origins = {request.origin for request in hub.file_requests()}
    assert origins == ({"cdn"} if redirect_lfs and name.endswith(".jpg") else {"hub"})


def test_a_model_is_served_as_one(directory: Path, tmp_path: Path) -> None:
    """With the repository type of a model the same clients find it, and no dataset of that name."""
    with LocalHub(directory, repo_id="team/model", repo_type="model") as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        assert api.model_info("team/model").sha == hub.commit
        path = hf_hub_download(
            "team/model", "train/000.jpg", local_dir=tmp_path / "copy", endpoint=hub.endpoint
        )
        assert Path(path).read_bytes() == (directory / "train" / "000.jpg").read_bytes()
        with pytest.raises(RepositoryNotFoundError):
            api.dataset_info("team/model")


@pytest.mark.parametrize("page_size", [1000, 3, 1])
def test_tree_lists_every_file_with_its_hash(directory: Path, page_size: int) -> None:
    """The tree, whatever its pages, names each file once, with sha256 for LFS files and git's own hash for others."""
    with LocalHub(directory, repo_id=REPO, page_size=page_size) as hub:
        entries = list(api_of(hub).list_repo_tree(REPO, repo_type="dataset", recursive=True))
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    assert {entry.path for entry in entries if isinstance(entry, RepoFolder)} == {"train", "test"}
    assert len(entries) == len(files) + 2 == 15
    for name, file in files.items():
        content = (directory / name).read_bytes()
        assert file.size == len(content)
        if name.endswith(".jpg"):
            assert file.lfs is not None
            assert (file.lfs.sha256, file.lfs.size) == (
                hashlib.sha256(content).hexdigest(),
                len(content),
            )
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.lfs.sha256}\nsize {file.size}\n"
            assert file.blob_id == git_hash(pointer.encode())
            assert file.lfs.pointer_size == len(pointer)
        else:
            assert file.lfs is None
            assert file.blob_id == git_hash(content)


def git_hash(content: bytes) -> str:
    """Hash as git does."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def test_tree_of_a_directory(hub: LocalHub) -> None:
    """A tree without recursion shows one level; with ``expand`` each entry carries the last commit."""
    api = api_of(hub)
    assert {entry.path for entry in api.list_repo_tree(REPO, repo_type="dataset")} == {
        "train",
        "test",
        "README.md",
        ".gitattributes",
    }
    below = list(api.list_repo_tree(REPO, "test", repo_type="dataset", expand=True))
    assert [entry.path for entry in below] == ["test/a b.jpg", "test/metadata.csv"]
    assert all(
        entry.last_commit is not None and entry.last_commit.oid == hub.commit for entry in below
    )


def test_info_names_commit_and_files(hub: LocalHub, directory: Path) -> None:
    """dataset_info gives the commit for main, for the commit itself and for a listed revision, and sizes on request."""
    api = api_of(hub)
    for revision in (None, "main", hub.commit, "refs/convert/parquet"):
        assert api.dataset_info(REPO, revision=revision).sha == hub.commit
    found = api.dataset_info(REPO, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in found.siblings or []}
    assert sizes["train/000.jpg"] == 5000
    assert sizes["README.md"] == (directory / "README.md").stat().st_size


def test_paths_info_describes_what_is_known(hub: LocalHub) -> None:
    """get_paths_info describes files and directories, and leaves unknown names out."""
    found = api_of(hub).get_paths_info(
        REPO, ["train/001.jpg", "test", "nowhere"], repo_type="dataset"
    )
    assert [(type(entry), entry.path) for entry in found] == [
        (RepoFile, "train/001.jpg"),
        (RepoFolder, "test"),
    ]


def test_what_is_missing_has_its_own_error(hub: LocalHub, tmp_path: Path) -> None:
    """An unknown revision, file, directory or repository raises the client's exception of that name."""
    api = api_of(hub)
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(REPO, revision="nowhere")
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree(REPO, repo_type="dataset", revision="0" * 40))
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, MISSING, repo_type="dataset", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nowhere", repo_type="dataset"))
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("intro/other")


def test_missing_repository_is_hidden_without_a_token(hub: LocalHub) -> None:
    """A missing repository is a 401 to the anonymous and a 404 to who sends a token, as on the real Hub."""
    url = f"{hub.endpoint}/api/datasets/other"
    anonymous, headers, _ = fetch(url)
    known, _, _ = fetch(url, headers={"Authorization": "Bearer hf_any"})
    assert (anonymous, known, headers["X-Error-Code"]) == (401, 404, "RepoNotFound")


def test_private_repository_wants_its_token(directory: Path, tmp_path: Path) -> None:
    """A private repository opens to its token, hides without one, and refuses another one by name."""
    with LocalHub(directory, repo_id=REPO, token="hf_right") as hub:
        right = api_of(hub, "hf_right")
        assert right.dataset_info(REPO).private
        assert Path(
            right.hf_hub_download(REPO, "train/000.jpg", repo_type="dataset", cache_dir=tmp_path)
        ).exists()
        with pytest.raises(RepositoryNotFoundError):
            api_of(hub).dataset_info(REPO)
        with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
            api_of(hub, "hf_wrong").dataset_info(REPO)
    assert not isinstance(caught.value, RepositoryNotFoundError)
    assert caught.value.response.status_code == 401


def test_gated_repository_shows_its_tree_only(directory: Path, tmp_path: Path) -> None:
    """A gated repository lists its files and refuses to give them."""
    with LocalHub(directory, repo_id=REPO, gated=True) as hub:
        api = api_of(hub, "hf_any")
        assert api.dataset_info(REPO).gated == "manual"
        with pytest.raises(GatedRepoError):
            api.hf_hub_download(REPO, "train/000.jpg", repo_type="dataset", cache_dir=tmp_path)


def test_the_token_never_reaches_the_cdn(directory: Path, tmp_path: Path) -> None:
    """An LFS file comes from another origin, and the log shows whether the token went there."""
    with LocalHub(directory, repo_id=REPO, token="hf_x") as hub:
        assert hub.cdn_endpoint != hub.endpoint
        api_of(hub, "hf_x").hf_hub_download(
            REPO, "train/000.jpg", repo_type="dataset", cache_dir=tmp_path
        )
        seen = {
            (one.origin, one.kind, one.method, one.status, one.authorization)
            for one in hub.requests
        }
        assert seen == {("hub", "resolve", "HEAD", 302, True), ("cdn", "cdn", "GET", 200, False)}
        # urllib lets the header follow: the log must be able to show it
        fetch(
            resolve_url(hub, "train/000.jpg"),
            headers={"Authorization": "Bearer hf_x", "User-Agent": "me/1"},
        )
        last = hub.requests[-1]
    assert (last.origin, last.authorization, last.user_agent, last.client) == (
        "cdn",
        True,
        "me/1",
        "127.0.0.1",
    )
    assert (last.repo_path, last.bytes_sent) == ("train/000.jpg", 5000)


def test_head_tells_size_and_hash_without_a_body(hub: LocalHub, directory: Path) -> None:
    """HEAD of a file gives commit, size and hash: in the redirect of an LFS file, in the answer of a plain one."""
    image, table = (
        (directory / "train/000.jpg").read_bytes(),
        (directory / "train/metadata.csv").read_bytes(),
    )
    redirected = head(hub, "train/000.jpg")
    assert redirected.status == 302
    assert redirected.headers["Location"].startswith(f"{hub.cdn_endpoint}/cdn/")
    assert redirected.headers["X-Linked-Etag"] == f'"{hashlib.sha256(image).hexdigest()}"'
    assert redirected.headers["X-Linked-Size"] == "5000"
    plain = head(hub, "train/metadata.csv")
    assert (plain.status, plain.headers["ETag"]) == (200, f'"{git_hash(table)}"')
    assert int(plain.headers["Content-Length"]) == len(table)
    assert redirected.headers["X-Repo-Commit"] == plain.headers["X-Repo-Commit"] == hub.commit
    assert {(one.method, one.kind, one.bytes_sent) for one in hub.requests} == {
        ("HEAD", "resolve", 0)
    }


def head(hub: LocalHub, repo_path: str) -> HTTPResponse:
    """Send a HEAD and follow no redirect."""
    connection = HTTPConnection(hub.endpoint.removeprefix("http://"), timeout=120)
    with closing(connection):
        connection.request("HEAD", f"/datasets/{REPO}/resolve/main/{repo_path}")
        answer = connection.getresponse()
        assert answer.read() == b""
        return answer


@pytest.mark.parametrize(
    ("wanted", "status", "span"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=4990-", 206, slice(4990, 5000)),
        ("bytes=4990-9999", 206, slice(4990, 5000)),
        ("bytes=-7", 206, slice(4993, 5000)),
        ("bytes=5000-", 416, slice(0, 0)),
        (f"bytes={'9' * 5000}-", 416, slice(0, 0)),
        (f"bytes=4990-{'9' * 5000}", 206, slice(4990, 5000)),
        (f"bytes=-{'9' * 5000}", 206, slice(0, 5000)),
        ("bytes=-", 200, slice(0, 5000)),
        ("bytes=0-1,5-6", 200, slice(0, 5000)),
        ("lines=1-2", 200, slice(0, 5000)),
    ],
)
def test_ranges(hub: LocalHub, directory: Path, wanted: str, status: int, span: slice) -> None:
    """One range of bytes is served as 206 or refused as 416; anything else gets the whole file."""
    content = (directory / "train/000.jpg").read_bytes()
    got, headers, body = fetch(resolve_url(hub, "train/000.jpg"), headers={"Range": wanted})
    assert (got, body) == (status, content[span])
    said = {206: f"bytes {span.start}-{span.stop - 1}/5000", 416: "bytes */5000"}
    assert headers["Content-Range"] == said.get(status)


def test_empty_file(hub: LocalHub, directory: Path) -> None:
    """A file of no bytes is served as one."""
    (directory / "train" / "empty.txt").touch()
    hub.refresh()
    status, headers, body = fetch(resolve_url(hub, "train/empty.txt"))
    assert (status, headers["Content-Length"], body) == (200, "0", b"")


@pytest.mark.parametrize(
    "path", ["/", "/api/datasets/intro/flickr8k/refs", "/api/spaces/x", "/_localhub/other"]
)
def test_other_urls_are_not_found(hub: LocalHub, path: str) -> None:
    """What a Hub for one dataset doesn't serve is a 404."""
    assert fetch(hub.endpoint + path)[0] == 404


def test_cdn_serves_by_hash_only(hub: LocalHub) -> None:
    """The CDN refuses a hash that isn't the file's, and other URLs."""
    assert fetch(f"{hub.cdn_endpoint}/cdn/{'0' * 64}/train/000.jpg")[0] == 404
    assert fetch(f"{hub.cdn_endpoint}/cdn/{'0' * 64}/{MISSING}")[0] == 404
    assert fetch(f"{hub.cdn_endpoint}/api/datasets/{REPO}")[0] == 404


def test_wrong_method_is_refused(hub: LocalHub) -> None:
    """A POST to a file, and a GET of paths-info, are 405."""
    assert fetch(resolve_url(hub, "README.md"), "POST", body=b"x")[0] == 405
    assert fetch(f"{hub.endpoint}/api/datasets/{REPO}/paths-info/main")[0] == 405


def test_commit_follows_the_content(hub: LocalHub, directory: Path) -> None:
    """Refresh makes a new commit only if the content differs; the old one resolves only if it was kept."""
    first = hub.commit
    assert hub.refresh() == first
    (directory / "README.md").write_text("# Flickr8k, second edition\n")
    second = hub.refresh()
    assert second != first
    with pytest.raises(RevisionNotFoundError):
        api_of(hub).dataset_info(REPO, revision=first)
    (directory / "train" / "000.jpg").unlink()
    third = hub.refresh(keep_old=True)
    assert api_of(hub).dataset_info(REPO, revision=second).sha == second
    assert api_of(hub).dataset_info(REPO).sha == third
    assert fetch(resolve_url(hub, "train/001.jpg", second))[0] == 200


def test_changed_file_is_not_served_under_the_old_hash(hub: LocalHub, directory: Path) -> None:
    """A file that changed or went after the scan is a 500 that says what to do."""
    (directory / "README.md").write_text("something else, and longer")
    status, headers, _ = fetch(resolve_url(hub, "README.md"))
    assert (status, "refresh" in headers["X-Error-Message"]) == (500, True)
    (directory / "README.md").unlink()
    assert fetch(resolve_url(hub, "README.md"))[0] == 500


def test_log_can_be_read_and_cleared_from_another_process(hub: LocalHub) -> None:
    """The log is there as JSON, in the order of arrival, and either side can clear it."""
    fetch(resolve_url(hub, "README.md"))
    fetch(resolve_url(hub, MISSING))
    log = json.loads(fetch(f"{hub.endpoint}/_localhub/requests")[2])
    assert [(one["repo_path"], one["status"]) for one in log] == [
        ("README.md", 200),
        (MISSING, 404),
    ]
    assert fetch(f"{hub.endpoint}/_localhub/requests", "DELETE")[0] == 204
    assert hub.requests == ()
    fetch(resolve_url(hub, "README.md"))
    hub.clear_requests()
    assert hub.requests == ()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_no_web_page_reads_the_log_or_sets_faults(
    hub: LocalHub, headers: dict[str, str], status: int
) -> None:
    """A page's own origin and name are refused, and without ``control`` there is nothing to ask."""
    log, faults = f"{hub.endpoint}/_localhub/requests", f"{hub.endpoint}/_localhub/faults"
    assert fetch(log, headers=headers)[0] == status
    assert fetch(faults, "POST", headers, b"[]")[0] == (204 if status == 200 else 403)
    with LocalHub(hub.directory) as usual:
        assert fetch(f"{usual.endpoint}/_localhub/requests", headers=headers)[0] == 404
        assert fetch(f"{usual.cdn_endpoint}/_localhub/faults", "POST", headers, b"[]")[0] == 404


def test_only_regular_files_below_the_directory_are_served(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Links that lead out, a FIFO and links to nothing are left out, by name; others are served."""
    (tmp_path / "secret").write_bytes(b"secret")
    train = directory / "train"
    (train / "out.jpg").symlink_to(tmp_path / "secret")
    (train / "up.jpg").symlink_to("../../secret")
    (train / "nothing.jpg").symlink_to("nowhere")
    (train / "round.jpg").symlink_to("round.jpg")
    (train / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(train / "fifo.jpg")
    (train / "inside.jpg").symlink_to("000.jpg")
    (directory / "outside").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(directory)
    with LocalHub(tmp_path / "link") as hub:
        assert fetch(resolve_url(hub, "train/inside.jpg"))[2] == (train / "000.jpg").read_bytes()
        for name in ("out", "up", "nothing", "round", "device", "fifo"):
            assert fetch(resolve_url(hub, f"train/{name}.jpg"))[0] == 404, name
            assert f"train/{name}.jpg" in caplog.text, name
        assert fetch(resolve_url(hub, "outside/secret"))[0] == 404


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_file_that_became_something_else_is_not_served(
    directory: Path, tmp_path: Path, kind: str
) -> None:
    """After the scan, too, nothing outside is read and nothing hangs, whatever size and time."""
    there, secret = directory / "train" / "000.jpg", tmp_path / "outside" / "000.jpg"
    secret.parent.mkdir()
    secret.write_bytes(bytes(there.stat().st_size))
    os.utime(secret, ns=(0, there.stat().st_mtime_ns))
    with LocalHub(directory, redirect_lfs=False) as hub:
        assert fetch(resolve_url(hub, "train/000.jpg"))[0] == 200
        if kind == "directory":
            (directory / "train").rename(tmp_path / "moved")
            (directory / "train").symlink_to(secret.parent)
        else:
            there.unlink()
            os.mkfifo(there) if kind == "fifo" else there.symlink_to(secret)
        assert fetch(resolve_url(hub, "train/000.jpg"))[0] == 500


def test_hub_can_be_entered_again(directory: Path) -> None:
    """After its block the Hub is gone; entered again it serves the same commit."""
    hub = LocalHub(directory, repo_id=REPO)
    with pytest.raises(RuntimeError, match="with statement"):
        _ = hub.commit
    with hub:
        first = hub.commit
        url = resolve_url(hub, "README.md")
    with pytest.raises(urllib.error.URLError):
        fetch(url)
    with hub:
        assert fetch(resolve_url(hub, "README.md", first))[0] == 200


def test_taken_port_is_named(hub: LocalHub, directory: Path) -> None:
    """Starting on a taken port raises an OSError that names host and port."""
    port = int(hub.endpoint.rpartition(":")[2])
    with (
        pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use"),
        LocalHub(directory, port=port),
    ):
        pytest.fail("two servers on one port")


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """Starting over a directory that isn't there raises an error that names it."""
    with pytest.raises(NotADirectoryError, match="nowhere"), LocalHub(tmp_path / "nowhere"):
        pytest.fail("nothing to serve")


SCRIPT = "import sys; from step37_flickr8k.localhub import LocalHub, run\n"
SCRIPT += "run(LocalHub(sys.argv[1]), on_ready=lambda hub: print(hub.endpoint, flush=True))"


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_run_serves_until_a_signal(directory: Path, signal_name: str) -> None:
    """Run serves once it says so, and SIGTERM or Ctrl-C ends the process with 0 and without a word."""
    command = [sys.executable, "-c", SCRIPT, str(directory)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert fetch(f"{endpoint}/datasets/{REPO}/resolve/main/README.md")[0] == 200
        process.send_signal(signal.Signals[signal_name])
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")


def test_run_stops_what_it_started(directory: Path) -> None:
    """An interrupted run leaves nothing that listens."""
    hub = LocalHub(directory)

    def interrupt(serving: LocalHub) -> None:
        assert fetch(resolve_url(serving, "README.md"))[0] == 200
        raise KeyboardInterrupt

    run(hub, on_ready=interrupt)
    with pytest.raises(urllib.error.URLError):
        fetch(resolve_url(hub, "README.md"))
