"""Xet-backed files: all that we fetch takes the plain address, as the files' LFS twins do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, picture
from tests.hub.test_localhub import fetch, head
from tests.unit.download.test_files import Fetching

REPO = "intro/flickr8k"
NAME = "train/0003.jpg"
SCRIPT = """
import sys
from pathlib import Path
from step37_flickr8k import get_flickr8k_dataset_file
print(get_flickr8k_dataset_file(repo_id="intro/flickr8k", filename=sys.argv[1], cache_dir=Path(sys.argv[2])))
"""


def run(hub: LocalHub, tmp_path: Path, *arguments: str, token: str | None = "hf_x") -> None:
    told = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_XET_TELEMETRY_ENABLED": "0",
        "HF_XET_CACHE": str(tmp_path / "xet-cache"),
    }
    if token:
        told["HF_TOKEN"] = token
    subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **told}, check=True, timeout=240
    )


def kinds(hub: LocalHub) -> list[tuple[str, str]]:
    """Give methods and kinds of the requests about files, in order."""
    return [
        (one.method, one.kind)
        for one in hub.requests
        if one.kind in {"resolve", "cdn", "xet-token"}
    ]


def test_the_single_file_takes_the_plain_address(draw: Draw, tmp_path: Path) -> None:
    """get_flickr8k_dataset_file asks for no Xet token: the store is another server's."""
    with LocalHub(draw(), xet=tmp_path / "store") as hub:
        run(hub, tmp_path, "-c", SCRIPT, NAME, str(tmp_path / "one"))
        assert kinds(hub) == [("HEAD", "resolve"), ("GET", "resolve"), ("GET", "cdn")]
        assert (tmp_path / "one" / NAME).read_bytes() == (hub.directory / NAME).read_bytes()


def test_our_fetch_takes_the_plain_address(draw: Draw, tmp_path: Path) -> None:
    """Our fetch gets the same bytes of Xet-backed files, verified, by one GET each and its redirect, without a Xet token."""
    with LocalHub(draw(), xet=tmp_path / "store") as hub:
        fetching = Fetching(hub, tmp_path / "cache")
        fetching.run()
        fetching.assert_all_right()
        assert sorted(kinds(hub)) == [("GET", "cdn")] * 12 + [("GET", "resolve")] * 12
        run(hub, tmp_path, "-c", SCRIPT, NAME, str(tmp_path / "one"))
        assert (tmp_path / "one" / NAME).read_bytes() == (tmp_path / "cache" / NAME).read_bytes()


def test_a_warmup_asks_for_no_xet_token(draw: Draw, tmp_path: Path) -> None:
    """The whole command over Xet-backed files has one GET a file."""
    with LocalHub(draw(), xet=tmp_path / "store") as hub:
        run(
            hub, tmp_path, "-m", "step37_flickr8k", "warmup", "--cache-dir", str(tmp_path / "other")
        )
        assert len(hub.file_requests()) == 13
        assert ("GET", "xet-token") not in kinds(hub)
        assert (tmp_path / "other" / NAME).read_bytes() == (hub.directory / NAME).read_bytes()


@pytest.mark.parametrize("token", ["hf_secret", None])
def test_the_token_stays_with_the_endpoint(draw: Draw, tmp_path: Path, token: str | None) -> None:
    """The token reaches the endpoint alone, also for a file that is backed by Xet."""
    with LocalHub(draw(), xet=tmp_path / "store", token=token) as hub:
        run(hub, tmp_path, "-c", SCRIPT, NAME, str(tmp_path / "one"), token=token)
        seen = {(one.origin, one.kind, one.authorization) for one in hub.requests}
        assert seen == {("hub", "resolve", bool(token)), ("cdn", "cdn", False)}
        assert {one.origin for one in hub.requests if one.authorization} == (
            {"hub"} if token else set()
        )
    written = [
        path
        for directory in ("store", "xet-cache")
        for path in (tmp_path / directory).rglob("*")
        if path.is_file()
    ]
    assert written
    assert not [path for path in written if b"hf_secret" in path.read_bytes()]


def test_what_is_backed_says_so(draw: Draw, tmp_path: Path) -> None:
    """Tree, paths-info and HEAD give an LFS file's Xet hash and where a token is had; a plain one's none; a refresh adds."""
    new, plain = "train/0012.jpg", "train/metadata.csv"
    with LocalHub(draw(), xet=tmp_path / "store") as hub:
        (hub.directory / new).write_bytes(picture(12))
        hub.refresh()
        hashes = xet_hashes(hub)
        assert sorted(hashes) == [f"train/{number:04}.jpg" for number in range(13)]
        asked = f"paths={new}&paths={plain}".encode()
        described = json.loads(
            fetch(f"{hub.endpoint}/api/datasets/{REPO}/paths-info/main", "POST", body=asked)[2]
        )
        assert [entry.get("xetHash") for entry in described] == [hashes[new], None]
        said = head(hub, new).headers
        token = f"{hub.endpoint}/api/datasets/{REPO}/xet-read-token/{hub.commit}"
        assert (said["X-Xet-Hash"], said["Link"]) == (hashes[new], f'<{token}>; rel="xet-auth"')
        assert "X-Xet-Hash" not in head(hub, plain).headers
        run(hub, tmp_path, "-c", SCRIPT, new, str(tmp_path / "one"))
        assert (tmp_path / "one" / new).read_bytes() == picture(12)


def xet_hashes(hub: LocalHub) -> dict[str, str]:
    """Give the Xet hashes of the tree, by plain HTTP: huggingface_hub in this process would ask its own endpoint, too."""
    tree = json.loads(fetch(f"{hub.endpoint}/api/datasets/{REPO}/tree/main?recursive=true")[2])
    return {entry["path"]: entry["xetHash"] for entry in tree if "xetHash" in entry}


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"gated": True}, 403),
        ({"token": "hf_x"}, 401),
        ({"xet": None}, 404),
        ({"repo_id": "intro/other"}, 401),
    ],
)
def test_a_xet_token_is_refused_like_a_file(
    draw: Draw, tmp_path: Path, how: dict[str, Any], status: int
) -> None:
    """A gated, private or missing repository gives no Xet token, and one without a store has none."""
    with LocalHub(draw(), **{"xet": tmp_path / "store", **how}) as hub:
        assert fetch(f"{hub.endpoint}/api/datasets/{REPO}/xet-read-token/main")[0] == status


def test_without_a_store_nothing_is_backed(hub: LocalHub) -> None:
    """By default no file has a Xet hash, in the tree as in its HEAD."""
    assert xet_hashes(hub) == {}
    assert not {"X-Xet-Hash", "Link"} & set(head(hub, NAME).headers)
