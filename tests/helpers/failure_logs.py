"""The logs of a case that fails are kept in ``test-logs/<suite>/<case>/``, which the last lines of its suite name.

One mechanism for all suites. A case's directory holds ``report.txt`` (what pytest says of it, with
all that was captured), ``<fixture>.requests.log`` for each local Hub among its fixtures, the texts
of its ``tmp_path``, and what its fixtures add by `on_failure`.
"""

import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.localhub import LocalHub

LOGS = Path(os.environ.get("TEST_LOGS") or Path(__file__).parents[2] / "test-logs")
TEXTS = {".console", ".err", ".json", ".log", ".out", ".txt", ".yaml"}
LARGEST = 4_000_000  # bytes of a text

_NAMED = "kept_logs"  # what a report says of them; pytest-xdist hands it on
_writers = pytest.StashKey[list[Callable[[Path], object]]]()
_directory = pytest.StashKey[Path]()


def on_failure(request: pytest.FixtureRequest, write: Callable[[Path], object]) -> None:
    """Let ``write`` add to the case's directory if the case fails, while its fixtures still stand."""
    request.node.stash.setdefault(_writers, []).append(write)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what there is when a phase has failed; ``tmp_path`` after the last one, when nobody writes to it any more."""
    report = yield
    try:
        if report.failed:
            _keep_report(item, report)
        if report.when == "teardown" and _directory in item.stash:
            copy_texts(Path(_fixtures(item)["tmp_path"]), item.stash[_directory])
    except Exception as error:  # noqa: BLE001 - a full disk, a daemon that hangs: no reason to end the suite
        report.sections.append(("logs that couldn't be kept", str(error)))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Name the directories after everything else."""
    yield
    reports = [report for group in terminalreporter.stats.values() for report in group]
    kept = dict.fromkeys(vars(report)[_NAMED] for report in reports if _NAMED in vars(report))
    for directory in kept:
        terminalreporter.write_line(f"logs of the failed case: {directory}/", red=True)


def copy_texts(source: Path, target: Path) -> None:
    """Copy the logs and other texts below ``source``, but for what is mounted there."""
    for directory, directories, files in os.walk(source):
        here = Path(directory)
        directories[:] = [name for name in directories if not os.path.ismount(here / name)]
        for file in (here / name for name in files):
            is_text = file.suffix in TEXTS and not file.is_symlink() and file.is_file()
            if is_text and file.stat().st_size <= LARGEST:
                copy = target / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def _fixtures(item: pytest.Item) -> dict[str, Any]:
    return getattr(item, "funcargs", {})


def _keep_report(item: pytest.Item, report: pytest.TestReport) -> None:
    if _directory not in item.stash:
        item.stash[_directory] = _new_directory(item.nodeid)
    directory = item.stash[_directory]
    vars(report)[_NAMED] = os.path.relpath(directory)
    captured = "".join(f"\n--- {title}\n{text}" for title, text in report.sections)
    with (directory / "report.txt").open("a", encoding="utf-8") as out:
        out.write(f"{report.when} of {item.nodeid}\n\n{report.longreprtext}\n{captured}\n")
    for name, value in _fixtures(item).items():
        if isinstance(value, LocalHub):
            (directory / f"{name}.requests.log").write_text(_asked(value), encoding="utf-8")
    for write in item.stash.get(_writers, []):
        write(directory)


def _asked(hub: LocalHub) -> str:
    return "".join(
        f"{one.time:.3f} {one.client} {one.origin} {one.method} {one.path} {one.status} {one.bytes_sent}\n"
        for one in hub.requests
    )


def _new_directory(nodeid: str) -> Path:
    file, _, case = nodeid.partition("::")
    suite = Path(file).with_suffix("").as_posix().removeprefix("tests/")
    directory = LOGS / suite / re.sub(r"[^\w.=-]+", "-", case).strip("-")[:120]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
