"""What all ranks of a call agree on: the names of its keys, and how long silence may last.

Keys, below ``step37/<group>/<call>/``::

    run                the run that this store serves
    nonce              the newest leader of this call
    arrivals           a counter; a follower takes the next number i from it
    arrival/<i>        that follower's rank and host
    answer/<i>         the leader's nonce and the number of its latest message
    finished           how the call ended, for ranks that come later
    <nonce>/word/<k>   message k of that leader, written once
    <nonce>/report/<rank>, <nonce>/reports, <nonce>/leaves
"""

from dataclasses import dataclass

from step37_flickr8k.errors import InvalidSettings

__all__ = ["Keys", "Timeouts"]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long silence may last, in seconds; working and waiting as such have no limit.

    Attributes:
        arrival: without having met rank 0.
        heartbeat: without a heartbeat of rank 0. A pause of a healthy node must be shorter.
        stall: with heartbeats, but without progress; 0 for any time.
        visibility: after the work, until a rank has found what rank 0 has made. Rank 0 waits 30 s
            longer than that for the reports of the other ranks.
    """

    arrival: float = 900.0
    heartbeat: float = 30.0
    stall: float = 0.0
    visibility: float = 120.0

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        for name in ("arrival", "heartbeat", "stall"):
            seconds: float = getattr(self, name)
            if not (seconds > 0 or (seconds == 0 and name == "stall")):
                raise InvalidSettings(f"timeouts: {name}={seconds} is no number of seconds above 0")

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two heartbeats: half the timeout, so that a late one isn't silence."""
        return self.heartbeat / 2

    @property
    def confirmation(self) -> float:
        """Seconds in which every rank must have reported whether it can use the outcome."""
        return self.visibility + 30


@dataclass(frozen=True)
class Keys:
    """The keys of one call of a group."""

    group: str
    call: str

    @property
    def run(self) -> str:
        """The run that this store serves; the same key for all calls of the group."""
        return f"step37/{self.group}/run"

    @property
    def nonce(self) -> str:
        """The newest leader of this call."""
        return self._key("nonce")

    @property
    def arrivals(self) -> str:
        """The counter of arrivals."""
        return self._key("arrivals")

    @property
    def finished(self) -> str:
        """How the call ended."""
        return self._key("finished")

    def arrival(self, number: int) -> str:
        """Return the key of a follower's arrival."""
        return self._key(f"arrival/{number}")

    def answer(self, number: int) -> str:
        """Return the key of the leader's answer to an arrival."""
        return self._key(f"answer/{number}")

    def message(self, nonce: str, number: int) -> str:
        """Return the key of a leader's message; the first one is number 1."""
        return self._key(f"{nonce}/word/{number}")

    def report(self, nonce: str, rank: int) -> str:
        """Return the key of a follower's report to a leader."""
        return self._key(f"{nonce}/report/{rank}")

    def reports(self, nonce: str) -> str:
        """Return the counter of the reports to a leader."""
        return self._key(f"{nonce}/reports")

    def leaves(self, nonce: str) -> str:
        """Return the counter of the followers that have read a leader's verdict."""
        return self._key(f"{nonce}/leaves")

    def _key(self, name: str) -> str:
        return f"step37/{self.group}/{self.call}/{name}"
