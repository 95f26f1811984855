"""Files that the user names are renamed into being; a link of another user isn't followed."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.cache.outputs import check_output, write_output
from step37_flickr8k.localhub import LocalHub
from tests.helpers.neighbour import Neighbour, neighbour

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: another user plants links")


@pytest.fixture(name="neighbour")
def _neighbour() -> Iterator[Neighbour]:
    with neighbour() as made:
        yield made


def _plant(link: Path, target: Path) -> None:
    link.symlink_to(target)


@needs_root
@pytest.mark.parametrize("output", ["report", "html", "png"])
def test_a_link_of_another_user_is_replaced(
    hub: LocalHub, cache: Path, neighbour: Neighbour, output: str
) -> None:
    """A report, a page and an image take the planted name; what the link leads to stays."""
    assert hub.commit
    file, precious = neighbour.cache / "out", neighbour.victim / "authorized_keys"
    neighbour.do(_plant, file, precious)
    assert file.is_symlink()
    warmup = ["warmup", "--cache-dir", str(cache)]
    named = ["--report", str(file)] if output == "report" else []
    assert cli.run([*warmup, *named]) == 0
    if output != "report":
        page = file if output == "html" else cache / "page.html"
        image = ["--png", str(file)] if output == "png" else []
        assert cli.run(["preview", "--cache-dir", str(cache), "--output", str(page), *image]) == 0
    assert precious.read_bytes() == b"precious"
    assert not file.is_symlink()
    assert file.stat().st_size > 1000


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_is_new_with_the_modes_of_the_umask(tmp_path: Path, umask: int) -> None:
    """It has another inode than before, so a reader of the old one keeps it whole."""
    file = tmp_path / "report.json"
    file.write_bytes(b"old")
    old = file.open("rb")
    before = os.umask(umask)
    try:
        check_output(file)
        write_output(file, b"new")
    finally:
        os.umask(before)
    with old:
        assert (old.read(), file.read_bytes()) == (b"old", b"new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    """``latest.json`` may lead to another directory, by two links; a circle is an error."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "latest.json").symlink_to("middle.json")
    (tmp_path / "middle.json").symlink_to(tmp_path / "runs" / "7.json")
    write_output(tmp_path / "latest.json", b"x")
    assert (tmp_path / "runs" / "7.json").read_bytes() == b"x"
    assert (tmp_path / "latest.json").is_symlink()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="Too many levels"):
        write_output(tmp_path / "circle", b"x")


def test_what_is_no_file_is_written_in_place(tmp_path: Path) -> None:
    """A FIFO and ``/dev/stdout`` take the bytes; a directory is refused."""
    fifo, received = tmp_path / "fifo", list[bytes]()
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    check_output(fifo)
    write_output(fifo, b"x")
    reader.join()
    assert received == [b"x"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    with (tmp_path / "out").open("wb") as out:
        write_output(Path(f"/proc/self/fd/{out.fileno()}"), b"y")
    assert (tmp_path / "out").read_bytes() == b"y"
    for function in (check_output, lambda file: write_output(file, b"")):
        with pytest.raises(OSError, match=r"denied|directory"):
            function(tmp_path)


def test_a_file_that_cannot_be_replaced_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod's termination message is a mount; a file that has another name, too, is refused."""
    file = tmp_path / "termination-log"
    file.write_bytes(b"a longer one")
    inode = file.stat().st_ino

    def busy(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    write_output(file, b"x")
    assert (file.read_bytes(), file.stat().st_ino) == (b"x", inode)
    assert os.listdir(tmp_path) == ["termination-log"]
    (tmp_path / "other").hardlink_to(file)
    with pytest.raises(PermissionError, match="several names"):
        write_output(file, b"y")
    assert file.read_bytes() == b"x"
