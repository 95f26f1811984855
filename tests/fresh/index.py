"""Serve one wheel as PyTorch's index of CPU builds does, with its metadata beside it, until killed; print the address.

``python tests/fresh/index.py WHEEL`` listens on loopback alone.
"""

import hashlib
import http.server
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit


class Index(http.server.BaseHTTPRequestHandler):
    """The index's page for torch, the wheel, and the wheel's metadata (PEP 503, PEP 658)."""

    wheel: Path
    metadata: bytes

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/torch/":
            self._send("text/html", self._page().encode())
        elif path == f"/torch/{self.wheel.name}":
            self._send("application/octet-stream", self.wheel.read_bytes())
        elif path == f"/torch/{self.wheel.name}.metadata":
            self._send("text/plain", self.metadata)
        else:
            self.send_error(404)

    def _page(self) -> str:
        known = f"sha256={hashlib.sha256(self.metadata).hexdigest()}"
        attributes = f'href="{quote(self.wheel.name)}" data-dist-info-metadata="{known}" data-core-metadata="{known}"'
        return f"<!DOCTYPE html><html><body><a {attributes}>{self.wheel.name}</a></body></html>"

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be silent."""


def main() -> None:
    Index.wheel = Path(sys.argv[1])
    with zipfile.ZipFile(Index.wheel) as archive:
        (name,) = (
            name
            for name in archive.namelist()
            if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
        )
        Index.metadata = archive.read(name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
