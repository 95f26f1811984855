"""Secrets that travel over plain HTTP, where anybody on the way can read them."""

import functools
import ipaddress
import logging
from urllib.parse import urlsplit

from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.settings.options import HubOptions

__all__ = ["REMEDY", "readable", "warn_of_readable"]

log = logging.getLogger("step37_flickr8k")

REMEDY = "use an address with https://, or unset them where the endpoint needs none"


def readable(endpoint: str, options: HubOptions) -> str:
    """Return which secrets others can read on their way to the endpoint, and who; else nothing.

    Over HTTPS nobody can, since a proxy passes on what it can't read. Nor can anybody where nothing
    leaves this machine.
    """
    named = ("the token", options.token is not None), ("the headers", bool(options.headers))
    secrets = " and ".join(name for name, is_sent in named if is_sent)
    proxy = proxy_before(endpoint)
    local = _is_loopback(endpoint) and (proxy is None or _is_loopback(f"//{proxy}"))
    if not secrets or local or urlsplit(endpoint).scheme != "http":
        return ""
    through = f" through the proxy {proxy}" if proxy else ""
    return f"{secrets} can be read on the way to {endpoint}{through}, which is plain HTTP"


def warn_of_readable(endpoint: str, options: HubOptions) -> None:
    """Warn of secrets that can be read on the way, once a process."""
    if what := readable(endpoint, options):
        _warn_once(f"{what}: {REMEDY}")


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
