"""Signals that come at a bad moment: nothing of an import stays locked, and none is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = "import sys, time; from step37_flickr8k.signals import raise_signals; raise_signals(); sys.path[:0] = ['.']\n"
# Under nohup SIGHUP is ignored, and stays so
HEARD = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
CODES = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: -signal.SIGINT}
SIGNALS = pytest.mark.parametrize("number", CODES)


def ended(
    code: str, number: signal.Signals, place: Path, begin: str = HEARD + BEGIN
) -> tuple[int, str]:
    """Run code, send it a signal as soon as it prints something; gives the exit code and what else it printed."""
    command = [sys.executable, "-c", begin + code]
    with subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, number)
        printed = process.communicate(timeout=120)[0]
    return process.returncode, printed


@SIGNALS
def test_a_signal_in_an_import_waits_for_its_end(number: signal.Signals, tmp_path: Path) -> None:
    """The module is whole, then the exception comes."""
    (tmp_path / "slow.py").write_text(
        "import time\nprint('here', flush=True)\ntime.sleep(0.5)\nprint('whole', flush=True)\n"
    )
    assert ended("import slow\ntime.sleep(60)\nprint('ignored')", number, tmp_path) == (
        CODES[number],
        "whole\n",
    )


@SIGNALS
def test_an_import_without_end_is_ended_all_the_same(
    number: signal.Signals, tmp_path: Path
) -> None:
    """One that waits for a file system, for example."""
    (tmp_path / "slow.py").write_text(
        "import time\nprint('here', flush=True)\ntime.sleep(60)\nprint('whole', flush=True)\n"
    )
    assert ended("import slow", number, tmp_path) == (CODES[number], "")


@SIGNALS
@pytest.mark.parametrize(
    "moment",
    [
        "class Late:\n    def __del__(self): print('here', flush=True); time.sleep(0.5)\nlate = Late()\ndel late\n",
        "import weakref\nlate = {0}\nlate = weakref.ref(late, lambda _: (print('here', flush=True), time.sleep(0.5)))\n",
    ],
    ids=["__del__", "weakref"],
)
def test_a_signal_that_python_only_prints_comes_again(
    number: signal.Signals, moment: str, tmp_path: Path
) -> None:
    """What is raised in a finalizer or a weak reference's callback ends nothing: it is raised once more."""
    assert ended(moment + "time.sleep(60)\nprint('ignored')", number, tmp_path) == (
        CODES[number],
        "",
    )


@SIGNALS
def test_a_signal_that_the_fetch_s_thread_takes_ends_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    """The main thread sleeps on then, as after one that comes just before it begins to wait: it looks by itself."""
    code = f"""
import asyncio, signal, threading
from step37_flickr8k.hub.loop import run_in_loop
async def main():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), {int(number)})
    await asyncio.sleep(60)
run_in_loop(main)
"""
    with subprocess.Popen(
        [sys.executable, "-c", HEARD + BEGIN + code], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as process:
        assert process.wait(120) == CODES[number]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ignored_it_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    """A job in the background ignores its terminal's Ctrl-C, one of nohup its end."""
    begin = f"import signal; signal.signal({int(number)}, signal.SIG_IGN); "
    code = begin + BEGIN + "print('here', flush=True)\ntime.sleep(0.5)\nprint('on')"
    assert ended(code, number, tmp_path, begin="") == (0, "on\n")
