"""No request goes anywhere but to the endpoint and its redirects: a real proxy counts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw
from tests.helpers.proxies import Proxy, proxy
from tests.unit.hub.test_api import port_of

# Variables of users who care; with the settings that users have there are none of them.
QUIETING = {"HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE"}
LOADER = """
import os, sys
from pathlib import Path
from step37_flickr8k import get_flickr8k_dataset_file, prepare_flickr8k_samples
cache = sys.argv[1]
prepare_flickr8k_samples(cache_dir=cache)
for name in ("train/0011.jpg", "train/0011.jpg", "train/metadata.csv"):
    get_flickr8k_dataset_file(repo_id="intro/flickr8k", filename=name, cache_dir=Path(cache))
assert not {"HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "HF_ENDPOINT"} & os.environ.keys()
assert not [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]
"""


@pytest.fixture
def counting(draw: Draw) -> Iterator[tuple[LocalHub, Proxy, dict[str, str]]]:
    """Serve a Hub by a name that only a proxy knows; yield the environment of a user there."""
    with LocalHub(draw(110)) as hub, proxy() as counted:
        theirs = {name: value for name, value in os.environ.items() if name not in QUIETING}
        both = {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
        endpoint = f"http://hub.invalid:{port_of(hub.endpoint)}"
        environment = {**theirs, **dict.fromkeys(both, counted.address)}
        yield hub, counted, {**environment, "STEP37_ENDPOINT": endpoint}


def test_every_command_asks_the_endpoint_and_its_redirects_alone(
    counting: tuple[LocalHub, Proxy, dict[str, str]], tmp_path: Path
) -> None:
    """Cold, warm, damaged, asked about: whatever the command, the proxy sees these two origins."""
    hub, counted, environment = counting
    origins = {f"hub.invalid:{port_of(each)}" for each in (hub.endpoint, hub.cdn_endpoint)}
    cache, report = tmp_path / "cache", tmp_path / "report.json"
    at = ("--cache-dir", str(cache))
    asked: dict[str, int] = {}
    for name, *arguments in (
        ("settings",),
        ("doctor", *at),
        ("plan", *at),
        ("warmup", *at, "--report", str(report)),
        ("warmup", *at),
        ("plan", *at),
        ("status", *at),
        ("verify", *at),
        ("verify", *at, "--repair"),
        ("preview", *at, "--output", str(tmp_path / "preview.html")),
        ("report", str(report)),
        ("warmup", *at, "--split", "nowhere"),
    ):
        before = len(counted.seen)
        if "--repair" in arguments:
            (cache / "train" / "0001.jpg").write_bytes(b"x")
        done = run(environment, "-m", "step37_flickr8k", name, *arguments)
        assert done.returncode == (2 if "nowhere" in arguments else 0), (name, done.stderr)
        asked[f"{name} {len(asked)}"] = len(counted.seen) - before
        assert {authority for _, authority in counted.seen} <= origins, (name, counted.seen[-3:])
    assert not [path for path in counted.paths if "agent" in path]
    # The report counts what the proxy does, and a query of the cache asks nobody.
    assert asked["warmup 3"] == json.loads(report.read_text())["requests"]
    for silent in ("settings 0", "status 6", "verify 7", "preview 9", "report 10"):
        assert asked[silent] == 0
    assert asked["verify 8"] > 0


def test_the_loader_asks_the_endpoint_and_its_redirects_alone(
    counting: tuple[LocalHub, Proxy, dict[str, str]], tmp_path: Path
) -> None:
    """hf_hub_download asks for no list of agents, and the user's process isn't changed for that."""
    hub, counted, environment = counting
    done = run(environment, "-c", LOADER, str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    origins = {f"hub.invalid:{port_of(each)}" for each in (hub.endpoint, hub.cdn_endpoint)}
    assert {authority for _, authority in counted.seen} == origins
    kinds = {(one.method, one.kind) for one in hub.requests}
    assert kinds == {
        ("GET", "api"),
        ("GET", "tree"),
        ("GET", "resolve"),
        ("HEAD", "resolve"),
        ("GET", "cdn"),
    }
    assert len(counted.seen) == len(hub.requests)


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
