"""A follower, any rank but 0, as a state machine: finds the leader, follows it to the verdict."""

import itertools
from collections.abc import Generator
from enum import Enum
from typing import Any

from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Ended, Facts
from step37_flickr8k.cluster.protocol.messages import (
    SIGNED,
    Answer,
    Arrival,
    Finished,
    Heartbeat,
    Lost,
    Message,
    Moved,
    Outcome,
    RankReport,
)
from step37_flickr8k.errors import RankZeroLost

__all__ = ["Follower", "FollowerState"]

# Seconds for which a follower waits to meet the leader before it checks why not: at first, at most.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
# Pause before a lost connection is made again: this part of the heartbeat timeout, at most 1 s.
_RECONNECT = 0.1
# Seconds in which a store that serves another run may turn to this one: its rank 0 may just start.
_OTHER_RUN = 5.0
# Pause before a key is read again that holds no message: a stranger wrote there.
_NO_MESSAGE = 1.0


class FollowerState(str, Enum):
    """Where a follower is in a call."""

    CONNECTING = "connecting"
    ARRIVING = "arriving"
    FOLLOWING = "following"
    CONFIRMING = "confirming"
    REPORTING = "reporting"
    LEAVING = "leaving"


class Follower:
    """Any rank but 0: finds the leader, follows its messages, reports, and notices its silence."""

    def __init__(self, facts: Facts, now: float, challenge: str = "") -> None:
        """Begin a call at the time ``now``, with a challenge that no other follower has."""
        self._facts, self._keys, self._timeouts = facts, facts.keys, facts.timeouts
        self._challenge, self._arrivals = challenge, 0
        self.now = now
        self.state = FollowerState.CONNECTING
        self.heard: float | None = None
        self.deadline = now + facts.timeouts.arrival
        self._search_due = now + facts.timeouts.heartbeat
        self._report: RankReport | None = None
        self._outcome: Outcome | None = None

    def steps(self) -> Generator[act.Action, Any, Ended]:
        """Follow whoever leads, until the call has ended; raises `RankZeroLost`."""
        while True:
            try:
                ended = yield from self._follow_one_leader()
                if ended is not None:
                    return ended
            except ConnectionError as error:
                if not self._facts.reconnects or self.now > self.deadline:
                    raise self.silence(str(error)) from error
                found = yield from self._search(str(error))
                if found is not None:
                    return found
                yield act.Pause(self.now + min(1.0, self._timeouts.heartbeat * _RECONNECT))

    def _follow_one_leader(self) -> Generator[act.Action, Any, Ended | None]:
        """Return how the call ended; None when another leader has taken over."""
        self.state = FollowerState.CONNECTING
        yield act.Connect(min(self.deadline, self.now + _LONGEST_WAIT))
        met = (yield from self._check_run()) or (yield from self._meet_leader())
        if isinstance(met, Ended):
            return met
        nonce = met.nonce
        for number in itertools.count(max(met.number, 1)):
            self.state = FollowerState.FOLLOWING
            message: Message = yield from self._next_message(self._keys.message(nonce, number))
            if isinstance(message, Moved):
                return None
            if isinstance(message, Lost):
                raise RankZeroLost(message.message)
            if isinstance(message, Heartbeat):
                yield act.Show(message.progress)
            elif isinstance(message, Outcome):
                yield from self._report_on(message, nonce)
            else:
                self.state = FollowerState.LEAVING
                yield act.Add(self._keys.leaves(nonce), 1)
                return Ended(outcome=self._outcome, verdict=message, report=self._report)
        raise AssertionError("unreachable")

    def _check_run(self) -> Generator[act.Action, Any, Ended | None]:
        """Make sure that the store serves this rank's run: another one would never answer it."""
        give_up = self.now + _OTHER_RUN
        serves: str | None = ""
        while serves != self._facts.run:
            until = min(self.deadline, self.now + _LONGEST_WAIT)
            if (yield act.Await(self._keys.run, until)):
                serves = yield act.Load(self._keys.run, str)
                if serves != self._facts.run:
                    if self.now >= give_up:
                        raise RankZeroLost(self._whose_store(serves))
                    yield act.Pause(self.now + 1.0)
            elif self.now >= self.deadline:
                raise self.silence()
            elif found := (yield from self._search("its store is there, rank 0 has not begun")):
                return found
        return None

    def _whose_store(self, serves: str | None) -> str:
        """Return what is wrong with a store that doesn't serve this rank's run."""
        run = self._facts.run
        if self._facts.signs and serves is None:
            return (
                f"this store doesn't serve {run} with this rank's job secret: set job_secret_file "
                "to one file, and MASTER_PORT to one free port, on all ranks of a run"
            )
        if serves is not None and serves.startswith(SIGNED):
            return (
                "this store serves a run with a job secret, and this rank has none: "
                "set job_secret_file on all ranks of a run, or on none"
            )
        return (
            f"this store serves {serves}, this rank belongs to {run}: "
            "set MASTER_PORT to a free port, the same on all ranks of a run"
        )

    def _meet_leader(self) -> Generator[act.Action, Any, Answer | Ended]:
        """Take a number that nobody else has: whoever answers it is alive now."""
        self.state = FollowerState.ARRIVING
        facts, keys = self._facts, self._keys
        number = yield act.Add(keys.arrivals, 1)
        challenge = self._next_challenge()
        yield act.Save(keys.arrival(number), Arrival(facts.rank, facts.host, challenge))
        # A rank that was frozen until after its deadline gives the leader the time to answer.
        until = max(self.deadline, self.now + self._timeouts.heartbeat)
        seconds = _FIRST_WAIT
        while True:
            if not facts.expects_all and (finished := (yield act.Load(keys.finished, Finished))):
                return (yield from self._finished(finished))
            answer: Answer | None = yield from self._read(
                keys.answer(number), Answer, min(until, self.now + seconds)
            )
            if answer is not None and answer.challenge == challenge:
                break
            if answer is not None:
                yield act.Pause(self.now + _NO_MESSAGE)
            seconds = min(2 * seconds, _LONGEST_WAIT)
            if self.now >= until:
                raise self.silence()
            found = yield from self._search("its store is there, rank 0 doesn't answer")
            if found is not None:
                return found
        self._hear()
        return answer

    def _next_challenge(self) -> str:
        """Return a challenge for one arrival: a stranger may have it take a number again."""
        if not self._challenge:
            return ""
        self._arrivals += 1
        return f"{self._challenge}.{self._arrivals}"

    def _finished(self, finished: Finished) -> Generator[act.Action, Any, Ended]:
        """Return the end of a call that the leader has left already, as far as this rank sees."""
        if finished.verdict.failure is not None:
            return Ended(outcome=finished.outcome, verdict=finished.verdict)
        report = yield act.Confirm(finished.outcome)
        return Ended(outcome=finished.outcome, verdict=finished.verdict, report=report)

    def _search(self, why: str) -> Generator[act.Action, Any, Ended | None]:
        """Say now and then where rank 0 is searched for; return an earlier success if there is one.

        Only one of this very run counts, because rank 0 may merely be late.
        """
        if self.heard is not None or self.now < self._search_due:
            return None
        self._search_due = self.now + min(self._timeouts.heartbeat, _LONGEST_WAIT)
        yield act.Searching(why)
        found = yield act.FindResult()
        return None if found is None else Ended(found=found)

    def _next_message(self, key: str) -> Generator[act.Action, Any, Message]:
        """Return the message at this key; after the timeout `Lost` stands there, for all ranks."""
        message: Message | None = yield from self._read(key, Message, self.deadline)
        if message is None:
            lost = Lost(f"{self.silence()} (rank {self._facts.rank} gave it up)")
            message = (yield act.SaveOnce(key, lost)) or lost
        self._hear()
        return message

    def _read(self, key: str, kind: Any, until: float) -> Generator[act.Action, Any, Any]:
        """Return the message at a key, or None at the time ``until``: what is none is silence."""
        while (yield act.Await(key, until)):
            message = yield act.Load(key, kind)
            if message is not None or self.now >= until:
                return message
            yield act.Pause(min(until, self.now + _NO_MESSAGE))
        return None

    def _report_on(self, outcome: Outcome, nonce: str) -> Generator[act.Action, Any, None]:
        """Report once to each leader whether this rank can use its outcome."""
        self.state = FollowerState.CONFIRMING
        self._outcome = outcome
        self._report = yield act.Confirm(outcome)
        self._hear()
        self.state = FollowerState.REPORTING
        key = self._keys.report(nonce, self._facts.rank)
        if (yield act.SaveOnce(key, self._report)) is None:
            yield act.Add(self._keys.reports(nonce), 1)

    def _hear(self) -> None:
        self.heard = self.now
        self.deadline = self.now + self._timeouts.heartbeat

    def silence(self, cause: str = "") -> RankZeroLost:
        """Return the error of a rank that has waited for rank 0 for too long."""
        why = f" ({cause})" if cause else ""
        if self.heard is None:
            return RankZeroLost(
                f"never met rank 0 within {self._timeouts.arrival:g} s{why}: "
                "did it start, and is it reachable?"
            )
        return RankZeroLost(
            f"rank 0 was killed, frozen or cut off: no message within "
            f"{self._timeouts.heartbeat:g} s{why}"
        )
