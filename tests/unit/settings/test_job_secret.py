"""The job's secret: which files hold one that nobody else knows."""

import os
from pathlib import Path

import pytest

from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.settings import read_job_secret

SECRET = "0123456789abcdef" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a file that holds a secret, for its owner alone."""
    made = tmp_path / "secret"
    made.write_text(f"{SECRET}\n", encoding="ascii")
    made.chmod(0o600)
    return made


def test_a_file_for_its_owner_alone_is_read(file: Path) -> None:
    """White space around the secret is none of it; no file is no secret."""
    assert read_job_secret(file) == SECRET.encode()
    file.chmod(0o400)
    assert read_job_secret(file) == SECRET.encode()
    assert read_job_secret(None) == b""


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    """The message names the file, its mode and the remedy."""
    file.chmod(mode)
    with pytest.raises(InvalidSettings, match=rf"secret can be read .*mode {mode:04o}.*chmod 600"):
        read_job_secret(file)


@pytest.mark.parametrize(
    ("mode", "uid", "read_only", "is_taken"),
    [
        (0o400, 10001, False, True),
        (0o444, 0, True, True),
        (0o440, 0, True, True),
        (0o640, 0, False, True),
        (0o444, 0, False, False),
        (0o460, 0, False, False),
        (0o440, 10001, False, False),
        (0o444, 10001, True, False),
        (0o600, 20001, False, False),
    ],
)
def test_a_mounted_secret_is_roots(
    monkeypatch: pytest.MonkeyPatch,
    file: Path,
    mode: int,
    uid: int,
    read_only: bool,
    is_taken: bool,
) -> None:
    """User 10001 takes its own file, root's for its group, and root's that is read-only."""
    found = os.stat_result((0o100000 | mode, 1, 1, 1, uid, 0, 64, 0, 0, 0))
    flags = os.ST_RDONLY if read_only else 0
    system = os.statvfs_result((0, 0, 0, 0, 0, 0, 0, 0, flags, 255))
    monkeypatch.setattr("os.getuid", lambda: 10001)
    monkeypatch.setattr("os.fstat", lambda _: found)
    monkeypatch.setattr("os.fstatvfs", lambda _: system)
    if is_taken:
        assert read_job_secret(file) == SECRET.encode()
    else:
        with pytest.raises(InvalidSettings, match=r"chmod 600|belongs to user"):
            read_job_secret(file)


def test_what_holds_no_secret_is_refused(file: Path, tmp_path: Path) -> None:
    """A missing file, one of few bytes, a long one, and a pipe, which never answers."""
    with pytest.raises(InvalidSettings, match=r"none can't be read .*: all ranks need it"):
        read_job_secret(tmp_path / "none")
    for text in ("", "hunter2\n", "s" * 5000):
        file.write_text(text, encoding="ascii")
        with pytest.raises(InvalidSettings, match="holds no secret of 16 to 4096 bytes"):
            read_job_secret(file)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidSettings, match="no regular file"):
        read_job_secret(tmp_path / "pipe")
