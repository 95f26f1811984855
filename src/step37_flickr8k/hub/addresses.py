"""Addresses that may be followed, and which of them are the endpoint's own; pure functions."""

from yarl import URL

from step37_flickr8k.hub.retry import GivenUp

__all__ = ["at_endpoint", "host_of", "is_own", "joined", "parsed"]


def parsed(address: str) -> URL:
    """Return a quoted address; raises `GivenUp` for one that can't be followed."""
    return _checked(URL(address, encoded=True), address)


def joined(url: URL, location: str) -> URL:
    """Return where a redirect leads; raises `GivenUp` for an address that can't be followed."""
    try:
        target = url.join(URL(location, encoded=True))
    except ValueError as error:
        raise GivenUp(f"redirected to {location[:200]!r}, not an address ({error})") from error
    return _checked(target, location)


def is_own(url: URL, endpoint: URL) -> bool:
    """Return whether an address is of the endpoint's own origin.

    An endpoint that is named by http and redirects to https on the same host stays the same.
    """
    if (url.host or "").lower() != (endpoint.host or "").lower():
        return False
    if (url.scheme, url.port) == (endpoint.scheme, endpoint.port):
        return True
    return (endpoint.scheme, endpoint.port, url.scheme, url.port) == ("http", 80, "https", 443)


def at_endpoint(link: URL, endpoint: URL) -> str:
    """Return a link of the API as an address of the endpoint.

    A mirror may pass on the public Hub's link, which names that Hub. The endpoint's own path is put
    before the link's, unless that has it already.
    """
    prefix = endpoint.raw_path.rstrip("/")
    path = link.raw_path_qs
    if prefix and not path.startswith(f"{prefix}/"):
        path = prefix + path
    return f"{endpoint.origin()}{path}"


def host_of(url: URL) -> str:
    """Return host and port for messages; the port only where it isn't the scheme's own."""
    return str(url.host_port_subcomponent) if url.explicit_port else str(url.host_subcomponent)


def _checked(url: URL, address: str) -> URL:
    """Return an address that may be followed."""
    try:
        host, _ = url.host, url.port  # parsed only when they are read
    except ValueError as error:
        raise GivenUp(f"redirected to {address[:200]!r}, not an address ({error})") from error
    if url.scheme not in {"http", "https"} or host is None:
        raise GivenUp(f"redirected to {url.scheme or 'nowhere'}:, which is not followed")
    return url
