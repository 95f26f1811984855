"""Progress as a real terminal shows it: one bar for all ranks, or plain lines."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.report.progress import Rate
from tests.helpers.ranks import PATIENCE, free_port
from tests.helpers.terminals import Terminal

LINE = re.compile(r"\d\d:\d\d:\d\d \S+ rank \d/\d (DEBUG|INFO|WARNING|ERROR) \S.*")


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(
    terminal: Terminal, cache: Path, rank: int, size: int, port: int, *arguments: str
) -> "subprocess.Popen[bytes]":
    place = {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TERM": "xterm",
    }
    command = [
        sys.executable,
        "-m",
        "step37_flickr8k",
        "warmup",
        "--cache-dir",
        str(cache),
        *arguments,
    ]
    streams = {"stdout": terminal.theirs, "stderr": terminal.theirs}
    # Set by pytest-xdist
    inherited = {
        name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}
    }
    return subprocess.Popen(command, env=inherited | place, **streams)  # type: ignore[call-overload,no-any-return]


def test_a_terminal_that_ranks_share_shows_one_bar_and_whole_lines(
    hub: LocalHub, cache: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """Log lines of three ranks stay whole, and rank 0's bar is the last line until it ends."""
    hub.faults.add(Fault.delay(0.3, path="train/*.jpg"))
    # wide enough for a long host name in front of each line
    terminal, port = Terminal(400), free_port()
    more = ("--log-level", "debug", "--concurrency", "1")
    started += [start(terminal, cache, rank, 3, port, *more) for rank in range(3)]
    seen = terminal.until_seen(
        r"^fetching: [1-9]\d? of 12 files, \d\.\d of 7\.\d kB, \d\.\d kB/s, \d+ s left \S+$",
    )
    assert sum("of 12 files" in line and not LINE.fullmatch(line) for line in seen) == 1
    assert [process.wait(240) for process in started] == [0, 0, 0], "\n".join(terminal.seen())
    seen = terminal.end()
    logged = [line for line in seen if LINE.fullmatch(line)]
    printed = [line for line in seen if line not in logged]
    assert [line.split()[0] for line in printed] == ["ready", "rows", "fetched", "took", "next"]
    for rank in range(3):
        assert sum(f"rank {rank}/3 INFO ready: 12 rows" in line for line in logged) == 1
        assert sum(f"global rank {rank} of 3" in line for line in logged) == 1


def test_a_wait_has_no_other_estimate_of_its_end() -> None:
    """The time left is estimated from the bytes per second, which say nothing of a rate limit."""
    rate = Rate()
    assert rate(Progress(State.FETCHING, bytes=0, of_bytes=1000)) == []
    fetching = Progress(State.FETCHING, bytes=500, of_bytes=1000)
    speed, left = rate(fetching)
    assert (speed.endswith("B/s"), left.endswith(" left")) == (True, True)
    (speed,) = rate(replace(fetching, state=State.WAITING_FOR_RATE_LIMIT))
    assert speed.endswith("B/s")


def test_a_terminal_gets_the_end_in_five_lines_or_as_json(
    hub: LocalHub, cache: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """Green and red say where, what, how much, how long and what next; --json is the report."""
    more = ("--log-level", "error", "--progress", "off")
    ends: list[list[str]] = []
    for arguments in ((), ("--json",), ("--caption-key", "caption_9")):
        terminal = Terminal(200)
        started.append(start(terminal, cache, 0, 1, free_port(), *more, *arguments))
        assert started[-1].wait(PATIENCE) == (2 if "caption_9" in arguments else 0)
        ends.append(terminal.end())
        if arguments != ("--json",):
            state = terminal.cell(0, 1)
            assert (state.fg, state.bold) == ("red" if "caption_9" in arguments else "green", True)
    ready, written, failed = ends
    preview = f"step37-flickr8k preview --cache-dir {cache} --split train"
    assert [re.sub(r"\d\.\d", "#", line.strip()) for line in ready] == [
        f"ready    {cache}/train",
        "rows     12 rows",
        "fetched  12 files, # kB",
        "took     # s",
        f"next     start the training; {preview} shows the samples",
    ]
    report = json.loads("".join(written))
    assert (report["ok"], report["warm"]) == (True, True)
    assert failed[0] == f" failed   {cache}/train, exit code 2"
    assert failed[1].startswith(" where    rank 0 on ")
    assert failed[4] == " next     change what the message names: a retry without that can't help"
    assert len(failed) == 6
    assert " ERROR caption_key 'caption_9' is no column" in failed[5]
    assert hub.commit


def test_a_narrow_terminal_gets_one_line(
    hub: LocalHub, cache: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """On a narrow terminal the bar is cut to one line that still shows how long a wait takes."""
    hub.faults.add(Fault.quota(6, window=5.0))
    terminal = Terminal(60)
    started.append(start(terminal, cache, 0, 1, 1, "--log-level", "error", "--attempts", "100"))
    seen = terminal.until_seen(r"^waiting for quota, [1-5] s\b")
    assert len(seen) == 1
    assert len(seen[0]) <= 60


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (40, ""),
        (48, r", \d+ s left"),
        (70, r", \d\.\d of 7\.\d kB, \d\.\d kB/s, \d+ s left"),
    ],
)
def test_the_files_have_room_on_every_terminal(
    hub: LocalHub, cache: Path, started: list[subprocess.Popen[bytes]], columns: int, said: str
) -> None:
    """Less important parts are dropped first, the bar stays, and Ctrl-C leaves nothing behind."""
    hub.faults.add(
        Fault.delay(0.5, path="train/*.jpg"),
        Fault.status(503, path="train/0000.jpg", times=1),
        Fault.stall(600, path="train/0011.jpg"),
    )
    terminal = Terminal(columns)
    started.append(start(terminal, cache, 0, 1, 1, "--log-level", "error", "--concurrency", "1"))
    terminal.until_seen(rf"^fetching: [1-9]\d? of 12 files{said} [━╸╺]+$")
    os.write(terminal.theirs, b"^C")
    started[0].send_signal(signal.SIGINT)
    assert started[0].wait(120) == 130
    seen = terminal.end()
    assert not [line for line in seen if "s left" in line or "━" in line], seen


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--log-format", "json"], {}), ([], {"TERM": "dumb"})]
)
def test_where_no_bar_can_be_drawn_there_are_lines(
    hub: LocalHub, cache: Path, arguments: list[str], environment: dict[str, str]
) -> None:
    """A dumb terminal and JSON logs get plain ASCII lines only."""
    assert hub.commit
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "step37_flickr8k",
        "warmup",
        "--cache-dir",
        str(cache),
        *arguments,
    ]
    subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=theirs, check=True, env=os.environ | environment
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):
        while content := os.read(ours, 65536):
            said += content
    os.close(ours)
    first = re.search(rb"fetching: \d+ of 12 files.*", said)
    assert first
    assert b"B/s" not in first[0], "at the first look no rate is known"
    assert said.replace(b"\r\n", b"").decode("ascii").isprintable()
