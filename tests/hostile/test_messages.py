"""A stranger in the store: every kind of message written and replayed beside ranks that work."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from step37_flickr8k.cluster.codec import read, read_count, text_of
from step37_flickr8k.cluster.progress import Progress, ProgressTracker
from step37_flickr8k.cluster.protocol.keys import Keys, Timeouts
from step37_flickr8k.cluster.protocol.messages import (
    Answer,
    Arrival,
    Finished,
    Heartbeat,
    Lost,
    Message,
    Moved,
    Nonce,
    Outcome,
    RankReport,
    Verdict,
)
from step37_flickr8k.cluster.signing import Seal
from step37_flickr8k.errors import CallMismatch, ErrorReport, RankZeroLost, Step37Error
from tests.helpers.fake_store import FakeServer
from tests.hostile.seeds import chance
from tests.unit.cluster.test_share import Ranks, never

SECRET = b"a secret of sixteen bytes or more"
RUN = "run 7 of 2 ranks"
KEYS = Keys("job", "0.0")
BRISK = Timeouts(arrival=120, heartbeat=30, stall=60, visibility=5)
FORGED = ErrorReport.of(CallMismatch("forged"))
MESSAGES: dict[Any, list[Any]] = {
    Message: [
        Heartbeat(Progress(files=1, of_files=2, retries={"503": 1})),
        Outcome(arguments={"split": "train"}, result={"rows": 4}),
        Outcome(arguments={}, failure=FORGED),
        Verdict(),
        Verdict(failure=FORGED, host="n1", waited=0.5, lag=1.5),
        Lost("forged"),
        Moved("forged"),
    ],
    Answer: [Answer("forged", 1), Answer("forged", 1, "c.1")],
    Arrival: [Arrival(1, "n1"), Arrival(1, "n1", "c.1"), Arrival(7, "forged")],
    RankReport: [
        RankReport(ok=True, host="n1", found={"listed": True}, waited=0.0, lag=0.5),
        RankReport(ok=False, host="n1", failure=FORGED),
    ],
    Finished: [Finished(Outcome(arguments={}, failure=FORGED), Verdict(failure=FORGED))],
}
PARTS = (
    "", "{}", "[]", "null", "NaN", "-1", "1e999", "9" * 400, "true", '"\\ud800"', '"\\u0000"', "\0",
    "[" * 2000, '{"a":' * 2000, '"ok": null', '"kind": "verdict"', '"word": 9', "\udcff", "\r\n0: ",
)  # fmt: skip


def mutated(random_: random.Random, text: str) -> str:
    """Return a message's text after a few changes: a value replaced, or parts inserted and cut."""
    if random_.random() < 0.5:
        value = json.loads(text)
        name = random_.choice(sorted(value))
        value[name] = random_.choice((None, [], {}, -1, 2.5, True, "x", 10**30, {"a": [{}]}))
        return json.dumps(value)
    for _ in range(random_.choice((1, 1, 2, 5))):
        first, last = sorted(random_.randrange(len(text) + 1) for _ in range(2))
        part = random_.choice((*PARTS, text[first:last], chr(random_.randrange(0x110000))))
        text = text[:first] + part + text[random_.choice((first, last)) :]
    return text


def test_no_text_is_more_than_a_message_or_nothing() -> None:
    """Of 20,000 mutated messages each can be written again, or is nothing; none raises."""
    random_ = chance("messages")
    wellformed = 0
    for _ in range(20_000):
        kind = random_.choice([*MESSAGES])
        text = mutated(random_, text_of(random_.choice(MESSAGES[kind])))
        for name in (kind, str, Nonce):
            assert name in {str, Nonce} or read(text, name) is None or text_of(read(text, name))
        assert (read_count(text) or 0) >= 0
        wellformed += read(text, kind) is not None
        assert Seal(SECRET, RUN).opened(KEYS.nonce, text) is None
    # A mutation that leaves nothing of a message tries nothing
    assert 2_000 < wellformed < 18_000


def test_what_is_signed_counts_under_its_own_key_in_its_own_run_alone() -> None:
    """Under another key, in another run's store, changed, or signed otherwise: nothing."""
    seal, text = Seal(SECRET, RUN), text_of(Verdict())
    closed = seal.closed(KEYS.message("n", 3), text)
    assert seal.opened(KEYS.message("n", 3), closed) == text
    for other in (KEYS.message("n", 4), KEYS.message("m", 3), KEYS.report("n", 3), KEYS.finished):
        assert seal.opened(other, closed) is None
    for stranger in (Seal(SECRET, "run 8 of 2 ranks"), Seal(SECRET[1:], RUN)):
        assert stranger.opened(KEYS.message("n", 3), closed) is None
    signature, _, _ = closed.partition(" ")
    for forged in (text, "", f"{signature} {text} ", f"{signature}", f" {text}", f"\udcff {text}"):
        assert seal.opened(KEYS.message("n", 3), forged) is None
    assert SECRET.decode() not in repr(seal)


class Stranger:
    """Writes and replays what it likes at the keys that come next, until it is stopped."""

    def __init__(self, server: FakeServer, random_: random.Random) -> None:
        self._server, self._random = server, random_
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: dict[str, str] = {}
        self.written = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.02):
            with self._server.changed:
                self.seen |= self._server.values
                nonce = self._server.values.get(KEYS.nonce, "n").rpartition(" ")[2]
                for key, kind in self._keys(nonce):
                    self._attack(key, kind)
                self._server.changed.notify_all()

    def _keys(self, nonce: str) -> Iterator[tuple[str, Any]]:
        written = sum(f"/{nonce}/word/" in key for key in self._server.values)
        # Those that nobody has written yet: what stands there first
        yield KEYS.message(nonce, written + 1), Message
        yield KEYS.message(nonce, written + 2), Message
        yield KEYS.report(nonce, 1), RankReport
        yield KEYS.finished, Finished
        number = int(self._server.values.get(KEYS.arrivals, "0"))
        for near in (number, number + 1):
            yield KEYS.answer(near), Answer
            yield KEYS.arrival(near), Arrival

    def _attack(self, key: str, kind: Any) -> None:
        values, random_ = self._server.values, self._random
        # Who overwrites all the time denies the service, whatever is believed
        if key in values:
            return
        self.written += 1
        how = random_.random()
        forged = text_of(random_.choice(MESSAGES[kind]))
        if how < 0.3:
            values[key] = forged
        elif how < 0.5:
            values[key] = mutated(random_, forged)
        elif how < 0.7:
            values[key] = Seal(b"another secret", RUN).closed(key, forged)
        elif self.seen:
            values[key] = self.seen[random_.choice(sorted(self.seen))]


@pytest.mark.parametrize("ends", ["well", "badly"])
@pytest.mark.parametrize("attempt", range(3))
def test_what_a_stranger_writes_has_no_effect_on_ranks_with_a_secret(
    ends: str, attempt: int
) -> None:
    """Forged, mutated, signed otherwise or replayed: the outcome is the work's own."""
    ranks = Ranks(2)

    def work(progress: ProgressTracker) -> dict[str, int]:
        stranger_has_worked.wait(60)
        progress.report(Progress(files=1))
        if ends == "badly":
            raise Step37Error("the work's own")
        return {"rows": 4}

    stranger_has_worked = threading.Event()
    groups = [ranks.group(rank, run=RUN, secret=SECRET) for rank in (0, 1)]
    stranger = Stranger(ranks.server, chance(f"stranger {attempt}"))
    with stranger:
        threads = [ranks.start(rank, work, groups[rank], timeouts=BRISK) for rank in (0, 1)]
        while stranger.written < 12:
            threads[0].join(0.02)
        stranger_has_worked.set()
        for thread in threads:
            thread.join(240)
    if ends == "well":
        assert ranks.outcomes == {0: {"rows": 4}, 1: {"rows": 4}}
        assert ranks.reports[0][1].ok
    else:
        assert [str(ranks.outcomes[rank]) for rank in (0, 1)] == ["the work's own"] * 2


def test_an_earlier_life_of_the_run_is_not_replayed() -> None:
    """What a run with the same secret has written, put into its new store, is nothing."""
    before, after = Ranks(2), Ranks(2)

    def fail(_: object) -> dict[str, int]:
        raise CallMismatch("of yesterday")

    for ranks, work in ((before, fail), (after, lambda _: {"rows": 4})):
        groups = [ranks.group(rank, run=RUN, secret=SECRET) for rank in (0, 1)]
        threads = [ranks.start(1, never, groups[1], timeouts=BRISK)]
        threads.append(ranks.start(0, work, groups[0], timeouts=BRISK))
        for thread in threads:
            thread.join(240)
        # The counter too: so the next follower takes the number that was answered then
        after.server.values |= before.server.values | {KEYS.arrivals: "0"}
    assert str(before.outcomes[1]) == "of yesterday"
    assert after.outcomes == {0: {"rows": 4}, 1: {"rows": 4}}


@pytest.mark.parametrize(
    ("own", "others", "said"),
    [
        (SECRET, b"", "doesn't serve run 7 of 2 ranks with this rank's job secret"),
        (b"", SECRET, "this rank has none: set job_secret_file on all ranks"),
        (SECRET, SECRET + b"2", "set job_secret_file to one file"),
    ],
    ids=["rank 0 has none", "the rank has none", "two secrets"],
)
def test_a_rank_with_another_secret_hears_why_at_once(own: bytes, others: bytes, said: str) -> None:
    """Seconds, not arrival_timeout; and it is 76, since a stranger can make it believe that."""
    ranks = Ranks(2)
    done = threading.Event()

    def work(_: object) -> dict[str, int]:
        done.wait(120)
        return {}

    timeouts = Timeouts(arrival=900, heartbeat=30, visibility=-29)
    leader = ranks.start(0, work, ranks.group(0, run=RUN, secret=others), timeouts=timeouts)
    ranks.start(1, never, ranks.group(1, run=RUN, secret=own), timeouts=timeouts).join(240)
    done.set()
    leader.join(120)
    assert isinstance(ranks.outcomes[1], RankZeroLost)
    assert said in str(ranks.outcomes[1])
    assert ranks.outcomes[0] == {}


SPOILED: dict[str, Callable[[str], dict[str, str]]] = {
    "nested": lambda nonce: {KEYS.message(nonce, 2): "[" * 200_000},
    "no ok": lambda nonce: {KEYS.report(nonce, 1): '{"host": "n1"}'},
    "many arrivals": lambda _: {KEYS.arrivals: "9" * 18},
    "no number of arrivals": lambda _: {KEYS.arrivals: "abc"},
    "many reports": lambda nonce: {KEYS.reports(nonce): "7"},
    "no number of reports": lambda nonce: {KEYS.reports(nonce): "many"},
    "no number of leaves": lambda nonce: {KEYS.leaves(nonce): "9" * 25},
    "arrivals that are none": lambda _: {KEYS.arrival(n): "{}" for n in range(2, 3000)},
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_without_a_secret_what_is_no_message_is_silence(
    spoiled: str,
) -> None:
    """Written after the two have met: rank 0 and the other rank end as if it weren't there."""
    ranks = Ranks(2)
    met = threading.Event()

    def work(progress: ProgressTracker) -> dict[str, int]:
        met.wait(120)
        with ranks.server.changed:
            ranks.server.values |= SPOILED[spoiled](ranks.server.values[KEYS.nonce])
            ranks.server.changed.notify_all()
        progress.report(Progress(files=1))
        return {"rows": 4}

    timeouts = Timeouts(arrival=120, heartbeat=60, stall=0, visibility=-25)
    leader = ranks.start(0, work, timeouts=timeouts)
    follower = ranks.start(1, never, timeouts=timeouts)
    while KEYS.answer(1) not in ranks.server.values:
        follower.join(0.02)
    met.set()
    for thread in (leader, follower):
        thread.join(240)
    assert ranks.outcomes == {0: {"rows": 4}, 1: {"rows": 4}}
