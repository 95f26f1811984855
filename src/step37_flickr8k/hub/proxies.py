"""The proxies that the environment names: the one reading for the API, for files and for doctor.

They are read as Python's own client reads them: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
``NO_PROXY``, in either case. As in curl and Go, ``NO_PROXY`` may hold networks (``10.0.0.0/8``).
"""

import ipaddress
import urllib.parse
import urllib.request

from step37_flickr8k.errors import InvalidSettings

__all__ = ["Proxies", "proxy_before", "without_password"]

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
        self._spared = [each.strip() for each in named.get("no", "").split(",") if each.strip()]
        self._by_origin: dict[tuple[str, str], str | None] = {}

    def check(self) -> None:
        """Raise `InvalidSettings` for one that no request could use, SOCKS for example."""
        for scheme, proxy in self._by_scheme.items():
            if not _is_http(proxy):
                shown = f"{proxy.partition('://')[0]}://{without_password(proxy)}"
                raise InvalidSettings(
                    f"{scheme.upper()}_PROXY is {shown}, which is not the address of an HTTP proxy:"
                    " correct or unset it"
                )

    def of(self, scheme: str, netloc: str) -> str | None:
        """Return the proxy's address for requests to an origin; None for a direct connection."""
        origin = (scheme, netloc)
        if origin not in self._by_origin:
            bypassed = self._is_spared(netloc) or urllib.request.proxy_bypass(netloc)
            proxy = self._by_scheme.get(scheme, self._by_scheme.get("all"))
            self._by_origin[origin] = None if bypassed else proxy
        return self._by_origin[origin]

    def _is_spared(self, netloc: str) -> bool:
        """Return whether ``NO_PROXY`` spares an origin in a way that Python's client doesn't know.

        That is as an address, in a network, or as ``*.example.com``. Names aren't resolved.
        """
        host, port = _split(netloc)
        return any(_covers(entry, host, port) for entry in self._spared)


def proxy_before(address: str) -> str | None:
    """Return host and port of the proxy before an address; None for a direct connection."""
    url = urllib.parse.urlsplit(address)
    proxy = Proxies().of(url.scheme, url.netloc)
    return proxy and without_password(proxy)


def _covers(entry: str, host: str, port: str) -> bool:
    if entry == "*":
        return True
    if entry.startswith("*."):
        return f".{host}".lower().endswith(entry[1:].lower())
    try:
        address = ipaddress.ip_address(host)
        if "/" in entry:
            return address in ipaddress.ip_network(entry, strict=False)
        named, at = _split(entry)
        return address == ipaddress.ip_address(named) and at in {"", port}
    except ValueError:  # a name, or an entry that is none
        return False


def _split(netloc: str) -> tuple[str, str]:
    """Return host and port, which may be missing; an IPv6 address loses its brackets."""
    if netloc.startswith("["):
        host, _, rest = netloc[1:].partition("]")
        return host, rest.removeprefix(":")
    if netloc.count(":") == 1:
        host, _, port = netloc.partition(":")
        return host, port
    return netloc, ""


def _is_http(proxy: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(proxy)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def without_password(proxy: str) -> str:
    """Return host and port of a proxy's address."""
    return proxy.rpartition("@")[2].rpartition("//")[2].strip("/")
