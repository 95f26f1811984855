"""Variables with our prefix that hold no setting: mistyped ones, a launcher's, Kubernetes'."""

import contextlib
import ipaddress
import re
from collections.abc import Iterator, Mapping

from step37_flickr8k.settings.meant import why_not_meant
from step37_flickr8k.settings.names import LAUNCHER_VARIABLES, PREFIX, variables

__all__ = ["unknown_variables", "unmeant_variables"]

_HOST = "_SERVICE_HOST"
# What kubelet adds after a Service's name:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_A_SERVICE = re.compile(
    r"SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names with our prefix that mean nothing here and aren't Kubernetes' either."""
    services = [*_services(environ)]
    return sorted(
        name
        for name in environ
        if name.upper().startswith(PREFIX)
        and name not in variables()
        and not any(_is_of(service, name) for service in services)
    )


def unmeant_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each of the launcher's variables whose value can't be meant."""
    return [
        f"{name}={value!r} is wrong: {why}"
        for name in LAUNCHER_VARIABLES
        if (value := environ.get(name)) and (why := why_not_meant(value))
    ]


def _services(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the Kubernetes Services whose variables are there, as these begin.

    Kubernetes sets all of them together, with the Service's address. A mistyped setting has none.
    """
    for name, value in environ.items():
        if name.startswith(PREFIX) and name.endswith(_HOST):
            with contextlib.suppress(ValueError):
                ipaddress.ip_address(value)
                yield name.removesuffix(_HOST)


def _is_of(service: str, name: str) -> bool:
    rest = name.removeprefix(f"{service}_")
    return rest != name and bool(_OF_A_SERVICE.fullmatch(rest))
