"""Certificates that aren't trusted: an end at once, with the remedy for the cause, on every way."""

import contextlib
import datetime as dt
import errno
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from step37_flickr8k import get_flickr8k_dataset_file
from step37_flickr8k.errors import CertificateNotTrusted
from step37_flickr8k.hub.certificates import check_certificates, not_trusted
from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.proxies import proxy
from tests.helpers.servers import listening
from tests.unit.hub.test_api import port_of, to, warm

NOW = dt.datetime.now(dt.timezone.utc)
SSL_CERT_FILE = "SSL_CERT_FILE must name a file"
CASES = {
    "unknown": ("unable to get local issuer certificate", SSL_CERT_FILE),
    "self-signed": ("self-signed certificate", SSL_CERT_FILE),
    "expired": ("certificate has expired", "check this node's clock"),
    "not yet": ("certificate is not yet valid", "check this node's clock"),
    "other host": ("Hostname mismatch", "must have the host name that the certificate is for"),
}


def self_signed(directory: Path) -> ssl.SSLContext:
    """Return a server's context with a certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = directory / "self-signed.pem"
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@contextlib.contextmanager
def speaking_tls(
    hub: LocalHub, kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Serve the Hub by TLS with such a certificate; yield its address by name."""
    day = dt.timedelta(days=1)
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if kind == "self-signed":
        tls = self_signed(directory)
    elif kind == "expired":
        authority.issue_cert(
            "localhost", not_before=NOW - 2 * day, not_after=NOW - day
        ).configure_cert(tls)
    elif kind == "not yet":
        authority.issue_cert("localhost", not_before=NOW + day).configure_cert(tls)
    else:
        name = "elsewhere.example" if kind == "other host" else "localhost"
        authority.issue_cert(name).configure_cert(tls)
    # Where the authority is the trouble, it isn't known.
    if kind not in {"unknown", "self-signed"}:
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(directory / "ca.pem"))
    with listening(to(port_of(hub.endpoint)), tls) as port:
        yield f"https://localhost:{port}"


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
@pytest.mark.parametrize("kind", CASES)
def test_a_certificate_that_is_not_trusted_ends_the_run_at_once(
    hub: LocalHub,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    proxied: bool,
) -> None:
    """Unknown, self-signed, out of date, another host's: one request, and a remedy that fits."""
    why, remedy = CASES[kind]
    with speaking_tls(hub, kind, tmp_path, monkeypatch) as endpoint, proxy() as there:
        if proxied:
            monkeypatch.setenv("https_proxy", there.address)
        with pytest.raises(CertificateNotTrusted) as caught:
            warm(endpoint=endpoint, cache_dir=cache)
    assert f"the certificate of {endpoint.removeprefix('https://')} isn't trusted" in str(
        caught.value
    )
    assert why in str(caught.value)
    assert remedy in str(caught.value)
    assert len(there.seen) == proxied


def test_a_lack_of_memory_is_no_wrong_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where `ulimit -v` leaves no room for the certificates the limit is to blame."""

    class Full(ssl.SSLContext):
        def load_verify_locations(self, *_: object, **__: object) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "a.pem"))
    monkeypatch.setattr("ssl.SSLContext", Full)
    with pytest.raises(MemoryError):
        check_certificates()


def test_a_variable_of_other_programs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has set requests' variable learns that it isn't read here."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/corporate.pem")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    said = str(not_trusted("hub:443", ssl.SSLCertVerificationError()))
    assert "SSL_CERT_FILE must name" in said
    assert said.endswith(", and REQUESTS_CA_BUNDLE is not read")


@pytest.mark.parametrize("kind", ["unknown", "expired"])
def test_hf_hub_download_trusts_no_other_certificates(
    hub: LocalHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The single file ends the same way, and trusts the authority that SSL_CERT_FILE names."""
    with speaking_tls(hub, kind, tmp_path, monkeypatch) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(CertificateNotTrusted, match=CASES[kind][0]):
            get_flickr8k_dataset_file(
                repo_id="intro/flickr8k", filename="train/metadata.csv", cache_dir=cache
            )


def test_the_certificate_of_a_cdn_is_named(
    hub: LocalHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the endpoint redirects to a host that isn't trusted, the message names that host."""
    with speaking_tls(hub, "unknown", tmp_path, monkeypatch) as cdn:
        hub.faults.add(Fault.redirect(f"{cdn}/x", kind="resolve", path="*.jpg"))
        host = cdn.removeprefix("https://")
        with pytest.raises(CertificateNotTrusted, match=f"the certificate of {host} isn't"):
            warm(endpoint=hub.endpoint, cache_dir=cache)


def test_the_doctor_names_the_certificate(
    hub: LocalHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor blames the endpoint's certificate, also through a proxy, which is fine."""
    with speaking_tls(hub, "unknown", tmp_path, monkeypatch) as endpoint, proxy() as there:
        for address in ("", there.address):
            command = [sys.executable, "-m", "step37_flickr8k", "doctor", "--json"]
            done = subprocess.run(
                [*command, "--cache-dir", str(cache), "--endpoint", endpoint],
                env={**os.environ, "https_proxy": address},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            found = {each["check"]: each for each in json.loads(done.stdout)}
            assert done.returncode == 2
            assert (found["endpoint"]["state"], found["proxy"]["state"]) == ("problem", "ok")
            assert SSL_CERT_FILE in found["endpoint"]["message"]


@pytest.mark.parametrize("command", ["warmup", "plan", "doctor"])
def test_a_python_whose_ssl_cannot_be_loaded_says_so(
    hub: LocalHub, cache: Path, tmp_path: Path, command: str
) -> None:
    """A module path with another OpenSSL breaks Python's ssl: the import error itself, and 2."""
    why = "libssl.so.3: undefined symbol: SSL_get1_peer_certificate"
    at = ("--cache-dir", str(cache), "--endpoint", hub.endpoint)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "_ssl.py").write_text(f"raise ImportError({why!r})\n")
    done = subprocess.run(
        [sys.executable, "-m", "step37_flickr8k", command, *at],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "broken")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert f"{why}: repair the installation of the Python {sys.executable}" in last
    assert "PROXY" not in last
