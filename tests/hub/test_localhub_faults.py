"""Each fault of the local Hub, as a client meets it."""

import http.client
import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils._http import parse_ratelimit_headers

from step37_flickr8k.localhub import Fault, LocalHub
from step37_flickr8k.localhub.faults import Faults

REPO = "intro/flickr8k"
IMAGE = "train/000.jpg"
CONTENT = random.Random(9).randbytes(20_000)
TREE = f"/api/datasets/{REPO}/tree/main"
FILE = f"/datasets/{REPO}/resolve/main/{IMAGE}"


@pytest.fixture(params=[True, False], ids=["cdn", "hub"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalHub]:
    """Serve one image and its table, with and without a CDN."""
    directory = tmp_path / "dataset"
    (directory / "train").mkdir(parents=True)
    (directory / "train" / "metadata.csv").write_text("file_name,caption_0\n000.jpg,a dog\n")
    (directory / IMAGE).write_bytes(CONTENT)
    with LocalHub(directory, repo_id=REPO, redirect_lfs=request.param, control=True) as serving:
        yield serving


def fetch(hub: LocalHub, path: str = FILE) -> tuple[int, dict[str, str], bytes]:
    """Ask for a path; give status, headers and body."""
    try:
        with urllib.request.urlopen(hub.endpoint + path, timeout=120) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def took(act: Callable[[], object]) -> float:
    """Measure a call, in seconds."""
    start = time.monotonic()
    act()
    return time.monotonic() - start


def test_status_hits_so_many_requests(hub: LocalHub) -> None:
    """A status fault answers ``times`` requests, with Retry-After, and then lets the file through."""
    hub.faults.add(Fault.status(503, path="train/*.jpg", retry_after=7, times=2))
    for _ in range(2):
        status, headers, _body = fetch(hub)
        assert (status, headers["Retry-After"]) == (503, "7")
    assert fetch(hub)[2] == CONTENT
    assert [one.status for one in hub.requests][:2] == [503, 503]
    assert len(hub.file_requests()) == 1


def test_status_hits_every_nth_request(hub: LocalHub) -> None:
    """With ``every`` a fault hits exactly each n-th request that it matches."""
    hub.faults.add(Fault.status(404, kind="tree", every=3))
    assert [fetch(hub, TREE)[0] for _ in range(6)] == [200, 200, 404, 200, 200, 404]


def test_path_and_kind_choose_the_requests(hub: LocalHub) -> None:
    """A fault leaves requests of another kind or path alone, and is gone once cleared."""
    hub.faults.add(Fault.status(500, kind="api|tree"), Fault.status(502, path="*.csv"))
    assert (fetch(hub, TREE)[0], fetch(hub)[0]) == (500, 200)
    assert fetch(hub, FILE.replace("000.jpg", "metadata.csv"))[0] == 502
    hub.faults.clear()
    assert fetch(hub, TREE)[0] == 200


def test_delay_comes_before_the_answer(hub: LocalHub) -> None:
    """Delays add up, and a status fault after them still comes."""
    hub.faults.add(Fault.delay(0.1), Fault.delay(0.1), Fault.status(500))
    assert took(lambda: fetch(hub, TREE)) >= 0.2
    assert hub.requests[-1].status == 500


def test_quota_answers_429_until_the_window_ends(hub: LocalHub) -> None:
    """A quota counts resolves in a fixed window; its headers are those that huggingface_hub reads."""
    assert "RateLimit" not in fetch(hub)[1]
    hub.faults.add(Fault.quota(2, window=5))
    assert [fetch(hub)[0] for _ in range(3)] == [200, 200, 429]
    status, headers, _ = fetch(hub)
    limit = parse_ratelimit_headers(headers)
    assert limit is not None
    assert (status, limit.resource_type, limit.remaining, limit.limit, limit.window_seconds) == (
        429,
        "resolvers",
        0,
        2,
        5,
    )
    assert headers["Retry-After"] == str(limit.reset_in_seconds)
    assert 1 <= limit.reset_in_seconds <= 5
    assert "RateLimit" not in fetch(hub, TREE)[1]
    time.sleep(limit.reset_in_seconds)
    assert fetch(hub)[0] == 200


def test_quota_of_the_api_has_its_own_name(hub: LocalHub) -> None:
    """Every answer under a quota says what is left of it."""
    hub.faults.add(Fault.quota(5, kind="api|tree|paths-info"))
    _, headers, _ = fetch(hub, TREE)
    assert headers["RateLimit"] == '"api";r=4;t=300'
    assert headers["RateLimit-Policy"] == '"fixed window";"api";q=5;w=300'


@pytest.mark.parametrize("up", [130921.32904714938, 46501.7])
def test_a_new_window_is_as_long_as_it_is(monkeypatch: pytest.MonkeyPatch, up: float) -> None:
    """However long the machine has been up: of (up + 300) - up the first makes a trifle more than 300, which was told as 301."""
    faults = Faults()
    faults.add(Fault.quota(5))
    monkeypatch.setattr(time, "monotonic", lambda: up)
    assert faults.before("resolve", "a.jpg").headers["RateLimit"] == '"resolvers";r=4;t=300'


def test_client_waits_for_the_quota(hub: LocalHub, tmp_path: Path) -> None:
    """huggingface_hub retries by itself when a file's GET meets a 429."""
    hub.faults.add(Fault.status(429, kind="cdn", retry_after=0, times=1))
    got = hf_hub_download(
        REPO,
        IMAGE,
        repo_type="dataset",
        endpoint=hub.endpoint,
        token=False,
        cache_dir=tmp_path / "c",
    )
    assert Path(got).read_bytes() == CONTENT
    assert [one.status for one in hub.requests if one.origin == "cdn"] == (
        [429, 200] if has_cdn(hub) else []
    )


def has_cdn(hub: LocalHub) -> bool:
    """Tell whether this Hub redirects."""
    return any(one.status == 302 for one in hub.requests)


def test_reset_before_the_answer(hub: LocalHub) -> None:
    """A reset is a reset to the client, not an orderly end, and stands in the log without a status."""
    hub.faults.add(Fault.reset(times=1))
    with pytest.raises((ConnectionResetError, urllib.error.URLError), match="reset by peer"):
        fetch(hub)
    assert hub.requests[-1].status == 0
    assert fetch(hub)[2] == CONTENT


def test_reset_in_the_body(hub: LocalHub) -> None:
    """A reset in mid-body comes after the headers and the first bytes."""
    hub.faults.add(Fault.reset(at=0.5, times=1))
    with urllib.request.urlopen(hub.endpoint + FILE, timeout=120) as answer:
        assert answer.status == 200
        with pytest.raises(ConnectionResetError):
            answer.read()
    assert hub.requests[-1].bytes_sent == len(CONTENT) // 2
    assert fetch(hub)[2] == CONTENT


@pytest.mark.parametrize("at", [0.0, 0.25, 1.0])
def test_truncated_body(hub: LocalHub, at: float) -> None:
    """A truncated body announces its full length and ends early."""
    hub.faults.add(Fault.truncate(at=at, times=1))
    with pytest.raises(http.client.IncompleteRead) as caught:
        fetch(hub)
    expected = min(int(len(CONTENT) * at), len(CONTENT) - 1)
    assert caught.value.partial == CONTENT[:expected]
    assert caught.value.expected == len(CONTENT) - expected
    assert fetch(hub)[2] == CONTENT


def test_corrupt_body_has_the_right_size(hub: LocalHub) -> None:
    """Corruption changes exactly one byte and no header."""
    hub.faults.add(Fault.corrupt(times=1))
    _, headers, body = fetch(hub)
    assert int(headers["Content-Length"]) == len(body) == len(CONTENT)
    assert [at for at in range(len(CONTENT)) if body[at] != CONTENT[at]] == [len(CONTENT) // 2]
    assert fetch(hub)[2] == CONTENT


def test_stall_ends_by_itself(hub: LocalHub) -> None:
    """A stalled body carries on after its time."""
    hub.faults.add(Fault.stall(0.2, times=1))
    assert took(lambda: fetch(hub)) >= 0.2
    assert hub.requests[-1].bytes_sent == len(CONTENT)


def test_cleared_log_stays_clear(hub: LocalHub) -> None:
    """A request under way when the log is cleared doesn't come back into it."""
    hub.faults.add(Fault.stall(0.1))
    with urllib.request.urlopen(hub.endpoint + FILE, timeout=120) as answer:
        hub.clear_requests()
        assert answer.read() == CONTENT
    assert hub.requests == ()


def test_stall_ends_with_the_client(hub: LocalHub) -> None:
    """A client that waits for a stalled body times out; when it goes, the server stops stalling for it."""
    hub.faults.add(Fault.stall())
    with urllib.request.urlopen(hub.endpoint + FILE, timeout=120) as answer:
        # From here on: it has the headers, however long they took
        answer.fp.raw._sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            answer.read()
    assert hub.requests[-1].bytes_sent == len(CONTENT) // 2


def test_stalled_request_does_not_keep_the_server(tmp_path: Path) -> None:
    """Leaving the block cuts off what is under way, at once."""
    (tmp_path / "train").mkdir()
    (tmp_path / IMAGE).write_bytes(CONTENT)
    failures: list[BaseException] = []

    def read_all(answer: http.client.HTTPResponse) -> None:
        try:
            answer.read()
        except (http.client.HTTPException, OSError) as error:
            failures.append(error)

    with LocalHub(tmp_path, repo_id=REPO) as hub:
        hub.faults.add(Fault.stall())
        answer = urllib.request.urlopen(hub.endpoint + FILE, timeout=120)
        reader = threading.Thread(target=read_all, args=(answer,))
        reader.start()
        start = time.monotonic()
    assert time.monotonic() - start < 60
    reader.join(120)
    answer.close()
    assert len(failures) == 1


def test_bandwidth_bounds_each_body(hub: LocalHub) -> None:
    """A body takes at least its size over the bandwidth, and arrives whole."""
    hub.faults.add(Fault.bandwidth(len(CONTENT) * 4), Fault.bandwidth(len(CONTENT) * 100))
    bodies: list[bytes] = []
    assert took(lambda: bodies.append(fetch(hub)[2])) >= 0.2
    assert bodies == [CONTENT]


def test_byte_faults_leave_other_answers_alone(hub: LocalHub) -> None:
    """A fault on bytes is neither spent nor seen by HEADs, redirects and listings."""
    hub.faults.add(Fault.truncate(times=1))
    api = HfApi(endpoint=hub.endpoint, token=False)
    assert len(list(api.list_repo_tree(REPO, repo_type="dataset", recursive=True))) == 3
    api.get_paths_info(REPO, [IMAGE], repo_type="dataset")
    connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"), timeout=120)
    with closing(connection):
        connection.request("HEAD", FILE)
        assert connection.getresponse().status in {200, 302}
    with pytest.raises(http.client.IncompleteRead):
        fetch(hub)


def test_large_files_come_in_pieces(hub: LocalHub, tmp_path: Path) -> None:
    """A file of several pieces arrives whole, and a fault acts in the middle of it."""
    large = random.Random(1).randbytes(3_000_001)
    (tmp_path / "dataset" / "train" / "large.parquet").write_bytes(large)
    hub.refresh()
    path = FILE.replace("000.jpg", "large.parquet")
    assert fetch(hub, path)[2] == large
    hub.faults.add(Fault.corrupt(at=0.9))
    body = fetch(hub, path)[2]
    assert (len(body), body[:2_000_000] == large[:2_000_000], body == large) == (
        len(large),
        True,
        False,
    )


def test_client_that_leaves_during_a_delay(hub: LocalHub) -> None:
    """A client that leaves before its answer stays in the log, without a status."""
    hub.faults.add(Fault.delay(30))
    host, port = hub.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(f"GET {FILE} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        deadline = time.monotonic() + 120
        while not hub.requests and time.monotonic() < deadline:
            time.sleep(0.01)
    hub.faults.clear()
    assert fetch(hub)[2] == CONTENT
    assert hub.requests[0].status == 0


def post_faults(hub: LocalHub, content: bytes) -> int:
    """Set faults from outside; give the status."""
    asked = urllib.request.Request(f"{hub.endpoint}/_localhub/faults", method="POST", data=content)
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_faults_from_another_process(hub: LocalHub) -> None:
    """Faults are set over HTTP by their fields, and cleared."""
    faults = [{"effect": "status", "code": 503, "kind": "tree"}, {"effect": "truncate"}]
    assert post_faults(hub, json.dumps(faults).encode()) == 204
    assert fetch(hub, TREE)[0] == 503
    with pytest.raises(http.client.IncompleteRead):
        fetch(hub)
    asked = urllib.request.Request(f"{hub.endpoint}/_localhub/faults", method="DELETE")
    with urllib.request.urlopen(asked, timeout=120) as answer:
        assert answer.status == 204
    assert (fetch(hub, TREE)[0], fetch(hub)[2]) == (200, CONTENT)


@pytest.mark.parametrize("content", [b"{", b'[{"effect": "flood"}]', b'[{"speed": 1}]', b"[3]"])
def test_malformed_faults_are_refused(hub: LocalHub, content: bytes) -> None:
    """What isn't a list of faults is a 400 and sets nothing."""
    assert post_faults(hub, content) == 400
    assert fetch(hub)[2] == CONTENT


def test_faults_that_could_never_act_are_refused() -> None:
    """A fault for every 0th request, or outside the body, is a mistake of who made it."""
    with pytest.raises(ValueError, match="every=0"):
        Fault.delay(1, every=0)
    with pytest.raises(ValueError, match=r"at=1\.5"):
        Fault.truncate(at=1.5)
