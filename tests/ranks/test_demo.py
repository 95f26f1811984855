"""The demo as a newcomer sees it: a real run of ``demo/run.py``, in a directory of its own."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Draw

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, str(ROOT / "demo" / "run.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
# In namespaces of its own: another host name, no list of hosts, no name server.
WITHOUT_NAMES = (
    "unshare --user --map-root-user --uts --mount sh -c 'hostname no-such-name"
    ' && mount --bind /dev/null /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec "$@"\' --'
)


def demo(place: Path, *arguments: str, under: str = "") -> subprocess.CompletedProcess[str]:
    """Run the demo from its start to its end."""
    command = ["sh", "-c", f'exec {under} "$@"', "sh", *COMMAND, *arguments]
    return subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=560, check=False
    )


def comparable(text: str) -> str:
    """Leave out what differs from run to run: the port, seconds, megabytes and losses; counts stay."""
    return re.sub(r"127\.0\.0\.1:\d+|\d+\.\d+|\d+ s\b", "#", text)


def until(reached: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_with(variable: str) -> list[str]:
    """Return the command lines of the processes that have a variable in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        # other users' processes, and those that have just ended
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_the_readme_shows_the_demo_as_it_is(tmp_path: Path) -> None:
    """The README's block is what a run prints, at most 30 lines before the last one, and the files it names are there."""
    done = demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    shown = README.partition("<!-- demo -->\n```console\n$ make demo\n")[2].partition(
        "```\n<!-- /demo -->"
    )[0]
    assert comparable(shown) == comparable(done.stdout), (
        f"put this between the marks in README.md:\n{done.stdout}"
    )
    assert len(done.stdout.splitlines()) <= 31
    named = re.findall(r"^  (demo-output/\S+)  ", done.stdout, re.MULTILINE)
    assert len(named) == 4
    assert all((tmp_path / name).exists() for name in named)
    caption = re.search(r"first caption: (.+)", done.stdout)
    assert caption
    assert caption[1] in (tmp_path / "demo-output" / "preview.html").read_text(encoding="utf-8")
    assert "intro/flickr8k" in (tmp_path / "demo-output" / "report.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_it_tells_the_same_story_of_the_users_data_without_names(
    draw: Draw, tmp_path: Path
) -> None:
    """A directory of one's own takes the place of the drawn one; neither this machine's name nor ``localhost`` need resolve."""
    if subprocess.run(
        f"{WITHOUT_NAMES} true", shell=True, capture_output=True, check=False
    ).returncode:
        pytest.skip(
            "NOT RUN, the demo without name resolution: it takes user namespaces that may mount; run it as root"
        )
    done = demo(tmp_path, "--data", str(draw(12)), under=WITHOUT_NAMES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f'A dataset: {tmp_path}/dataset.\n  Its first caption: picture 0, a "small" one\n'
        in done.stdout
    )
    assert "Rank 0 downloaded 12 images" in done.stdout
    assert re.findall(r"The Hub served (\d+) files", done.stdout) == ["13", "0", "0"]


@pytest.mark.slow
def test_a_failure_shows_the_end_of_the_log_and_where_it_is(draw: Draw, tmp_path: Path) -> None:
    """With an image missing the warmup fails: its error is shown, the log is named, the exit code isn't 0."""
    data = draw(3)
    (data / "train" / "0001.jpg").unlink()
    done = demo(tmp_path, "--data", str(data))
    assert done.returncode == 1
    assert "ERROR row 2 names 0001.jpg" in done.stderr
    assert len(done.stderr.splitlines()) <= 22
    assert done.stderr.splitlines()[-1] == "The demo failed. The whole log: demo-output/demo.log"
    shown = done.stderr.splitlines()[0]
    assert shown in (tmp_path / "demo-output" / "demo.log").read_text(encoding="utf-8").splitlines()
    assert "Second run" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["First run", "Training"])
def test_ctrl_c_leaves_no_process(tmp_path: Path, stage: str) -> None:
    """While ranks start or train, two Ctrl-C end the demo with 130, and all that it has started."""
    mark = f"OF_THIS_DEMO={uuid.uuid4()}"
    environment = os.environ | dict([mark.split("=")])
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            COMMAND, cwd=tmp_path, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    # the demo itself, torchrun, and its ranks
    ranks = 4 if stage == "First run" else 2
    until(lambda: stage in (tmp_path / "out").read_text() or process.poll() is not None, 560)
    until(lambda: len(processes_with(mark)) >= 2 + ranks or process.poll() is not None)
    assert process.poll() is None, (tmp_path / "out").read_text()
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(240) == 130
    until(lambda: not processes_with(mark))


@pytest.mark.parametrize("wrong", ["none", "empty", "no caption", "not text", "its own output"])
def test_a_wrong_directory_is_told_in_one_line(tmp_path: Path, wrong: str) -> None:
    """It ends with 2 before anything is made or deleted."""
    data = tmp_path / ("demo-output" if wrong == "its own output" else "data")
    content = {
        "no caption": b"file_name,caption_1\na.jpg,A dog.\n",
        "not text": b"\xff\xfe\x00",
        "its own output": b"file_name,caption_0\na,b\n",
    }
    if wrong != "none":
        (data / "train").mkdir(parents=True)
    if wrong in content:
        (data / "train" / "metadata.csv").write_bytes(content[wrong])
    before = sorted(tmp_path.rglob("*"))
    done = demo(tmp_path, "--data", str(data))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(data) in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
