"""Secrets over plain HTTP: a warning says who can read them."""

import logging
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from step37_flickr8k import cli, get_flickr8k_dataset_file
from step37_flickr8k.hub.plain_http import readable, warn_of_readable
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings.options import HubOptions
from tests.helpers.proxies import proxy

TOKEN = HubOptions(token="hf_x")


@pytest.mark.parametrize(
    ("endpoint", "before", "exposed"),
    [
        ("http://mirror.example", "", "http://mirror.example, which"),
        ("http://10.1.2.3:8000", "", "http://10.1.2.3:8000, which"),
        ("http://mirror.example", "//p.example:3128", "through the proxy p.example:3128, which"),
        ("http://mirror.example", "//127.0.0.1:3128", "through the proxy 127.0.0.1:3128, which"),
        ("http://127.0.0.1:8000", "//p.example:3128", "through the proxy p.example:3128, which"),
        ("http://127.0.0.1:8000", "//user:word@[::1]:3128", ""),
        ("http://127.0.0.1:8000", "", ""),
        ("http://127.8.9.10", "", ""),
        ("http://localhost:8000", "", ""),
        ("http://[::1]:8000", "", ""),
        ("http://127.0.0.1.example", "", "http://127.0.0.1.example, which"),
        ("https://mirror.example", "//p.example:3128", ""),
    ],
)
def test_plain_http_that_leaves_the_machine_can_be_read(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, before: str, exposed: str
) -> None:
    """Another host or a proxy elsewhere reads a token; HTTPS and loopback are nobody's to read."""
    if before:
        monkeypatch.setenv("http_proxy", f"http:{before}")
        monkeypatch.setenv("https_proxy", f"http:{before}")
    said = readable(endpoint, TOKEN)
    assert exposed in said
    assert bool(said) is bool(exposed)
    assert "word" not in said


def test_headers_are_secrets_as_a_token_is() -> None:
    """What is sent is named; without secrets there is nothing to say."""
    headers = {"X-Key": "secret"}
    address = "http://mirror.example"
    assert readable(address, HubOptions()) == ""
    assert readable(address, HubOptions(headers=headers)).startswith("the headers can be read")
    both = readable(address, HubOptions(headers=headers, token="hf_x"))
    assert both.startswith("the token and the headers can be read")
    assert "secret" not in both
    assert "hf_x" not in both


def test_the_warning_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A process that makes many calls warns once of each address, with the remedy."""
    with caplog.at_level(logging.WARNING, "step37_flickr8k"):
        for endpoint in ["http://once.example"] * 3 + ["http://127.0.0.1"]:
            warn_of_readable(endpoint, TOKEN)
    (warning,) = caplog.messages
    assert warning.endswith(
        "use an address with https://, or unset them where the endpoint needs none"
    )


def test_every_way_to_the_hub_warns(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The command, the library's single file and doctor say it; a warm cache sends no token."""
    at = urlsplit(hub.endpoint).port
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with proxy() as between, caplog.at_level(logging.WARNING, "step37_flickr8k"):
        monkeypatch.setenv("http_proxy", between.address)
        monkeypatch.setenv("HF_ENDPOINT", f"http://command.invalid:{at}")
        for _ in range(2):
            assert cli.run(["warmup", "--cache-dir", str(cache), "--revision", hub.commit]) == 0
        monkeypatch.setenv("HF_ENDPOINT", f"http://library.invalid:{at}")
        get_flickr8k_dataset_file(
            repo_id="intro/flickr8k", filename="train/metadata.csv", cache_dir=cache / "single"
        )
    warned = [said for said in caplog.messages if "can be read on the way to" in said]
    assert [name for said in warned for name in ("command", "library") if name in said] == [
        "command",
        "library",
    ]
