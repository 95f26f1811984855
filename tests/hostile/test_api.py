"""Mutated answers of a Hub: status lines, headers, bodies, codings; each ends in words, soon."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import random
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from step37_flickr8k import cli, errors, get_flickr8k_dataset_file
from tests.conftest import picture
from tests.helpers.servers import listening
from tests.hostile.seeds import SEED, chance
from tests.hostile.test_records import mutated as mutated_json

SECONDS = 15.0  # for the API, and at least so many answers:
LEAST = 150
SINGLE_FILES = 10  # each is a process
BOUND = 300.0  # s that a run may take: an answer's limit is 3 s here, and few are asked for
COMMIT = "a" * 40
TABLE = b"file_name,caption_0\n0000.jpg,a dog\n0001.jpg,a cat\n"
IMAGES = {f"{number:04}.jpg": picture(number) for number in range(2)}
Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Reply:
    """An answer before it is written; ``raw`` replaces all of it."""

    body: bytes
    status: bytes = b"HTTP/1.1 200 OK"
    headers: tuple[Header, ...] = ()
    raw: bytes = b""
    hold: bool = False

    def wire(self) -> bytes:
        """Return its bytes."""
        if self.raw:
            return self.raw
        sized = any(name in {b"Content-Length", b"Transfer-Encoding"} for name, _ in self.headers)
        length = () if sized else ((b"Content-Length", b"%d" % len(self.body)),)
        lines = [self.status, *(b"%s: %s" % each for each in (*self.headers, *length))]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


def as_json(value: object, *headers: Header) -> Reply:
    return Reply(json.dumps(value).encode(), headers=((b"Content-Type", b"a/json"), *headers))


def honest(path: str, port: int) -> Reply:
    """Return the answer of a sound Hub, with a listing of two pages."""
    if "/revision/" in path:
        return as_json({"id": "intro/flickr8k", "sha": COMMIT})
    if "/tree/refs%2Fconvert" in path:
        entry = {"path": "default/train/0000.parquet", "size": 9, "oid": "0" * 40}
        return as_json([{"type": "file", **entry, "lfs": {"oid": "0" * 64}}])
    if "/tree/" in path:
        if "cursor" not in path:
            link = f'<http://127.0.0.1:{port}{path}&cursor=x>; rel="next"'.encode()
            state = (b"RateLimit", b'"api";r=99;t=1'), (b"RateLimit-Policy", b'"api";q=99;w=1')
            oid = hashlib.sha1(b"blob %d\0%s" % (len(TABLE), TABLE), usedforsecurity=False)
            table = {"path": "train/metadata.csv", "size": len(TABLE), "oid": oid.hexdigest()}
            return as_json([{"type": "file", **table}], (b"Link", link), *state)
        return as_json(
            [
                {
                    "type": "file",
                    "path": f"train/{name}",
                    "size": len(content),
                    "oid": "1" * 40,
                    "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)},
                }
                for name, content in IMAGES.items()
            ]
        )
    content = {"metadata.csv": TABLE, **IMAGES}.get(path.rpartition("/")[2])
    if content is None:
        return Reply(b"", b"HTTP/1.1 404 Not Found", ((b"X-Error-Code", b"EntryNotFound"),))
    digest = hashlib.sha256(content).hexdigest().encode()
    commit = (b"X-Repo-Commit", COMMIT.encode())
    return Reply(
        content, headers=((b"ETag", b'"%s"' % digest), commit, (b"Accept-Ranges", b"bytes"))
    )


# --- what is done to them -------------------------------------------------------------------------

NUMBERS = (
    *(b"", b"0", b"-1", b"+1", b"1.5", b"1e9", b"0x10", b"00", b"1_0", b"NaN", b"\xd9\xa3"),
    *(b"9" * 19, b"9" * 400, b"9" * 5000, b" 7 ", b"7, 7", b"7, 8"),
)
# None is a pause of a minute: whoever asks for that is waited for, up to an hour
PAUSES = (
    *(b"", b"0", b"-9", b"1.5", b"\xb2", b"soon", b"99999", b"9" * 9, b"9" * 5000),
    *(b"Wed, 21 Oct 2015 07:28:00 GMT", b"Fri, 31 Dec 9999 23:59:59 GMT", b"Mon, 99 Foo 0 9:9:9"),
    *(b"Fri, 31 Dec 999999999999 23:59:59 GMT", b"Wed, 21 Oct 2015 07:28:00 +99999999999"),
)
LIMITS = (
    *(
        b"",
        b'"api";r=0;t=0',
        b'"api";r=0;t=1',
        b'"api";r=0;t=999999999',
        b'"api";r=0;t=99999999999',
    ),
    *(b'"api";r=-1;t=-1', b"r", b";r=;t=", b'"\x1b]0;x\x07";r=0;t=0', b'"api";r=\xd9\xa3;t=0'),
)
ADDRESSES = (
    *(b"", b"/", b"//", b"?", b"#", b"http://", b"https://[", b"http://[::1", b"http://x:99999/"),
    *(b"http://x:y/", b"ftp://x/", b"file:///etc/passwd", b"javascript:1", b"http://a@b:c@d/"),
    *(
        b"http://127.0.0.1:1/",
        b"/\xff\xfe",
        b"/%",
        b"/%zz%00",
        b"\\\\x\\y",
        b"http://\xe2\x80\xae/",
    ),
    *(b"http://" + b"x" * 300 + b"/", b"/" + b"x" * 7000, b"http:/x", b"http://xn--\xff/", b"."),
)
WORDS = (
    *(b"", b"\x1b[2J\x1b]0;x\x07", b"\xff\xfe\x80", "\u202e\u2028é".encode(), b"x" * 7000),
    *(b"RepoNotFound", b"RevisionNotFound", b"EntryNotFound", b"GatedRepo", b"\t", b"a\rb"),
)
CODINGS = (
    b"gzip",
    b"deflate",
    b"br",
    b"zstd",
    b"identity",
    b"x-gzip",
    b"gzip, gzip",
    b"GZIP ",
    b"",
)
TRANSFERS = (
    b"chunked",
    b"gzip",
    b"chunked, chunked",
    b"gzip, chunked",
    b"identity",
    b"CHUNKED",
    b"",
)
STATUSES = (
    *(100, 101, 103, 199, 201, 204, 205, 206, 226, 300, 301, 302, 303, 304, 307, 308, 399, 400),
    *(401, 403, 404, 407, 408, 409, 410, 416, 418, 425, 426, 429, 451, 500, 501, 502, 503, 504),
    *(511, 599, 600, 999),
)
LINES = (
    *(b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 abc OK", b"HTTP/1.1 -200 OK", b"HTTP/1.1 20 OK"),
    *(b"HTTP/1.1 2000 OK", b"HTTP/2 200 OK", b"HTTP/0.9 200 OK", b"HTTP/1.1  200  OK", b"ICY 200"),
    *(
        b"HTTP/9.9 200 OK",
        b"http/1.1 200 ok",
        b"HTTP/1.1 \xd9\xa3\xd9\xa3\xd9\xa3 OK",
        b"\0",
        b"SSH-2.0",
    ),
    *(b"HTTP/1.1 200 " + word for word in WORDS),
)
FIELDS: dict[bytes, tuple[bytes, ...]] = {
    b"Content-Length": NUMBERS,
    b"Content-Encoding": CODINGS,
    b"Transfer-Encoding": TRANSFERS,
    b"Retry-After": PAUSES,
    b"RateLimit": LIMITS,
    b"RateLimit-Policy": (b'"api";q=0;w=0', b'"api";q=999999999;w=0', *WORDS),
    b"Location": ADDRESSES,
    b"Link": tuple(
        template % address
        for address in (*ADDRESSES, *WORDS)
        for template in (b'<%s>; rel="next"', b"<%s>; rel=next", b'%s; rel="next"', b"<%s")
    ),
    b"Date": (*PAUSES, *WORDS),
    b"Content-Type": (
        *WORDS,
        b"text/html; charset=\xff",
        b"application/json; charset=utf-7",
        b";;",
    ),
    b"X-Error-Code": WORDS,
    b"X-Error-Message": WORDS,
    b"Content-Range": (b"bytes 0-1/2", b"bytes */0", b"bytes -1--1/-1", *NUMBERS),
    b"ETag": (*WORDS, b'"', b'W/"x"', b'"' + b"0" * 64 + b'"'),
    b"X-Repo-Commit": (*WORDS, b"../../x", b"0" * 40),
    b"X-Linked-Size": NUMBERS,
    b"X-Linked-Etag": WORDS,
    b"Connection": (b"close", b"keep-alive", b"upgrade", *WORDS),
    b"Set-Cookie": (b"a=b", b"=", *WORDS),
    b"": WORDS,
    b"\xff": WORDS,
    b"A" * 9000: WORDS,
}


def other_status(reply: Reply, by: random.Random) -> Reply:
    line = b"HTTP/1.1 %d %s" % (by.choice(STATUSES), by.choice(WORDS))
    return replace(reply, status=by.choice((line, line, by.choice(LINES))))


def other_headers(reply: Reply, by: random.Random) -> Reply:
    more = []
    for _ in range(by.choice((1, 1, 2, 3))):
        name = by.choice([*FIELDS])
        more.append((name, by.choice(FIELDS[name])))
    kept = [each for each in reply.headers if each[0] not in dict(more) or by.random() < 0.3]
    headers = [*kept, *more]
    if by.random() < 0.05:
        headers *= 40
    return replace(reply, headers=tuple(headers))


def paced(reply: Reply, by: random.Random) -> Reply:
    """Ask for a pause, in one way or two."""
    headers = [(b"Retry-After", by.choice(PAUSES)), (b"RateLimit", by.choice(LIMITS))]
    status = b"HTTP/1.1 %d x" % by.choice((200, 429, 429, 503, 500, 408))
    kept = reply.headers if by.random() < 0.5 else ()
    return replace(reply, status=status, headers=(*kept, *by.sample(headers, by.randrange(1, 3))))


def other_address(reply: Reply, by: random.Random) -> Reply:
    """Redirect, or name another next page."""
    address = by.choice(ADDRESSES)
    if by.random() < 0.5:
        status = b"HTTP/1.1 %d x" % by.choice((301, 302, 303, 307, 308, 300, 304))
        return replace(reply, status=status, headers=(*reply.headers, (b"Location", address)))
    return replace(reply, headers=((b"Link", by.choice(FIELDS[b"Link"])),))


def other_body(reply: Reply, by: random.Random) -> Reply:
    if not reply.body:
        return replace(reply, body=by.randbytes(50))
    try:
        return replace(reply, body=mutated_json(reply.body, by))
    except ValueError:  # a file is no JSON, nor is what was changed before
        at = by.randrange(len(reply.body))
        return replace(reply, body=reply.body[:at] + by.randbytes(by.randrange(9)))


def compressed(reply: Reply, by: random.Random) -> Reply:
    """Send it as gzip or deflate, sound or spoiled, alone or after another."""
    body = by.choice((gzip.compress, zlib.compress))(reply.body)
    match by.randrange(6):
        case 0:
            body = body[: by.randrange(len(body))]
        case 1:
            at = by.randrange(len(body))
            body = body[:at] + by.randbytes(1) + body[at + 1 :]
        case 2:
            body *= 3
        case 3:
            body = gzip.compress(body)
        case 4:
            body = gzip.compress(bytes(20 << 20), 1)
    named = (b"Content-Encoding", by.choice(CODINGS))
    return replace(reply, body=body, headers=(*reply.headers, named))


def chunked(reply: Reply, by: random.Random) -> Reply:
    """Send it in chunks, of which one may be none."""
    cut = by.randrange(len(reply.body) + 1)
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (reply.body[:cut], reply.body[cut:])]
    parts = [part for part in parts if not part.startswith(b"0\r")]
    odd = (
        *(b"-1\r\nx\r\n", b"zz\r\nx\r\n", b"\r\n", b"FFFFFFFFFFFFFFFFF\r\nx\r\n", b"5\r\nx\r\n"),
        *(
            b"1;" + b"x" * 9000 + b"\r\nx\r\n",
            b"1\nx\n",
            b"0x1\r\nx\r\n",
            b"1\r\nxx\r\n",
            b"0\r\n\r\n",
        ),
        *(b"9" * 5000 + b"\r\nx\r\n", b"\xd9\xa3\r\nxxx\r\n", b" 1\r\nx\r\n", b"1_0\r\nx\r\n"),
    )
    if by.random() < 0.7:
        parts.insert(by.randrange(len(parts) + 1), by.choice(odd))
    ends = (
        b"0\r\n\r\n",
        b"0\r\n\r\n",
        b"",
        b"0\r\n",
        b"0\r\nX: y\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 9000,
    )
    headers = (*reply.headers, (b"Transfer-Encoding", b"chunked"))
    return replace(reply, body=b"".join(parts) + by.choice(ends), headers=headers)


def other_bytes(reply: Reply, by: random.Random) -> Reply:
    """Change a few bytes of the whole, or cut, repeat or insert some."""
    raw = bytearray(reply.wire())
    for _ in range(by.choice((1, 1, 2, 5, 20))):
        at = by.randrange(len(raw))
        match by.randrange(5):
            case 0:
                raw[at] = by.randrange(256)
            case 1:
                del raw[at : at + by.randrange(1, 30)]
            case 2:
                raw[at:at] = raw[at : at + by.randrange(1, 200)] * by.randrange(1, 9)
            case 3:
                raw[at:at] = by.choice((b"\r\n", b"\n", b"\r", b"\0", b": ", b" ", b"\x1b[2J"))
            case _:
                raw[at:at] = by.randbytes(by.randrange(1, 9))
        raw = raw or bytearray(b"\0")
    return replace(reply, raw=bytes(raw[: by.choice((len(raw), by.randrange(1, len(raw) + 1)))]))


def late(reply: Reply, by: random.Random) -> Reply:
    """Leave the connection open after a part of it."""
    raw = reply.wire()
    return replace(reply, raw=raw[: by.randrange(1, len(raw) + 1)], hold=True)


CHANGES: tuple[Callable[[Reply, random.Random], Reply], ...] = (
    *(other_status, other_headers, other_headers, paced, other_address, other_body, other_body),
    *(compressed, chunked, other_bytes, other_bytes),
)
SELDOM = 40  # one in so many leaves its connection open, which costs the timeout


# --- the Hub --------------------------------------------------------------------------------------


@dataclass
class HostileHub:
    """A sound Hub that changes the answers to its ``number``-th request, ``times`` in a row."""

    port: int = 0
    seen: int = 0
    number: int = -1
    times: int = 1
    change: Callable[[Reply], Reply] = lambda reply: reply
    sent: list[bytes] = field(default_factory=list)
    broken: list[Exception] = field(default_factory=list)

    def aim(self, number: int, times: int, change: Callable[[Reply], Reply]) -> None:
        self.seen, self.number, self.times, self.change = 0, number, times, change
        self.sent.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ")
            reply = honest(path, self.port)
            self.seen += 1
            if self.number < self.seen <= self.number + self.times:
                try:
                    reply = self.change(reply)
                except Exception as error:
                    self.broken.append(error)
                    raise
                self.sent.append(reply.wire()[:3000])
            elif method == "HEAD":
                reply = replace(reply, raw=reply.wire()[: -len(reply.body) or None])
            writer.write(reply.wire())
            await writer.drain()
            if reply.hold:
                await reader.read()


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileHub]:
    """Serve a Hub with short timeouts, and point the environment to it."""
    hub = HostileHub()
    with listening(hub.serve) as hub.port:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.port}")
        monkeypatch.setenv("STEP37_CONNECT_TIMEOUT", "1")
        monkeypatch.setenv("STEP37_READ_TIMEOUT", "0.5")
        yield hub
    assert not hub.broken


def changing(by: random.Random) -> Callable[[Reply], Reply]:
    """Return one change, or two after each other."""
    steps = [by.choice(CHANGES) for _ in range(by.choice((1, 1, 1, 2)))]
    steps += [late] if by.randrange(SELDOM) == 0 else []

    def change(reply: Reply) -> Reply:
        for step in steps:
            reply = step(reply, by)
        return reply

    return change


@pytest.mark.usefixtures("hostile")
def test_a_sound_hub_is_read(tmp_path: Path) -> None:
    """Without a change the plan is made, and the cache is filled: so every change is tried."""
    assert cli.run(["plan", "--cache-dir", str(tmp_path / "cache")]) == 0
    assert cli.run(["warmup", "--cache-dir", str(tmp_path / "cache")]) == 0
    table = get_flickr8k_dataset_file(
        repo_id="intro/flickr8k", filename="train/metadata.csv", cache_dir=tmp_path / "single"
    )
    assert table.read_bytes() == TABLE


def test_no_answer_is_an_internal_error(
    hostile: HostileHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever one answer is, the command ends with 0, 2 or 75 and visible words, in its time."""
    by, begun, number, codes = chance("API"), time.monotonic(), 0, set[int]()
    while number < LEAST or time.monotonic() - begun < SECONDS:
        number += 1
        hostile.aim(by.choice((0, 1, 1, 2, 3)), by.choice((1, 1, 1, 2, 3)), changing(by))
        # A warmup starts processes
        command = "warmup" if number % 25 == 0 else "plan"
        attempts = by.choice(("1", "1", "1", "2"))
        started = time.monotonic()
        cache = tmp_path / str(number)
        code = cli.run([command, "--cache-dir", str(cache), "--attempts", attempts])
        said = "".join(capsys.readouterr())
        what = f"{command} {number} of seed {SEED}: {code}, {said}, {hostile.sent}"
        assert code in {0, 2, 75}, what
        assert "internal error" not in said, what
        assert "a bug" not in said, what
        assert said.replace("\n", "").isprintable(), what
        assert time.monotonic() - started < BOUND, what
        codes.add(code)
    assert codes == {0, 2, 75}


def test_no_answer_for_a_single_file_is_an_internal_error(
    hostile: HostileHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that runs ``hf_hub_download`` meets them, too: the file, or an error of ours."""
    monkeypatch.setenv("STEP37_ATTEMPTS", "1")
    by = chance("single file")
    for number in range(SINGLE_FILES):
        hostile.aim(by.choice((0, 0, 1)), 1, changing(by))
        started = time.monotonic()
        try:
            get_flickr8k_dataset_file(
                repo_id="intro/flickr8k",
                filename="train/metadata.csv",
                cache_dir=tmp_path / str(number),
            )
        except (errors.ConfigurationError, errors.TransientError) as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"{number} of seed {SEED}: {hostile.sent}") from error
        else:
            said = ""
        assert said.isprintable(), said
        assert time.monotonic() - started < BOUND, (number, SEED, said, hostile.sent)
