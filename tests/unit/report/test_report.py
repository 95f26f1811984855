"""The report of a run: its schema, what it holds after success and failure, how it is shown."""

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from step37_flickr8k import cli
from step37_flickr8k.cli.output import shortened
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.errors import FolderFull
from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.report.build import Failure, RunStart, Work, build_report
from step37_flickr8k.report.model import json_schema
from step37_flickr8k.report.recorder import Recorder
from step37_flickr8k.settings import WarmupSettings
from tests.helpers.ranks import Ranks

ROOT = Path(__file__).parents[3]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(3, tmp_path / "job")
    yield made
    made.end()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of the report file."""
    return tmp_path / "report.json"


def report_of(cache: Path, file: Path, *arguments: str) -> dict[str, Any]:
    """Run warmup and return its report, which follows the published schema."""
    code = cli.run(["warmup", "--cache-dir", str(cache), "--report", str(file), *arguments])
    report = read(file)
    assert report["exit_code"] == code
    return report


def read(file: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(file.read_text())
    jsonschema.Draft202012Validator(
        json_schema(), format_checker=jsonschema.FormatChecker()
    ).validate(report)
    return report


def shown(file: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.run(["report", str(file), *arguments]) == 0
    return capsys.readouterr().out


def test_the_published_schema_is_the_real_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema in the documentation is the one that the command prints."""
    assert cli.run(["report", "--json-schema"]) == 0
    printed = capsys.readouterr().out
    remedy = "step37-flickr8k report --json-schema >docs/report.schema.json"
    assert (ROOT / "docs" / "report.schema.json").read_text() == printed, remedy
    schema = json.loads(printed)
    assert schema["properties"]["format"]["const"] == 1
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_cold_and_a_warm_run_are_told_apart(
    hub: LocalHub, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cold run reports files, seconds by state and throughput; a warm one, that it was warm."""
    hub.faults.add(
        Fault.delay(0.6, path="train/000[57].jpg"),
        Fault.status(503, path="train/0007.jpg", times=2),
    )
    cold = report_of(cache, file)
    assert (cold["ok"], cold["warm"], cold["files"], cold["commit"]) == (
        True,
        False,
        12,
        hub.commit,
    )
    assert cold["retries"] == {"503": 2}
    assert {"listing", "reading the metadata", "fetching", "publishing"} <= cold["seconds"].keys()
    assert sum(cold["seconds"].values()) == pytest.approx(cold["total_seconds"], abs=0.1)
    assert cold["timeline"][-1]["files"] == 12
    assert [point["seconds"] for point in cold["timeline"]] == sorted(
        point["seconds"] for point in cold["timeline"]
    )
    slow = {each["file"]: each for each in cold["slowest"]}
    assert slow["0005.jpg"]["seconds"] >= 0.6
    assert slow["0007.jpg"]["tries"] == 3
    said = shown(file, capsys)
    assert re.search(r"ready after [\d.]+ s: 12 rows; 12 files, 7\.\d kB fetched", said)
    assert re.search(r"retries because of +times.*\n +503 +2", said)
    warm = report_of(cache, file)
    assert (warm["warm"], warm["files"], warm["timeline"], warm["slowest"]) == (True, 0, [], [])
    assert "12 rows; the cache was warm" in shown(file, capsys)


def test_log_report_and_its_page_say_the_same_words(
    hub: LocalHub, cache: Path, job: Ranks, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The states of the report are those that rank 0 logged, and every rank has its times."""
    hub.faults.add(Fault.delay(0.3))
    job.start_all("warmup", "--cache-dir", str(cache), "--report", str(file), "--concurrency", "4")
    assert job.wait() == {0: 0, 1: 0, 2: 0}, job.log(0)
    report = read(file)
    states = set(report["seconds"]) - {"starting"}
    assert "confirming" in states
    for state in states:
        assert f" INFO {state}" in job.log(0), state
    waited = {rank: said["waited"] for rank, said in report["ranks"].items()}
    assert waited["0"] == 0
    assert all(waited[rank] > 0.3 for rank in ("1", "2")), waited
    assert all(said["ok"] and said["lag"] >= 0 for said in report["ranks"].values())
    page = file.with_suffix(".html")
    for text in (shown(file, capsys, "--html", str(page)), page.read_text()):
        assert all(state in text for state in states)
        assert "waited s" in text
        assert report["ranks"]["2"]["host"] in text


def test_the_report_of_a_failed_fetch_says_what_where_and_what_to_do(
    hub: LocalHub, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure shows error, rank, state, advice and what was downloaded, as text and as a page."""
    hub.faults.add(
        Fault.status(404, path="train/0003.jpg"), Fault.status(503, path="train/0004.jpg", times=1)
    )
    report = report_of(cache, file)
    assert (report["ok"], report["error"], report["exit_code"], report["files"]) == (
        False,
        "FetchFailed",
        75,
        11,
    )
    assert report["retries"] == {"503": 1}
    assert (report["commit"], report["requests"], len(report["slowest"])) == (
        hub.commit,
        len(hub.requests),
        10,
    )
    assert re.fullmatch(r"rank 0 on \S+, fetching", report["where"])
    assert report["what_to_do"].startswith("run it again")
    page = file.with_suffix(".html")
    for text in (shown(file, capsys, "--html", str(page)), page.read_text()):
        for word in (
            "failed after",
            "0003.jpg",
            report["where"],
            report["what_to_do"],
            "11 files",
        ):
            assert word in text, word


def test_what_the_api_was_asked_again_counts_too(hub: LocalHub, cache: Path, file: Path) -> None:
    """Requests and retries of the Hub's API are counted, whether the listing fails or not."""
    for attempts, told in ((1, (75, {})), (2, (0, {"503": 1}))):
        hub.faults.clear()
        hub.faults.add(Fault.status(503, kind="tree", times=1))
        hub.clear_requests()
        report = report_of(cache, file, "--fetch-mode", "files", "--attempts", str(attempts))
        assert (report["exit_code"], report["retries"]) == told
        assert (report["commit"], report["requests"]) == (hub.commit, len(hub.requests))


def test_a_failure_of_other_ranks_names_them(
    hub: LocalHub, cache: Path, job: Ranks, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report names the rank and host that failed, and not rank 0."""
    assert hub.commit
    for rank in range(3):
        more = ["--sample-count", "5"] if rank == 2 else []
        job.start_command(rank, "warmup", "--cache-dir", str(cache), "--report", str(file), *more)
    assert job.wait() == {0: 2, 1: 2, 2: 2}, job.log(0)
    report = read(file)
    assert report["error"] == "CallMismatch"
    assert re.fullmatch(r"rank 2 on \S+, confirming", report["where"])
    assert [report["ranks"][str(rank)]["ok"] for rank in range(3)] == [True, True, False]
    assert "sample_count is 5 here" in shown(file, capsys)


def test_what_others_wrote_is_text_on_the_page(
    hub: LocalHub, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HTML and rich's markup in names and reasons are shown as text."""
    hostile = "<img src=x onerror=alert(1)>[bold]'\"&\u202e.jpg"
    (hub.directory / "train" / "0001.jpg").rename(hub.directory / "train" / hostile)
    (hub.directory / "train" / hostile).write_bytes(b"nothing")
    table = hub.directory / "train" / "metadata.csv"
    table.write_text(table.read_text().replace("0001.jpg", '"' + hostile.replace('"', '""') + '"'))
    hub.refresh()
    report = report_of(cache, file)
    assert report["skipped"].keys() == {hostile}
    assert (report["rows"], report["ready_rows"]) == (12, 11)
    assert ": 11 rows, 1 left out; 12 files" in shown(file, capsys)
    page = file.with_suffix(".html")
    written_out = hostile.replace("\u202e", "\\u202e")
    assert written_out in shown(file, capsys, "--html", str(page))
    assert "<img" not in page.read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;[bold]&#39;&#34;&amp;\\u202e.jpg" in page.read_text()


def test_a_shortened_report_says_so(
    hub: LocalHub, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shortened report names its shortened fields as text and on the page; a whole one doesn't."""
    assert hub.commit
    report = report_of(cache, file)
    assert "'s log has all" not in shown(file, capsys)
    ranks = {
        str(rank): {"ok": True, "host": f"node-{rank}", "waited": 1.5, "lag": 0.1}
        for rank in range(200)
    }
    file.write_text(shortened(report | {"ranks": ranks}))
    assert read(file)["cut"] == ["ranks"]
    page = file.with_suffix(".html")
    for text in (shown(file, capsys, "--html", str(page)), page.read_text()):
        assert re.search(r"shortened(</dt><dd>| +)ranks: rank 0('|&#39;)s log has all of it", text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read: No such file"),
        (b"\xff\xfe", "can't be read: it is not UTF-8 text"),
        (b"no JSON", "Invalid JSON"),
        (b'{"ok": true}', "format: Field required"),
        (b'{"format": 2}', "format: Input should be 1"),
    ],
)
def test_what_is_no_report_is_refused(
    file: Path, content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the file, the reason and what to name instead, with exit code 2."""
    if content is not None:
        file.write_bytes(content)
    assert cli.run(["report", str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert f"{file} " in error
    assert "name a file that warmup --report wrote" in error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": None}, "a successful run has rows"),
        ({"ranks": {"x": {"ok": True}}}, "ranks are numbers"),
        (
            {
                "timeline": [
                    {"seconds": s, "state": "fetching", "files": 1, "bytes": 9 * s}
                    for s in (3, 5, 3)
                ]
            },
            "goes back",
        ),
        ({"bytes": 10**400}, "bytes: "),
        ({"seconds": {"fetching": 1e300}}, "seconds.fetching: "),
        ({"retries": {"503": 0}, "seconds": {"fetching": 1e12}, "total_seconds": 1e-9}, ""),
    ],
)
def test_a_report_without_sense_is_no_bug_of_ours(
    hub: LocalHub,
    cache: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str,
) -> None:
    """An edited report is refused with the reason, or shown, and never causes a traceback."""
    assert hub.commit
    file.write_text(json.dumps(report_of(cache, file) | change))
    capsys.readouterr()
    assert cli.run(["report", str(file), "--html", str(file.with_suffix(".html"))]) == (
        2 if said else 0
    )
    assert said in capsys.readouterr().err


def test_a_report_comes_from_stdin_and_no_name_is_an_error(
    hub: LocalHub,
    cache: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``report -`` reads stdin; a missing name and a page that can't be written are errors."""
    assert hub.commit
    report_of(cache, file)
    with file.open() as text:
        monkeypatch.setattr("sys.stdin", text)
        assert "12 rows" in shown(Path("-"), capsys)
    assert cli.run(["report"]) == 2
    assert "or - for stdin" in capsys.readouterr().err
    assert cli.run(["report", str(file), "--html", str(file.parent / "none" / "page.html")]) == 2
    assert "page.html can't be written: No such file" in capsys.readouterr().err


class Shown:
    """A display that shows nothing."""

    def __call__(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_timeline_of_a_long_run_stays_short() -> None:
    """A long run keeps at most 240 points spread over it, and exact seconds by state."""
    now = [0.0]
    recorder = Recorder(Shown(), lambda: now[0])
    for step in range(20_000):
        waiting = 10_000 <= step < 12_000
        recorder(
            Progress(
                State.WAITING_FOR_RATE_LIMIT if waiting else State.FETCHING,
                f"{step} s" if waiting else "",
                files=step,
                of_files=20_000,
                bytes=step * 1000,
                of_bytes=20_000_000,
            )
        )
        now[0] += 0.5
    recorder.close()
    recording = recorder.value()
    assert recording.seconds == {"starting": 0.0, "fetching": 9000.0, "waiting for quota": 1000.0}
    moments = [point.seconds for point in recording.timeline]
    assert 60 < len(moments) <= 240
    assert moments[0] < 200
    assert moments[-1] > 9_700
    assert max(after - before for before, after in itertools.pairwise(moments)) < 500
    assert {point.state for point in recording.timeline} == {"fetching", "waiting for quota"}


def test_a_name_that_is_no_utf_8_stands_in_the_report() -> None:
    """Bytes of a path that aren't UTF-8 are escaped in the JSON and don't hide the failure."""
    path = Path(os.fsdecode(b"/scratch/\xff"))
    start = RunStart(WarmupSettings(cache_dir=path), World())
    work = Work(commit=None, requests=0, retries={}, slowest=[])
    end = Failure(work=work, error=FolderFull(f"{path} is full"), state="fetching")
    written = json.dumps(build_report(start, end, Recorder(Shown()).value()).as_json())
    report = json.loads(written)
    assert report["cache_dir"] == str(path)
    assert report["message"] == r"/scratch/\udcff is full"
    assert (report["error"], report["exit_code"]) == ("FolderFull", 75)
    assert report["where"] == f"rank 0 on {World().host}, fetching"
