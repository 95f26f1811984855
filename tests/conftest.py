"""What the tests share: drawn datasets, a local Hub, and an environment without anybody's settings."""

import contextlib
import csv
import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from PIL import Image

from step37_flickr8k.limited import process
from step37_flickr8k.localhub import LocalHub
from tests.helpers.mounts import CannotMount, Tmpfs, has_sys_admin

pytest_plugins = ["tests.helpers.failure_logs"]

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None]:
    """List what was skipped, a line for each reason, after all else; `make test` repeats it after the coverage."""
    yield
    skipped = [
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
    ]
    lines = [f"{count} skipped: {reason}" for reason, count in Counter(skipped).most_common()]
    if lines:
        terminalreporter.section("skipped")
    for line in lines:
        terminalreporter.line(line)
    # some suites run without pytest's cache
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None:
        said = "".join(f"{line}\n" for line in lines)
        (cache.mkdir("skipped") / "lines").write_text(said, encoding="utf-8")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the settings, tokens, proxies and launchers of whoever runs the tests."""
    prefixes = ("STEP37_", "HF_", "SLURM_", "OMPI_", "PMI", "TORCHELASTIC_")
    names = {
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    }
    for name in list(os.environ):
        if name.startswith(prefixes) or name in names or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes with limits, which see little of the environment, be measured as others are."""
    passed = process._PASSED | {"COVERAGE_PROCESS_CONFIG"}
    monkeypatch.setattr(process, "_PASSED", passed)


@pytest.fixture(autouse=True)
def _own_signals() -> None:
    """Take what a background job of a shell (Ctrl-C ignored), or a test before, has left."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def picture(number: int, size: int = 16) -> bytes:
    """Draw a small JPEG that no other number gives."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), (number * 37 % 256, number * 91 % 256, number % 256)).save(
        out, "JPEG"
    )
    return out.getvalue()


def write_rows(directory: Path, rows: list[dict[str, str]]) -> None:
    """Write metadata.csv with the union of the rows' columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (directory / "metadata.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


def captioned(number: int) -> dict[str, str]:
    """Give the row of a picture, with what captions hold: commas, quotes, apostrophes."""
    return {
        "file_name": f"{number:04}.jpg",
        "caption_0": f'picture {number}, a "small" one',
        "caption_1": f"it's number {number}",
    }


Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Draw a dataset of so many pictures and give its directory."""

    def drawn(count: int = 12, split: str = "train") -> Path:
        directory = tmp_path / "dataset"
        (directory / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (directory / split / f"{number:04}.jpg").write_bytes(picture(number))
        write_rows(directory / split, [captioned(number) for number in range(count)])
        return directory

    return drawn


@pytest.fixture
def hub(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve a dataset of 12 pictures, and point the environment to it."""
    with LocalHub(draw()) as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.endpoint)
        yield serving


MakeTmpfs = Callable[..., Tmpfs]
needs_sys_admin = pytest.mark.skipif(
    not has_sys_admin(),
    reason="it mounts what no user namespace may: run it as root with CAP_SYS_ADMIN",
)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[MakeTmpfs]:
    """Mount a small file system for the time of a test."""
    with contextlib.ExitStack() as stack:

        def mounted(options: str = "") -> Tmpfs:
            try:
                return stack.enter_context(contextlib.closing(Tmpfs(tmp_path / "mounted", options)))
            except CannotMount as error:
                pytest.skip(
                    f"no tmpfs can be mounted here ({error}): run it as root, or where user namespaces are allowed"
                )

        yield mounted


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Name a cache directory that isn't there yet."""
    return tmp_path / "cache"
