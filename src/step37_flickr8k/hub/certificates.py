"""Certificates: the authorities that the environment names, and what isn't trusted by them.

Python's ssl reads the variables itself.
"""

import errno
import functools
import os
import ssl

from step37_flickr8k.errors import CertificateNotTrusted, InvalidSettings
from step37_flickr8k.limited.named import no_more_files

__all__ = ["check_certificates", "not_trusted", "trusting"]

# OpenSSL's numbers of verification errors
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_HOST, _OTHER_ADDRESS = 62, 64
# What other programs read in place of SSL_CERT_FILE: users may have set it already.
_NOT_READ = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def check_certificates() -> None:
    """Raise `InvalidSettings` if ``SSL_CERT_FILE`` can't be read as certificates.

    OpenSSL passes over such a file in silence, and later distrusts every server.
    """
    variable = ssl.get_default_verify_paths().openssl_cafile_env
    if file := os.environ.get(variable):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            if no_more_files(error.errno):
                raise
            raise InvalidSettings(
                f"{variable} is {file}, which can't be read as certificates"
                f" ({error.strerror or error}): correct or unset it"
            ) from None


def trusting() -> ssl.SSLContext:
    """Return a context that trusts the authorities that the environment names now.

    aiohttp's own would be the one of its import, and huggingface_hub's has a bundle of its own.
    """
    paths = ssl.get_default_verify_paths()
    named = (paths.openssl_cafile_env, paths.openssl_capath_env)
    return _context(tuple(os.environ.get(variable) for variable in named))


@functools.cache
def _context(_: tuple[str | None, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def not_trusted(host: str, error: Exception) -> CertificateNotTrusted:
    """Return the error for a host whose certificate failed verification, with the remedy."""
    code = getattr(error, "verify_code", 0)
    why = getattr(error, "verify_message", str(error))
    others = [name for name in _NOT_READ if os.environ.get(name)]
    remedy = (
        "SSL_CERT_FILE must name a file (PEM) with the authority that signed it;"
        f" it replaces the system's own{''.join(f', and {name} is not read' for name in others)}"
    )
    if code in {_NOT_YET_VALID, _EXPIRED}:
        remedy = (
            "check this node's clock; if it is right, the certificate, or the authority in"
            " SSL_CERT_FILE, has to be renewed"
        )
    elif code in {_OTHER_HOST, _OTHER_ADDRESS}:
        remedy = "the address must have the host name that the certificate is for"
    return CertificateNotTrusted(f"the certificate of {host} isn't trusted here ({why}): {remedy}")
