"""Proxies before the Hub: which one the environment names, and what messages say of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.localhub import LocalHub


def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read as Python's own client reads it: by scheme, and by NO_PROXY."""
    assert proxy_before("https://hub.example") is None
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    assert proxy_before("https://hub.example") == "proxy.example:3128"
    assert proxy_before("http://hub.example") is None
    monkeypatch.setenv("no_proxy", ".example")
    assert proxy_before("https://hub.example") is None


@pytest.mark.parametrize(
    ("spared", "address", "direct"),
    [
        ("10.0.0.0/8", "http://10.1.2.3:8000", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000", False),
        ("192.0.2.1, 10.0.0.0/8", "https://10.1.2.3", True),
        ("10.1.2.3/8", "https://10.9.9.9", True),
        ("10.0.0.0/8", "http://ten.example", False),
        ("10.0.0.0/99,nonsense/8", "http://10.1.2.3", False),
        ("fd00::/8", "http://[fd00::1]:8000", True),
        ("fd00::/8", "http://[fe80::1]:8000", False),
        # What Docker Desktop and OrbStack put into containers
        ("localhost,127.0.0.0/8,::1/128", "http://[::1]:8000", True),
        ("localhost,127.0.0.0/8,::1/128", "http://127.0.0.2", True),
        ("1:2:3::/64", "http://[1:2:3::4]", True),
        ("::1", "http://[::1]:8000", True),
        ("[::1]", "http://[::1]", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("[::1]:8000", "http://[::1]:8001", False),
        ("10.1.2.3:8000", "http://10.1.2.3:8000", True),
        ("10.1.2.3:8000", "http://10.1.2.3:8001", False),
        ("*", "http://anything.example", True),
        ("other, *", "http://anything.example", True),
        (".example.com", "https://hub.example.com", True),
        (".example.com", "https://example.com", True),
        ("example.com", "https://hub.example.com", True),
        ("example.com", "https://notexample.com", False),
        ("*.example.com", "https://hub.example.com", True),
        ("*.example.com", "https://example.com", True),
        ("hub.example.com:8443", "https://hub.example.com:8443", True),
        ("hub.example.com:8443", "https://hub.example.com", False),
        ("HUB.example.com", "https://hub.EXAMPLE.com", True),
        ("", "https://hub.example.com", False),
    ],
)
def test_no_proxy_is_read_as_users_write_it(
    monkeypatch: pytest.MonkeyPatch, spared: str, address: str, direct: bool
) -> None:
    """Names with subdomains, addresses, networks, ports, IPv6 with or without brackets, a star."""
    monkeypatch.setenv("all_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", spared)
    assert (proxy_before(address) is None) is direct


def test_a_hub_behind_a_proxy_is_warned_of(hub: LocalHub, cache: Path) -> None:
    """A job behind a proxy warns which one: all who use it share one rate limit."""
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
    # A Hub is no proxy, but it answers what is requested of it
    proxied = os.environ | {"http_proxy": hub.endpoint}
    done = subprocess.run(
        command, env=proxied, capture_output=True, text=True, timeout=240, check=False
    )
    assert f"through the proxy {hub.endpoint.removeprefix('http://')} alone" in done.stderr


def test_a_hub_that_is_out_of_reach_may_need_a_proxy(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error of a Hub that can't be reached names the setting of a proxy."""
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
