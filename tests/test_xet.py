"""Xet-backed files: hf_hub_download takes the real Xet path, our fetch the plain address; both give the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

from step37_flickr8k.folder import digest_of
from step37_flickr8k.localhub import LocalHub

from .conftest import Draw

SCRIPT = """
import sys
from pathlib import Path
from step37_flickr8k import get_flickr8k_dataset_file
print(get_flickr8k_dataset_file(repo_id="intro/flickr8k", filename="train/0003.jpg", cache_dir=Path(sys.argv[1])))
"""


def run(hub: LocalHub, tmp_path: Path, *arguments: str) -> None:
    told = {"HF_ENDPOINT": hub.endpoint, "HF_XET_TELEMETRY_ENABLED": "0", "HF_XET_CACHE": str(tmp_path / "xet-cache")}
    subprocess.run([sys.executable, *arguments], env={**os.environ, **told, "HF_TOKEN": "hf_x"}, check=True, timeout=60)


def test_both_ways_give_the_same_bytes(draw: Draw, tmp_path: Path) -> None:
    """One way asks for a token and reads the Xet store, without a GET of the bytes; the other has one GET a file."""
    one, other = tmp_path / "one", tmp_path / "other"
    with LocalHub(draw(), xet=tmp_path / "store") as hub:
        run(hub, tmp_path, "-c", SCRIPT, str(one))
        kinds = [(asked.method, asked.kind) for asked in hub.requests]
        assert ("GET", "xet-token") in kinds
        assert not hub.file_requests()
        hub.clear_requests()
        run(hub, tmp_path, "-m", "step37_flickr8k", "warmup", "--cache-dir", str(other))
        assert len(hub.file_requests()) == 13
        assert not [asked for asked in hub.requests if asked.kind == "xet-token"]
        expected = digest_of(hub.folder / "train/0003.jpg", "sha256:")
    assert digest_of(one / "train/0003.jpg", "sha256:") == digest_of(other / "train/0003.jpg", "sha256:") == expected
