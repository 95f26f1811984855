"""Golden files of all JSON that leaves a process: printed, written to disk, sent to other ranks.

What users parse must not change when the source does. Each test runs the real command against a
Hub on this machine and compares the output with a file in ``tests/unit/golden``: keys, their order,
types and values. Only what differs from run to run is masked (times, hosts, pids, paths), and prose
(messages, remedies, descriptions), which may be reworded.

    GOLDEN=write pytest tests/unit/test_golden.py

accepts what comes out today; then read ``git diff tests/unit/golden``.
"""

import base64
import difflib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from step37_flickr8k import cli
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.errors import FolderFull, NotVisible, Step37Error
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import write_rows
from tests.helpers.fake_store import FakeServer, FakeStore
from tests.helpers.ranks import Ranks

GOLDEN = Path(__file__).parent / "golden"

# 8 x 8 gray pixels, drawn once: an encoder of another version would give other bytes.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////////"
    "////////////////////////////wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAA"
    "AAAAAAAAAAD/2gAIAQEAAD8AN//Z"
)

# Values that differ from run to run. Their type is compared, and whether they are null.
VARYING = {
    "age",
    "beat",
    "host",
    "lag",
    "machine",
    "nonce",
    "pid",
    "reset",
    "seconds",
    "silent",
    "started",
    "time",
    "total_seconds",
    "version",
    "wait",
    "waited",
}
# Sentences for people.
PROSE = {"description", "message", "remedy", "traceback", "what_to_do"}


# --- the dataset and the command -----------------------------------------------------------------


def picture(number: int) -> bytes:
    """Return a JPEG whose bytes no other number and every machine has."""
    comment = f"picture {number}".encode()
    return JPEG[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + JPEG[2:]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve eight rows: one image twice, one that can't be decoded, one row without a caption."""
    split = tmp_path / "dataset" / "train"
    split.mkdir(parents=True)
    names = ["0000.jpg", "0001.jpg", "0002.jpg", "0001.jpg", "ä b.jpg", "0005.jpg", "0006.jpg"]
    rows = [
        {"file_name": name, "caption_0": f'row {at}, a "small" one', "caption_1": f"it's row {at}"}
        for at, name in enumerate(names)
    ]
    write_rows(split, [*rows, {"file_name": "0007.jpg", "caption_1": "without the other"}])
    for number, name in enumerate([*dict.fromkeys(names), "0007.jpg"]):
        (split / name).write_bytes(picture(number))
    (split / "0006.jpg").write_bytes(b"no picture")
    with LocalHub(tmp_path / "dataset") as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.endpoint)
        yield serving


@dataclass(frozen=True)
class Command:
    """The command, in this process, on one cache directory."""

    cache: Path
    captured: pytest.CaptureFixture[str]

    def __call__(self, name: str, *arguments: str, code: int = 0) -> str:
        """Run it and return what it printed to stdout."""
        return self.both(name, *arguments, code=code)[0]

    def both(self, name: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run it and return stdout and stderr."""
        self.captured.readouterr()
        place = [] if name in {"report", "settings"} else ["--cache-dir", str(self.cache)]
        assert cli.run([name, *place, *arguments]) == code, self.captured.readouterr().err
        return self.captured.readouterr()

    def kept(self, name: str) -> bytes:
        """Return one of our own files beside the data."""
        return (self.cache / ".step37-flickr8k" / name).read_bytes()


@pytest.fixture
def run(cache: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(cache, capsys)


Job = Callable[[int], Ranks]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Return what makes a job of so many processes, which end with the test."""
    made: list[Ranks] = []

    def of_size(size: int) -> Ranks:
        made.append(Ranks(size, tmp_path / "job"))
        return made[-1]

    yield of_size
    for one in made:
        one.end()


# --- what is compared ----------------------------------------------------------------------------

Check = Callable[[str, Any], None]


@pytest.fixture
def check(tmp_path: Path, request: pytest.FixtureRequest) -> Check:
    """Return what masks a value and compares it with its golden file."""

    def checked(name: str, value: Any) -> None:
        endpoint = request.getfixturevalue("hub").endpoint if "hub" in request.fixturenames else ""
        text = json.dumps(masked(value), indent=1, ensure_ascii=False) + "\n"
        text = text.replace(str(tmp_path), "<tmp>")
        compare(f"{name}.json", text.replace(endpoint, "<endpoint>") if endpoint else text)

    return checked


def compare(name: str, text: str) -> None:
    """Compare a text with its golden file, or write that."""
    file = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
        return
    golden = file.read_text(encoding="utf-8") if file.exists() else ""
    told = f"tests/unit/golden/{name}", "what came out"
    lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), *told, lineterm="")
    if golden != text:
        diff = "\n".join(lines)
        remedy = "if this is meant: GOLDEN=write pytest tests/unit/test_golden.py"
        pytest.fail(f"{diff}\n\n{remedy}", pytrace=False)


def masked(value: Any, key: str = "") -> Any:
    """Return a value without what differs from run to run, and without prose."""
    if isinstance(value, dict):
        if key == "skipped":
            return dict.fromkeys(value, "<prose>")
        return {masked(k): masked(v, key if key == "seconds" else k) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(each) for each in steady(value, key)]
    if value is None or isinstance(value, bool):
        return value
    if key in VARYING:
        return f"<{type(value).__name__}>"
    return masked_text(value, key) if isinstance(value, str) else value


def masked_text(value: str, key: str) -> str:
    if key in PROSE:
        return "<prose>" if value else ""
    if key == "failure":
        return re.sub(r": .*", ": <prose>", value, flags=re.DOTALL)
    if key == "where":
        return re.sub(r" on \S+, ", " on <host>, ", value)
    return re.sub(r"\b[0-9a-f]{16}\b", "<nonce>", value)


def steady(items: list[Any], key: str) -> list[Any]:
    """Return a list of which the times decided the length or the order without that."""
    if key == "timeline":
        return [*{point["state"]: point for point in items}.values()]
    if key == "slowest":
        assert items == sorted(items, key=lambda one: -one["seconds"])
        return sorted(items, key=lambda one: str(one["file"]))
    return items


def document(text: str | bytes, *, indent: int | None, end: str = "\n") -> Any:
    """Return what a JSON text holds, which must be laid out like this to the last byte."""
    text = text.decode() if isinstance(text, bytes) else text
    value = json.loads(text)
    assert text == json.dumps(value, indent=indent) + end
    return value


def lines_of(text: str) -> list[Any]:
    """Return the JSON objects of a log, one of each kind."""
    shapes = {json.dumps(masked(document(line, indent=None, end=""))) for line in text.splitlines()}
    return [json.loads(shape) for shape in sorted(shapes)]


# --- printed by commands -------------------------------------------------------------------------


def test_a_cold_and_a_warm_warmup(
    hub: LocalHub,
    run: Command,
    check: Check,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The report of a run that fetches all, and of one that finds all; printed and in a file."""
    assert hub.commit
    monkeypatch.setenv("STEP37_RUN_ID", "night")
    file = tmp_path / "report.json"
    for name in ("cold", "warm"):
        printed = run("warmup", "--report", str(file))
        assert file.read_text() == printed
        check(f"warmup-{name}", document(printed, indent=2))


def test_the_files_beside_the_data(
    hub: LocalHub,
    run: Command,
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The names of all files, the ready record, the manifest and a lease that has been released."""
    assert hub.commit
    monkeypatch.setenv("STEP37_RUN_ID", "night")
    run("warmup")
    monkeypatch.setenv("STEP37_RUN_ID", "morning")
    run("warmup", "--caption-key", "caption_1", "--sample-count", "2")
    names = sorted(str(path.relative_to(run.cache)) for path in run.cache.rglob("*"))
    check("names", names)
    check("record", document(run.kept("train.json"), indent=1, end=""))
    lines = run.kept("train.manifest").decode().splitlines(keepends=True)
    proven = [document(line, indent=None) for line in lines]
    for line in proven:
        assert line[3] == (run.cache / "train" / line[0]).stat().st_mtime_ns
    check(
        "manifest", [[*line[:3], "<mtime_ns>", line[4] and "<prose>", *line[5:]] for line in proven]
    )
    check("lease-released", lease(run))


def lease(run: Command) -> Any:
    """Return what the one lease holds, which always has its full size."""
    (file,) = (run.cache / ".step37-flickr8k").glob("train.lease.*")
    content = file.read_bytes()
    assert len(content) == 4096
    return document(content.rstrip(b" "), indent=None, end="")


@pytest.mark.parametrize(
    ("name", "code", "faults", "arguments"),
    [
        ("column", 2, [], ["--caption-key", "caption_9"]),
        ("404", 75, [Fault.status(404, path="train/0002.jpg")], []),
        ("bad-images", 2, [], ["--bad-images", "error"]),
    ],
    ids=["column", "404", "bad-images"],
)
def test_a_failed_warmup(
    hub: LocalHub,
    run: Command,
    check: Check,
    name: str,
    code: int,
    faults: list[Fault],
    arguments: list[str],
) -> None:
    """The report of a failure, the lease and the status that it leaves."""
    hub.faults.add(*faults)
    report = document(run("warmup", *arguments, code=code), indent=2)
    status = document(run("status", "--json"), indent=2)
    check(f"warmup-failed-{name}", {"report": report, "status": status, "lease": lease(run)})


def test_json_logs(hub: LocalHub, run: Command, check: Check) -> None:
    """Every kind of line in a JSON log, progress and a traceback among them, and the report's."""
    hub.faults.add(Fault.delay(0.1))
    told = ["--log-format", "json", "--log-level", "debug"]
    out, err = run.both("warmup", *told)
    assert document(out, indent=None)["ok"]
    out, failed = run.both("warmup", "--split", "none", *told, code=2)
    assert not document(out, indent=None)["ok"]
    check("log", lines_of(err + failed))


def test_plan(hub: LocalHub, run: Command, check: Check) -> None:
    """What a plan says of a cold cache, of a cold one behind a rate limit, and of a warm one."""
    cold = document(run("plan", "--json"), indent=2)
    hub.faults.add(Fault.quota(4))
    limited = document(run("plan", "--json"), indent=2)
    hub.faults.clear()
    run("warmup")
    warm = document(run("plan", "--json"), indent=2)
    check("plan", {"cold": cold, "limited": limited, "warm": warm})


def test_in_bulk(
    hub: LocalHub,
    run: Command,
    check: Check,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan and the report of a run that reads the split's Parquet conversion."""
    (tmp_path / "parquet" / "default" / "train").mkdir(parents=True)
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": path.name}, "caption_0": "a caption"}
        for path in sorted((hub.directory / "train").glob("*.jpg"))
    ]
    file = tmp_path / "parquet" / "default" / "train" / "0000.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), file)
    with LocalHub(hub.directory, parquet=tmp_path / "parquet") as bulk:
        monkeypatch.setenv("HF_ENDPOINT", bulk.endpoint)
        plan = document(run("plan", "--json", "--fetch-mode", "parquet"), indent=2)
        report = document(run("warmup", "--fetch-mode", "parquet"), indent=2)
    check("bulk", {"plan": plan, "report": report})


def test_status(
    hub: LocalHub,
    run: Command,
    check: Check,
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a status says before, while the lease is held, and after; and the lease then."""
    monkeypatch.setenv("STEP37_RUN_ID", "night")
    states = {"empty": document(run("status", "--json"), indent=2)}
    hub.faults.add(Fault.stall(60, path="train/0002.jpg"))
    other = job(1).start_all("warmup", "--cache-dir", str(run.cache))
    states["held"] = held(run)
    other.end()
    # not before: a lease that is read while it beats may be torn
    found = lease(run)
    hub.faults.clear()
    # a rank of the same run takes the lease at once
    run("warmup")
    (run.cache / "train" / "0002.jpg").unlink()
    states["warm, a file missing"] = document(run("status", "--json"), indent=2)
    check("status", states)
    check("lease-held", found)


def held(run: Command) -> Any:
    """Return the status once all files but the one that stalls are there."""
    deadline = time.monotonic() + 240
    while True:
        status = document(run("status", "--json"), indent=2)
        for split in status["splits"]:
            # null while the lease is being written
            progress = (split["downloader"] or {}).get("progress", {})
            if progress.get("files") == progress.get("of_files", 0) - 1:
                return status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def test_verify(hub: LocalHub, run: Command, check: Check) -> None:
    """What verify says of a whole cache, of a damaged one, and of its repair."""
    assert hub.commit
    run("warmup")
    found = {"clean": document(run("verify", "--json"), indent=2)}
    (run.cache / "train" / "0001.jpg").unlink()
    (run.cache / "train" / "0002.jpg").write_bytes(b"x")
    (run.cache / "train" / "mine.txt").write_text("")
    found["damaged"] = document(run("verify", "--json", code=3), indent=2)
    found["repaired"] = document(run("verify", "--json", "--repair"), indent=2)
    check("verify", found)


def test_doctor(hub: LocalHub, run: Command, check: Check) -> None:
    """Which checks a doctor makes, in which order, and how they stand."""
    run("warmup")
    well = document(run("doctor", "--json"), indent=2)
    hub.faults.add(Fault.status(401))
    ill = document(run("doctor", "--json", "--cache-dir", "/proc/none", code=2), indent=2)
    check("doctor", {"well": well, "ill": ill})


def test_settings(
    run: Command,
    check: Check,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The settings in force with their origins, and the schemas of settings and report."""
    file = tmp_path / "warmup.yaml"
    file.write_text("split: validation\nconcurrency: 7\nheaders: {x-secret: hidden}\n")
    monkeypatch.setenv("STEP37_CONCURRENCY", "9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    shown = run("settings", "--settings", str(file), "--sample-count", "3")
    check("settings", shown.splitlines())
    check("settings.schema", document(run("settings", "--json-schema"), indent=2))
    check("report.schema", document(run("report", "--json-schema"), indent=2))


@pytest.mark.parametrize("name", ["ready", "failed"])
def test_a_report_as_text_and_as_a_page(run: Command, tmp_path: Path, name: str) -> None:
    """How a report is shown; other than JSON, this may be reworded."""
    page = tmp_path / "page.html"
    shown = run("report", str(GOLDEN / "reports" / f"{name}.json"), "--html", str(page))
    compare(f"report-{name}.txt", shown)
    compare(f"report-{name}.html", page.read_text(encoding="utf-8"))


# --- sent to other ranks -------------------------------------------------------------------------


def test_two_ranks_with_retries(
    hub: LocalHub,
    cache: Path,
    check: Check,
    job: Job,
    tmp_path: Path,
) -> None:
    """The report of a job of two ranks, its logs, and what stands in the store afterwards."""
    hub.faults.add(Fault.status(503, path="train/0002.jpg", times=2))
    ranks = job(2)
    file = tmp_path / "report.json"
    store = served(ranks.port)
    arguments = ["--cache-dir", str(cache), "--report", str(file), "--log-format", "json"]
    ranks.start_all("warmup", *arguments, TORCHELASTIC_USE_AGENT_STORE="True")
    assert ranks.wait() == {0: 0, 1: 0}, ranks.log(0) + ranks.log(1)
    report = document(file.read_text(), indent=2)
    # torch warns where this machine's address has no name
    lines = [line for line in ranks.log(0).splitlines() if "[c10d]" not in line]
    logs = [line for line in lines if document(line, indent=None, end="") != report]
    check("warmup-two-ranks", {"report": report, "logs": lines_of("\n".join(logs))})
    check("store-of-a-warmup", messages(store))


def served(port: int) -> Any:
    """Serve the store as torchrun's agent does, so that it outlives the ranks."""
    from torch.distributed import TCPStore

    return TCPStore("localhost", port, is_master=True, wait_for_workers=False)


def messages(store: Any) -> dict[str, Any]:
    """Return what the keys of the first call hold, but for heartbeats, whose number differs."""
    prefix = "step37/job/0.0"
    nonce = store.get(f"{prefix}/nonce").decode()
    names = ["nonce", "arrivals", "arrival/1", "answer/1"]
    own = [f"{nonce}/{name}" for name in ("report/1", "reports", "leaves")]
    found = {name: store.get(f"{prefix}/{name}").decode() for name in [*names, *own]}
    assert found["answer/1"] == json.dumps(json.loads(found["answer/1"]))
    number = 1
    while store.check([f"{prefix}/{nonce}/word/{number}"]):
        text = store.get(f"{prefix}/{nonce}/word/{number}").decode()
        kind = document(text, indent=None, end="")["kind"]
        if kind != "beat":
            found[f"{nonce}/word/{kind}"] = text
        number += 1
    found["answer/1"] = re.sub(r'"word": \d+', '"word": "<int>"', found["answer/1"])
    return {name: json.loads(text) if "{" in text else text for name, text in found.items()}


OLD = "0" * 16
BEAT = json.dumps({"kind": "beat", "state": "starting"})


@pytest.mark.parametrize(
    ("name", "ranks", "stands"),
    [
        ("done", (0, 1), {}),
        ("failed", (0, 1), {}),
        ("refused", (0, 1), {}),
        ("mismatch", (0, 1), {}),
        # an earlier rank 0 has begun this call
        ("moved", (0, 1), {"nonce": OLD, f"{OLD}/word/1": BEAT}),
        # rank 0 has answered and says nothing more
        (
            "lost",
            (1,),
            {
                "nonce": OLD,
                f"{OLD}/word/1": BEAT,
                "answer/1": json.dumps({"nonce": OLD, "word": 1}),
            },
        ),
    ],
    ids=["done", "failed", "refused", "mismatch", "moved", "lost"],
)
def test_messages_of_a_call(
    check: Check,
    name: str,
    ranks: tuple[int, ...],
    stands: Mapping[str, str],
) -> None:
    """Which keys rank 0 and a waiter write in a call, in which order, and what JSON they hold."""
    server = FakeServer()
    server.values.update({f"step37/golden/0.0/{key}": value for key, value in stands.items()})
    job = Call(server, name)
    threads = [threading.Thread(target=job.run, args=(rank,), daemon=True) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
        assert not thread.is_alive(), "a rank hangs"
    check(f"store-{name}", {f"rank {rank}": job.written[rank] for rank in ranks})


class Call:
    """One call of two ranks, and what each rank writes."""

    def __init__(self, server: FakeServer, name: str) -> None:
        self.server = server
        self.name = name
        self.begun = threading.Event()
        self.written: dict[int, list[Any]] = {0: [], 1: []}

    def run(self, rank: int) -> None:
        """Be a rank; how the call ends is what it writes last."""
        arguments = {"split": "train", "rows": rank if self.name == "mismatch" else None}
        try:
            share_as(rank, self, arguments, heartbeat=0.5 if self.name == "lost" else 30)
        except Step37Error:
            assert self.name in {"failed", "refused", "mismatch", "lost"}

    def work(self, progress: ProgressTracker) -> dict[str, Any]:
        """Tell how far it is, and end once the other rank has been answered."""
        progress.report(
            Progress(State.FETCHING, files=3, of_files=4, bytes=30, of_bytes=40, retries={"503": 2})
        )
        self.begun.set()
        deadline = time.monotonic() + 240
        while "step37/golden/0.0/answer/1" not in self.server.values:
            assert time.monotonic() < deadline, "rank 0 never answered"
            time.sleep(0.01)
        if self.name == "failed":
            raise FolderFull("the disk is full")
        return {"commit": "c", "rows": 4}

    def confirm(self, rank: int) -> None:
        """Refuse what rank 0 has done, as a node that doesn't see it."""
        if self.name == "refused" and rank == 1:
            raise NotVisible("this node sees nothing")


class Recorded:
    """A rank's connection to the store, which keeps what was written."""

    def __init__(self, store: FakeStore, call: Call, rank: int) -> None:
        self._store = store
        self._call = call
        self._rank = rank

    def __getattr__(self, name: str) -> Any:
        assert name in {"get", "check", "wait"}
        return getattr(self._store, name)

    def set(self, key: str, value: str) -> None:
        self._store.set(key, value)
        self._keep("set", key, value)

    def add(self, key: str, amount: int) -> int:
        if amount:
            self._keep("add", key, amount)
        return self._store.add(key, amount)

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        # so that the first heartbeat tells how far the work is
        assert self._rank != 0 or self._call.begun.wait(240)
        stands = self._store.compare_set(key, expected, desired)
        if stands == desired:
            self._keep("compare_set", key, desired)
        return stands

    def _keep(self, method: str, key: str, value: str | int) -> None:
        if isinstance(value, str) and value.startswith("{"):
            value = document(value, indent=None, end="")
        self._call.written[self._rank].append([method, key, value])


def share_as(rank: int, call: Call, arguments: Mapping[str, Any], *, heartbeat: float) -> None:
    """Be a rank of a call; the only place here that knows how the source is laid out."""
    from step37_flickr8k.cluster.protocol.keys import Timeouts
    from step37_flickr8k.cluster.share import Group, share

    def connect(seconds: float) -> Any:
        return Recorded(call.server.connect(seconds), call, rank)

    share(
        Group(rank=rank, size=2, connect=connect, host=f"n{rank}", name="golden"),
        call.work,
        confirm=lambda _: call.confirm(rank),
        arguments=arguments,
        timeouts=Timeouts(arrival=240, heartbeat=heartbeat, stall=240, visibility=5),
    )
