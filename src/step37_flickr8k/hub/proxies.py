"""The proxies that the environment names: the one reading for the API, for files and for doctor.

They are read as Python's own client reads them: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
``NO_PROXY``, in either case.
"""

import urllib.parse
import urllib.request

from step37_flickr8k.errors import InvalidSettings

__all__ = ["Proxies", "proxy_before"]

_SCHEMES = ("http", "https", "all")


class Proxies:
    """The environment's proxies; the answer for each origin is remembered."""

    def __init__(self) -> None:
        """Read them."""
        named = urllib.request.getproxies()
        self._by_scheme = {
            scheme: named[scheme] if "://" in named[scheme] else f"http://{named[scheme]}"
            for scheme in _SCHEMES
            if named.get(scheme)
        }
        self._by_origin: dict[tuple[str, str], str | None] = {}

    def check(self) -> None:
        """Raise `InvalidSettings` for one that no request could use, SOCKS for example."""
        for scheme, proxy in self._by_scheme.items():
            if not _is_http(proxy):
                shown = f"{proxy.partition('://')[0]}://{_without_password(proxy)}"
                raise InvalidSettings(
                    f"{scheme.upper()}_PROXY is {shown}, which is not the address of an HTTP proxy:"
                    " correct or unset it"
                )

    def of(self, scheme: str, netloc: str) -> str | None:
        """Return the proxy's address for requests to an origin; None for a direct connection."""
        origin = (scheme, netloc)
        if origin not in self._by_origin:
            bypassed = urllib.request.proxy_bypass(netloc)
            proxy = self._by_scheme.get(scheme, self._by_scheme.get("all"))
            self._by_origin[origin] = None if bypassed else proxy
        return self._by_origin[origin]


def proxy_before(address: str) -> str | None:
    """Return host and port of the proxy before an address; None for a direct connection."""
    url = urllib.parse.urlsplit(address)
    proxy = Proxies().of(url.scheme, url.netloc)
    return proxy and _without_password(proxy)


def _is_http(proxy: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(proxy)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _without_password(proxy: str) -> str:
    return proxy.rpartition("//")[2].rpartition("@")[2]
