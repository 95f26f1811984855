"""The doctor finds faults that are caused here; those that need two nodes: `tests/sharedfs`."""

import http.client
import http.server
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import formatdate
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from step37_flickr8k import cli
from step37_flickr8k.diagnostics.finding import State
from step37_flickr8k.diagnostics.network_checks import check_clock
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw, MakeTmpfs, picture
from tests.helpers.proxies import proxy
from tests.helpers.ranks import Ranks, free_port

Examine = Callable[..., dict[str, dict[str, str]]]
TWO_NODES = {"folder shared", "locks", "lag"}


@pytest.fixture
def examine(cache: Path, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Return a function that runs the doctor and returns findings by check."""

    def examined(*arguments: str) -> dict[str, dict[str, str]]:
        capsys.readouterr()
        code = cli.run(["doctor", "--cache-dir", str(cache), "--json", *arguments])
        found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
        assert code == (2 if "problem" in {finding["state"] for finding in found.values()} else 0)
        return found

    return examined


def alone(
    cache: Path, *arguments: str, limit: Callable[[], object] = lambda: None
) -> dict[str, dict[str, str]]:
    """Run the doctor in a process with its own proxies and limits; return findings by check."""
    command = [
        sys.executable,
        "-m",
        "step37_flickr8k",
        "doctor",
        "--cache-dir",
        str(cache),
        "--json",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    return {finding["check"]: finding for finding in json.loads(done.stdout)}


@contextmanager
def answering(
    answer: Callable[[http.server.BaseHTTPRequestHandler], tuple[int, Mapping[str, str], bytes]],
) -> Iterator[str]:
    """Return the address of a server that answers every request this way, as a proxy does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(120)


def forwarding(
    hub: LocalHub,
) -> Callable[[http.server.BaseHTTPRequestHandler], tuple[int, Mapping[str, str], bytes]]:
    """Return the answers of a proxy that works, whatever the Hub's name is."""

    def forward(
        request: http.server.BaseHTTPRequestHandler,
    ) -> tuple[int, Mapping[str, str], bytes]:
        parts = urlsplit(request.path)
        with closing(http.client.HTTPConnection(hub.endpoint.removeprefix("http://"))) as onward:
            onward.request(
                request.command, f"{parts.path}?{parts.query}", headers=dict(request.headers)
            )
            answer = onward.getresponse()
            body = answer.read()
        keep = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in {"content-length", "transfer-encoding"}
        }
        return answer.status, keep, body

    return forward


def test_nothing_wrong_is_said_check_by_check(hub: LocalHub, cache: Path, examine: Examine) -> None:
    """Without faults every check is ok or names what it needs, and nothing is left behind."""
    found = examine()
    fine = {
        "versions",
        "torch",
        "pyarrow",
        "settings",
        "endpoint",
        "proxy",
        "token",
        "clock",
        "space",
        "memory",
    }
    assert {check for check, finding in found.items() if finding["state"] == "ok"} >= fine
    assert all(
        (found[check]["state"], found[check]["message"]) == ("not checked", "needs two nodes")
        for check in TWO_NODES
    )
    assert "srun --nodes=2" in found["lag"]["remedy"]
    assert not found["folder shared"]["remedy"]
    assert found["torch"]["message"] == metadata.version("torch")
    assert f"Python {platform.python_version()} on " in found["versions"]["message"]
    assert not [request for request in hub.file_requests() if request.repo_path.endswith(".jpg")]
    assert not cache.exists()
    assert not [path for path in cache.parent.iterdir() if path.name.startswith(".step37")]


def test_people_get_a_table(hub: LocalHub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows state, check and message, with the remedy below."""
    assert hub.commit
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    capsys.readouterr()
    assert cli.run(["doctor", "--cache-dir", str(cache)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"not checked space {cache} is warm: nothing is to be written" in said
    assert "not checked lag needs two nodes -> run it as two ranks on two nodes" in said
    assert said.count("run it as two ranks on two nodes") == 1


def test_what_a_ticket_needs_is_in_one_file(
    hub: LocalHub,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Findings and settings with their origins; a token is masked."""
    assert hub.commit
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file = tmp_path / "doctor.json"
    there = ("--cache-dir", str(cache), "--output", str(file))
    assert cli.run(["doctor", *there, "--json"]) == 0
    ticket = json.loads(file.read_text())
    assert ticket["findings"] == json.loads(capsys.readouterr().out)
    assert ticket["settings"]["cache_dir"] == {"value": str(cache), "from": "--cache-dir"}
    assert ticket["settings"]["token"]["from"] == "HF_TOKEN"
    assert "hf_secret" not in file.read_text()
    assert cli.run(["doctor", *there[:3], str(tmp_path / "no" / "file")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_two_ranks_without_torch_are_a_problem_among_findings(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """Rank 0 makes all checks that it can make alone, and says what the others need."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if not each.name.startswith("torch"):
            (libraries / each.name).symlink_to(each)
    source = Path(cli.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "step37_flickr8k", "doctor", "--cache-dir", cache, "--json"],
        env=os.environ
        | {"PYTHONPATH": f"{source}:{libraries}", "HF_ENDPOINT": hub.endpoint}
        | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert (found["torch"]["state"], found["torch"]["message"]) == ("problem", "not installed")
    assert found["torch"]["remedy"].startswith("pip install torch")
    assert (found["lag"]["state"], found["lag"]["message"]) == ("not checked", "ranks need torch")
    assert found["endpoint"]["state"] == "ok"


@pytest.mark.parametrize("token", ["hf_wrong", None])
def test_a_wrong_or_missing_token_is_found(
    draw: Draw, examine: Examine, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    """The token is blamed, not the endpoint, and the secret isn't repeated."""
    with LocalHub(draw(), token="hf_right") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        found = examine()
        assert (found["endpoint"]["state"], found["token"]["state"]) == ("ok", "problem")
        assert "HF_TOKEN" in found["token"]["remedy"]
        assert "hf_" not in found["token"]["message"]
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        assert examine()["token"]["state"] == "ok"


def test_a_token_without_access_to_a_gated_repository_is_found(
    draw: Draw, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gated repository is found by requesting a file, because its listing is public."""
    with LocalHub(draw(), token="hf_right", gated=True) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        found = examine()
    assert found["token"]["state"] == "problem"
    assert "is gated: ask for access on its page" in found["token"]["message"]


@pytest.mark.parametrize(
    ("host", "said"),
    [("127.0.0.1", "refused"), ("hub.invalid", "the name hub.invalid isn't known here")],
)
def test_no_route_to_the_endpoint_is_found(examine: Examine, host: str, said: str) -> None:
    """A closed port or an unknown name is a problem of the endpoint; dependent checks are skipped."""
    found = examine("--endpoint", f"http://{host}:{free_port()}")
    assert found["endpoint"]["state"] == "problem"
    assert said in found["endpoint"]["message"]
    assert "HTTPS_PROXY" in found["endpoint"]["remedy"]
    assert {found[check]["state"] for check in ("token", "clock", "space")} == {"not checked"}


@pytest.mark.parametrize("kind", ["refuses", "isn't there", "is not known"])
def test_a_proxy_in_the_way_is_found(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The proxy is named with its answer and the remedy, and its password isn't repeated."""
    with answering(lambda _: (403, {}, b"<html>blocked by policy</html>")) as refusing:
        gone = f"127.0.0.1:{free_port()}"
        at = {"refuses": refusing, "isn't there": gone, "is not known": "proxy.invalid:80"}[kind]
        monkeypatch.setenv("http_proxy", f"http://user:secret@{at}")
        found = alone(cache)
        assert (found["proxy"]["state"], found["token"]["state"]) == ("problem", "not checked")
        assert f"go through the proxy {at}: " in found["proxy"]["message"]
        assert {"refuses": "403", "isn't there": "refused", "is not known": "isn't known here"}[
            kind
        ] in found["proxy"]["message"]
        assert found["proxy"]["remedy"] == "127.0.0.1 is reached without it: add it to NO_PROXY"
        assert "secret" not in json.dumps(found)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert alone(cache)["proxy"]["state"] == "ok"
    assert hub.commit


def test_a_proxy_that_works_is_named(
    draw: Draw, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that works is named; a token that it reads isn't ok, a wrong one is a problem."""
    with LocalHub(draw(), token="hf_right") as hub, answering(forwarding(hub)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        for token, state in {"hf_right": "warning", "hf_wrong": "problem"}.items():
            monkeypatch.setenv("HF_TOKEN", token)
            found = alone(cache, "--endpoint", "http://hub.invalid")
            assert (found["proxy"]["state"], found["token"]["state"]) == ("ok", state), found
            assert f"through the proxy {proxy}" in found["proxy"]["message"]


def test_a_proxy_that_refuses_a_tunnel_is_found(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An HTTPS endpoint that the proxy forbids is the proxy's problem; the token isn't blamed."""
    with proxy(lambda *_: "403 Forbidden") as refusing:
        monkeypatch.setenv("https_proxy", refusing.address)
        found = alone(cache, "--endpoint", "https://hub.invalid")
    assert (found["proxy"]["state"], found["token"]["state"]) == ("problem", "not checked")
    assert "refuses requests to hub.invalid (403 Forbidden)" in found["proxy"]["message"]


def test_a_split_that_is_not_there_is_no_proxys_problem(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy that works, what the Hub says is the Hub's word."""
    with proxy() as working:
        monkeypatch.setenv("http_proxy", working.address)
        endpoint = f"http://hub.invalid:{urlsplit(hub.endpoint).port}"
        found = alone(cache, "--endpoint", endpoint, "--split", "test")
    assert (found["proxy"]["state"], found["endpoint"]["state"]) == ("ok", "problem")
    assert found["endpoint"]["message"].endswith("; available: train")


def test_a_login_page_in_the_way_is_found(examine: Examine) -> None:
    """An answer that isn't the Hub's is a problem of the endpoint."""
    with answering(lambda _: (200, {}, b"<html>please log in</html>")) as portal:
        found = examine("--endpoint", f"http://{portal}")
    assert found["endpoint"]["state"] == "problem"
    assert "does a login page or a proxy answer in its place?" in found["endpoint"]["message"]


@pytest.mark.parametrize(("seconds", "said"), [(-3600, "ahead of"), (3600, "behind")])
def test_a_clock_that_is_wrong_is_found(seconds: float, said: str) -> None:
    """The clock is compared with the date of the answer, and a minute is tolerated."""
    finding = check_clock({"Date": formatdate(time.time() + seconds)})
    assert finding.state is State.WARNING
    assert said in finding.message
    assert check_clock({"date": formatdate(time.time() + 20)}).state is State.OK
    assert check_clock({}).state is State.NOT_CHECKED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=200k", r"has 204.8 kB free, the plan needs"),
        ("size=10m,nr_inodes=8", "inodes free, the plan needs 12: delete files"),
    ],
)
def test_too_little_space_and_too_few_inodes_are_found(
    draw: Draw,
    examine: Examine,
    tmpfs: MakeTmpfs,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    said: str,
) -> None:
    """Space and inodes are compared with the plan before the directory exists."""
    directory = draw()
    for number in range(12):
        (directory / "train" / f"{number:04}.jpg").write_bytes(picture(number).ljust(50_000, b"x"))
    cache = tmpfs(options).path / "cache"
    with LocalHub(directory) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        found = examine("--cache-dir", str(cache))
    assert found["space"]["state"] == "problem"
    assert said in found["space"]["message"]
    assert not cache.exists()


def test_a_directory_that_cannot_be_written_is_found(
    hub: LocalHub, examine: Examine, tmpfs: MakeTmpfs
) -> None:
    """A read-only directory is a problem."""
    assert hub.commit
    mounted = tmpfs()
    mounted.make_read_only()
    found = examine("--cache-dir", str(mounted.path))
    assert (found["folder"]["state"], found["space"]["state"]) == ("problem", "not checked")
    assert "Read-only file system: choose another cache_dir" in found["folder"]["message"]


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """Return a control group with a memory limit, of version 1 or 2."""
    for mounted, name in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        group = Path(mounted) / f"step37-test-{os.getpid()}"
        if (Path(mounted) / "cgroup.procs").exists():
            try:
                group.mkdir()
                (group / name).write_text(str(limit))
            except OSError as error:
                if group.is_dir():
                    group.rmdir()
                pytest.skip(
                    f"no control group of its own ({error.strerror}): run it as root, outside of a container"
                )
            yield group
            group.rmdir()
            return
    pytest.skip("no control groups: run it on Linux with them mounted")


@pytest.mark.parametrize("by", ["ulimit", "control group"])
def test_a_memory_limit_below_what_the_concurrency_needs_is_found(
    draw: Draw, cache: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The finding names limit, need and a concurrency that fits, which is then ok."""
    directory, limit = draw(3), 2 << 30
    for number in range(3):
        (directory / "train" / f"{number:04}.jpg").write_bytes(picture(number).ljust(600_000, b"x"))
    with LocalHub(directory) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        if by == "ulimit":
            first, second = limited(
                lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)), cache
            )
        elif os.geteuid() != 0:
            pytest.skip("it makes a control group: run the tests as root")
        else:
            with control_group(limit) as group:
                first, second = limited(
                    lambda: (group / "cgroup.procs").write_text(str(os.getpid())), cache
                )
    assert first["state"] == "problem"
    assert (
        f"{'ulimit -v' if by == 'ulimit' else 'its control group'} allows 2,147 MB"
        in first["message"]
    )
    assert "concurrency 1024 may need 2,626 MB" in first["message"]
    assert second["state"] == "ok", second


def limited(limit: Callable[[], object], cache: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the memory findings with too much concurrency and with the advised one."""
    first = alone(cache, "--concurrency", "1024", limit=limit)["memory"]
    return first, alone(cache, "--concurrency", first["remedy"].rpartition(" ")[2], limit=limit)[
        "memory"
    ]


def test_an_environment_that_contradicts_the_settings_file_is_found(
    hub: LocalHub,
    examine: Examine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
) -> None:
    """Contradictions name the setting, both values and sources, and which one holds; no secrets."""
    file = tmp_path / "warmup.yaml"
    file.write_text(f"concurrency: 7\nread_timeout: 1m\nendpoint: {hub.endpoint}\ntoken: hf_file\n")
    for name, value in {
        "CONCURRENCY": "9",
        "READ_TIMEOUT": "60",
        "TOKEN": "hf_environment",
    }.items():
        monkeypatch.setenv(f"STEP37_{name}", value)
    monkeypatch.setenv("HF_ENDPOINT", "http://another.invalid")
    assert cli.run(["doctor", "--cache-dir", str(cache), "--settings", str(file), "--json"]) == 0
    said = capsys.readouterr().out
    told = [
        finding["message"]
        for finding in json.loads(said)
        if finding["state"] == "warning" and finding["check"] == "settings"
    ]
    assert told == [
        f"endpoint is http://another.invalid by HF_ENDPOINT and is {hub.endpoint} in {file}: that of {file} holds",
        f"token by STEP37_TOKEN and another in {file}: that of the environment holds",
        f"concurrency is 9 by STEP37_CONCURRENCY and is 7 in {file}: that of the environment holds",
    ]
    assert "hf_" not in said
    monkeypatch.setenv("STEP37_SETTINGS", str(file))
    assert examine()["settings"]["state"] == "warning"


def test_offline_nothing_is_asked(hub: LocalHub, examine: Examine) -> None:
    """Offline, the network checks are not made and name the reason."""
    found = examine("--offline")
    assert {found[check]["message"] for check in ("endpoint", "proxy", "token", "clock")} == {
        "offline is set"
    }
    assert not hub.requests


def test_offline_the_cache_decides(hub: LocalHub, cache: Path, examine: Examine) -> None:
    """What `warmup --offline` would refuse is a problem; on a warm cache nothing is written."""
    assert "offline is set, but" in examine("--offline")["plan"]["message"]
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    asked = len(hub.requests)
    paths = [cache, *cache.rglob("*")]
    before = [path.stat().st_ctime_ns for path in paths]
    assert "is warm" in examine("--offline")["folder"]["message"]
    assert [cache, *cache.rglob("*")] == paths
    assert [path.stat().st_ctime_ns for path in paths] == before
    assert len(hub.requests) == asked


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(2, tmp_path / "job")
    yield made
    made.end()


def findings(job: Ranks) -> list[Mapping[str, Any]]:
    """Return the findings that rank 0 printed among its log lines."""
    said = job.log(0)
    found: list[Mapping[str, Any]] = json.JSONDecoder().raw_decode(said, said.index("[\n"))[0]
    return found


def test_ranks_of_one_node_tell_what_each_of_them_sees(
    hub: LocalHub, cache: Path, job: Ranks, tmp_path: Path
) -> None:
    """Rank 1's finding has its rank, and rank 0's exit code speaks for all ranks."""
    assert hub.commit
    file = tmp_path / "warmup.yaml"
    file.write_text("concurrency: 7\n")
    arguments = (
        "doctor",
        "--cache-dir",
        str(cache),
        "--settings",
        str(file),
        "--json",
        "--revision",
        "nowhere",
    )
    job.start_command(0, *arguments)
    job.start_command(1, *arguments, STEP37_CONCURRENCY="9")
    assert job.wait() == {0: 2, 1: 0}, job.log(0)
    found = findings(job)
    (warning,) = [
        finding
        for finding in found
        if finding["state"] == "warning" and finding["check"] == "settings"
    ]
    assert warning["rank"].startswith("rank 1 on ")
    assert "concurrency is 9 by STEP37_CONCURRENCY" in warning["message"]
    assert [finding["check"] for finding in found if finding["state"] == "problem"] == ["endpoint"]
    away = [finding for finding in found if finding["check"] in TWO_NODES]
    assert all("all ranks that answered are on " in finding["message"] for finding in away)
    assert not list(tmp_path.glob(".step37*"))


def test_ranks_with_different_arguments_are_a_problem_here_too(
    hub: LocalHub, cache: Path, job: Ranks
) -> None:
    """Different arguments are a problem that names the argument, both values and the rank."""
    assert hub.commit
    for rank in range(2):
        job.start_command(rank, "doctor", "--cache-dir", f"{cache}-{rank}", "--json")
    assert job.wait() == {0: 2, 1: 0}, job.log(0)
    (problem,) = [finding for finding in findings(job) if finding["state"] == "problem"]
    assert problem["check"] == "arguments"
    assert problem["rank"].startswith("rank 1 on ")
    assert problem["message"] == f"cache_dir is '{cache}-1' here and '{cache}-0' on rank 0"


def test_a_place_that_takes_no_files_comes_with_a_remedy(hub: LocalHub, examine: Examine) -> None:
    """The message names the directory, not the temporary file."""
    assert hub.commit
    found = examine("--cache-dir", "/proc/none")["folder"]
    assert (found["state"], found["message"], found["remedy"]) == (
        "problem",
        "/proc: No such file or directory",
        "choose another cache_dir",
    )


def test_what_rank_0_finds_is_said_before_it_waits(hub: LocalHub, cache: Path, job: Ranks) -> None:
    """Rank 0 prints its findings and whom it waits for before it waits."""
    assert hub.commit
    job.start_command(0, "doctor", "--cache-dir", str(cache))
    job.until_logged(0, "waiting for rank 1, at most 150 s")
    assert re.search(r"^ ok +endpoint +intro/flickr8k at ", job.log(0), re.MULTILINE)
    job.signal(0, signal.SIGTERM)
    assert job.wait() == {0: 143}


@pytest.mark.slow
def test_a_rank_that_never_comes_is_named(hub: LocalHub, cache: Path, job: Ranks) -> None:
    """Rank 0 stops waiting and names the missing rank."""
    assert hub.commit
    job.start_command(0, "doctor", "--cache-dir", str(cache), "--visibility-timeout", "1", "--json")
    assert job.wait() == {0: 2}
    (missing,) = [finding for finding in findings(job) if finding["check"] == "ranks"]
    assert (missing["state"], missing["message"]) == ("problem", "rank 1 never came")
