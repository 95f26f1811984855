"""The leader, rank 0, as a state machine: writes the messages of a call, collects the reports."""

import itertools
from collections.abc import Generator
from enum import Enum
from typing import Any

from step37_flickr8k.cluster.progress import Progress, no_progress
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Ended, Facts
from step37_flickr8k.cluster.protocol.messages import (
    Answer,
    Arrival,
    Finished,
    Heartbeat,
    Lost,
    Message,
    Moved,
    Outcome,
    RankReport,
    SentMessage,
    Verdict,
)
from step37_flickr8k.errors import RankZeroLost

__all__ = ["Leader", "LeaderState"]

# Seconds between two turns: nobody else polls, and the leader's store is near. At the end they are
# shorter, since launchers end rank 0 soon after another rank has ended.
_TURN, _LAST_TURN = 0.05, 0.01
# Seconds that the leader stays for followers that still fetch the verdict.
_FAREWELL = 5.0
# Seconds for the followers to report on a failure.
_LAST_REPORTS = 1.0
# Seconds between two readings of reports, where they were counted and some are not there.
_READ_AGAIN = 1.0
# Arrivals that may wait for an answer, for each rank and besides: strangers can count, too.
_UNANSWERED_EACH, _UNANSWERED_MORE = 4, 100


class LeaderState(str, Enum):
    """Where the leader is in a call."""

    TAKING_OVER = "taking over"
    WORKING = "working"
    CONFIRMING = "confirming"
    COLLECTING = "collecting"
    LEAVING = "leaving"


class Leader:
    """Rank 0: takes a call over, writes how far the work is, and how it ended for all ranks.

    What ends the work is thrown away unless it is the first outcome of the call: a follower that
    gave this leader up, or a newer leader, may have written in its place.
    """

    def __init__(self, facts: Facts, nonce: str, now: float) -> None:
        """Begin a call at the time ``now``, under a name that no other leader has."""
        self._facts, self._keys, self._timeouts = facts, facts.keys, facts.timeouts
        self._nonce = nonce
        self.now = self._turned = now
        self.state = LeaderState.TAKING_OVER
        self.outcome: Outcome | None = None
        self._work = act.WorkState(Progress())
        # Numbers of the last message and of the outcome
        self._written = self._outcome_number = 0
        # Arrivals that were counted, and those of them that have no answer yet
        self._counted, self._unanswered = 0, set[int]()
        # The followers that the end waits for
        self._expected = set(range(1, facts.size) if facts.expects_all else ())
        self._heartbeat_due = now
        self._was_frozen = False

    def steps(self) -> Generator[act.Action, Any, Ended]:
        """Lead the call from taking it over until the followers have left."""
        yield from self._take_over()
        self.state = LeaderState.WORKING
        while self.outcome is None:
            yield from self._turn()
            yield from self._stop_stalled_work()
            if self.outcome is None and self._work.outcome is not None:
                yield from self._write_outcome(self._work.outcome)
        self.state = LeaderState.CONFIRMING
        while (own := self._work.report) is None:
            yield from self._turn()
        self.state = LeaderState.COLLECTING
        reports = {0: own, **(yield from self._collect(self._seconds_to_report()))}
        decided: Verdict = yield act.Decide(self.outcome, frozenset(self._expected | {0}), reports)
        verdict = (yield from self._write(decided)) or decided
        self.state = LeaderState.LEAVING
        if verdict.failure is None:
            self._expected = set(reports) - {0}
        if not self._facts.expects_all:
            yield act.Save(self._keys.finished, Finished(self.outcome, verdict))
        until = self.now + self._seconds_to_leave()
        while self.now < until and not (
            yield from self._counted_all(self._keys.leaves(self._nonce))
        ):
            yield from self._turn()
        return Ended(outcome=self.outcome, verdict=verdict, reports=reports)

    def _take_over(self) -> Generator[act.Action, Any, None]:
        """Take the call over from earlier leaders, dead or frozen: write `Moved` after each.

        That comes first. If this process dies before its name stands, the next leader finds the
        same one before it; if it dies later, nobody follows a leader that the next one can't see.
        """
        if self._facts.run:
            yield act.Save(self._keys.run, self._facts.run)
        before = ""
        while (stands := (yield act.Swap(self._keys.nonce, before, self._nonce))) != self._nonce:
            # A store says what was expected where there is nothing.
            before = "" if stands == before else stands
            if before:
                yield from self._move_followers(before)
        self._work = yield act.Turn(self.now)
        yield from self._write(Heartbeat(self._work.progress))

    def _move_followers(self, before: str) -> Generator[act.Action, Any, None]:
        """Write `Moved` after the last message of an earlier leader."""
        for number in itertools.count(1):
            key = self._keys.message(before, number)
            if (yield act.SaveOnce(key, Moved(self._nonce))) is None:
                return

    def _turn(self) -> Generator[act.Action, Any, None]:
        """Let the work go on for a moment, answer who has arrived, write a heartbeat if it is due.

        If this process was frozen, and with it the store that it serves, followers have given it up
        without being able to write that: it writes at once, to learn what stands.
        """
        is_last = self.state is LeaderState.LEAVING
        self._work = yield act.Turn(self.now + (_LAST_TURN if is_last else _TURN))
        if self.now - self._turned > self._timeouts.heartbeat:
            self._was_frozen = True
            self._heartbeat_due = self.now
        self._turned = self.now
        yield from self._answer_arrivals()
        yield from self._write_heartbeat()

    def _write_heartbeat(self) -> Generator[act.Action, Any, None]:
        """Write a heartbeat if it is due; called in each loop over ranks, of which may be many."""
        # The verdict is the last message.
        if self.now >= self._heartbeat_due and self.state is not LeaderState.LEAVING:
            yield from self._write(Heartbeat(self._work.progress))

    def _answer_arrivals(self) -> Generator[act.Action, Any, None]:
        """Answer all who have arrived; one who took a number may still be about to say its rank."""
        size = self._facts.size
        most = _UNANSWERED_EACH * size + _UNANSWERED_MORE
        count: int = yield act.Count(self._keys.arrivals)
        self._unanswered.update(range(max(self._counted, count - most) + 1, count + 1))
        self._unanswered = set(sorted(self._unanswered)[-most:])
        self._counted = max(self._counted, count)
        for arrived in sorted(self._unanswered):
            arrival: Arrival | None = yield act.Load(self._keys.arrival(arrived), Arrival)
            if arrival is not None and arrival.rank < size:
                if not self._facts.expects_all:
                    self._expected.add(arrival.rank)
                number = self._outcome_number if self.outcome else self._written
                answer = Answer(self._nonce, number, arrival.challenge)
                yield act.Save(self._keys.answer(arrived), answer)
                self._unanswered.discard(arrived)
                yield from self._write_heartbeat()

    def _stop_stalled_work(self) -> Generator[act.Action, Any, None]:
        stall = self._timeouts.stall
        if self.outcome is None and self._work.outcome is None and 0 < stall < self._work.idle:
            why = no_progress(stall, self._work.progress)
            yield from self._write_outcome((yield act.StopWork(why, stalled=True)))

    def _write_outcome(self, outcome: Outcome) -> Generator[act.Action, Any, None]:
        """Write the outcome; the one that the call has already stands."""
        if (yield from self._write(outcome)) is None:
            self.outcome, self._outcome_number = outcome, self._written

    def _write(self, message: SentMessage) -> Generator[act.Action, Any, Verdict | None]:
        """Write the next message; return None if that worked.

        While this leader was frozen or cut off, another rank may have written in its place. What
        was written first stands: the work is stopped, and the verdict that this means is returned.
        """
        stands: Message | None = yield act.SaveOnce(
            self._keys.message(self._nonce, self._written + 1), message
        )
        self._written += 1
        self._heartbeat_due = self.now + self._timeouts.heartbeat_interval
        if stands is None:
            return None
        why = "another process has taken over as rank 0 of this call"
        if isinstance(stands, Lost):
            why = stands.message
        self.outcome = yield act.StopWork(why)
        self._outcome_number = self._written
        return Verdict(failure=self.outcome.failure)

    def _seconds_to_report(self) -> float:
        if self._was_frozen:
            return _FAREWELL
        if self.outcome is not None and self.outcome.failure is not None:
            return _LAST_REPORTS
        return self._timeouts.confirmation

    def _seconds_to_leave(self) -> float:
        """Return how long to stay: a failure should reach ranks that are just arriving, too."""
        failure = self.outcome.failure if self.outcome is not None else None
        if failure is None:
            return _FAREWELL
        return _LAST_REPORTS if failure.error == RankZeroLost.__name__ else self._timeouts.heartbeat

    def _counted_all(self, counter: str) -> Generator[act.Action, Any, bool]:
        """Return whether all ranks that the end waits for have counted."""
        count: int = yield act.Count(counter)
        return count >= len(self._expected)

    def _collect(self, seconds: float) -> Generator[act.Action, Any, dict[int, RankReport]]:
        """Go on with the turns until all expected ranks have reported, or the time is over.

        Returns their reports by rank. What counts is the reports themselves: anybody can count.
        """
        until, read_due = self.now + seconds, self.now
        counter = self._keys.reports(self._nonce)
        reports: dict[int, RankReport] = {}
        while True:
            is_over = self.now >= until
            if is_over or (self.now >= read_due and (yield from self._counted_all(counter))):
                yield from self._read_reports(reports)
                if is_over or reports.keys() >= self._expected:
                    return reports
                read_due = self.now + _READ_AGAIN
            yield from self._turn()

    def _read_reports(self, reports: dict[int, RankReport]) -> Generator[act.Action, Any, None]:
        """Read the followers' reports that aren't read yet."""
        for rank in sorted(self._expected - reports.keys()):
            report = yield act.Load(self._keys.report(self._nonce, rank), RankReport)
            if report is not None:
                reports[rank] = report
            yield from self._write_heartbeat()
