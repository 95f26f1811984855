"""What is said of a node: a directory that no other can see, a proxy before the Hub."""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import pytest

from step37_flickr8k import cli
from step37_flickr8k.cache.filesystem import local_file_system
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import ProgressTracker
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.warmup import Warmup
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings import WarmupSettings


def test_a_tmpfs_is_seen_by_this_node_alone() -> None:
    """The file system is named, also for a directory that isn't there yet; one that isn't on a list of local ones may be shared."""
    assert local_file_system(Path("/dev/shm/not/there/yet")) == "tmpfs"
    assert local_file_system(Path("/proc")) is None


@pytest.mark.parametrize(
    ("nodes", "scope", "warned"),
    [(2, "shared", True), (2, "node", False), (1, "shared", False), (None, "shared", False)],
)
def test_a_local_directory_is_warned_of_where_there_are_several_nodes(
    hub: LocalHub,
    caplog: pytest.LogCaptureFixture,
    nodes: int | None,
    scope: Literal["shared", "node"],
    warned: bool,
) -> None:
    """Whoever fills a directory that other nodes can't see says so first; with one node, or a directory for each, nothing is wrong."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, caplog.at_level(logging.WARNING):
        settings = WarmupSettings(
            cache_dir=Path(directory) / "cache", endpoint=hub.endpoint, cache_scope=scope
        )
        run = Run(Task.from_settings(settings), World(node_count=nodes))
        Warmup(run).warm(ProgressTracker())
    assert ("tmpfs" in caplog.text and "cache_scope=node" in caplog.text) == warned


def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python's own client reads the environment: by scheme, by NO_PROXY."""
    assert proxy_before("https://hub.example") is None
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    assert proxy_before("https://hub.example") == "proxy.example:3128"
    assert proxy_before("http://hub.example") is None
    monkeypatch.setenv("no_proxy", ".example")
    assert proxy_before("https://hub.example") is None


def test_a_hub_behind_a_proxy_is_said(hub: LocalHub, cache: Path) -> None:
    """A job whose requests all go through a proxy says which one: whoever uses it shares the Hub's quota."""
    command = [
        sys.executable,
        "-m",
        "step37_flickr8k",
        "plan",
        "--cache-dir",
        str(cache),
        "--attempts",
        "1",
    ]
    # A Hub is no proxy, but it answers what is asked of it
    proxied = os.environ | {"http_proxy": hub.endpoint}
    done = subprocess.run(
        command, env=proxied, capture_output=True, text=True, timeout=240, check=False
    )
    assert f"through the proxy {hub.endpoint.removeprefix('http://')} alone" in done.stderr


def test_a_hub_that_is_out_of_reach_may_need_a_proxy(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens: the error names the remedy for nodes that reach the world only through a proxy."""
    assert (
        cli.run(
            [
                "plan",
                "--cache-dir",
                str(cache),
                "--endpoint",
                "http://127.0.0.1:1",
                "--attempts",
                "1",
            ]
        )
        == 75
    )
    assert "HTTPS_PROXY" in capsys.readouterr().err
