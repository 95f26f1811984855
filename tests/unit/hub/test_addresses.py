"""Which addresses are the endpoint's own, and how they are named."""

import pytest
from yarl import URL

from step37_flickr8k.hub.addresses import at_endpoint, host_of, is_own


@pytest.mark.parametrize(
    ("endpoint", "address", "own"),
    [
        ("https://hub.example", "https://hub.example/x", True),
        ("https://hub.example", "https://hub.example:443/x", True),
        ("https://HUB.example/path", "https://hub.example/x", True),
        ("https://hub.example:8443", "https://hub.example/x", False),
        ("https://hub.example", "https://cdn.hub.example/x", False),
        ("https://hub.example", "http://hub.example/x", False),
        ("http://hub.example", "https://hub.example/x", True),
        ("http://hub.example:80", "https://hub.example:443/x", True),
        ("http://hub.example:8080", "https://hub.example/x", False),
        ("http://hub.example", "https://hub.example:8443/x", False),
        ("http://hub.example", "https://other.example/x", False),
    ],
)
def test_the_endpoint_is_its_origin_and_its_own_https(
    endpoint: str, address: str, own: bool
) -> None:
    """Scheme, host and port decide; a redirect from http to https of one host changes nothing."""
    assert is_own(URL(address), URL(endpoint)) is own


@pytest.mark.parametrize(
    ("endpoint", "link", "asked"),
    [
        (
            "https://m.example",
            "https://huggingface.co/api/x?c=1%3D",
            "https://m.example/api/x?c=1%3D",
        ),
        (
            "https://m.example/hf",
            "https://huggingface.co/api/x?c=1",
            "https://m.example/hf/api/x?c=1",
        ),
        (
            "https://m.example/hf",
            "https://m.example/hf/api/x?c=1",
            "https://m.example/hf/api/x?c=1",
        ),
        ("http://m.example:81", "https://huggingface.co/api/x", "http://m.example:81/api/x"),
        # From HTTPS no link leads to plain HTTP
        ("https://m.example", "http://m.example/api/x?c=1", "https://m.example/api/x?c=1"),
    ],
)
def test_a_link_is_asked_for_at_the_endpoint(endpoint: str, link: str, asked: str) -> None:
    """Path and query of the link, under the endpoint's own path."""
    assert at_endpoint(URL(link, encoded=True), URL(endpoint, encoded=True)) == asked


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://cdn.example/x?signature=y", "cdn.example"),
        ("http://127.0.0.1:8000/x", "127.0.0.1:8000"),
        ("http://[::1]:8000/x", "[::1]:8000"),
    ],
)
def test_a_host_is_named_without_what_is_secret(address: str, host: str) -> None:
    """A message names host and port, never a signed address."""
    assert host_of(URL(address)) == host
