"""The command: what it prints, its exit codes, its signals."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from step37_flickr8k import cli
from step37_flickr8k.cli.output import shortened
from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.ranks import PATIENCE, Ranks


def test_plan_says_what_warmup_does(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plan counts files, bytes and requests exactly, downloads no image and creates no directory."""
    arguments = ["--cache-dir", str(cache), "--sample-count", "5"]
    assert cli.run(["plan", *arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not cache.exists()
    assert (plan["rows"], plan["fetch"], plan["warm"], plan["commit"]) == (5, 5, False, hub.commit)
    assert plan["bytes"] == sum(
        (hub.directory / "train" / f"{n:04}.jpg").stat().st_size for n in range(5)
    )
    hub.clear_requests()
    assert cli.run(["warmup", *arguments]) == 0
    at_the_endpoint = [
        r for r in hub.requests if r.origin == "hub" and r.kind in {"api", "tree", "resolve"}
    ]
    assert plan["requests"] == len(at_the_endpoint)
    assert cli.run(["plan", *arguments]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert cli.run(["plan", "--cache-dir", str(cache)]) == 0
    assert "to fetch  7 images" in capsys.readouterr().out


def test_a_plan_of_a_warm_cache_asks_no_more_than_warmup(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a warm cache plan and warmup make one request for main and none for a pinned commit."""
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    for revision, requests in (("main", 1), (hub.commit, 0)):
        capsys.readouterr()
        for command in ("plan", "warmup"):
            hub.clear_requests()
            assert (
                cli.run(
                    [
                        command,
                        "--cache-dir",
                        str(cache),
                        "--revision",
                        revision,
                        *["--json"][: command == "plan"],
                    ]
                )
                == 0
            )
            told = json.loads(capsys.readouterr().out)
            assert (told["warm"], told["requests"], len(hub.requests)) == (True, requests, requests)


def test_settings_are_shown_with_their_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Settings prints each setting, its value and its origin, and masks secrets."""
    file = tmp_path / "warmup.yaml"
    file.write_text("split: validation\nconcurrency: 7\n")
    monkeypatch.setenv("STEP37_CONCURRENCY", "9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli.run(["settings", "--settings", str(file), "--sample-count", "3"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["split"] == ["validation", str(file)]
    assert lines["concurrency"] == ["9", "STEP37_CONCURRENCY"]
    assert lines["sample_count"] == ["3", "--sample-count"]
    assert lines["token"] == ["**********", "HF_TOKEN"]
    assert cli.run(["settings", "--json-schema"]) == 0
    assert "sample_count" in json.loads(capsys.readouterr().out)["properties"]


def test_every_command_prints_json_if_asked(
    hub: LocalHub,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that print words by default, too; secrets stay masked."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    def printed(*arguments: str) -> Any:
        capsys.readouterr()
        assert cli.run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    report = tmp_path / "report.json"
    there = ("--cache-dir", str(cache))
    assert printed("warmup", *there, "--report", str(report)) == json.loads(report.read_text())
    assert printed("report", str(report)) == json.loads(report.read_text())
    settings = printed("settings", *there, "--sample-count", "3")
    assert settings["sample_count"] == {"value": 3, "from": "--sample-count"}
    assert settings["token"] == {"value": "**********", "from": "HF_TOKEN"}
    page = str(tmp_path / "page.html")
    shown = {"output": page, "png": None, "rows": 12, "without_image": 0}
    assert printed("preview", *there, "--output", page) == shown
    serve = [sys.executable, "-m", "step37_flickr8k", "hub", str(hub.directory), "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads("".join(process.stdout.readline() for _ in range(5)))
        process.terminate()
    assert (told["repo_id"], told["commit"]) == ("intro/flickr8k", hub.commit)
    assert told["endpoint"].startswith("http://127.0.0.1:")


def test_a_quiet_command_prints_nothing_but_errors(
    hub: LocalHub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither words nor logs nor progress; JSON that is asked for stays, and so does a level."""
    there = ("--cache-dir", str(cache))
    report = str(tmp_path / "report.json")
    page = ("--output", str(tmp_path / "page.html"))
    for command in (
        ("doctor", *there),
        ("warmup", *there, "--report", report),
        ("plan", *there),
        ("status", *there, "--check"),
        ("verify", "-q", *there),
        ("preview", *there, *page),
        ("settings", *there),
        ("report", report),
    ):
        assert cli.run([*command, "--quiet"]) == 0, command
        assert capsys.readouterr() == ("", ""), command
    assert cli.run(["plan", *there, "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commit"] == hub.commit
    assert cli.run(["warmup", *there, "-q", "--log-level", "info"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "INFO ready: 12 rows" in said.err
    (cache / "train" / "0003.jpg").unlink()
    assert cli.run(["verify", *there, "-q"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: 1 of 13 files are missing and 0 wrong in ")
    assert said.err.count("\n") == 1


def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped variable ends the command before anything else."""
    monkeypatch.setenv("STEP37_SAMPEL_COUNT", "3")
    assert cli.run(["warmup"]) == 2
    assert capsys.readouterr().err == (
        "error: STEP37_SAMPEL_COUNT: no such setting: did you mean STEP37_SAMPLE_COUNT?\n"
    )


@pytest.mark.parametrize("argument", ["--token=hf_secret", "--token hf_secret", "--tok hf_secret"])
def test_a_token_on_the_command_line_is_refused_and_not_repeated(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the alternatives and never repeats the secret, not even as part of a path."""
    with pytest.raises(SystemExit) as caught:
        cli.run(["warmup", *argument.split()])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    if "--token" in argument:
        assert "use --token-file, STEP37_TOKEN or HF_TOKEN" in said
        assert "hf_secret" not in said


def test_half_set_launcher_variables_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that can't know its rank doesn't take itself for rank 0 of 1."""
    monkeypatch.setenv("RANK", "3")
    assert cli.run(["warmup"]) == 2
    assert "WORLD_SIZE" in capsys.readouterr().err


def test_json_logs_are_a_json_object_a_line(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON lines hold host, node, rank, level and message; at debug level also the traceback."""
    assert hub.commit
    assert cli.run(["warmup", "--cache-dir", str(cache), "--log-format", "json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["ok"] for line in said.out.splitlines()] == [True], (
        "the report is such a line, too"
    )
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert {(line["host"], line["node"], line["rank"]) for line in lines} == {
        (socket.gethostname(), None, 0)
    }
    assert lines[-1]["message"].startswith("ready: 12 rows")
    cli.run(
        [
            "warmup",
            "--cache-dir",
            str(cache),
            "--split",
            "none",
            "--log-format",
            "json",
            "--log-level",
            "debug",
        ]
    )
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "SplitNotFound" in lines[-1]["traceback"]
    assert lines[-2]["error"] == "SplitNotFound"
    assert "SplitNotFound" not in lines[-2]["message"]


@pytest.mark.parametrize("progress", ["on", "off", "auto"])
def test_progress_is_a_bar_or_lines_or_nothing(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str], progress: str
) -> None:
    """Without a terminal auto prints lines, on forces the bar, and off prints nothing."""
    hub.faults.add(Fault.delay(0.1))
    assert cli.run(["warmup", "--cache-dir", str(cache), "--progress", progress]) == 0
    said = capsys.readouterr().err
    assert bool(re.search(r"INFO fetching: \d+ of 12 files", said)) == (progress == "auto")
    assert bool(re.search(r"\r\x1b\[2Kfetching: \d+ of 12 files", said)) == (progress == "on")


def test_the_report_that_cannot_be_written_is_no_failure(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A report that can't be written is logged, and the exit code stays 0."""
    assert hub.commit
    (tmp_path / "file").write_text("")
    assert (
        cli.run(
            [
                "warmup",
                "--cache-dir",
                str(cache),
                "--report",
                str(tmp_path / "file" / "report.json"),
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert json.loads(captured.out)["ok"] is True
    assert "can't be written" in captured.err


def shell(line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a shell line, where it is "$@"."""
    command = [sys.executable, "-m", "step37_flickr8k", *arguments]
    return subprocess.run(
        ["bash", "-c", line, "sh", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    "where",
    ['"$@" >/dev/full', 'set -o pipefail; "$@" | true', '"$@" >&-'],
    ids=["full", "gone", "closed"],
)
def test_a_stdout_that_takes_nothing_is_no_failure_of_the_cache(
    hub: LocalHub, cache: Path, tmp_path: Path, where: str
) -> None:
    """A full disk, a closed pipe or a closed stdout doesn't fail a warmup whose cache is warm."""
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    done = shell(where, "warmup", "--cache-dir", str(cache), "--revision", hub.commit)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ("No space left on device" in done.stderr) == ("full" in where)
    report = tmp_path / "report.json"
    assert cli.run(["warmup", "--cache-dir", str(cache), "--report", str(report)]) == 0
    there = ("--cache-dir", str(cache))
    for command in (
        ("plan", "--json", *there),
        ("status", *there),
        ("doctor", *there),
        ("report", str(report)),
    ):
        done = shell(where, *command)
        assert done.returncode == (75 if "full" in where else 0), done.stderr
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr


def test_an_error_is_its_words(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a command that is no job says of its end has no class, no time and no rank."""
    assert hub.commit
    assert cli.run(["plan", "--cache-dir", str(cache), "--caption-key", "caption_9"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: caption_key 'caption_9' is no column")
    assert said.count("\n") == 1


def test_an_unforeseen_error_is_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal error is exit code 1 and one line; at debug level its traceback follows."""

    def buggy(*_: object) -> NoReturn:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("step37_flickr8k.cli.plan.make_plan", buggy)
    assert cli.run(["plan", "--cache-dir", str(cache)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert (
        said
        == "error: internal error: ZeroDivisionError: division by zero; run it again with --log-level debug and file an issue with that output\n"
    )
    assert cli.run(["plan", "--cache-dir", str(cache), "--log-level", "debug"]) == 1
    assert "in buggy" in capsys.readouterr().err


def test_a_failure_is_in_the_report(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report of a failure holds the error, the advice and the exit code."""
    arguments = ["--cache-dir", str(cache), "--endpoint", "http://127.0.0.1:9", "--attempts", "1"]
    assert cli.run(["warmup", *arguments]) == 75
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["error"], report["exit_code"]) == (False, "HubUnavailable", 75)
    assert (
        report["what_to_do"]
        == "check with doctor whether the endpoint can be reached, then run it again"
    )


def test_a_pods_message_is_the_report_within_what_kubernetes_keeps(
    hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A report that fits is written whole in one line, and what is printed is never shortened."""
    assert hub.commit
    message = tmp_path / "termination-log"
    assert cli.run(["warmup", "--cache-dir", str(cache), "--report", str(message)]) == 0
    assert json.loads(message.read_text()) == json.loads(capsys.readouterr().out)
    assert "\n" not in message.read_text()


def test_a_long_message_is_shortened_where_it_is_long() -> None:
    """Long fields are shortened, silent ranks stay, and ``cut`` names the shortened fields."""
    ranks = {
        str(rank): {"ok": None if rank == 1234 else True, "host": f"n{rank}/warmup-{rank}"}
        for rank in range(4000)
    }
    skipped = {f"{number:04}.jpg": "truncated" for number in range(500)}
    points = [
        {"seconds": number, "state": "fetching", "files": number, "bytes": number}
        for number in range(240)
    ]
    report = {
        "ok": False,
        "message": "é" * 5000,
        "ranks": ranks,
        "skipped": skipped,
        "timeline": points,
        "exit_code": 75,
    }
    message = shortened(report)
    assert 1000 < len(message.encode()) <= 4096
    told = json.loads(message)
    assert (told["ok"], told["exit_code"], told["cut"]) == (
        False,
        75,
        ["message", "ranks", "skipped", "timeline"],
    )
    assert told["ranks"] == {"1234": {"ok": None, "host": "n1234/warmup-1234"}}
    assert told["skipped"].items() < skipped.items()
    assert 10 < len(told["timeline"]) < 240
    assert (told["timeline"][0], told["timeline"][-1]) == (points[0], points[-1]), (
        "it is still the whole run"
    )
    assert set(told["message"]) == {"é"}
    assert report["ranks"] is ranks
    assert len(ranks) == 4000


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(1, tmp_path / "job")
    yield made
    made.end()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it_at_once_with_nothing_torn(
    hub: LocalHub,
    cache: Path,
    job: Ranks,
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGTERM is 143, Ctrl-C 130; unfinished files are deleted and verified ones stay."""
    hub.faults.add(Fault.stall(600, path="train/0003.jpg"))
    job.start_all("warmup", "--cache-dir", str(cache), "--concurrency", "2")
    job.until_logged(0, "fetching 12 of 12 files")
    deadline = time.monotonic() + PATIENCE
    while len(list((cache / "train").glob("*.jpg"))) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    start = time.monotonic()
    job.signal(0, number)
    job.signal(0, number) if number is signal.SIGTERM else None
    assert job.wait() == {0: code}
    assert time.monotonic() - start < 60
    words = {143: "ended by SIGTERM", 130: "interrupted"}[code]
    assert f'"message": "{words}"' in job.log(0), "in the report"
    report = tmp_path / "report.json"
    report.write_text(job.log(0)[job.log(0).index("{\n") : job.log(0).index("\n}") + 2])
    assert cli.run(["report", str(report)]) == 0
    assert capsys.readouterr().out.startswith(f"{words} after ")
    assert not list((cache / "train").glob(".*"))
    hub.faults.clear()
    hub.clear_requests()
    job.start_all("warmup", "--cache-dir", str(cache))
    assert job.wait() == {0: 0}
    assert len(hub.file_requests()) < 6


@pytest.mark.parametrize("command", ["plan", "verify"])
def test_every_command_obeys_sigterm(hub: LocalHub, cache: Path, job: Ranks, command: str) -> None:
    """Commands end on SIGTERM even as process 1 of a container, which needs a handler."""
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    gone = {"plan": "metadata.csv", "verify": "0003.jpg"}[command]
    (cache / "train" / gone).unlink()
    hub.clear_requests()
    hub.faults.add(Fault.stall(600))
    job.start_all(
        command, "--cache-dir", str(cache), *(["--repair"] if command == "verify" else [])
    )
    deadline = time.monotonic() + PATIENCE
    while not any(request.repo_path.endswith(gone) for request in hub.requests):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.signal(0, signal.SIGTERM)
    assert job.wait() == {0: 143}


def test_hub_serves_a_directory_until_it_is_told_to_stop(hub: LocalHub, cache: Path) -> None:
    """The hub command prints what to export, serves, and ends with 0 on SIGTERM."""
    serve = [sys.executable, "-m", "step37_flickr8k", "hub", str(hub.directory), "--delay", "0.01"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip().removeprefix("export HF_ENDPOINT=")
        assert cli.run(["warmup", "--cache-dir", str(cache), "--endpoint", endpoint]) == 0
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert len(list((cache / "train").iterdir())) == 13


def test_hub_says_what_it_cannot_serve(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing directory, a port in use and an impossible port are configuration errors."""
    assert cli.run(["hub", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    port = hub.endpoint.rpartition(":")[2]
    assert cli.run(["hub", str(hub.directory), "--port", port]) == 2
    assert port in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.run(["hub", str(hub.directory), "--port", "99999"])
    assert "99999 is not a port" in capsys.readouterr().err
    (tmp_path / "train").mkdir()
    assert cli.run(["hub", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no split: name a directory with <split>/metadata.csv" in (
        capsys.readouterr().err
    )


def test_hub_listens_on_ipv6(hub: LocalHub, cache: Path) -> None:
    """The address is one that other commands take."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with LocalHub(hub.directory, host="::1") as serving:
        assert serving.endpoint.startswith("http://[::1]:")
        arguments = ["--cache-dir", str(cache), "--endpoint", serving.endpoint]
        assert cli.run(["warmup", *arguments]) == 0
    assert len(list((cache / "train").iterdir())) == 13


def test_the_module_is_the_command() -> None:
    """``python -m step37_flickr8k --version`` works."""
    done = subprocess.run(
        [sys.executable, "-m", "step37_flickr8k", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("step37-flickr8k ")
