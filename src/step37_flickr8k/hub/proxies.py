"""The proxies that the environment names."""

import urllib.parse
import urllib.request

__all__ = ["proxy_before"]


def proxy_before(address: str) -> str | None:
    """Give the proxy through which the environment sends requests for this address, without its password; None without one."""
    url = urllib.parse.urlsplit(address)
    if urllib.request.proxy_bypass(url.netloc):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme, proxies.get("all"))
    return proxy and proxy.rpartition("//")[2].rpartition("@")[2]
