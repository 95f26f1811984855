"""A stranger at MASTER_PORT of real ranks, over torch's own store."""

import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.cluster import stores
from step37_flickr8k.cluster.codec import text_of
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.protocol.keys import Keys
from step37_flickr8k.cluster.signing import Seal
from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.ranks import Ranks
from tests.hostile.seeds import chance
from tests.hostile.test_messages import MESSAGES, mutated

KEYS = Keys("job", "0.0")
SECONDS = 240.0  # for whatever must happen


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Ranks]:
    """Make a job of two ranks whose processes end with the test."""
    made = Ranks(2, tmp_path / "job", {"STEP37_ARRIVAL_TIMEOUT": "240"})
    yield made
    made.end()


@pytest.fixture
def client() -> Any:
    """Import torch before any rank starts: a short run would be over by then."""
    from torch.distributed import TCPStore

    return TCPStore


def connected(client: Any, port: int) -> Any:
    """Return torch's own client of the store at a port, once rank 0 serves it."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            break
        time.sleep(0.05)
    short = timedelta(seconds=60)
    return client("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=short)


def forgeries(store: Any, seen: dict[str, bytes], random_: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the keys that come next, each with what a stranger could write there."""
    stands = store.compare_set(KEYS.nonce, "\0", "\0")
    nonce = stands.decode().rpartition(" ")[2]
    count = 1
    while (word := store.compare_set(KEYS.message(nonce, count), "\0", "\0")) != b"\0":
        seen[KEYS.message(nonce, count)] = word
        count += 1
    keys: dict[str, Any] = {KEYS.report(nonce, 1): "RankReport", KEYS.finished: "Finished"}
    keys |= {KEYS.message(nonce, count): "Message", KEYS.message(nonce, count + 1): "Message"}
    for number in (1, 2, 3):
        keys |= {KEYS.answer(number): "Answer", KEYS.arrival(number): "Arrival"}
    by_name = {getattr(kind, "__name__", "Message"): values for kind, values in MESSAGES.items()}
    by_name.setdefault("Message", next(iter(MESSAGES.values())))
    for key, kind in keys.items():
        text = text_of(random_.choice(by_name[kind]))
        yield (
            key,
            random_.choice(
                (
                    text.encode(),
                    mutated(random_, text).encode(errors="surrogateescape"),
                    Seal(b"some other secret", "run without an id of 2 ranks")
                    .closed(key, text)
                    .encode(),
                    random_.choice([*seen.values(), b"\xff\0"]),
                )
            ),
        )


@pytest.mark.parametrize("fails", [False, True])
def test_ranks_with_a_secret_end_as_if_nobody_else_were_there(
    hub: LocalHub, cache: Path, tmp_path: Path, job: Ranks, client: Any, fails: bool
) -> None:
    """What a stranger writes first at every key that comes next has no effect, over a whole run."""
    secret = tmp_path / "secret"
    secret.write_text(secrets.token_hex(32))
    secret.chmod(0o600)
    hub.faults.add(Fault.delay(1))
    column = ["--caption-key", "nothing"] if fails else []
    flags = ["--cache-dir", str(cache), "--job-secret-file", str(secret), *column]
    job.start_all("warmup", *flags)
    store, seen, random_ = (
        connected(client, job.port),
        dict[str, bytes](),
        chance(f"strangers {fails}"),
    )
    written = 0
    # It ends with the store
    with suppress(RuntimeError):
        while any(process.is_alive() for process in job.processes.values()):
            for key, text in forgeries(store, seen, random_):
                written += store.compare_set(key, "", text) == text
            time.sleep(0.02)
    assert written > 5
    assert job.wait() == ({0: 2, 1: 2} if fails else {0: 0, 1: 0}), job.log(0) + job.log(1)
    assert "forged" not in job.log(0) + job.log(1)
    assert "warning" not in job.log(0).lower(), job.log(0)


def test_without_a_secret_a_forged_verdict_decides(
    hub: LocalHub, cache: Path, job: Ranks, client: Any
) -> None:
    """As SECURITY.md says; and so the test above tries what works."""
    hub.faults.add(Fault.delay(1))
    job.start_all("warmup", "--cache-dir", str(cache))
    store = connected(client, job.port)
    store.wait([KEYS.answer(1)], timedelta(seconds=SECONDS))
    nonce = store.get(KEYS.nonce).decode()
    (verdict,) = (each for each in next(iter(MESSAGES.values())) if getattr(each, "host", None))
    numbers = range(1, 50)
    assert any(
        store.compare_set(KEYS.message(nonce, number), "", text_of(verdict)).decode()
        == text_of(verdict)
        for number in numbers
    )
    job.processes[1].join(SECONDS)
    assert job.processes[1].exitcode == 2
    assert "forged" in job.log(1)


def test_who_only_pretends_to_be_a_store_is_a_lost_connection() -> None:
    """A listener that came first announces a value longer than all memory: no bug of ours.

    So long that no machine tries: where the kernel overcommits, a terabyte ends the process.
    """
    length = 1 << 62

    def answer(connection: socket.socket) -> None:
        # torch's client says hello, and takes back the four bytes at the end of that
        with suppress(OSError), connection:
            connection.sendall(connection.recv(65536)[-4:])
            while connection.recv(65536):
                connection.sendall(struct.pack("<Q", length))

    def listen(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, args=(server,), daemon=True).start()
        group = stores.job_group(
            World(rank=1, size=2, master_addr="127.0.0.1", master_port=server.getsockname()[1])
        )
        store = group.connect(30)
        with pytest.raises(ConnectionError, match="what answers is no store"):
            store.get(KEYS.nonce)
