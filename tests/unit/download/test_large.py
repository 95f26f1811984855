"""Memory for very large splits: planning a million rows, with a listing of a million files in a thousand pages."""

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.helpers.servers import listening

ROWS = 1_000_000
PAGE = 1000
COMMIT = "a" * 40


async def metadata() -> AsyncIterator[bytes]:
    yield b"file_name,caption_0\n"
    for start in range(0, ROWS, PAGE):
        yield b"".join(
            b"%08d.jpg,caption %d\n" % (number, number) for number in range(start, start + PAGE)
        )


def page(start: int, base: dict[str, object]) -> bytes:
    digests = (f"{number:064x}" for number in range(start, start + PAGE))
    files = [
        {
            "type": "file",
            "oid": "0" * 40,
            "size": 137_000,
            "path": f"train/{start + i:08}.jpg",
            "lfs": {"oid": d, "size": 137_000},
        }
        for i, d in enumerate(digests)
    ]
    for file in files:
        file["lfs"]["pointerSize"] = 130  # type: ignore[index]
    return json.dumps([base, *files] if start == 0 else files).encode()


async def hub(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a Hub whose split has a million rows; a connection for each request."""
    url = urlsplit((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
    size, blob = SIZE_AND_BLOB
    link = ""
    if "/tree/" in url.path:
        start = int(parse_qs(url.query).get("cursor", ["0"])[0])
        body = page(
            start, {"type": "file", "oid": blob, "size": size, "path": "train/metadata.csv"}
        )
        if start + PAGE < ROWS:
            link = f'Link: <http://127.0.0.1:{writer.get_extra_info("sockname")[1]}{url.path}?cursor={start + PAGE}>; rel="next"\r\n'
    elif url.path.endswith("metadata.csv"):
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode()
        )
        async for block in metadata():
            writer.write(block)
            await writer.drain()
        return
    else:
        body = json.dumps({"id": "intro/flickr8k", "sha": COMMIT}).encode()
    head = f"HTTP/1.1 200 OK\r\n{link}Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def _size_and_blob() -> tuple[int, str]:
    size = sum([len(block) async for block in metadata()])
    hashing = hashlib.sha1(b"blob %d\0" % size)
    async for block in metadata():
        hashing.update(block)
    return size, hashing.hexdigest()


SIZE_AND_BLOB = (0, "")


@pytest.mark.slow
def test_a_million_rows_are_planned_within_400_megabytes(tmp_path: Path) -> None:
    """The listing is held packed and the metadata is read as a stream: 400 MB above the interpreter are enough for all of it."""
    global SIZE_AND_BLOB  # noqa: PLW0603 - computed where it is needed, since it takes seconds
    SIZE_AND_BLOB = asyncio.run(_size_and_blob())
    bare = peak_of([sys.executable, "-c", "import time; time.sleep(0.3)"])[0]
    with listening(hub) as port:
        told = [
            "--endpoint",
            f"http://127.0.0.1:{port}",
            "--cache-dir",
            str(tmp_path / "cache"),
            "--fetch-mode",
            "files",
            "--json",
        ]
        peak, output = peak_of([sys.executable, "-m", "step37_flickr8k", "plan", *told])
    plan = json.loads(output)
    assert (plan["rows"], plan["fetch"], plan["bytes"]) == (ROWS, ROWS, ROWS * 137_000)
    print(f"{peak - bare:.0f} MB above the interpreter for {ROWS:,} rows")  # noqa: T201 - the figure
    assert peak - bare < 400


def peak_of(command: list[str]) -> tuple[float, str]:
    """Run a command; give its peak of resident memory in MB, and its output."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        status = (
            Path(f"/proc/{process.pid}/status")
            .read_text(encoding="utf-8")
            .partition("VmHWM:")[2]
            .split()
        )
        peak = max(peak, float(status[0]) / 1024) if status else peak
        time.sleep(0.05)
    assert process.stdout is not None
    with process.stdout:
        return peak, process.stdout.read()
