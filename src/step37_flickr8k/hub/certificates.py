"""The file of certificate authorities that the environment names; Python's ssl reads it itself."""

import os
import ssl

from step37_flickr8k.errors import InvalidSettings

__all__ = ["check_certificates"]


def check_certificates() -> None:
    """Raise `InvalidSettings` if ``SSL_CERT_FILE`` can't be read as certificates.

    OpenSSL passes over such a file in silence, and later distrusts every server.
    """
    variable = ssl.get_default_verify_paths().openssl_cafile_env
    if file := os.environ.get(variable):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as error:
            raise InvalidSettings(
                f"{variable} is {file}, which can't be read as certificates"
                f" ({error.strerror or error}): correct or unset it"
            ) from None
