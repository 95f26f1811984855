"""Words of others in what the command shows: nothing that moves a cursor or forges a line."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from step37_flickr8k import cli, errors
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, take
from step37_flickr8k.visible import visible, visible_lines
from tests.conftest import Draw, captioned, write_rows
from tests.helpers.servers import listening

# A title, a cleared screen, a forged line, C1's CSI, text turned around, no width, a lone surrogate
EVIL = "\x1b]0;owned\x07\x1b[2J\r\n12:00:00 0 INFO forged\x9b31m\u202egpj.\u200b\u2066\x7f"
COLORS = re.compile(r"\x1b\[[0-9;]*m")
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069]")


def assert_harmless(said: str) -> None:
    assert "forged" in said, said
    assert not HIDDEN.search(COLORS.sub("", said)), ascii(said)
    assert not re.search(r"^(\d\d:\d\d:\d\d 0 INFO )?forged|^12:00:00", said, re.MULTILINE), said


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command at the level debug; return all that it wrote."""
    cli.run([*arguments])
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize("command", ["warmup", "plan", "doctor", "verify"])
@pytest.mark.parametrize("what", ["reason", "type", "listing", "header", "location"])
def test_what_a_hub_says_is_shown_as_text(
    cache: Path, capsys: pytest.CaptureFixture[str], command: str, what: str
) -> None:
    """An HTTP reason, a type, a path, an error's header, an address: visible, on their own line."""
    evil = "\x1b]0;owned\x07\x1b[2J forged\x9b31m\x7f"  # HTTP has no line ends in its headers
    listing = json.dumps([{"type": "file", "path": EVIL, "size": "no"}])
    heads = {
        "reason": f"403 {evil}\r\n",
        "type": f"200 OK\r\nContent-Type: {evil}\r\n",
        "listing": "200 OK\r\n",
        "header": f"404 No\r\nX-Error-Code: {evil}\r\nX-Error-Message: {evil}\r\n",
        "location": f"302 Found\r\nLocation: gopher:{evil}\r\n",
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        body = json.dumps({"sha": "a" * 40}).encode()
        head = "200 OK\r\n"
        if what != "listing" or b"/tree/" in path:
            head, body = heads[what], listing.encode() if what == "listing" else b"<html>"
        writer.write(f"HTTP/1.1 {head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body)
        await writer.drain()

    with listening(serve) as port:
        arguments = ["--endpoint", f"http://127.0.0.1:{port}", "--attempts", "1"]
        said = run(capsys, command, "--cache-dir", str(cache), "--log-level", "debug", *arguments)
    assert not HIDDEN.search(COLORS.sub("", said)), ascii(said)
    assert not re.search(r"^\S*forged", said, re.MULTILINE), said


@pytest.mark.parametrize("command", ["warmup", "plan"])
def test_the_header_of_a_table_is_shown_as_text(
    draw: Draw, cache: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The columns that an error offers are the table's."""
    row = captioned(0)
    write_rows(draw() / "train", [{"file_name": row["file_name"], EVIL: row["caption_0"]}])
    from step37_flickr8k.localhub import LocalHub

    with LocalHub(cache.parent / "dataset") as hub:
        said = run(capsys, command, "--cache-dir", str(cache), "--endpoint", hub.endpoint)
    assert_harmless(said)


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"]])
def test_a_lease_is_shown_as_text(
    cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Whoever may write into the directory may write any host into its lease."""
    directory = CacheDirectory(cache, "train")
    directory.make()
    lease = take(directory, Claim(run=EVIL, rank=0, host=EVIL, pid=1), 5.0, lambda _: False)
    assert lease is not None
    assert_harmless(run(capsys, *arguments, "--cache-dir", str(cache)))


def test_an_error_of_the_library_is_one_line_of_text() -> None:
    """Whatever a message repeats can be printed; settings have a line for each problem."""
    said = str(errors.SplitNotFound(f"no {EVIL}, forged"))
    assert visible(said) == said
    assert str(errors.InvalidSettings("a", "b")) == "a\nb"
    assert len(str(errors.FetchFailed("x" * 1_000_000))) < 30_000


def test_lines_of_others_are_no_lines_of_a_log() -> None:
    """A line end becomes an indented line, which no parser takes for a rank's word."""
    assert visible_lines("a\n0: ended with 0\x1b[0m") == "a\n    0: ended with 0\\u001b[0m"
